"""
Damage that was found stays known: a durable note per damaged thing, so that listings show it
and nobody has to run into it again.

Invariant: noting never hides the damage; the error goes on to the caller in any case.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DamagedError, HoldfastError
from holdfast.core.key import Key, encode_key, prefix_end
from holdfast.core.unit import DeleteRecord, PutRecord, RecordRow, Unit
from holdfast.runtime.listing import Damaged, TolerantReader
from holdfast.store.port import Reads
from holdfast.store.store import Store

log = logging.getLogger("holdfast")
KIND = "holdfast.damage"
LISTED_MAX = 1_000
T = TypeVar("T")


class _Note(msgspec.Struct):
    """What is kept of a damage."""

    sequence: int | None
    reason: str


class Damages:
    """
    The notes about damage in one store.

    Attributes:
        put_back: writes a damaged record anew from what it was made of; returns whether it could.
    """

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self._store = store
        self._noted: set[tuple[str, str]] = set()
        self._met: set[tuple[str, Key]] = set()
        self.put_back: Callable[[str, Key], Awaitable[bool]] = _nothing

    def recall(self, reader: Reads) -> None:
        """Read what was found damaged before this opening, up to `LISTED_MAX` things."""
        known = reader.listed(KIND, b"", prefix_end(b""), LISTED_MAX)
        # A note that is damaged itself says by its key still what it is about.
        self._noted |= {(one.row.key[0], one.row.key[1]) for one in known if len(one.row.key) == 2}

    async def meet(self, one: Damaged) -> bool:
        """Put back a record that can be made anew, note another; return whether it is whole."""
        is_whole, place = await self.put_back(one.kind, one.key), (one.kind, one.key)
        if not is_whole or place in self._met:  # Met again, it was another one's place.
            await self.note_once(one.error)
        self._met.add(place)
        return is_whole

    async def around(self, work: Callable[[TolerantReader], T]) -> T:
        """Read what is intact or can be put back; what is damaged for good is left out."""

        def read(reader: Reads) -> tuple[T, list[Damaged]]:
            lists = TolerantReader(reader)
            return work(lists), lists.damaged

        found, damaged = await self._store.read(read)
        if any([await self.meet(one) for one in damaged]):
            found, still = await self._store.read(read)
            for one in still:
                await self.note_once(one.error)
        return found

    async def records(
        self, kind: str, first: bytes, until: bytes, limit: int, tag: str | None
    ) -> list[RecordRow]:
        """Return records by encoded key as `around` reads them."""
        return await self.around(lambda lists: lists.records(kind, first, until, limit, tag))

    async def note_once(self, damage: DamagedError) -> None:
        """Remember a damage that is met at every look, the first time."""
        if (damage.what, damage.name) not in self._noted:
            await self.note(damage)

    async def note(self, damage: DamagedError) -> None:
        """Remember a damage; a store that cannot be written only logs it."""
        log.error(
            "event=damage what=%s name=%r sequence=%s", damage.what, damage.name, damage.sequence
        )
        self._noted.add((damage.what, damage.name))
        value = codec.encode(msgspec.to_builtins(_Note(damage.sequence, damage.reason)))
        try:
            key = (damage.what, damage.name)
            await self._store.commit_early(Unit((PutRecord(KIND, key, value),)))
        except HoldfastError:
            log.warning("event=damage_not_noted what=%s", damage.what)

    async def forget(self, damage: DamagedError) -> None:
        """Drop the note about a damage that was mended."""
        key = (damage.what, damage.name)
        self._noted.discard(key)
        with suppress(HoldfastError):  # It is only word.
            await self._store.commit_early(Unit((DeleteRecord(KIND, key),)))

    def words(self) -> str:
        """Return what is known in words; empty if nothing is."""
        count = len(self._noted)
        return f"{count} things are damaged; run `holdfast verify`" if count else ""

    async def known(self) -> dict[tuple[str, str], int | None]:
        """Return sequence (or None) by what and name of everything found damaged."""
        first = encode_key(("stream",))
        records = await self._store.read(
            lambda reader: reader.listed(KIND, first, prefix_end(first), LISTED_MAX)
        )
        return {
            (one.row.key[0], one.row.key[1]): _sequence(one.row) if one.intact else None
            for one in records
            if len(one.row.key) == 2
        }


async def _nothing(kind: str, key: Key) -> bool:
    """Put back nothing: nobody knows what it was made of."""
    return False


def noted(reader: Reads, what: str, name: str) -> int | None:
    """Return which sequence of something was found damaged last; None if nothing of it was."""
    record = reader.record(KIND, (what, name))
    return None if record is None or record.value is None else _sequence(record)


def _sequence(record: RecordRow) -> int | None:
    return codec.decode_as(record.value or b"", _Note, "note of damage").sequence
