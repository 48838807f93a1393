"""Engines in general: requests, journals, keys, tiers; shown with counters."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import holdfast
from holdfast import BUFFERED, EPHEMERAL, Runtime
from holdfast.core.engine import stream_of
from holdfast.core.errors import (
    EncodeError,
    InvalidValueError,
)
from holdfast.core.refusal import (
    EngineBehindError,
    EvaluationError,
    NotReadyError,
)
from holdfast.runtime.engines.attached import AttachedEngine
from tests.runtime.counters import SELDOM, STREAM, add, attach, counts, only
from tests.runtime.tally import Tally, TallyEngine


@holdfast.state(version=1)
class Noted:
    """A session with a buffered field."""

    count: int = holdfast.field(default=0, tier=BUFFERED)


def test_what_was_answered_is_there_again_and_nothing_else(kept_url: str) -> None:
    """N2, N7, C1. Functions are not called again, and no dice thrown again."""

    async def run() -> None:
        asked: list[int] = []

        def outside() -> int:
            asked.append(1)
            return 40 + len(asked)

        engine = TallyEngine(outside=outside)
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt, engine)
            for number in range(5):
                answer = await attached.request(add, "a")
                assert (answer.value, answer.tier.value) == (number + 1, "durable")
            drawn = await attached.request(Tally.draw, "d")
            assert (await attached.request(Tally.ask, "o")).value == 41
            await attached.snapshot()
            await attached.request(add, "b", 7)
            after = await attached.request(counts)
        for _ in range(2):
            async with holdfast.open(kept_url) as rt:
                attached = await attach(rt, engine)
                again = await attached.request(counts)
                assert again.value == {"a": 5, "d": drawn.value, "o": 41, "b": 7}
                assert again.facts == after.facts and asked == [1]
                assert only(attached).tail == 1

    asyncio.run(run())


def test_dice_fall_the_same_with_snapshots_and_without(kept_url: str) -> None:
    """N2, C6. What is drawn depends on how many requests came before, on nothing else."""

    async def drawn(name: str, every: int) -> list[Any]:
        async with holdfast.open(kept_url) as rt:
            attached = await rt.engines.attach("counts", TallyEngine(), cadence=SELDOM)
            found = []
            for number in range(6):
                found.append((await attached.request(Tally.draw, "d", key=name)).value)
                if every and number % every == every - 1:
                    await attached.snapshot(name)
                    await attached.evict(name)
            return found

    async def run() -> None:
        from random import Random

        from holdfast.core.engine import seed_of

        for name, every in (("plain", 0), ("often", 1), ("some", 2)):
            seeds = [seed_of(stream_of("counts", (name,)), before) for before in range(6)]
            assert await drawn(name, every) == [Random(s).randrange(1_000_000) for s in seeds]

    asyncio.run(run())


def test_a_request_that_raises_did_nothing(store_url: str) -> None:
    """N12. Whether the caller, the engine or the answer is at fault; later ones are not harmed."""

    def raises(hands: Tally) -> None:
        hands.add("a", 100)
        raise LookupError("of the caller")

    async def waits(hands: Tally) -> None:
        hands.add("a", 100)

    def answers_oddly(hands: Tally) -> object:
        hands.add("a", 100)
        return {1, 2}

    def failing(work: Callable[..., Any]) -> Any:
        return work

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            attached = await attach(rt)
            await attached.request(add, "a")
            for work, error in (
                (raises, LookupError),
                (Tally.fail, EvaluationError),
                (waits, InvalidValueError),
                (answers_oddly, EncodeError),
            ):
                kept = asyncio.create_task(attached.request(add, "b"))
                with pytest.raises(error):
                    await attached.request(failing(work))
                await kept
                found = (await attached.request(counts)).value
                assert found["a"] == 1 and "half" not in found
            assert found["b"] == 4

    with pytest.warns(RuntimeWarning, match="never awaited"):
        asyncio.run(run())


def test_a_request_of_an_id_is_done_once(kept_url: str) -> None:
    """N7. Asked twice at once, later, and after a restart; each time the same answer."""

    async def run() -> None:
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt)
            both = await asyncio.gather(*(attached.request(add, "a", id="r1") for _ in range(3)))
            assert {answer.value for answer in both} == {1}
            later = await attached.request(add, "a", id="r1")
            assert (later.value, later.repeated) == (1, True)
            await attached.request(add, "a", id="r2")
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt)
            again = await attached.request(add, "a", id="r2")
            assert (again.value, again.repeated, again.sequence) == (2, True, 3)
            assert (await attached.request(counts)).value == {"a": 2}

    asyncio.run(run())


def test_many_requests_at_once_share_commits_and_keep_their_order(store_url: str) -> None:
    """N12. From tasks and from threads; each sees what came before it, and the journal says so."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            attached = await attach(rt)
            loop = asyncio.get_running_loop()

            def in_thread() -> list[int]:
                asked = attached.request(add, "a")
                return [asyncio.run_coroutine_threadsafe(asked, loop).result().value]

            tasks = [attached.request(add, "a") for _ in range(200)]
            threads = [asyncio.to_thread(in_thread) for _ in range(20)]
            found = await asyncio.gather(*tasks, *threads)
            numbers = [one[0] if isinstance(one, list) else one.value for one in found]
            assert sorted(numbers) == list(range(1, 221))
            journal = await rt.history(STREAM).read(limit=1_000)
            assert len(journal) == 221

    asyncio.run(run())


def test_buffered_requests_say_so_and_are_written_by_the_flush(kept_url: str) -> None:
    """N8. Until then they can be lost, and status and answer say it; a flush is a barrier."""

    async def run() -> None:
        async with holdfast.open(kept_url, flush_interval=1e6) as rt:
            attached = await attach(rt, tier=BUFFERED)
            answer = await attached.request(add, "a")
            assert answer.tier is BUFFERED and only(attached).unsaved == 2
            async with holdfast.open(kept_url, read_only=True) as other:
                assert await other.streams("holdfast/engine", reserved=True) == []
            await rt.flush()
            assert only(attached).unsaved == 0
            await attached.request(add, "a")
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt, tier=BUFFERED)
            assert (await attached.request(counts)).value == {"a": 2}, "closing writes the rest"
            with pytest.raises(InvalidValueError, match="keeps nothing"):
                await rt.engines.attach("x", TallyEngine(), tier=EPHEMERAL)

    asyncio.run(run())


def test_two_runtimes_never_mix_their_requests(kept_url: str) -> None:
    """X5, N2. Who is behind is told, loads anew and goes on from what the other did."""

    async def run() -> None:
        async with holdfast.open(kept_url) as one, holdfast.open(kept_url) as two:
            here, there = await attach(one), await attach(two)
            await there.request(counts)
            await here.request(add, "a")
            for attached, other in ((there, here), (here, there)):
                with pytest.raises(EngineBehindError, match="repeat it"):
                    await attached.request(add, "b")
                await attached.request(add, "b")
                assert (await attached.request(counts)).value["a"] == 1
                assert other.name == "counts"
            assert (await here.request(counts)).value == {"a": 1, "b": 2}

    asyncio.run(run())


def test_memories_come_and_go_by_key(kept_url: str) -> None:
    """L13, N12. Few are loaded at a time; none sees another's; buffered ones are written first."""

    async def run() -> None:
        keys = [("tenant", "a/b"), ("tenant/a", "b"), ("tenant", "a", "b"), ("tenant/a/b",), ()]
        for tier in (holdfast.DURABLE, BUFFERED):
            async with holdfast.open(kept_url, flush_interval=1e6) as rt:
                attached = await rt.engines.attach(
                    f"counts {tier}", TallyEngine(), tier=tier, cadence=SELDOM, in_memory=2
                )
                for _ in range(3):
                    for number, key in enumerate(keys):
                        await attached.request(add, f"k{number}", key=key)
                        assert len(list(attached.memories())) <= 2
                for number, key in enumerate(keys):
                    assert (await attached.request(counts, key=key)).value == {f"k{number}": 3}

    asyncio.run(run())


def test_who_only_looks_writes_nothing(store_url: str) -> None:
    """N14. Not even that a memory began; and what it saw is durable when it is answered."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            attached = await attach(rt)
            assert (await attached.request(counts, key="k")).value == {}
            with pytest.raises(LookupError):
                await attached.request(lambda hands: {}[hands], key="k")
            assert await attached.keys() == []
            assert await rt.streams("holdfast/engine", reserved=True) == []
            writing = asyncio.create_task(attached.request(add, "a"))
            await asyncio.sleep(0)
            assert (await attached.request(counts)).value == {"a": 1}
            assert only_durable(attached) and writing.done()

    asyncio.run(run())


def only_durable(attached: AttachedEngine) -> bool:
    """Return whether nothing is left to be written."""
    return all(memory.unsaved == 0 for memory in attached.memories())


def test_buffered_requests_that_could_not_be_written_are_told(kept_url: str) -> None:
    """N8, L5. Somebody else was first: what was answered here is gone, and health says so."""

    async def run() -> None:
        async with holdfast.open(kept_url, flush_interval=1e6) as one:
            here = await attach(one, tier=BUFFERED)
            await here.request(add, "a")
            async with holdfast.open(kept_url) as two:
                await (await attach(two)).request(add, "b")
            with pytest.raises(EngineBehindError):
                await one.flush()
            assert (await here.request(counts)).value == {"b": 1}
            assert "2 buffered events of 'counts' could not be written" in str(
                one.health().degraded
            )

    asyncio.run(run())


@pytest.mark.parametrize("how", ["flush", "close"])
def test_an_engine_that_cannot_write_keeps_nothing_else_from_being_written(
    kept_url: str, how: str
) -> None:
    """L5, F9. Neither sessions nor other engines, in a flush or at the end."""

    async def check(two: Runtime) -> None:
        async with two.session(Noted, "k") as session:
            assert session.value.count == 1
        there = await two.engines.attach("other", TallyEngine(), cadence=SELDOM)
        assert (await there.request(counts)).value == {"c": 1}

    async def work(one: Runtime, two: Runtime) -> None:
        here = await attach(one, tier=BUFFERED)
        await here.request(add, "a")
        other = await one.engines.attach("other", TallyEngine(), cadence=SELDOM, tier=BUFFERED)
        await other.request(add, "c")
        async with one.session(Noted, "k") as session, session.edit() as draft:
            draft.count = 1
        await (await attach(two)).request(add, "b")
        if how == "flush":
            with pytest.raises(EngineBehindError):
                await one.flush()
            await check(two)

    async def run() -> None:
        async with holdfast.open(kept_url) as two:
            with pytest.raises(EngineBehindError):
                async with holdfast.open(kept_url, flush_interval=1e6) as one:
                    await work(one, two)
            if how == "close":
                await check(two)

    asyncio.run(run())


def test_buffered_requests_leave_others_their_turn(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L4. Who asks without a pause keeps nobody from going on, and not all in memory."""
    monkeypatch.setattr("holdfast.runtime.engines.attached.BACKLOG", 200)

    async def run() -> None:
        async with holdfast.open(store_url, flush_interval=1e6) as rt:
            attached = await attach(rt, tier=BUFFERED)
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await asyncio.sleep(0)

            ticking = asyncio.create_task(tick())
            for _ in range(1_000):
                await attached.request(add, "a")
                assert only(attached).unsaved <= 200
            ticking.cancel()
            assert ticks > 50

    asyncio.run(run())


def test_audit_and_memory_agree(store_url: str) -> None:
    """N14. One event per request that changed something, none for those that looked or failed."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            attached = await attach(rt)
            for key in ("x", "y"):
                for count in (1, 2, 3):
                    await attached.request(add, "a", count, key=key, id=f"{key}{count}")
                await attached.request(counts, key=key)
                with pytest.raises(EvaluationError):
                    await attached.request(Tally.fail, key=key)
                await attached.request(add, "a", 1, key=key, id=f"{key}1")
            audit = [event.data for event in await rt.history("holdfast/audit/counts").read()]
            assert [one["id"] for one in audit] == ["x1", "x2", "x3", "y1", "y2", "y3"]
            for key in ("x", "y"):
                mine = [one for one in audit if one["key"] == [key]]
                now = await attached.request(counts, key=key)
                assert mine[-1]["answer"] == now.value["a"] == 6
                assert mine[-1]["facts"].hex() == now.facts

    asyncio.run(run())


def test_engines_of_the_opening_are_back_before_it_is_ready(kept_url: str) -> None:
    """N6, X7, X8, C6. With progress; the recovery report says the same each time."""

    async def run() -> None:
        engine = TallyEngine()
        async with holdfast.open(kept_url, engines={"counts": engine}) as rt:
            for _ in range(25):
                await rt.engines["counts"].request(add, "a")
            with pytest.raises(InvalidValueError, match="attached are: counts"):
                rt.engines["other"]
        opening = holdfast.open(kept_url, engines={"counts": engine}, wait_ready=False)
        async with opening as rt:
            with pytest.raises(NotReadyError):
                await rt.engines["counts"].request(add, "a")
            await rt.ready()
            health = rt.health()
            assert health.progress["engines"] == (26, 26)
            assert health.report is not None
            first = health.report.parts["engines"]
            assert first["counts"]["redone"] == 25
            assert (await rt.engines["counts"].request(counts)).value == {"a": 25}
        async with holdfast.open(kept_url, engines={"counts": engine}) as rt:
            report = rt.health().report
            assert report is not None and report.parts["engines"] == first

    asyncio.run(run())
