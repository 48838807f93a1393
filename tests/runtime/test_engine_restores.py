"""Engines in general: how long upkeep takes the turn, what a restore tells, how one fails."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

import holdfast
from holdfast.core.refusal import EngineLostError, NotReadyError, NotRestoredError
from holdfast.core.telemetry import Notice
from holdfast.core.world import World
from holdfast.runtime.engines.snapshot import Cadence
from holdfast.runtime.engines.turn import a_turn, in_slices
from holdfast.testing.clock import ManualClock
from tests.runtime.counters import add, attach, counts, only
from tests.runtime.tally import Tally, TallyEngine

PAUSE = 0.02
STEP = 0.003
NAME = "long " * 60
ONCE = Cadence(requests=10**6, seconds=1e9, idle=1e9, on_close=False, kept=1, pause=PAUSE)


def fill(hands: Tally, count: int) -> None:
    """Make many counters."""
    for number in range(count):
        hands.add(f"counter {number:06} of a {NAME} name", number)


class Pauses:
    """A hook that keeps the pause of every snapshot."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def notice(self, notice: Notice) -> None:
        """Keep it."""
        if notice.name == "engine.snapshot":
            self.told.append(notice.numbers["pause"])


def test_upkeep_takes_the_turn_for_the_pause_and_one_step_at_most(store_url: str) -> None:
    """N13. Measured by a clock that moves with every step, whatever machine this runs on."""

    slices, pauses, clock = list[float](), Pauses(), ManualClock()

    async def run() -> None:
        engine = TallyEngine(step=lambda _: clock.advance(STEP))
        world = World(clock=clock)
        async with holdfast.open(store_url, world=world, telemetry=[pauses], lease_ttl=1e6) as rt:
            attached = await attach(rt, engine, cadence=ONCE)
            attached._place = attached._place._replace(held=slices.append)
            await attached.request(fill, 500)
            await attached.snapshot()
            await attached.evict(())
            await attached.load()
            assert only(attached).snapshot

    asyncio.run(run())
    assert sum(slices) >= 500 * STEP, "that many steps of a load were seen"
    assert max(slices) <= PAUSE + STEP * 1.01
    assert 0 < pauses.told[0] <= PAUSE + STEP * 1.01


def test_a_request_waits_for_one_slice_of_upkeep_at_most() -> None:
    """N13. Whoever asks while upkeep is at work has the turn next, not when it is done."""
    clock = ManualClock()
    asked, served = threading.Event(), list[int]()

    def request() -> None:
        asked.set()
        with a_turn():
            served.append(done[-1])

    done: list[int] = [0]
    thread = threading.Thread(target=request)

    def steps() -> Any:
        for number in range(1, 101):
            done.append(number)
            clock.advance(1.0)
            if number == 5:
                thread.start()
                asked.wait()
                waiting_for(thread)
            yield number

    assert list(in_slices(clock, steps(), 10.0, lambda _: None)) == list(range(1, 101))
    thread.join()
    assert served == [10]


def waiting_for(thread: threading.Thread) -> None:
    """Return when a thread waits for its turn: it then has the place at the head of the queue."""
    from holdfast.runtime.engines import turn

    while not turn._next.locked():
        assert thread.is_alive()


def test_many_facts_are_back_within_a_budget_and_tell_how_far_they_are(kept_url: str) -> None:
    """N13, N6. So many steps, none repeated; progress grows while the snapshot is taken."""
    steps: list[str] = []

    async def run() -> None:
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt, cadence=ONCE)
            await attached.request(fill, 1_000)
            await attached.snapshot()
            await attached.request(add, "a")
        seen: set[tuple[int, int]] = set()

        def step(name: str) -> None:
            steps.append(name)
            if "engines" in rt.health().progress:
                seen.add(rt.health().progress["engines"])

        engines = {"counts": TallyEngine(step=step)}
        async with holdfast.open(kept_url, engines=engines, wait_ready=False) as rt:
            await rt.ready()
            done, total = rt.health().progress["engines"]
        assert done == total
        assert total > 2 + 5, "the snapshot counts by its size, beside two events"
        assert len(seen) >= total - 2 and {of for _, of in seen} == {total}

    asyncio.run(run())
    assert steps.count("restore") == 1_001 and steps.count("redo") == 1
    assert "capture" not in steps


def breaking(after: int, error: Exception) -> Callable[[str], None]:
    """Return a step that fails once so many counters were restored."""
    count = 0

    def step(name: str) -> None:
        nonlocal count
        count += name == "restore"
        if count > after:
            raise error

    return step


FAULTS = [
    (NotRestoredError(reason="planted"), "1 snapshots do not fit"),
    (RuntimeError("planted"), "RuntimeError"),
]


async def _snapshot_alone(url: str) -> None:
    """Leave a memory that only its snapshot can bring back."""
    async with holdfast.open(url) as rt:
        attached = await attach(rt, cadence=ONCE)
        await attached.request(fill, 100)
        await attached.snapshot()


@pytest.mark.parametrize(("error", "named"), FAULTS, ids=["refused", "raised"])
def test_a_restore_that_fails_half_way_leaves_nothing(
    kept_url: str, error: Exception, named: str
) -> None:
    """N5. Empty, not ready, and why; what was half filled is released; the next attempt works."""

    async def run() -> None:
        await _snapshot_alone(kept_url)
        engine = TallyEngine(step=breaking(50, error))
        engines = {"counts": engine}
        async with holdfast.open(kept_url, engines=engines, wait_ready=False) as rt:
            with pytest.raises(NotReadyError):
                await rt.ready()
            assert not rt.health().ready and named in rt.health().reason
            assert list(rt.engines["counts"].memories()) == []
            with pytest.raises(NotReadyError):
                await rt.engines["counts"].request(add, "a")
        assert engine.made == engine.closed and all(not made.counts for made in engine.made)
        engine.step = lambda _: None
        async with holdfast.open(kept_url, engines=engines) as rt:
            found = (await rt.engines["counts"].request(counts)).value
            assert len(found) == 100 and "a" not in found

    asyncio.run(run())


def test_an_attach_that_fails_half_way_can_be_repeated(kept_url: str) -> None:
    """N5. In the same runtime; the name is free again, and nobody sees half a memory."""

    async def run() -> None:
        await _snapshot_alone(kept_url)
        broken = TallyEngine(step=breaking(50, NotRestoredError(reason="planted")))
        async with holdfast.open(kept_url) as rt:
            with pytest.raises(EngineLostError, match="1 snapshots do not fit"):
                await attach(rt, broken)
            assert broken.made == broken.closed
            attached = await attach(rt)
            assert len((await attached.request(counts)).value) == 100

    asyncio.run(run())
