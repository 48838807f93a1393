"""
Workers: the runtimes that have the store open, as their presence records say.

A worker that is drained takes no runs any more, and says so in its record; whoever asks for it
writes there, and the worker reads it at its next look for work, wherever it is. What it executes
goes on to its end or its next wait; what waits is taken by others when it goes on.
"""

import msgspec

from holdfast.core import codec
from holdfast.core.denial import WorkerNotFoundError
from holdfast.core.errors import VersionConflictError
from holdfast.core.key import prefix_end
from holdfast.core.unit import AtVersion, PatchRecord, RecordRow, Unit
from holdfast.runtime.damage import Damages
from holdfast.runtime.presence import KIND, Present
from holdfast.store.store import Store

LISTED_MAX = 10_000


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """
    A runtime that did not say goodbye.

    Attributes:
        id: its incarnation, in hexadecimal.
        host, pid: where it is.
        epoch: number of its opening.
        seen_at: wall time of its last heartbeat.
        silent: seconds since then; one that is silent for long is taken for dead.
        here: it is the one that answers.
        drained_at: wall time since when it is to take no runs; 0 if it takes them.
    """

    id: str
    host: str
    pid: int
    epoch: int
    seen_at: float
    silent: float
    here: bool
    drained_at: float = 0.0


class Workers:
    """The runtimes on one store."""

    def __init__(self, store: Store, damages: Damages) -> None:
        """Take the store, and where damage is noted."""
        self._store = store
        self._damages = damages

    async def list(self) -> list[Worker]:
        """Return the runtimes that did not say goodbye, by their ids."""
        rows = await self._damages.records(KIND, b"", prefix_end(b""), LISTED_MAX, None)
        return [self._worker(row) for row in rows]

    async def get(self, id: str) -> Worker:
        """
        Return a runtime.

        Raises:
            WorkerNotFoundError: there is none with this id, or it said goodbye.
        """
        return self._worker(await self._row(id))

    async def drain(self, id: str) -> Worker:
        """
        Let a runtime take no runs any more, from within a second on; it may be another process.

        What it executes goes on; `resume` lets it take runs again. It ends with that runtime: one
        that is opened anew takes runs.

        Raises:
            WorkerNotFoundError: there is none with this id, or it said goodbye.
        """
        return await self._mark(id, self._store.world.clock.wall())

    async def resume(self, id: str) -> Worker:
        """
        Let a runtime take runs again.

        Raises:
            WorkerNotFoundError: there is none with this id, or it said goodbye.
        """
        return await self._mark(id, 0.0)

    async def _mark(self, id: str, drained_at: float) -> Worker:
        while True:
            row = await self._row(id)
            worker = self._worker(row)
            if bool(worker.drained_at) == bool(drained_at):
                return worker
            patch = PatchRecord(KIND, (id,), {"drained_at": codec.encode(drained_at)})
            try:
                await self._store.commit(Unit((patch,), (AtVersion(KIND, (id,), row.version),)))
            except VersionConflictError as conflict:
                if conflict.kind != KIND:
                    raise
                continue  # A heartbeat came, or a goodbye.
            return msgspec.structs.replace(worker, drained_at=drained_at)

    async def _row(self, id: str) -> RecordRow:
        row = await self._store.read(lambda reader: reader.record(KIND, (id,)))
        if row is None or row.value is None:
            raise WorkerNotFoundError(worker_id=id)
        return row

    def _worker(self, row: RecordRow) -> Worker:
        opened, now = self._store.opened, self._store.world.clock.wall()
        present = codec.decode_as(row.value or b"", Present, "presence")
        return Worker(
            id=row.key[0],
            host=present.owner.host,
            pid=present.owner.pid,
            epoch=present.epoch,
            seen_at=present.seen,
            silent=max(0.0, now - present.seen),
            here=opened is not None and row.key[0] == opened.incarnation.hex(),
            drained_at=present.drained_at,
        )
