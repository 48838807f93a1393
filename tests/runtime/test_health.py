"""What is not as it should be is said by name, with a reason and since when."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

import holdfast
from holdfast import BUFFERED, Runtime, field, state
from holdfast.core.errors import DamagedError, OutcomeUnknownError, PoisonedError, StoreFullError
from holdfast.core.recovery import Phase
from holdfast.core.world import World
from holdfast.runtime.health import Gate
from holdfast.store.port import CommitFailed
from holdfast.testing.clock import ManualClock
from tests.runtime.slow import slowed


@state(version=1)
class Talk:
    cost: float = field(default=0.0, tier=BUFFERED)


def gate(rt: Runtime, name: str) -> Gate:
    return next(gate for gate in rt.health().gates if gate.name == name)


def raising(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def world_at(seconds: float) -> tuple[World, ManualClock]:
    clock = ManualClock(seconds)
    return World(clock=clock), clock


def test_a_flush_that_is_late_degrades_until_one_came_through(store_url: str) -> None:
    """L4, X7. Ready all the same; the gate knows since when."""

    async def run() -> None:
        world, clock = world_at(0.0)
        # The clock of a test is another one than the server's.
        opening = holdfast.open(store_url, world=world, flush_interval=30.0, clock_skew_max=0.0)
        async with (
            opening as rt,
            rt.session(Talk, "a") as talk,
        ):
            async with talk.edit() as draft:
                draft.cost = 1.0
            assert rt.health().degraded == ()
            clock.advance(61.0)
            health = rt.health()
            assert health.ready and len(health.degraded) == 1
            late = gate(rt, "flush")
            assert (late.ok, late.needed, late.since) == (False, False, clock.wall())
            clock.advance(5.0)
            assert gate(rt, "flush").since == late.since
            await rt.flush()
            assert gate(rt, "flush").ok and rt.health().degraded == ()
            assert gate(rt, "flush").since == clock.wall()

    asyncio.run(run())


def test_a_full_disk_degrades_until_a_commit_comes_through(store_url: str) -> None:
    """F7, X7. It is retried, so the runtime stays ready."""

    async def run() -> None:
        world = World()
        async with holdfast.open(store_url, world=world) as rt:
            world.failpoints.arm("commit.begun", raising(StoreFullError(reason="test")))
            with pytest.raises(StoreFullError):
                await rt.history("s").append("t")
            health = rt.health()
            assert health.ready and "StoreFullError" in health.degraded[0]
            assert not gate(rt, "commits").ok
            world.failpoints.arm("commit.begun", lambda: None)
            await rt.history("s").append("t")
            assert rt.health().degraded == ()

    asyncio.run(run())


def test_damage_degrades_also_after_the_next_start(tmp_path: Path) -> None:
    """X3, X7. What was found stays known."""
    url = f"sqlite:///{tmp_path / 'store.db'}"

    async def run() -> None:
        async with holdfast.open(url) as rt:
            assert gate(rt, "damage").ok
            damage = DamagedError(what="stream", name="s", reason="test", sequence=1)
            await rt._damages.note(damage)
            await rt._damages.note(damage)
            assert "1 things" in gate(rt, "damage").reason
        async with holdfast.open(url) as rt:
            assert rt.health().ready and rt.health().degraded == (gate(rt, "damage").reason,)

    asyncio.run(run())


def test_a_poisoned_store_has_failed(store_url: str) -> None:
    """F8, X7. Not ready any more, with the reason; the closing does not hang on it."""

    async def run() -> None:
        world = World()
        async with holdfast.open(store_url, world=world) as rt:
            world.failpoints.arm("commit.written", raising(CommitFailed("test")))
            with pytest.raises(OutcomeUnknownError):
                await rt.history("s").append("t")
            assert rt.phase is Phase.FAILED, "also before anybody asked for more"
            health = rt.health()
            assert (health.phase, health.ready) == (Phase.FAILED, False)
            assert "PoisonedError" in health.reason and not gate(rt, "store").ok
            with pytest.raises(PoisonedError):
                await rt.history("s").append("t")
        assert rt.health().phase is Phase.CLOSED

    asyncio.run(run())


def test_the_phase_is_that_of_its_life_at_every_moment(store_url: str) -> None:
    """X7. Opening, restoring, ready, draining, closed; asked for without looking at anything."""

    async def run() -> None:
        opening = holdfast.open(store_url, wait_ready=False)
        async with opening as rt:
            part = slowed(rt)
            seen = [rt.phase]
            await part.reached.wait()
            seen.append(rt.phase)
            part.go_on.set()
            await rt.ready()
            seen.append(rt.phase)
            entry = await rt.ledger.begin("work")
            draining = asyncio.create_task(rt.drain(600.0))
            while rt.phase is Phase.READY:  # noqa: ASYNC110 no event tells
                await asyncio.sleep(0)
            seen.append(rt.phase)
            await entry.settle("done")
            await draining
            seen.append(rt.phase)
        phases = [Phase.OPENING, Phase.RESTORING, Phase.READY, Phase.DRAINING, Phase.CLOSED]
        assert seen == phases

    asyncio.run(run())
