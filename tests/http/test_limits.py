"""Limits per caller: what fills again with time, what is open at once, and where each ends."""

import pytest

from holdfast.core.denial import TooManyError
from holdfast.http import rates
from holdfast.http.problem import answer_problem
from holdfast.http.rates import Buckets
from holdfast.testing.clock import ManualClock
from tests.http.served import Served, serving
from tests.http.server import TOKEN
from tests.http.wire import Wire

FEED = "/v1/events"


def taken(buckets: Buckets, name: str, tries: int) -> int:
    """Return how many of so many tries are let through."""
    done = 0
    for _ in range(tries):
        try:
            buckets.take(name, "things")
        except TooManyError:
            continue
        done += 1
    return done


def test_a_bucket_gives_its_burst_then_its_rate_and_never_saves_up_more() -> None:
    """Section 7 point 11. Each name has its own."""
    clock = ManualClock()
    buckets = Buckets(clock, 0.5, 3.0)
    assert taken(buckets, "ann", 5) == 3
    assert taken(buckets, "bob", 5) == 3, "one caller does not use up another's"
    clock.advance(1.9)
    assert taken(buckets, "ann", 1) == 0
    clock.advance(0.1)
    assert taken(buckets, "ann", 2) == 1
    clock.advance(1_000_000)
    assert taken(buckets, "ann", 10) == 3


def test_who_waits_as_long_as_was_said_may_go_on() -> None:
    """Section 7 point 11. Also by the header, which is in whole seconds: never a moment less."""
    clock = ManualClock()
    buckets = Buckets(clock, 0.4, 1.0)
    buckets.take("ann", "things")
    with pytest.raises(TooManyError) as refused:
        buckets.take("ann", "things")
    assert refused.value.retry_after == pytest.approx(2.5)
    answer = answer_problem(refused.value, "", "")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "3")
    clock.advance(2.5)
    buckets.take("ann", "things")


def test_strangers_are_forgotten_before_whoever_came_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Section 7 point 11. What is remembered is bounded; who asks on is not forgotten for that."""
    monkeypatch.setattr(rates, "_NAMES_MAX", 3)
    buckets = Buckets(ManualClock(), 1.0, 1.0)
    buckets.take("ann", "things")
    for number in range(10):
        buckets.take(f"stranger {number}", "things")
        assert taken(buckets, "ann", 1) == 0
    assert len(buckets._left) == 3


@pytest.mark.parametrize("limit", ["streams_max", "streams_each"])
def test_so_many_streams_are_open_at_once_and_no_more(store_url: str, limit: str) -> None:
    """Section 7 point 11. The one too many is refused with 429; one that ends makes room."""

    @serving(**{limit: 2})
    async def work(served: Served) -> None:
        async with Wire(served.app, FEED) as one:
            await one.until("stream.caught_up")
            async with Wire(served.app, FEED) as two:
                await two.until("stream.caught_up")
                async with Wire(served.app, FEED) as three:
                    await three.end()
                assert three.status == 429 and '"limit":2' in three.text
                async with Wire(served.app, FEED, accept="application/json") as page:
                    await page.end()
                assert page.status == 200, "a page is no stream"
            async with Wire(served.app, FEED) as again:
                await again.until("stream.caught_up")
        assert not served.site.streams

    work(store_url)


def test_streams_of_one_caller_leave_room_for_others(store_url: str) -> None:
    """Section 7 point 11. Counted by who asks, not all together."""

    @serving(streams_each=1)
    async def work(served: Served) -> None:
        text, _ = await served.rt.tokens.create("viewer", label="ann")
        async with Wire(served.app, FEED) as mine:
            await mine.until("stream.caught_up")
            for token, status in ((TOKEN, 429), (text, 200)):
                async with Wire(served.app, FEED, authorization=f"Bearer {token}") as other:
                    await (other.until("stream.caught_up") if status == 200 else other.end())
                assert other.status == status

    work(store_url)
