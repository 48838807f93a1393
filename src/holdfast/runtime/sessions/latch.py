"""
Latches: breakers, disabled sets, suspended flags; set once, kept over restarts, never for ever
by accident.

A latch has a *scope* (what kind of thing is latched: `model`, `upstream`) and a key in it, so
that one bad key never disables others. It says why and since when, may run out by itself, and
can be reset. What is left of its time survives restarts; see `core.deadline`.

Invariant: a latch that ran out is not found, whether or not somebody has cleared it away.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.deadline import Deadline, ending_in, rebased, remaining
from holdfast.core.errors import VersionConflictError
from holdfast.core.key import Key, as_key, encode_key, prefix_end
from holdfast.core.redaction import Redactor
from holdfast.core.unit import AtVersion, DeleteRecord, PutRecord, RecordRow, Unit
from holdfast.runtime.damage import Damages
from holdfast.store.store import Store

KIND: Final = "holdfast.latch"
PAGE: Final = 1_000


class Latch(msgspec.Struct, frozen=True):
    """
    A latch that is set.

    Attributes:
        scope: what kind of thing is latched.
        key: which one.
        reason: why, in words.
        set_at: wall time when it was set.
        age: seconds since then, by the wall clock.
        remaining: seconds until it runs out; None if it has to be reset.
    """

    scope: str
    key: Key
    reason: str
    set_at: float
    age: float
    remaining: float | None


class _Kept(msgspec.Struct, frozen=True):
    """A latch as it is stored."""

    reason: str
    set_at: float
    deadline: Deadline | None = None


class Latches:
    """The latches of a store."""

    def __init__(self, store: Store, damages: Damages, redaction: Redactor) -> None:
        """Take the store, where damage is noted, and what is not stored as it is."""
        self._store = store
        self._damages = damages
        self._redaction = redaction

    async def set(
        self, scope: str, key: str | Key, reason: str, *, ttl: float | None = None
    ) -> Latch:
        """
        Set a latch, or set it anew; durable when this returns.

        Args:
            scope: what kind of thing is latched.
            key: which one.
            reason: why, for people.
            ttl: seconds until it runs out by itself.
        """
        name = _name(scope, key)
        clock = self._store.world.clock
        deadline = None if ttl is None else ending_in(ttl, clock.store_time(), clock.wall())
        kept = _Kept(self._redaction.text(reason), clock.wall(), deadline)
        await self._store.commit(Unit((_put(name, kept),)))
        return self._latch(name, kept)

    async def find(self, scope: str, key: str | Key) -> Latch | None:
        """Return a latch that is set, or None."""
        name = _name(scope, key)
        row = await self._store.read(lambda reader: reader.record(KIND, name))
        return None if row is None or row.value is None else await self._look(row)

    async def list(self, scope: str) -> list[Latch]:
        """Return the latches of a scope that are set, by key."""
        place = encode_key((scope,))
        until = prefix_end(place)
        found: list[Latch] = []
        while rows := await self._page(place, until):
            place = encode_key(rows[-1].key) + b"\0"
            latches = [await self._look(row) for row in rows]
            found += [latch for latch in latches if latch is not None]
        return found

    async def reset(self, scope: str, key: str | Key) -> bool:
        """Take a latch off; return whether it was set."""
        found = await self.find(scope, key)
        await self._store.commit(Unit((DeleteRecord(KIND, _name(scope, key)),)))
        return found is not None

    async def _page(self, first: bytes, until: bytes) -> Sequence[RecordRow]:
        return await self._damages.records(KIND, first, until, PAGE, None)

    async def _look(self, row: RecordRow) -> Latch | None:
        kept = codec.decode_as(row.value or b"\xc0", _Kept, "latch")
        if kept.deadline is not None:
            kept = await self._rebased(row, kept, kept.deadline)
        latch = self._latch(row.key, kept)
        return None if latch.remaining == 0 else latch

    async def _rebased(self, row: RecordRow, kept: _Kept, deadline: Deadline) -> _Kept:
        """Write the deadline anew if this is another boot, so that no clock is asked twice."""
        clock = self._store.world.clock
        here = rebased(deadline, clock.store_time(), clock.wall())
        if here is deadline:
            return kept
        kept = msgspec.structs.replace(kept, deadline=here)
        unit = Unit((_put(row.key, kept),), (AtVersion(KIND, row.key, row.version),))
        if not self._store.options.read_only:
            try:
                await self._store.commit(unit)
            except VersionConflictError:
                return kept  # Set or reset meanwhile; the next look sees that.
        return kept

    def _latch(self, name: Key, kept: _Kept) -> Latch:
        clock = self._store.world.clock
        left = None
        if kept.deadline is not None:
            left = remaining(kept.deadline, clock.store_time(), clock.wall())
        age = max(0.0, clock.wall() - kept.set_at)
        return Latch(name[0], name[1:], kept.reason, kept.set_at, age, left)


def _name(scope: str, key: str | Key) -> Key:
    name = (scope, *as_key(key))
    encode_key(name)
    return name


def _put(name: Key, kept: _Kept) -> PutRecord:
    plain: dict[str, Any] = msgspec.to_builtins(kept)
    return PutRecord(KIND, name, codec.encode(plain))
