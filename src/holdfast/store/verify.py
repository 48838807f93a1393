"""
Reading everything and naming what does not fit.

Every row has a digest over all its columns; events are chained, and heads say where each chain
ends. So a flipped bit anywhere in stored payloads, names, numbers or digests shows, and so
does a row that is missing, doubled or moved. Findings are yielded as they are found; reading
goes on behind each.

Invariant: an undamaged store yields nothing, also while others write to it.
"""

from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any, Final

from holdfast.core import codec
from holdfast.core.errors import DamagedError, DecodeError, TooOldError
from holdfast.core.event import Head, stream_id
from holdfast.core.sealing import SEALED, VERBATIM
from holdfast.store import rows
from holdfast.store.port import ALL, Depth, Finding
from holdfast.store.reader import PAGE_ROWS, Cursor, Reader

Check = Callable[[Reader, rows.Row], None]
# Numbers begin at 1; damaged ones may be anything.
_LOWEST: Final = -(2**63)


def verify_rows(reader: Reader, depth: Depth = ALL) -> Iterator[Finding]:
    """
    Read the tables, as deep as is asked for, and yield what does not fit.

    Seals are opened by who has the keys.
    """
    reader = Reader(reader.fetch, reader.cipher or VERBATIM)
    content = (
        _orphans(reader),
        _scan(reader, "scan_blobs", _after_content, _sampled(_check_blob, depth)),
        _scan(reader, "scan_snapshots", _after_snapshot, _sampled(_check_snapshot, depth)),
        _scan(reader, "scan_outcomes", _after_number, _check_outcome),
    )
    sections = (
        _streams(reader, depth),
        _scan(reader, "scan_records", _after_id, _check_record),
        _scan(reader, "scan_leases", _after_id, _check_lease),
        _scan(reader, "scan_incarnations", _after_number, _check_incarnation),
        _store(reader),
        *(content if depth.reads_content else ()),
    )
    for section in sections:
        try:
            yield from section
        except DamagedError as damage:
            yield _finding(damage)


def _sampled(check: Check, depth: Depth) -> Check:
    """Return a check that passes over what is not in the share that is read."""

    def sampled(reader: Reader, row: rows.Row) -> None:
        if not isinstance(row[0], bytes) or depth.takes(row[0]):
            check(reader, row)

    return sampled


def _streams(reader: Reader, depth: Depth) -> Iterator[Finding]:
    for row in reader.pages("scan_heads", _after_id):
        try:
            head = rows.read_head(row[1:])
            if row[0] != stream_id(head.name):
                raise DamagedError(
                    what="stream head", name=head.name, reason="stored under another id"
                )
        except DamagedError as damage:
            yield _finding(damage)
            continue
        if depth.reads_content and depth.takes(row[0]):
            yield from _events(reader, head)


def _events(reader: Reader, head: Head) -> Iterator[Finding]:
    """Follow one chain; behind a damaged event go on with the digest it has."""
    after = head.first_sequence - 1
    while after < head.last_sequence:
        try:
            _, page = reader.events(head.name, after, PAGE_ROWS)
        except TooOldError as trimmed:
            after = trimmed.first_sequence - 1
            continue
        except DamagedError as damage:
            if damage.sequence is None:
                yield _finding(damage)
                return
            if damage.sequence > after:
                yield _finding(damage)
            after = max(damage.sequence, after + 1)
            continue
        if not page:
            yield Finding("stream head", head.name, "is listed and not found by its name")
            return
        after += len(page)


def _orphans(reader: Reader) -> Iterator[Finding]:
    for origin, sequence in reader.fetch("orphans", limit=PAGE_ROWS):
        yield Finding("event", f"stream with origin {origin}", "its stream is gone", sequence)


def _scan(
    reader: Reader, name: str, behind: Callable[[rows.Row | None], Cursor], check: Check
) -> Iterator[Finding]:
    for row in reader.pages(name, behind):
        try:
            check(reader, row)
        except DamagedError as damage:
            yield _finding(damage)


def _check_record(reader: Reader, row: rows.Row) -> None:
    (record,) = reader.opened_records([row[1:]])
    if row[0] != rows.record_id(record.kind, record.key):
        raise _misplaced("record", repr(record.key))


def _check_lease(_: Reader, row: rows.Row) -> None:
    lease = rows.read_lease(row[1:])
    if row[0] != rows.lease_id(lease.key):
        raise _misplaced("lease", lease.key)


def _check_blob(reader: Reader, row: rows.Row) -> None:
    blob = reader.opened(lambda: rows.read_blob(row, reader.cipher))
    if _is_closed(reader, row[5]):
        return
    _check_content("blob", blob.content.hex(), blob.encoding, blob.stored, blob.size, blob.content)


def _check_snapshot(reader: Reader, row: rows.Row) -> None:
    snapshot = reader.opened(lambda: rows.read_snapshot(row[1:], reader.cipher))
    if not snapshot.intact:
        raise DamagedError(
            what="snapshot",
            name=snapshot.name,
            sequence=snapshot.sequence,
            reason="stored bytes and digest differ",
        )
    if row[0] != rows.snapshot_id(snapshot.name):
        raise _misplaced("snapshot", snapshot.name)
    if _is_closed(reader, row[8]):
        return
    _check_content("snapshot", snapshot.name, snapshot.encoding, snapshot.stored, snapshot.size)


def _is_closed(reader: Reader, format: object) -> bool:
    """Return whether content is sealed, and only its digest can be checked here."""
    return reader.cipher is VERBATIM and isinstance(format, int) and format >= SEALED


def _check_outcome(_: Reader, row: rows.Row) -> None:
    rows.check_outcome(row)


def _check_incarnation(_: Reader, row: rows.Row) -> None:
    rows.check_incarnation(row)


def _store(reader: Reader) -> Iterator[Finding]:
    found = reader.fetch("read_store")
    if len(found) != 1:
        yield Finding("store", "store", f"has {len(found)} rows that say which store it is")
    for row in found:
        rows.read_store(row)


def _check_content(
    what: str, name: str, encoding: str, stored: bytes, size: int, content: bytes | None = None
) -> None:
    try:
        data = codec.unpack(encoding, stored, size)
    except DecodeError as error:
        raise DamagedError(what=what, name=name, reason=error.reason) from error
    if len(data) != size or (content is not None and sha256(data).digest() != content):
        raise DamagedError(what=what, name=name, reason="content and digest differ")


def _misplaced(what: str, name: str) -> DamagedError:
    return DamagedError(what=what, name=name, reason="stored under another id")


def _finding(damage: DamagedError) -> Finding:
    return Finding(damage.what, damage.name, damage.reason, damage.sequence)


def _after_id(row: rows.Row | None) -> Cursor:
    return {"after": b"" if row is None else row[0]}


def _after_content(row: rows.Row | None) -> Cursor:
    return {"after": b"" if row is None else row[0]}


def _after_number(row: rows.Row | None) -> Cursor:
    return {"after": _LOWEST if row is None else row[0]}


def _after_snapshot(row: rows.Row | None) -> Cursor:
    found: dict[str, Any] = {"after": b"", "after_sequence": 0}
    return found if row is None else {"after": row[0], "after_sequence": row[3]}
