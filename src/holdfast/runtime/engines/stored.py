"""
Engines as they are stored: for who looks at what is kept of them without their rules.

Invariant: nothing here loads a working memory, and none has to be attached.
"""

from typing import Final

import msgspec

from holdfast.core.engine import KIND, stream_of
from holdfast.core.errors import LimitError, RecordNotFoundError
from holdfast.core.key import Key, as_key
from holdfast.runtime.damage import noted
from holdfast.runtime.engines.load import known_of
from holdfast.store.port import Reads, SnapshotRow
from holdfast.store.store import Store

LISTED_MAX: Final = 100
DAMAGED: Final = "it is damaged"
UNFIT: Final = "it was tried and did not fit"
SUPERSEDED: Final = "the memory began anew since, with other rules"


class StoredSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """
    A snapshot of a working memory, as it is kept.

    Attributes:
        sequence: of the last event of the journal that it includes.
        tail: events behind it: what is done again by a start that begins with it.
        written_at: wall time in seconds.
        size: of what was captured, in bytes.
        stored_size: of what is stored of that, in bytes.
        reason: why a start passes it over; empty if it does not.
    """

    sequence: int
    tail: int
    written_at: float
    size: int
    stored_size: int
    reason: str


class StoredEngines:
    """What is kept of the engines on a store."""

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self._store = store

    async def snapshots(
        self, name: str, key: str | Key = (), *, limit: int = LISTED_MAX
    ) -> list[StoredSnapshot]:
        """
        Return the snapshots of a working memory, the newest first; each is read and checked.

        Args:
            name: of the engine, attached here or not.
            key: of the memory; empty if the engine has one alone.
            limit: how many at most.

        Raises:
            RecordNotFoundError: no such memory is kept.
            LimitError: `limit` is too large.
        """
        if not 1 <= limit <= LISTED_MAX:
            raise LimitError(what="limit", size=limit, limit=LISTED_MAX)
        return await self._store.read(lambda reader: _snapshots(reader, name, as_key(key), limit))


def _snapshots(reader: Reads, name: str, key: Key, limit: int) -> list[StoredSnapshot]:
    row = reader.record(KIND, (name, *key))
    if row is None or row.value is None:
        raise RecordNotFoundError(kind="working memory", key=(name, *key))
    begun, stream = known_of(row).begun, stream_of(name, key)
    rows, head = reader.snapshots(stream, limit), reader.head(stream)
    last = 0 if head is None else head.last_sequence
    unfit = noted(reader, "snapshot", stream)
    return [_shown(one, last, _reason(one, begun, unfit)) for one in rows]


def _shown(row: SnapshotRow, last: int, reason: str) -> StoredSnapshot:
    return StoredSnapshot(
        sequence=row.sequence,
        tail=max(0, last - row.sequence),
        written_at=row.written_at,
        size=row.size,
        stored_size=len(row.stored),
        reason=reason,
    )


def _reason(row: SnapshotRow, begun: int, unfit: int | None) -> str:
    if not row.intact:
        return DAMAGED
    if row.sequence == unfit:
        return UNFIT
    return SUPERSEDED if row.sequence <= begun else ""
