"""A wall clock that is off is said, refuses nothing, and is believed again (X10, F16)."""

import asyncio
from functools import partial
from pathlib import Path

import pytest

import holdfast
from holdfast import Runtime
from holdfast.core.clock import StoreTime, SystemClock
from holdfast.core.errors import InvalidValueError
from holdfast.core.metrics import GATES
from holdfast.core.world import World
from holdfast.http import readiness
from holdfast.runtime import doctor
from holdfast.runtime.doctor import examine
from holdfast.runtime.health import Gate
from holdfast.runtime.skew import STEADY
from holdfast.testing.clock import ManualClock

HOUR = 3_600.0


def gate(rt: Runtime) -> Gate:
    return next(gate for gate in rt.health().gates if gate.name == "clock")


class WrongClock(SystemClock):
    """The clock of this machine, set by some seconds."""

    def __init__(self, by: float = 0.0) -> None:
        super().__init__()
        self.by = by

    def wall(self) -> float:
        return super().wall() + self.by


@pytest.mark.parametrize(("by", "side"), [(-HOUR, "back"), (HOUR, "forward")])
def test_a_clock_that_was_set_is_said_and_refuses_nothing(
    tmp_path: Path, by: float, side: str
) -> None:
    """X10, F16. Ready all the same, with a reason and since when; open once it is back."""

    async def run() -> None:
        clock = ManualClock()
        world = World(clock=clock)
        async with holdfast.open(f"sqlite:///{tmp_path / 'store.db'}", world=world) as rt:
            lease = await rt.leases.grant("a", 60.0)
            clock.advance(50.0)
            assert gate(rt).ok
            clock.wall_time += by
            health, closed = rt.health(), gate(rt)
            assert health.ready and not closed.needed
            assert health.degraded == (f"the wall clock was set {side} by 3600.0 s",)
            assert closed.since == clock.wall()
            clock.advance(5.0)
            assert gate(rt) == closed
            await rt.history("s").append("t")
            await lease.renew()
            clock.wall_time -= by
            assert gate(rt).ok and rt.health().degraded == ()

    asyncio.run(run())


def test_a_clock_that_kept_its_pace_since_it_was_set_is_believed_again(tmp_path: Path) -> None:
    """X10. It was set right, or somebody means it so; set once more meanwhile, it waits anew."""

    async def run() -> None:
        clock = ManualClock()
        world = World(clock=clock)
        async with holdfast.open(f"sqlite:///{tmp_path / 'store.db'}", world=world) as rt:
            clock.wall_time += HOUR
            assert not gate(rt).ok
            clock.advance(STEADY - 1)
            clock.wall_time += HOUR
            assert gate(rt).reason == "the wall clock was set forward by 7200.0 s"
            clock.advance(STEADY - 1)
            assert not gate(rt).ok
            clock.advance(1.0)
            assert gate(rt).ok
            clock.wall_time -= HOUR
            assert gate(rt).reason == "the wall clock was set back by 3600.0 s"

    asyncio.run(run())


def test_a_machine_that_slept_has_no_wrong_clock(tmp_path: Path) -> None:
    """X10. Time passed for wall and store, not for the process: nobody set anything."""

    async def run() -> None:
        clock = ManualClock()
        world = World(clock=clock)
        async with holdfast.open(f"sqlite:///{tmp_path / 'store.db'}", world=world) as rt:
            clock.wall_time += HOUR
            clock.store_seconds += HOUR
            assert gate(rt).ok

    asyncio.run(run())


def test_nobody_asks_and_the_heartbeat_looks(tmp_path: Path) -> None:
    """X10. Where nobody asks for health a clock is looked at all the same, and believed again."""

    async def run() -> None:
        clock = ManualClock()
        world = World(clock=clock)
        async with holdfast.open(f"sqlite:///{tmp_path / 'store.db'}", world=world) as rt:
            clock.wall_time += HOUR
            await rt._presence._heartbeat.tick()
            clock.advance(STEADY)
            await rt._presence._heartbeat.tick()
            assert gate(rt).ok

    asyncio.run(run())


def test_how_much_is_too_much_can_be_set(tmp_path: Path) -> None:
    """X10. At the limit all is well; 0 says nothing; less than nothing is refused."""
    url = f"sqlite:///{tmp_path / 'store.db'}"

    async def closed(by: float, limit: float) -> bool:
        clock = ManualClock()
        async with holdfast.open(url, world=World(clock=clock), clock_skew_max=limit) as rt:
            clock.wall_time += by
            return not gate(rt).ok

    assert not asyncio.run(closed(2.0, 2.0))
    assert asyncio.run(closed(2.5, 2.0))
    assert asyncio.run(closed(-2.5, 2.0))
    assert not asyncio.run(closed(HOUR, 0.0))
    with pytest.raises(InvalidValueError):
        asyncio.run(closed(0.0, -1.0))


def test_a_server_that_tells_another_time_is_said_until_both_agree(postgres_url: str) -> None:
    """F16, operators 3. From the opening on; each commit hears it anew, so each heartbeat does."""

    async def run() -> None:
        clock = WrongClock(HOUR)
        async with holdfast.open(postgres_url, world=World(clock=clock)) as rt:
            assert rt.health().ready
            assert gate(rt).reason.endswith("s ahead of the clock of the store")
            clock.by = 0.0
            assert gate(rt).ok
            clock.by = -HOUR
            await rt._presence.beat()
            assert gate(rt).reason.endswith("s behind the clock of the store")
            clock.by = 5.0
            assert gate(rt).ok
        async with holdfast.open(postgres_url, read_only=True, world=World(clock=clock)) as rt:
            assert gate(rt).ok
            clock.by = HOUR
            assert not gate(rt).ok

    asyncio.run(run())


class SlowClock(SystemClock):
    """The clock of a machine on which some seconds pass when a test says so."""

    passed = 0.0

    def wall(self) -> float:
        return super().wall() + self.passed

    def store_time(self) -> StoreTime:
        now = super().store_time()
        return now._replace(seconds=now.seconds + self.passed)


def test_a_slow_answer_of_the_server_is_no_wrong_clock(postgres_url: str) -> None:
    """F16. What the server says was true between question and answer, however long that took."""

    async def run() -> None:
        clock = SlowClock()
        world = World(clock=clock)
        async with holdfast.open(postgres_url, world=world, clock_skew_max=1.0) as rt:
            world.failpoints.arm("commit.begun", lambda: setattr(clock, "passed", 30.0))
            await rt.history("s").append("t")
            assert gate(rt).ok
            await rt.history("s").append("t")
            assert gate(rt).reason.startswith("the wall clock is 30.0 s ahead")

    asyncio.run(run())


def test_the_doctor_looks_at_the_clock(kept_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators 5: "clock skew": against runtimes on this machine, and against the server."""

    async def seen() -> list[str]:
        return [one.evidence for one in await examine(kept_url) if one.id == "clock"]

    async def run() -> None:
        async with holdfast.open(kept_url):
            assert await seen() == []
            clock = WrongClock(HOUR)
            with monkeypatch.context() as patch:
                patch.setattr(doctor, "open", partial(holdfast.open, world=World(clock=clock)))
                found = await seen()
            assert "the wall clock was set by +3600.0 s since process" in found[-1]
            assert len(found) == 1 + kept_url.startswith("postgresql")
            assert len(found) == 1 or found[0].endswith("s ahead of the clock of the store")

    asyncio.run(run())


def test_gates_are_those_of_the_metric_and_of_the_probe(store_url: str) -> None:
    """X7, issue 7. A gate that is new is zero-initialised and has words for who has no token."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            names = [gate.name for gate in rt.health().gates]
            assert names == list(GATES)
            assert set(names) == set(readiness._WORDS)

    asyncio.run(run())
