"""Blobs and snapshots in a user's hands: bytes, verified whenever they are read."""

from contextlib import suppress

import msgspec

from holdfast.core import codec
from holdfast.core.errors import (
    BlobNotFoundError,
    DamagedError,
    DecodeError,
    InvalidValueError,
    VersionConflictError,
)
from holdfast.core.key import encode_name
from holdfast.core.redaction import Redactor
from holdfast.core.unit import SNAPSHOTS_KEPT, PutBlob, PutSnapshot, Unit
from holdfast.runtime.damage import Damages
from holdfast.runtime.names import giving_back, keeping
from holdfast.store.port import SnapshotRow
from holdfast.store.store import Store

LISTED_SNAPSHOTS = 100


class Blobs:
    """Immutable bytes, named by their SHA-256 in hexadecimal."""

    def __init__(self, store: Store, redaction: Redactor) -> None:
        """Take the store, and what is not stored as it is."""
        self._store = store
        self._redaction = redaction

    async def put(self, data: bytes) -> str:
        """
        Keep bytes and return their digest; the same bytes are kept once, until they are deleted.

        Where bytes are redacted (`Redaction.in_bytes`), the digest is of what is left.

        Raises:
            LimitError: more than `UNIT_BYTES_MAX` bytes after compression.
        """
        write = await self._store.blocking(lambda: PutBlob.of(self._redaction.content(data)))
        await self._store.commit(Unit((write, keeping(write.digest))))
        return write.digest.hex()

    async def get(self, digest: str) -> bytes:
        """
        Return the bytes with this digest.

        Raises:
            BlobNotFoundError: they are not here.
            DamagedError: what is stored is not what the digest names.
        """
        content = _content(digest)
        row = await self._store.read(lambda reader: reader.blob(content))
        if row is None:
            raise BlobNotFoundError(digest=digest)
        return await self._store.blocking(
            lambda: _unpacked("blob", digest, row.encoding, row.stored, row.size, content)
        )

    async def delete(self, digest: str) -> None:
        """Remove the bytes with this digest, if they are here; those of a run stay with it."""
        content = _content(digest)
        while True:
            writes, expects = await self._store.read(lambda reader: giving_back(reader, content))
            with suppress(VersionConflictError):  # Somebody names them, or does not any more.
                await self._store.commit(Unit(writes, expects))
                return


class Snapshot(msgspec.Struct, frozen=True):
    """
    A derived copy of state; may be thrown away.

    Attributes:
        name: what it is of.
        stream: the stream it was derived from.
        sequence: the last event it includes; go on reading behind it.
        data: its bytes.
        written_at: wall time in seconds.
    """

    name: str
    stream: str
    sequence: int
    data: bytes
    written_at: float


class Snapshots:
    """Snapshots by name; the last few of each are kept."""

    def __init__(self, store: Store, damages: Damages) -> None:
        """Take the store."""
        self._store = store
        self._damages = damages

    async def put(
        self, name: str, stream: str, sequence: int, data: bytes, *, keep: int = SNAPSHOTS_KEPT
    ) -> None:
        """
        Keep a snapshot of the state that includes the stream up to `sequence`.

        Raises:
            SnapshotAheadError: the stream has not reached that sequence.
        """
        encode_name("snapshot", name)
        write = await self._store.blocking(
            lambda: PutSnapshot.of(name, stream, sequence, data, keep)
        )
        await self._store.commit(Unit((write,)))

    async def latest(self, name: str) -> Snapshot | None:
        """
        Return the newest intact snapshot, or None.

        A damaged one is noted and passed over; the one before it plus a longer tail of the
        stream gives the same state.
        """
        rows = await self._store.read(lambda reader: reader.snapshots(name, LISTED_SNAPSHOTS))
        for row in rows:
            try:
                return await self._store.blocking(lambda row=row: _snapshot(row))  # type: ignore[misc]
            except DamagedError as damage:
                await self._damages.note(damage)
        return None


def _snapshot(row: SnapshotRow) -> Snapshot:
    if not row.intact:
        raise DamagedError(
            what="snapshot",
            name=row.name,
            sequence=row.sequence,
            reason="stored bytes and digest differ",
        )
    data = _unpacked("snapshot", row.name, row.encoding, row.stored, row.size, None)
    return Snapshot(row.name, row.stream, row.sequence, data, row.written_at)


def _unpacked(
    what: str, name: str, encoding: str, stored: bytes, size: int, content: bytes | None
) -> bytes:
    try:
        data = codec.unpack(encoding, stored, size)
    except DecodeError as error:
        raise DamagedError(what=what, name=name, reason=error.reason) from error
    if len(data) != size or (content is not None and codec.content_digest(data) != content):
        raise DamagedError(what=what, name=name, reason="content and digest differ")
    return data


def _content(digest: str) -> bytes:
    try:
        content = bytes.fromhex(digest)
    except ValueError:
        content = b""
    if len(content) != 32:
        raise InvalidValueError(what="digest", reason="must be a SHA-256 in hexadecimal")
    return content
