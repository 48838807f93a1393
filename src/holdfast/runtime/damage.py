"""
Damage that was found stays known: a durable note per damaged thing, so that listings show it
and nobody has to run into it again.

Invariant: noting never hides the damage; the error goes on to the caller in any case.
"""

import logging

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DamagedError, HoldfastError
from holdfast.core.key import encode_key, prefix_end
from holdfast.core.unit import PutRecord, RecordRow, Unit
from holdfast.store.port import Reads
from holdfast.store.store import Store

log = logging.getLogger("holdfast")
KIND = "holdfast.damage"
LISTED_MAX = 1_000


class _Note(msgspec.Struct):
    """What is kept of a damage."""

    sequence: int | None
    reason: str


class Damages:
    """
    The notes about damage in one store.

    Attributes:
        count: how many things are known to be damaged; counted at the boot, up to `LISTED_MAX`,
            and with every note since.
    """

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self._store = store
        self._noted: set[tuple[str, str]] = set()
        self.count = 0

    def recall(self, reader: Reads) -> None:
        """Count what was found damaged before this opening."""
        known = reader.records(KIND, b"", prefix_end(b""), LISTED_MAX, None)
        self._noted |= {(record.key[0], record.key[1]) for record in known}
        self.count = len(self._noted)

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
        self.count = len(self._noted)
        value = codec.encode(msgspec.to_builtins(_Note(damage.sequence, damage.reason)))
        try:
            key = (damage.what, damage.name)
            await self._store.commit_early(Unit((PutRecord(KIND, key, value),)))
        except HoldfastError:
            log.warning("event=damage_not_noted what=%s", damage.what)

    def words(self) -> str:
        """Return what is known in words; empty if nothing is."""
        return f"{self.count} things are damaged; run `holdfast verify`" if self.count else ""

    async def known(self) -> dict[tuple[str, str], int | None]:
        """Return sequence (or None) by what and name of everything found damaged."""
        first = encode_key(("stream",))
        records = await self._store.read(
            lambda reader: reader.records(KIND, first, prefix_end(first), LISTED_MAX, None)
        )
        return {(record.key[0], record.key[1]): _sequence(record) for record in records}


def noted(reader: Reads, what: str, name: str) -> int | None:
    """Return which sequence of something was found damaged last; None if nothing of it was."""
    record = reader.record(KIND, (what, name))
    return None if record is None or record.value is None else _sequence(record)


def _sequence(record: RecordRow) -> int | None:
    return codec.decode_as(record.value or b"", _Note, "note of damage").sequence
