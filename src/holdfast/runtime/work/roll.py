"""
The roll: who did not say goodbye, and who of them is dead.

A runtime is dead if its lease is free, expired, or held by a process that is proven dead. Taking
the lease decides either way; what is said here is where to try.

Invariants: nobody is called dead because something could not be read; a presence record or a
lease that is damaged is said, and keeps nobody else from being found.

A damaged presence record is written anew: by its own runtime at the next heartbeat, or, once its
lease is over, by who calls the roll. What only it said is not known then: which process it was,
how much it buffered, and, where none of its work can be read, its log.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.errors import (
    ConflictError,
    DamagedError,
    FenceError,
    LeaseExpiredError,
    VersionConflictError,
)
from holdfast.core.key import prefix_end
from holdfast.core.lease import expired
from holdfast.core.unit import AtVersion, Fence, LeaseRow, MendRecord, RecordRow, Unit
from holdfast.runtime.damage import Damages
from holdfast.runtime.listing import Damaged, TolerantReader
from holdfast.runtime.presence import KIND, Presence, Present, lease_of
from holdfast.store.owner import NOT_KNOWN, Owner, proven_dead
from holdfast.store.port import Reads
from holdfast.store.store import Store

_EVERYBODY: Final = 10_000
_NEVER: Final = -1
_NOBODY: Final = Owner("not known", NOT_KNOWN, 0, "", None)


class Dead(msgspec.Struct, frozen=True):
    """
    A runtime that did not say goodbye and is proven dead.

    Attributes:
        incarnation: of its opening, in hex.
        version: of its presence record.
        present: what that says.
        over: generation of its lease whose holder is proven dead; 0 if the lease is free or
            expired and needs no proof.
    """

    incarnation: str
    version: int
    present: Present
    over: int


class Someone(NamedTuple):
    """Who did not say goodbye: the presence record, what it says, and the lease."""

    record: RecordRow
    present: Present
    lease: LeaseRow | None


class Called(NamedTuple):
    """
    What a call of the roll found.

    Attributes:
        everybody: who can be read.
        unread: incarnations of those who cannot, or an empty one for whoever it is.
        damaged: what is damaged.
    """

    everybody: list[Someone]
    unread: frozenset[str]
    damaged: list[Damaged]


def call(lists: TolerantReader) -> Called:
    """Read who did not say goodbye, and the lease of each."""
    found: list[Someone] = []
    rows = lists.records(KIND, b"", prefix_end(b""), _EVERYBODY, None)
    unread = {""} if lists.damaged else set[str]()  # What a damaged row says is no key.
    for row in rows:
        unread.add(row.key[0])
        with lists.apart(KIND, row.key):
            present = codec.decode_as(row.value or b"", Present, KIND)
            found.append(Someone(row, present, lists.reader.lease(lease_of(row.key[0]))))
            unread.remove(row.key[0])
    return Called(found, frozenset(unread), lists.damaged)


def _damage_of(incarnation: str, reader: Reads) -> DamagedError | None:
    try:
        reader.record(KIND, (incarnation,))
    except DamagedError as damage:
        return damage
    return None


class Roll:
    """Tells who is dead."""

    def __init__(self, store: Store, presence: Presence, damages: Damages) -> None:
        """Take the store, and this runtime, which asks."""
        self._store = store
        self._presence = presence
        self._damages = damages

    async def dead(self) -> list[Dead]:
        """Return the runtimes that are proven dead, oldest first; mends what is damaged before."""
        called = await self._damages.around(call)
        if called.damaged:
            await self._mend_all(called.damaged)
            called = await self._damages.around(call)
        return await self.dead_of(called)

    async def dead_of(self, called: Called) -> list[Dead]:
        """Return those that are proven dead, oldest first."""
        found: list[Dead] = []
        for one in called.everybody:
            incarnation = one.record.key[0]
            if incarnation != self._presence.incarnation:
                over = await self._over(one, called)
                if over is not None:
                    found.append(Dead(incarnation, one.record.version, one.present, over))
        return sorted(found, key=lambda dead: dead.present.epoch)

    async def _mend_all(self, damaged: Sequence[Damaged]) -> None:
        """Write anew the presence records that are damaged and whose runtimes are silent."""
        for one in damaged:
            if one.key and one.key[0] != self._presence.incarnation:
                await self._mend(one.key[0])

    async def _mend(self, incarnation: str) -> None:
        damage = await self._store.read(partial(_damage_of, incarnation))
        if damage is None:
            return  # Its lease is what is damaged; or that is the key of somebody else.
        try:
            lease = await self._store.read(lambda reader: reader.lease(lease_of(incarnation)))
        except DamagedError:
            return  # Nobody can tell whether it lives.
        if lease is not None and lease.incarnation and not await self._expired(lease):
            return
        value = codec.encode(msgspec.to_builtins(self._forgotten(lease)))
        mend = MendRecord(KIND, (incarnation,), value)
        try:
            await self._store.commit_early(Unit((mend,), (self._presence.fence,)))
        except (ConflictError, FenceError):
            return  # It was mended, or said goodbye; or this runtime is itself taken for dead.
        await self._damages.forget(damage)

    def _forgotten(self, lease: LeaseRow | None) -> Present:
        """Return what is known without the record: that it lived until about its lease's end."""
        domain, seconds = ("", 0.0) if lease is None else (lease.domain, lease.expires_at)
        return Present(_NOBODY, 0, None, "", self._store.world.clock.wall(), domain, seconds)

    async def _over(self, one: Someone, called: Called) -> int | None:
        """Return the generation that may be taken, 0 for any that is free, None if it lives."""
        lease = one.lease
        if lease is None or not lease.incarnation:
            return 0
        holder = lease.incarnation.hex()
        if holder == self._presence.incarnation:
            return lease.generation  # Ours, from a rescue that did not come to its end.
        present = {other.record.key[0]: other.present for other in called.everybody}
        if holder in present:
            is_gone = proven_dead(present[holder].owner, self._presence.owner)
        else:
            is_gone = not called.unread & {holder, ""}  # It said goodbye, or cannot be read.
        if is_gone:
            return lease.generation
        return 0 if await self._expired(lease) else None

    async def _expired(self, lease: LeaseRow) -> bool:
        """
        Return whether a lease is over by the store's clock.

        Where that is the clock of this machine, it is looked at. Otherwise the store is asked,
        by a unit that is always refused. Taking the lease decides either way.
        """
        now = self._store.world.clock.store_time()
        if lease.domain == now.domain:
            return expired(lease, now)
        fence = Fence(lease.key, lease.generation, lease.incarnation)
        try:
            await self._store.commit_early(Unit((), (fence, AtVersion(KIND, ("",), _NEVER))))
        except LeaseExpiredError:
            return True
        except (FenceError, VersionConflictError):
            return False
        return False
