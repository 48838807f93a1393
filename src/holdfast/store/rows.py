"""
Rows as both databases keep them: to parameters, and back with their digests checked.

One place for the order of columns and for what is checked when a row comes back, so that the
drivers hold no second copy of either.

Invariant: a row that does not match its digest, or is not the one that was asked for, is never
returned as data.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from holdfast.core import codec, sealing
from holdfast.core.errors import DamagedError
from holdfast.core.event import EventRow, Head, stream_id
from holdfast.core.ids import derived_id
from holdfast.core.key import Key, decode_key, encode_key, encode_name
from holdfast.core.sealing import Cipher
from holdfast.core.unit import LeaseRow, PutBlob, PutSnapshot, RecordRow
from holdfast.store.port import BlobRow, Listed, ListedRecord, SnapshotRow

Row = Sequence[Any]
COUNTED: Final = 2
"""The format of blobs put by a Holdfast that counts who names them; before, it was 1."""


def record_id(kind: str, key: Key) -> bytes:
    """Return the bytes by which a record is found."""
    return derived_id(b"record", kind.encode(), encode_key(key))


def lease_id(key: str) -> bytes:
    """Return the bytes by which a lease is found."""
    return derived_id(b"lease", encode_name("lease", key))


def snapshot_id(name: str) -> bytes:
    """Return the bytes by which the snapshots of a name are found."""
    return derived_id(b"snapshot", encode_name("snapshot", name))


def head_row(head: Head) -> Row:
    """Return a head as parameters."""
    return (
        stream_id(head.name),
        head.name.encode(),
        head.origin,
        head.last_sequence,
        head.last_digest,
        head.first_sequence,
        head.anchor,
        int(head.closed),
        head.seal(),
    )


def read_head(row: Row) -> Head:
    """
    Return a head from its columns.

    Raises:
        DamagedError: it does not match its digest.
    """
    listed = list_head(row)
    if not listed.intact:
        raise _damaged("stream head", listed.head.name)
    return listed.head


def list_head(row: Row) -> Listed:
    """Return a head from its columns, marked if it does not match its digest."""
    name, origin, last, last_digest, first, anchor, closed, seal = row
    shown = _shown(name)
    try:
        if not all(isinstance(number, int) for number in (origin, last, first)):
            raise TypeError("no number where one was stored")
        head = Head(shown, origin, last, _blob(last_digest), first, _blob(anchor), closed == 1)
        intact = shown.encode() == name and closed in (0, 1) and head.seal() == seal
    except (TypeError, ValueError):
        intact, head = False, Head(shown, 0, 0, b"", 1, b"", False)
    return Listed(head, intact)


def read_event(row: Row) -> EventRow:
    """Return an event row; its digest, and with it every type, is checked along the chain."""
    return EventRow(*row)


def record_row(record: RecordRow, cipher: Cipher | None = None) -> Row:
    """Return a record as parameters, sealed if there is a cipher."""
    record = sealing.sealed_record(cipher, record)
    return (
        record_id(record.kind, record.key),
        record.kind,
        encode_key(record.key),
        record.version,
        record.tag,
        record.value,
        record.written_at,
        record.format,
        record.seal(),
    )


def read_record(row: Row, cipher: Cipher | None = None) -> RecordRow:
    """
    Return a record from its columns.

    Raises:
        DamagedError: it does not match its digest, or its seal.
        KeyMissingError: it is sealed, and there is no cipher.
    """
    kind, key, *_ = row
    if not is_sound(row):
        raise _damaged(f"record {kind}", _shown_key(key))
    try:
        record = RecordRow(kind, decode_key(key), *row[2:7])
    except (TypeError, ValueError) as error:
        raise _damaged(f"record {kind}", _shown_key(key)) from error
    return sealing.open_record(cipher, record)


def is_sound(row: Row) -> bool:
    """Return whether the columns of a record match its digest."""
    *written, seal = row
    try:
        # What was written, types included; the same fields as `RecordRow.seal` takes.
        return bool(codec.digest(*written) == seal)
    except (TypeError, ValueError):
        return False


def place_of(row: Row) -> bytes:
    """Return where a record stands in its index, as far as its columns say."""
    return row[1] if isinstance(row[1], bytes) else b""


def list_record(row: Row, cipher: Cipher | None = None) -> ListedRecord:
    """Return a record from its columns, marked if it does not match its digest."""
    place = place_of(row)
    try:
        return ListedRecord(read_record(row, cipher), place)
    except DamagedError as damage:
        try:
            key = decode_key(place)
        except ValueError:
            key = ()
        return ListedRecord(RecordRow(str(row[0]), key, 0, None, None, 0.0), place, damage)


def lease_row(lease: LeaseRow) -> Row:
    """Return a lease as parameters."""
    return (
        lease_id(lease.key),
        lease.key.encode(),
        lease.generation,
        lease.incarnation,
        lease.holder,
        lease.domain,
        lease.expires_at,
        lease.seal(),
    )


def read_lease(row: Row) -> LeaseRow:
    """
    Return a lease from its columns.

    Raises:
        DamagedError: it does not match its digest.
    """
    key, generation, incarnation, holder, domain, expires_at, seal = row
    try:
        lease = LeaseRow(
            _blob(key).decode(), generation, _blob(incarnation), holder, domain, expires_at
        )
        intact = lease.seal() == seal
    except (TypeError, ValueError) as error:
        raise _damaged("lease", _shown(key)) from error
    if not intact:
        raise _damaged("lease", lease.key)
    return lease


def blob_row(
    blob: PutBlob, written_at: float, cipher: Cipher | None = None, format: int = COUNTED
) -> Row:
    """Return a blob as parameters, sealed if there is a cipher."""
    place = sealing.blob_place(blob.digest, blob.size, blob.encoding)
    stored, seal = sealing.seal_bytes(cipher, place, blob.stored)
    columns = (blob.digest, blob.size, blob.encoding, stored, written_at, format + seal)
    return (*columns, codec.digest(*columns))


def read_blob(row: Row, cipher: Cipher | None = None) -> BlobRow:
    """
    Return a blob from its columns, still packed.

    Raises:
        DamagedError: it does not match its digest, or its seal.
        KeyMissingError: it is sealed, and there is no cipher.
    """
    content = _shown_hex(row[0])
    _check_seal(row, "blob", content)
    content_bytes, size, encoding, stored, _, written_as = row[:6]
    place = sealing.blob_place(bytes(content_bytes), size, encoding)
    damage = DamagedError(what="blob", name=content, reason=sealing.BROKEN)
    packed = sealing.open_bytes(cipher, place, bytes(stored), written_as, damage)
    counted = written_as % sealing.SEALED >= COUNTED
    return BlobRow(bytes(content_bytes), size, encoding, packed, counted)


def snapshot_row(
    snapshot: PutSnapshot,
    written_at: float,
    cipher: Cipher | None = None,
    format: int = codec.FORMAT,
) -> Row:
    """Return a snapshot as parameters, sealed if there is a cipher."""
    stored, seal = sealing.seal_bytes(cipher, _snapshot_place(snapshot), snapshot.stored)
    columns = (
        encode_name("snapshot", snapshot.name),
        encode_name("stream", snapshot.stream),
        snapshot.sequence,
        snapshot.size,
        snapshot.encoding,
        stored,
        written_at,
        format + seal,
    )
    return (snapshot_id(snapshot.name), *columns, codec.digest(*columns))


def _snapshot_place(one: PutSnapshot | SnapshotRow) -> bytes:
    return sealing.snapshot_place(one.name, one.stream, one.sequence, one.size, one.encoding)


def read_snapshot(row: Row, cipher: Cipher | None = None) -> SnapshotRow:
    """Return a snapshot from its columns; a damaged one is marked, for the one before it."""
    try:
        _check_seal(row, "snapshot", _shown(row[0]))
        name, stream, sequence, size, encoding, stored, written_at, written_as = row[:8]
        found = SnapshotRow(
            bytes(name).decode(),
            bytes(stream).decode(),
            sequence,
            size,
            encoding,
            bytes(stored),
            written_at,
            intact=True,
        )
        damage = DamagedError(what="snapshot", name=found.name, reason=sealing.BROKEN)
        place = _snapshot_place(found)
        packed = sealing.open_bytes(cipher, place, found.stored, written_as, damage)
    except DamagedError:
        sequence = row[2] if isinstance(row[2], int) else 0
        return SnapshotRow(_shown(row[0]), "", sequence, 0, "raw", b"", 0.0, intact=False)
    return found if packed is found.stored else msgspec.structs.replace(found, stored=packed)


def outcome_row(
    number: int, epoch: int, position: int, unit_ids: Iterable[bytes], committed_at: float
) -> Row:
    """Return the outcome of a transaction as parameters."""
    columns = (number, epoch, position, b"".join(unit_ids), committed_at)
    return (*columns, codec.digest(*columns))


def check_outcome(row: Row) -> None:
    """
    Check the outcome of a transaction.

    Raises:
        DamagedError: it does not match its digest.
    """
    _check_seal(row, "outcome", str(row[0]))


def store_row(store_id: bytes, created_at: float, trimmed: int) -> dict[str, Any]:
    """Return the store's own row as parameters."""
    columns = (store_id, created_at, trimmed)
    names = ("store_id", "created_at", "trimmed", "digest")
    return dict(zip(names, (*columns, codec.digest(*columns)), strict=True))


def read_store(row: Row) -> tuple[bytes, float, int]:
    """
    Return id, birth and last trimmed number of the store.

    Raises:
        DamagedError: the row does not match its digest.
    """
    _check_seal(row, "store", _shown_hex(row[0]))
    store_id, created_at, trimmed = row[:3]
    return bytes(store_id), created_at, trimmed


def incarnation_row(
    epoch: int, id: bytes, owner: str, opened_at: float, closed_at: float | None = None
) -> dict[str, Any]:
    """Return an incarnation as parameters."""
    columns = (epoch, id, owner, opened_at, closed_at)
    names = ("epoch", "id", "owner", "opened_at", "closed_at", "digest")
    return dict(zip(names, (*columns, codec.digest(*columns)), strict=True))


def closed_row(entry: dict[str, Any], closed_at: float) -> dict[str, Any]:
    """Return what changes when an incarnation says goodbye, as parameters."""
    opened = {name: entry[name] for name in ("epoch", "id", "owner", "opened_at")}
    row = incarnation_row(**opened, closed_at=closed_at)
    return {name: row[name] for name in ("id", "closed_at", "digest")}


def check_incarnation(row: Row) -> None:
    """
    Check an incarnation.

    Raises:
        DamagedError: it does not match its digest.
    """
    _check_seal(row, "incarnation", f"epoch {row[0]}")


def _check_seal(row: Row, what: str, name: str) -> None:
    """Check a row whose last column is the digest of all others."""
    try:
        intact = codec.digest(*row[:-1]) == row[-1]
    except (TypeError, ValueError):
        intact = False
    if not intact:
        raise _damaged(what, name)


def _damaged(what: str, name: str) -> DamagedError:
    return DamagedError(what=what, name=name, reason="stored bytes and digest differ")


def _blob(value: object) -> bytes:
    """Return bytes as they are; a number in their place is no length to make bytes of."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} where bytes were stored")
    return value


def _shown(name: object) -> str:
    return bytes(name).decode(errors="replace") if isinstance(name, bytes) else repr(name)


def _shown_key(key: object) -> str:
    try:
        return repr(decode_key(_blob(key)))
    except (TypeError, ValueError):
        return _shown(key)


def _shown_hex(content: object) -> str:
    return bytes(content).hex() if isinstance(content, bytes) else repr(content)
