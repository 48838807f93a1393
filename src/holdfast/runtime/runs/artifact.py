"""
Artifacts: immutable named bytes that a run leaves behind.

The bytes are a blob under their digest; beside it a record holds name, size and media type. Blob,
record and event are one unit, so nothing half written is ever listed. With the last run that
names them the bytes go.
"""

from typing import Final

import msgspec

from holdfast.core import codec
from holdfast.core.errors import BlobNotFoundError, LimitError
from holdfast.core.journal import Attached
from holdfast.core.key import Key, encode_key, prefix_end
from holdfast.core.refusal import ArtifactNotFoundError
from holdfast.core.unit import PutRecord, Write
from holdfast.runtime.names import naming
from holdfast.runtime.runs.view import Views

KIND: Final = "holdfast.artifact"
LISTED_MAX: Final = 10_000


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


def put_artifact(run_id: str, said: Attached) -> tuple[Write, ...]:
    """Return the writes that list an artifact and name its bytes."""
    artifact = Artifact(
        said.id, run_id, said.name, said.digest.hex(), said.size, said.media_type, said.at
    )
    key = (run_id, f"{said.n:09d}")
    put = PutRecord(KIND, key, msgspec.msgpack.encode(artifact))
    return (put, *naming(run_id, said.digest))


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
        rows = await self._views.store.read(
            lambda reader: reader.records(KIND, first, prefix_end(begin), limit, None)
        )
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


def _key_of(id: str) -> Key:
    run_id, mark, n = id.rpartition("!")
    if not mark or not n.isascii() or not n.isdigit() or len(n) > 9:
        raise ArtifactNotFoundError(artifact_id=id)
    return (run_id, f"{int(n):09d}")
