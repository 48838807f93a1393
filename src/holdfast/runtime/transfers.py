"""
Runs and sessions out of a store into files, and in again; for one stream there is `transfer`.

    await rt.transfers.export_run("report-7", Path("report-7.ndjson"))
    await other.transfers.import_file(Path("report-7.ndjson"))

What goes over a wire is a `Parcel`: the same bytes in a file that has no name.

Invariants: an import commits nothing before the whole file was checked; blobs come first, since
they are named by their content and harm nobody; everything else is one unit, so a run or a
session is there as a whole or not at all, and an import that was killed can be run again. A rider
goes with that unit and no other.
"""

from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from holdfast.core.errors import (
    ConflictError,
    SequenceConflictError,
    StreamClosedError,
    VersionConflictError,
)
from holdfast.core.key import Key, as_key
from holdfast.core.refusal import AlreadyThereError, RunExistsError
from holdfast.core.unit import Unit, size_bytes
from holdfast.runtime.names import TOTAL_KIND, still
from holdfast.runtime.parcel import Parcel
from holdfast.runtime.runs.view import KIND
from holdfast.runtime.sessions.image import HEAD
from holdfast.runtime.sessions.state import shape_of
from holdfast.runtime.transfer_file import (
    Cover,
    LineReader,
    Parts,
    chunks,
    read_blobs,
    read_parts,
    write_parts,
)
from holdfast.runtime.transfer_run import Arrival, arrival_of, holds_run, read_run
from holdfast.runtime.transfer_session import holds_session, read_session, session_unit
from holdfast.store.files import remove_leftovers, replacing
from holdfast.store.port import Reads
from holdfast.store.rider import alone
from holdfast.store.store import Store

UPLOAD: Final = "what came in"


class Arrived(msgspec.Struct, frozen=True):
    """
    What an import of a run or a session did.

    Attributes:
        cover: what the file holds.
        present: it was there already, from an import that was killed; nothing was done.
        resting: the runs that were under way and are paused here, until they are resumed.
    """

    cover: Cover
    present: bool
    resting: tuple[str, ...] = ()


class Transfers:
    """The way of runs and sessions between stores."""

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self._store = store

    async def export_run(self, run_id: str, path: Path) -> Cover:
        """
        Write a run with its children into a file, readable by its owner only.

        Args:
            run_id: which run; `read_only=True` is enough.
            path: the file; what is there is replaced as a whole, when everything is written.

        Raises:
            RunNotFoundError: there is no such run.
            InvalidValueError: it is a child, or an older version of a pipeline.
            DamagedError: something of it is damaged; nothing was written.
        """
        return await self._write(await self._run(run_id), path)

    async def export_session(self, kind: type[object] | str, key: str | Key, path: Path) -> Cover:
        """
        Write what is stored of a session into a file, readable by its owner only.

        Args:
            kind: its class, or the name of that.
            key: its key.
            path: the file; what is there is replaced as a whole, when everything is written.

        Raises:
            RecordNotFoundError: there is no such session.
            DamagedError: something of it is damaged; nothing was written.
        """
        return await self._write(await self._session(kind, key), path)

    async def pack_run(self, run_id: str) -> Parcel:
        """Return the same export of a run as a parcel, which whoever takes it closes."""
        return await self._packed(await self._run(run_id))

    async def pack_session(self, kind: type[object] | str, key: str | Key) -> Parcel:
        """Return the same export of a session as a parcel, which whoever takes it closes."""
        return await self._packed(await self._session(kind, key))

    def parcel(self) -> Parcel:
        """Return an empty parcel, for an export that comes in piece by piece."""
        return Parcel(self._store.blocking)

    async def import_file(self, path: Path) -> Arrived:
        """
        Make the run or the session of a file be there, as a whole or not at all.

        A run that was under way arrives paused: `runs.resume` lets it go on here.

        Raises:
            DamagedFileError: the file is not whole; nothing was imported.
            RunExistsError: there is, or was, another run with this id.
            AlreadyThereError: something else of it is in use here.
            LimitError: it is larger than what is committed at once.
        """
        with path.open("rb") as file:
            return await self._arrive(file, str(path))

    async def import_parcel(self, parcel: Parcel) -> Arrived:
        """Make the run or the session of a parcel be there; see `import_file`."""
        return await self._arrive(parcel.file, UPLOAD)

    async def cover_of(self, parcel: Parcel) -> Cover:
        """
        Return what a parcel says that it holds; only its first line is read.

        Raises:
            DamagedFileError: it begins as no export does.
        """
        return await self._store.blocking(lambda: LineReader(parcel.file, UPLOAD).cover())

    async def _run(self, run_id: str) -> Parts:
        return await self._store.read(lambda reader: read_run(reader, run_id))

    async def _session(self, kind: type[object] | str, key: str | Key) -> Parts:
        name = kind if isinstance(kind, str) else shape_of(kind).name
        return await self._store.read(lambda reader: read_session(reader, (name, *as_key(key))))

    async def _write(self, parts: Parts, path: Path) -> Cover:
        failpoints = self._store.world.failpoints

        def write(reader: Reads) -> None:
            remove_leftovers(path)
            with replacing(path, failpoints) as file:
                write_parts(reader, parts, file)

        await self._store.read(write)
        return parts.cover

    async def _packed(self, parts: Parts) -> Parcel:
        parcel = self.parcel()
        try:
            await self._store.read(lambda reader: write_parts(reader, parts, parcel.file))
            await parcel.seal()
        except BaseException:
            parcel.close()
            raise
        return parcel

    async def _arrive(self, file: BinaryIO, name: str) -> Arrived:
        parts = await self._store.blocking(lambda: read_parts(file, name))
        # Aside: a large one takes its time, and the loop has others to serve.
        arrival = await self._store.blocking(lambda: self._arrival(parts))
        size_bytes(arrival.unit)
        holds = holds_run if parts.what == "run" else holds_session
        if await self._store.read(lambda reader: holds(reader, parts)):
            return Arrived(parts.cover, present=True)
        try:
            if parts.blobs:
                await self._arrive_behind_blobs(parts, arrival.unit, file, name)
            else:
                await self._store.commit(arrival.unit)
        except (VersionConflictError, SequenceConflictError, StreamClosedError) as conflict:
            raise _refusal(parts, conflict) from conflict
        return Arrived(parts.cover, present=False, resting=tuple(arrival.resting))

    def _arrival(self, parts: Parts) -> Arrival:
        wall = self._store.world.clock.wall()
        if parts.what == "run":
            return arrival_of(parts, wall)
        return Arrival(session_unit(parts, self._store.world.ids.incarnation().hex(), wall), [])

    async def _arrive_behind_blobs(
        self, parts: Parts, unit: Unit, file: BinaryIO, name: str
    ) -> None:
        """Bring the blobs, then the rest, unless they were removed with others in between."""
        while True:
            with alone():
                # Refused is what would be refused in the end, before any blob is written.
                await self._store.commit(Unit((), unit.expects))
                bytes_still = await self._store.read(lambda reader: still(reader, parts.blobs))
                await self._bring_blobs(file, name)
            try:
                await self._store.commit(Unit(unit.writes, (*unit.expects, *bytes_still)))
            except VersionConflictError as conflict:
                if conflict.kind != TOTAL_KIND:
                    raise
                continue
            return

    async def _bring_blobs(self, file: BinaryIO, name: str) -> None:
        parts = chunks(read_blobs(file, name), lambda blob: len(blob.stored))
        while chunk := await self._store.blocking(lambda: next(parts, ())):
            await self._store.commit(Unit(chunk))


def _refusal(parts: Parts, conflict: ConflictError) -> ConflictError:
    """Return what to tell of a conflict."""
    if not isinstance(conflict, VersionConflictError) or conflict.kind in (KIND, HEAD):
        if parts.what == "run":
            return RunExistsError(run_id=parts.name[0])
        reason = "there is one with this key, or the history of one"
    else:
        reason = f"{conflict.kind} {'/'.join(conflict.key)} belongs to another {parts.what} here"
    return AlreadyThereError(what=f"{parts.what} {'/'.join(parts.name)}", reason=reason)
