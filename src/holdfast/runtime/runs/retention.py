"""
Retention of runs: what ended long ago, or before so many others, is removed.

Removed is a run with all that is found by its id: journal, view, questions, artifacts, the key
it was started with, the version of the pipeline it worked on, and bytes that nobody else names.
The newest version of a pipeline stays, so that content that is done is not worked on again.

Invariants: removal never touches a run that may still change, and is one unit per run, so that a
crash leaves a run whole or gone; an id that was used is never free again.
"""

import heapq
from contextlib import suppress
from typing import Final

from holdfast.core import bulk, codec
from holdfast.core.errors import DamagedError, VersionConflictError
from holdfast.core.key import encode_key
from holdfast.core.pipeline import FUNCTION, HEAD, VERSION, Version, version_place
from holdfast.core.refusal import NotReadyError, RunStateError
from holdfast.core.run import RunView, decode_view
from holdfast.core.unit import AtVersion, DeleteRecord, RecordRow, TrimStream, Unit, Write
from holdfast.runtime.listing import below, intact
from holdfast.runtime.names import leaving
from holdfast.runtime.runs.artifact import KIND as ARTIFACT_KIND
from holdfast.runtime.runs.claim import KIND as CLAIM_KIND
from holdfast.runtime.runs.fork import LINK_KIND
from holdfast.runtime.runs.journal import stream_of
from holdfast.runtime.runs.question import KIND as QUESTION_KIND
from holdfast.runtime.runs.view import KIND, Views
from holdfast.runtime.service import Service

KEY_KIND: Final = "holdfast.run.key"
_BELOW: Final = (QUESTION_KIND, CLAIM_KIND, ARTIFACT_KIND, LINK_KIND, bulk.ITEM_KIND)
EVERY: Final = 600.0


class Retention(Service):
    """
    Removes runs that ended, now and then and when asked to.

    Attributes:
        kept_for: seconds for which a run is kept that ended; None for ever.
        kept: how many of those that ended are kept, the newest; None for all.
    """

    def __init__(self, views: Views, kept_for: float | None, kept: int | None) -> None:
        """Take the views of the runs, and what is kept."""
        often = EVERY if kept_for is None else max(1.0, min(EVERY, kept_for / 10))
        super().__init__("retention", often)
        self.kept_for = kept_for
        self.kept = kept
        self._views = views
        self._store = views.store

    def start(self) -> None:
        """Begin, if something is to be removed at all."""
        if self.kept_for is not None or self.kept is not None:
            super().start()

    async def tick(self) -> None:
        """Remove what is not to be kept any more."""
        with suppress(NotReadyError):  # The runtime is on its way out.
            await self.retain(self.kept_for, self.kept)

    async def retain(
        self,
        kept_for: float | None,
        kept: int | None,
        limit: float = float("inf"),
        *,
        dry_run: bool = False,
    ) -> int:
        """Remove what is not to be kept, up to a limit; return how many."""
        count = 0
        newest: list[tuple[float, str]] = []
        async for row in intact(self._store, KIND):
            view = decode_view(row.value or b"")
            if count >= limit or not view.is_terminal:
                continue
            gone = row.key[0] if self._is_old(view, kept_for) else None
            if gone is None and kept is not None:
                heapq.heappush(newest, (view.ended, row.key[0]))
                gone = heapq.heappop(newest)[1] if len(newest) > kept else None
            if gone is not None:
                count += dry_run or await self._removed_whole(gone)
        return count

    async def remove(self, run_id: str, revision: int | None = None) -> None:
        """
        Remove one run that ended, with its journal.

        Args:
            run_id: which run.
            revision: at which it has to be; None for any.

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: it did not end, or is the newest version of its pipeline.
            VersionConflictError: it is at another revision.
        """
        view, actual = await self._views.get(run_id)
        reason = "only a run that ended can be"
        if view.is_terminal:
            if revision not in (None, actual):
                raise VersionConflictError(
                    kind=KIND, key=(run_id,), expected=revision or 0, actual=actual
                )
            if await self._removed(run_id):
                return
            await self._views.get(run_id)  # Somebody else removed it just now.
            reason = "the newest version of a pipeline stays"
        raise RunStateError(run_id=run_id, state=view.status.value, action="removed", reason=reason)

    def _is_old(self, view: RunView, kept_for: float | None) -> bool:
        return kept_for is not None and self._views.wall() - view.ended >= kept_for

    async def _removed_whole(self, run_id: str) -> bool:
        """Remove a run; one of which something is damaged stays, and holds up no other."""
        try:
            return await self._removed(run_id)
        except DamagedError as damage:
            await self._views.damages.note_once(damage)
            return False

    async def _removed(self, run_id: str) -> bool:
        """Remove a run; return whether it was done here."""
        while True:
            unit = await self._removal(run_id)
            if unit is None:
                return False
            try:
                await self._store.commit(unit)
            except VersionConflictError as conflict:
                if conflict.kind == KIND:
                    return False
                continue  # Others began or ceased to name the same bytes.
            return True

    async def _removal(self, run_id: str) -> Unit | None:
        """Return the unit that removes a run with its bytes; None if it is gone, or stays."""
        row, head, shares = await self._store.read(
            lambda reader: (
                reader.record(KIND, (run_id,)),
                reader.head(stream_of(run_id)),
                leaving(reader, run_id),
            )
        )
        if row is None or row.value is None:
            return None
        view = decode_view(row.value)
        writes: list[Write] = [DeleteRecord(KIND, row.key), *shares.writes]
        if view.function.startswith(FUNCTION) and not await self._prune(run_id, view, writes):
            return None
        if head is not None:
            writes.append(TrimStream(stream_of(run_id), head.last_sequence + 1))
        if view.function == bulk.FUNCTION:
            writes.append(DeleteRecord(bulk.KIND, bulk.order_key(view.created, run_id)))
        for kind in _BELOW:
            writes += [DeleteRecord(kind, one.key) for one in await self._below(kind, run_id)]
        if view.key:
            writes.append(DeleteRecord(KEY_KIND, (view.key,)))
        return Unit(tuple(writes), (AtVersion(KIND, row.key, row.version), *shares.expects))

    async def _prune(self, run_id: str, view: RunView, writes: list[Write]) -> bool:
        """Remove the version of a pipeline with its run; the newest one stays."""
        place = version_place(run_id, view.labels)
        if place is None:
            return True
        row = await self._store.read(lambda reader: reader.record(VERSION, place))
        if row is None or row.value is None:
            return True
        version = codec.decode_as(row.value, Version, "pipeline")
        head = await self._store.read(lambda reader: reader.record(HEAD, version.head_key))
        if head is None or head.value is None:
            return True
        writes.append(DeleteRecord(VERSION, place))
        return codec.decode_as(head.value, Version, "pipeline").run_id != run_id

    async def _below(self, kind: str, run_id: str) -> list[RecordRow]:
        begin = encode_key((run_id,))
        return await self._store.read(lambda reader: list(below(reader, kind, begin)))
