"""
What the exhaustive search of `orders.model` is about: states, bounds, and the rules under test.

A protocol is the four rules of `core.lease`; those in `BROKEN` differ from them in one point.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from holdfast.core import lease
from holdfast.core.clock import StoreTime
from holdfast.core.unit import Fence, GrantLease, LeaseRow

__all__ = ["BROKEN", "Bounds", "Copy", "Protocol", "State", "Step", "Worker"]

KEY: Final = "lease"
TTL: Final = 2
JUMP: Final = 3
FENCED: Final = -1


class Worker(NamedTuple):
    """
    A process that wants the lease.

    Attributes:
        incarnation: number of its opening.
        place: which copy of the store it has open; `FENCED` if that was replaced under it.
        token: what it was granted last, kept over openings.
        grant: number of that grant.
        looked: it has looked at the fence and not written yet (broken protocols only).
        trust: how long it still believes in its lease by its own clock (broken ones only).
        proven: generation whose holder it found to be dead; it may act on that much later.
    """

    incarnation: int
    place: int = 0
    token: Fence | None = None
    grant: int = 0
    looked: bool = False
    trust: int = 0
    proven: int = 0


class Copy(NamedTuple):
    """
    A store, and beside it the truth.

    Attributes:
        row: what the store knows of the lease; its end is relative to now.
        owner: number of the grant that is in force; 0 if none is.
        left: how long it stays in force, in true time.
        highest: highest generation that was ever granted here.
    """

    row: LeaseRow | None = None
    owner: int = 0
    left: int = 0
    highest: int = 0


class State(NamedTuple):
    """
    Everything at one moment.

    Attributes:
        workers: the processes.
        copies: the store, and its clone if there is one.
        domain: number of the boot, the domain of store time.
        wall: by how much the wall clock is ahead of where it began.
        grants: how many there were.
        openings: how many there were, those after a restore not counted.
        clones: how many there were.
    """

    workers: tuple[Worker, ...]
    copies: tuple[Copy, ...] = (Copy(),)
    domain: int = 0
    wall: int = 0
    grants: int = 0
    openings: int = 0
    clones: int = 0


class Step(NamedTuple):
    """What somebody did, what came of it, and what it broke."""

    act: str
    state: State
    broken: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Protocol:
    """
    The rules under test; by default those of the product.

    Attributes:
        name: what is special about it.
        granted, renewed, released, check_fence: the rules of `core.lease`.
        looks_first: the fence is looked at in one transaction, and the write done in another.
        trusts: a worker writes without a fence while its own clock says it is the owner.
        by_wall: leases end by the wall clock.
        one_boot: an end is judged without regard to the boot it belongs to.
    """

    name: str = "as shipped"
    granted: Callable[..., LeaseRow] = lease.granted
    renewed: Callable[..., LeaseRow] = lease.renewed
    released: Callable[..., LeaseRow] = lease.released
    check_fence: Callable[..., LeaseRow] = lease.check_fence
    looks_first: bool = False
    trusts: bool = False
    by_wall: bool = False
    one_boot: bool = False

    def now(self, state: State) -> StoreTime:
        """Return the moment by which leases are judged; ends in rows are relative to it."""
        domain = 0 if self.one_boot else state.domain
        return StoreTime(f"boot:{domain}", float(state.wall) if self.by_wall else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How far the search goes; within these bounds it leaves out nothing."""

    workers: int = 3
    grants: int = 3
    openings: int = 1
    boots: int = 1
    clones: int = 1


def _granted_again(
    row: LeaseRow | None, write: GrantLease, incarnation: bytes, now: StoreTime
) -> LeaseRow:
    taken = lease.granted(row, write, incarnation, now)
    if row is None or not row.incarnation:
        return taken
    return LeaseRow(
        taken.key, row.generation, incarnation, taken.holder, taken.domain, taken.expires_at
    )


def _over_anybody(
    row: LeaseRow | None, write: GrantLease, incarnation: bytes, now: StoreTime
) -> LeaseRow:
    over = row.generation if row is not None and write.over else 0
    return lease.granted(
        row, GrantLease(write.key, write.ttl, write.holder, over), incarnation, now
    )


def _any_incarnation(row: LeaseRow | None, fence: Fence, now: StoreTime) -> LeaseRow:
    bearer = fence if row is None else Fence(fence.key, fence.generation, row.incarnation)
    return lease.check_fence(row, bearer, now)


BROKEN: Final = (
    Protocol(name="fence looked at before the write's transaction", looks_first=True),
    Protocol(name="lease trusted after a pause", trusts=True),
    Protocol(name="generation not raised on takeover", granted=_granted_again),
    Protocol(name="a proof of death bound to no generation", granted=_over_anybody),
    Protocol(name="leases end by the wall clock", by_wall=True),
    Protocol(name="an end outlives the boot", one_boot=True),
    Protocol(name="incarnation ignored after a clone", check_fence=_any_incarnation),
)
