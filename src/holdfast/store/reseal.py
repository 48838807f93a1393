"""
What of a store is not sealed under the newest data key, page by page; of what is never sealed,
what was sealed nevertheless.

Events are not looked for: they are never written again.

Invariant: a page goes on behind the row it ended with, so a walk ends, whatever others write.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from holdfast.core.errors import DamagedError
from holdfast.core.sealing import OPEN_KINDS, SEALED, BrokenSeal
from holdfast.core.unit import PutBlob, PutSnapshot, ResealBytes, ResealRecord
from holdfast.store import rows
from holdfast.store.reader import Reader
from holdfast.store.vault import number_of

PAGE_ROWS: Final = 64
Reseal = ResealRecord | ResealBytes


class Page(NamedTuple):
    """
    A page of a walk.

    Attributes:
        stale: what is to be sealed anew.
        cursor: where the next page begins; None behind the last one.
        damaged: how many rows were left as they are, for `verify` to name.
    """

    stale: list[Reseal]
    cursor: dict[str, Any] | None
    damaged: int


def stale_records(reader: Reader, newest: int, cursor: dict[str, Any] | None) -> Page:
    """Return the next records."""
    found = reader.fetch("scan_records", **(cursor or {"after": b""}), limit=PAGE_ROWS)

    def look(row: rows.Row) -> Reseal | None:
        if row[5] is None:
            return None
        if row[1] in OPEN_KINDS:
            if not isinstance(row[7], int) or row[7] < SEALED:
                return None
        elif not _is_stale(row[5], row[7], newest):
            return None
        (record,) = reader.opened_records([row[1:]])
        return ResealRecord(record.kind, record.key)

    return _page(found, look, lambda last: {"after": last[0]})


def stale_blobs(reader: Reader, newest: int, cursor: dict[str, Any] | None) -> Page:
    """Return the next blobs."""
    found = reader.fetch("scan_blobs", **(cursor or {"after": b""}), limit=PAGE_ROWS)

    def look(row: rows.Row) -> Reseal | None:
        if not _is_stale(row[3], row[5], newest):
            return None
        blob = reader.opened(lambda: rows.read_blob(row, reader.cipher))
        put = PutBlob(blob.content, blob.size, blob.encoding, blob.stored)
        return ResealBytes(put, row[4], row[5] % SEALED, row[6])

    return _page(found, look, lambda last: {"after": last[0]})


def stale_snapshots(reader: Reader, newest: int, cursor: dict[str, Any] | None) -> Page:
    """Return the next snapshots."""
    begin = {"after": b"", "after_sequence": 0}
    found = reader.fetch("scan_snapshots", **(cursor or begin), limit=PAGE_ROWS)

    def look(row: rows.Row) -> Reseal | None:
        if not _is_stale(row[6], row[8], newest):
            return None
        one = reader.opened(lambda: rows.read_snapshot(row[1:], reader.cipher))
        if not one.intact:
            raise DamagedError(what="snapshot", name=one.name, reason="is damaged")
        put = PutSnapshot(one.name, one.stream, one.sequence, one.size, one.encoding, one.stored)
        return ResealBytes(put, row[7], row[8] % SEALED, row[9])

    return _page(found, look, lambda last: {"after": last[0], "after_sequence": last[3]})


WALKS: Final = {"records": stale_records, "blobs": stale_blobs, "snapshots": stale_snapshots}


def _page(
    found: list[rows.Row],
    look: Callable[[rows.Row], Reseal | None],
    behind: Callable[[rows.Row], dict[str, Any]],
) -> Page:
    damaged = 0

    def sound() -> Iterator[Reseal]:
        nonlocal damaged
        for row in found:
            try:
                one = look(row)
            except DamagedError:
                damaged += 1
                continue
            if one is not None:
                yield one

    stale = list(sound())
    return Page(stale, behind(found[-1]) if len(found) == PAGE_ROWS else None, damaged)


def _is_stale(stored: object, format: object, newest: int) -> bool:
    if not isinstance(stored, bytes) or not isinstance(format, int) or format < SEALED:
        return True
    try:
        return number_of(stored) != newest
    except BrokenSeal:
        return True
