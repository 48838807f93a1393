"""
Artifacts: immutable named bytes that a run leaves behind.

The bytes are a blob under their digest; beside it a record holds name, size and media type. Blob,
record and event are one unit, so nothing half written is ever listed. With the last run that
names them the bytes go.
"""

import unicodedata
from typing import Final

import msgspec

from holdfast.core import codec
from holdfast.core.denial import ArtifactExistsError
from holdfast.core.errors import (
    BlobNotFoundError,
    InvalidValueError,
    LimitError,
    VersionConflictError,
)
from holdfast.core.journal import Attached, Received
from holdfast.core.key import Key, encode_key, prefix_end
from holdfast.core.refusal import ArtifactNotFoundError
from holdfast.core.unit import AtVersion, PutBlob, PutRecord, Write
from holdfast.runtime.names import naming
from holdfast.runtime.runs.view import Views

KIND: Final = "holdfast.artifact"
LISTED_MAX: Final = 10_000
NAME_BYTES_MAX: Final = 255
OUTSIDE: Final = 500_000_000
"""Above this are the numbers of artifacts from outside, so that a replay never meets them."""
_NO_SIGNS: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_DEVICES: Final = frozenset(
    {"CON", "PRN", "AUX", "NUL"}
    | {f"{name}{number}" for name in ("COM", "LPT") for number in range(10)}
)


class Artifact(msgspec.Struct, frozen=True):
    """
    Bytes that a run left behind.

    Attributes:
        id: by which they are read.
        run_id: whose they are.
        name: how the run called them; not unique.
        digest: SHA-256 in hexadecimal.
        size: in bytes.
        media_type: what they are.
        attached_at: when.
    """

    id: str
    run_id: str
    name: str
    digest: str
    size: int
    media_type: str
    attached_at: float


def put_artifact(run_id: str, said: Attached | Received) -> tuple[Write, ...]:
    """Return the writes that list an artifact and name its bytes."""
    artifact = Artifact(
        said.id, run_id, said.name, said.digest.hex(), said.size, said.media_type, said.at
    )
    key = (run_id, f"{said.n:09d}")
    put = PutRecord(KIND, key, msgspec.msgpack.encode(artifact))
    return (put, *naming(run_id, said.digest))


def check_name(name: str) -> str:
    """
    Return a name that may be given to bytes from outside; it is a value, never a path.

    Raises:
        InvalidValueError: it is empty, too long, no NFC, a path, or the name of a device.
    """
    stem = name.partition(".")[0].rstrip(" ").upper()
    if (
        not 1 <= len(name.encode()) <= NAME_BYTES_MAX
        or unicodedata.normalize("NFC", name) != name
        or any(sign in "/\\" or unicodedata.category(sign) in _NO_SIGNS for sign in name)
        or name in (".", "..")
        or name != name.strip()
        or stem in _DEVICES
    ):
        raise InvalidValueError(
            what="artifact name",
            reason=f"has to be 1 to {NAME_BYTES_MAX} bytes in NFC, no path and no device",
        )
    return name


class Artifacts:
    """The artifacts in one store."""

    def __init__(self, views: Views) -> None:
        """Take the views of the runs that made them."""
        self._views = views

    async def list(
        self, run_id: str, *, after: str | None = None, limit: int = 100
    ) -> list[Artifact]:
        """Return the artifacts of a run in the order in which they were attached."""
        if not 1 <= limit <= LISTED_MAX:
            raise LimitError(what="limit", size=limit, limit=LISTED_MAX)
        begin = encode_key((run_id,))
        first = begin if after is None else encode_key(_key_of(after)) + b"\0"
        rows = await self._views.damages.records(KIND, first, prefix_end(begin), limit, None)
        return [codec.decode_as(row.value or b"", Artifact, "artifact") for row in rows]

    async def get(self, id: str) -> Artifact:
        """
        Return what is known of an artifact.

        Raises:
            ArtifactNotFoundError: there is none with this id.
        """
        key = _key_of(id)
        row = await self._views.store.read(lambda reader: reader.record(KIND, key))
        if row is None or row.value is None:
            raise ArtifactNotFoundError(artifact_id=id)
        return codec.decode_as(row.value, Artifact, "artifact")

    async def named(self, run_id: str, name: str) -> Artifact:
        """
        Return the newest artifact of a run with this name; of the first `LISTED_MAX`.

        Raises:
            ArtifactNotFoundError: it has none.
        """
        for artifact in reversed(await self.list(run_id, limit=LISTED_MAX)):
            if artifact.name == name:
                return artifact
        raise ArtifactNotFoundError(artifact_id=f"{run_id}!{name}")

    async def put(
        self,
        run_id: str,
        name: str,
        data: bytes,
        *,
        media_type: str = "application/octet-stream",
        by: str = "",
    ) -> tuple[Artifact, bool]:
        """
        Put bytes beside a run from outside; its program is not disturbed by them.

        Args:
            run_id: a run that did not end.
            name: one that no artifact of the run has, unless with the same bytes.
            data: the bytes.
            media_type: what they are.
            by: who puts them.

        Returns:
            The artifact, and whether it is new.

        Raises:
            RunStateError: the run ended.
            ArtifactExistsError: there are other bytes of this name.
            InvalidValueError: the name is not acceptable.
        """
        redaction = self._views.redaction
        name, media_type = redaction.text(check_name(name)), redaction.text(media_type)
        blob = await self._views.store.blocking(lambda: PutBlob.of(redaction.content(data)))
        while True:
            known = await self.list(run_id, limit=LISTED_MAX)
            for one in reversed(known):
                if one.name == name:
                    if one.digest == blob.digest.hex():
                        return one, False
                    raise ArtifactExistsError(run_id=run_id, name=name, digest=one.digest)
            n = max([OUTSIDE, *(_number(one.id) for one in known)]) + 1
            id = f"{run_id}!{n}"
            at, by = self._views.wall(), redaction.text(by)
            said = Received(n, id, name, blob.digest, blob.size, media_type, at, by)
            absent = (AtVersion(KIND, (run_id, f"{n:09d}"), 0),)
            writes = (blob, *put_artifact(run_id, said))
            try:
                await self._views.put_in(run_id, "artifact.received", said, writes, absent)
            except VersionConflictError:
                continue  # Somebody else put one just now.
            return await self.get(id), True

    async def read(self, id: str) -> bytes:
        """
        Return the bytes of an artifact.

        Raises:
            ArtifactNotFoundError: there is none with this id.
            DamagedError: what is stored is not what was attached.
        """
        digest = (await self.get(id)).digest
        try:
            return await self._views.blobs.get(digest)
        except BlobNotFoundError:
            await self.get(id)  # It may have been removed with its run just now.
            raise


def _number(id: str) -> int:
    return int(id.rpartition("!")[2])


def _key_of(id: str) -> Key:
    run_id, mark, n = id.rpartition("!")
    if not mark or not n.isascii() or not n.isdigit() or len(n) > 9:
        raise ArtifactNotFoundError(artifact_id=id)
    return (run_id, f"{int(n):09d}")
