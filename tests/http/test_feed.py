"""The feed: nothing is passed over, though transactions end in another order than they began."""

import asyncio
from contextlib import aclosing

import pytest

import holdfast.client
from tests.http.server import TOKEN
from tests.http.service import Service

DELAY = 0.03
EVENTS = 40
RUNS = 3


@pytest.mark.timeout(180)
def test_followers_of_the_feed_miss_nothing_that_several_processes_commit(kept_url: str) -> None:
    """A4, X5; section 8, test 2: two services, commits held up at random, each followed twice."""
    with Service(kept_url, commit_delay=DELAY) as one, Service(kept_url, commit_delay=DELAY) as two:
        both = (one, two)
        names = [
            service.begin("count", EVENTS, run_id=f"run-{at}-{number}")
            for at, service in enumerate(both)
            for number in range(RUNS)
        ]
        found = asyncio.run(_follow([one.base, one.base, two.base, two.base], set(names)))
        journals = {name: len(one.journal(name)) for name in names}
    for events in found:
        positions = [event.position for event in events]
        assert positions == sorted(set(positions))
        for name, length in journals.items():
            seen = [event.seq for event in events if event.run_id == name]
            assert seen == list(range(1, length + 1)), name


async def _follow(bases: list[str], names: set[str]) -> list[list[holdfast.client.Event]]:
    return list(await asyncio.gather(*(_until_all_ended(base, names) for base in bases)))


async def _until_all_ended(base: str, names: set[str]) -> list[holdfast.client.Event]:
    """Follow from the beginning until every run ended."""
    found: list[holdfast.client.Event] = []
    left = set(names)
    async with (
        holdfast.client.connect(base, token=TOKEN) as service,
        aclosing(service.feed.follow(after="earliest")) as events,
    ):
        async for event in events:
            found.append(event)
            if event.type == "run.succeeded":
                left.discard(event.run_id)
            if not left:
                break
    return found
