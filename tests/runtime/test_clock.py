"""Clocks that jump: no order changes, and leases end only when store time says so (X10, F16)."""

import asyncio

import pytest

import holdfast
from holdfast import Append, Fence, Runtime, Unit
from holdfast.core.errors import LeaseExpiredError, LeaseHeldError, StaleGenerationError
from holdfast.core.world import World
from holdfast.testing.clock import ManualClock

HOURS = 3_600.0
JUMPS = (-5 * HOURS, 9 * HOURS, -1e9, 0.001)


async def write(rt: Runtime, fence: Fence) -> None:
    """Append behind a fence."""
    event = rt.history("s").event("t")
    await rt.commit(Unit((Append("s", (event,)),), (fence,)))


def test_a_wall_clock_that_jumps_changes_no_order_and_no_lease(store_url: str) -> None:
    """X10, F16. Hours back and forth: times are as the clock said, everything else goes on."""

    async def run() -> None:
        clock = ManualClock()
        async with holdfast.open(store_url, world=World(clock=clock)) as rt:
            lease = await rt.leases.grant("a", HOURS)
            walls = []
            for jump in JUMPS:
                clock.wall_time += jump
                clock.monotonic_seconds += 1.0
                walls.append(clock.wall_time)
                await write(rt, lease.token)
                with pytest.raises(LeaseHeldError) as refusal:
                    await rt.leases.grant("a", HOURS)
                assert 0 < refusal.value.remaining <= HOURS
                await lease.renew()
            events = await rt.history("s").read()
            assert [event.recorded_at for event in events] == walls
            assert [event.sequence for event in events] == [1, 2, 3, 4]
            assert await rt.feed.read() == events
            assert await rt.verify() == []

    asyncio.run(run())


@pytest.fixture(params=["file", "memory"])
def sqlite_url(request: pytest.FixtureRequest, tmp_path: object) -> str:
    """A store on this machine: it judges leases by this machine's clock."""
    return "sqlite:///:memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/store.db"


def test_a_lease_ends_at_its_second_of_store_time_and_not_before(sqlite_url: str) -> None:
    """F15, F16. Held to the last moment, over at the end, renewed from the moment of renewal."""

    async def run() -> None:
        clock = ManualClock()
        async with holdfast.open(sqlite_url, world=World(clock=clock)) as rt:
            lease = await rt.leases.grant("a", 10.0, holder="ann")
            clock.advance(9.5)
            await write(rt, lease.token)
            with pytest.raises(LeaseHeldError) as refusal:
                await rt.leases.grant("a", 10.0)
            assert (refusal.value.holder, refusal.value.remaining) == ("ann", 0.5)
            await lease.renew()
            clock.advance(9.5)
            await write(rt, lease.token)
            clock.advance(0.5)
            for use in (write(rt, lease.token), lease.renew()):
                with pytest.raises(LeaseExpiredError):
                    await use
            again = await rt.leases.grant("a", 10.0, holder="bob")
            assert again.generation == 2
            with pytest.raises(StaleGenerationError):
                await lease.release()

    asyncio.run(run())


def test_store_time_set_back_only_delays_a_takeover(sqlite_url: str) -> None:
    """F16. The owner stays the only one; set forward, the loser is refused by the fence."""

    async def run() -> None:
        clock = ManualClock()
        async with holdfast.open(sqlite_url, world=World(clock=clock)) as rt:
            old = await rt.leases.grant("a", 10.0)
            clock.store_seconds -= 500.0
            with pytest.raises(LeaseHeldError):
                await rt.leases.grant("a", 10.0)
            await write(rt, old.token)
            clock.store_seconds += 1_000.0
            new = await rt.leases.grant("a", 10.0)
            clock.store_seconds -= 1_000.0
            with pytest.raises(StaleGenerationError):
                await write(rt, old.token)
            await write(rt, new.token)

    asyncio.run(run())


def test_a_lease_of_an_earlier_boot_is_over(sqlite_url: str) -> None:
    """F16, A9. Its holder's process is gone, whatever the seconds of the new boot are."""

    async def run() -> None:
        clock = ManualClock()
        async with holdfast.open(sqlite_url, world=World(clock=clock)) as rt:
            old = await rt.leases.grant("a", 1e6)
            clock.domain, clock.store_seconds = "boot:next", 1.0
            with pytest.raises(LeaseExpiredError):
                await write(rt, old.token)
            assert (await rt.leases.grant("a", 10.0)).generation == 2

    asyncio.run(run())
