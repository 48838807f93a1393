"""
What tests the simulation: processes with a planted mistake, and states that have to be reached.

A mistake is what a simulation is made of, with one part exchanged.
"""

from collections.abc import AsyncIterator, Mapping

from holdfast.core.errors import StaleGenerationError
from holdfast.core.event import RecordedEvent, recorded
from holdfast.core.lease import check_fence
from holdfast.core.unit import Committed, Fence, Unit
from holdfast.runtime.runtime import Runtime
from holdfast.store.wake import Wakes
from holdfast.testing.clients import Parts
from holdfast.testing.instance import LoopStore

# Within so many seeds a planted mistake has to be found.
SEEDS_TO_FIND = 500

# Rare states; a campaign that does not reach one of them tests less than it says.
SOMETIMES = (
    "cancelled",
    "clock was set",
    "conflict retried",
    "follower was shown another process's event",
    "follower went on after a kill",
    "froze",
    "granted to the next",
    "killed at an await",
    "killed at commit.answered",
    "killed at commit.begun",
    "killed at commit.committed",
    "killed at commit.written",
    "opened again after all were closed",
    "opened again after all were killed",
    "lease was held",
    "refused while another process writes",
    "renewed",
    "stale owner got lease_expired",
    "stale owner got stale_generation",
    "unknown outcome resolved absent",
    "unknown outcome resolved committed",
)


async def _look_then_write(rt: Runtime, token: Fence, unit: Unit, until: float) -> Committed:
    row = await rt.leases.find(token.key)
    check_fence(row, token, rt._store.world.clock.store_time())
    return await rt.commit(Unit(unit.writes, (), unit.id))


async def _trust(rt: Runtime, token: Fence, unit: Unit, until: float) -> Committed:
    if rt._store.world.clock.monotonic() >= until:
        raise StaleGenerationError(key=token.key, generation=token.generation, actual=0)
    return await rt.commit(Unit(unit.writes, (), unit.id))


async def _look_then_register(rt: Runtime, stream: str, after: int) -> AsyncIterator[RecordedEvent]:
    while True:
        head, rows = await rt._store.events(stream, after, 100)
        for row in rows:
            yield recorded(stream, row)
            after = row.sequence
        if rows:
            continue
        if head is not None and head.closed:
            return
        await rt._store.wakes.register(stream)


class _NeverCounting(Wakes):
    @property
    def count(self) -> int:
        return 0

    @count.setter
    def count(self, value: int) -> None: ...


class _SharingTooMuch(LoopStore):
    def drive(self) -> None:
        self.wakes = _NeverCounting()
        super().drive()


MISTAKES: Mapping[str, Parts] = {
    "fence-looked-at-before-the-write": Parts(write=_look_then_write),
    "lease-trusted-after-a-stall": Parts(write=_trust),
    "follower-registers-after-it-looked": Parts(follow=_look_then_register),
    "page-shared-over-a-wake-up": Parts(store=_SharingTooMuch),
}
