"""
Upkeep of runs: what ended long ago is removed, what is shown is compared with the journals.

Invariants: removal never touches a run that may still change, and is one unit per run, so that a
crash leaves a run whole or gone; an id that was used is never free again.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from holdfast.core.deadline import rebased
from holdfast.core.errors import DecodeError, HoldfastError, VersionConflictError
from holdfast.core.journal import Started, read_payload
from holdfast.core.key import encode_key, prefix_end
from holdfast.core.recovery import Phase, Step
from holdfast.core.run import RunView, begun, decode_view, encode_view, fold
from holdfast.core.unit import (
    AtVersion,
    DeleteRecord,
    PutRecord,
    RecordRow,
    TrimStream,
    Unit,
    Write,
)
from holdfast.runtime.boot import Progress
from holdfast.runtime.runs.artifact import KIND as ARTIFACT_KIND
from holdfast.runtime.runs.fork import LINK_KIND
from holdfast.runtime.runs.journal import stream_of
from holdfast.runtime.runs.question import KIND as QUESTION_KIND
from holdfast.runtime.runs.view import KIND, TIMER_KIND, Timer, Views
from holdfast.store.port import Finding, ListedRecord

KEY_KIND: Final = "holdfast.run.key"
PAGE: Final = 500
EVENTS: Final = 5_000


class Upkeep:
    """Removes and compares."""

    def __init__(self, views: Views) -> None:
        """Take the views of the runs."""
        self._views = views
        self._store = views.store

    async def remove_older(self, seconds: float, limit: int) -> int:
        """Remove runs that ended so long ago; return how many."""
        count = 0
        now = self._views.wall()
        async for row in self._rows():
            view = decode_view(row.value or b"")
            if view.is_terminal and now - view.ended >= seconds:
                count += await self._remove(row, view)
                if count >= limit:
                    break
        return count

    async def _remove(self, row: RecordRow, view: RunView) -> bool:
        run_id = row.key[0]
        head = await self._store.read(lambda reader: reader.head(stream_of(run_id)))
        writes: list[Write] = [DeleteRecord(KIND, row.key)]
        if head is not None:
            writes.append(TrimStream(stream_of(run_id), head.last_sequence + 1))
        for kind in (QUESTION_KIND, ARTIFACT_KIND, LINK_KIND):
            writes += [DeleteRecord(kind, one.key) for one in await self._below(kind, run_id)]
        if view.key:
            writes.append(DeleteRecord(KEY_KIND, (view.key,)))
        try:
            await self._store.commit(Unit(tuple(writes), (AtVersion(KIND, row.key, row.version),)))
        except VersionConflictError:
            return False
        return True

    async def _below(self, kind: str, run_id: str) -> list[RecordRow]:
        begin = encode_key((run_id,))
        return await self._store.read(
            lambda reader: reader.records(kind, begin, prefix_end(begin), 10_000, None)
        )

    async def compare(self) -> list[Finding]:
        """Fold every journal and return the runs that are shown as something else."""
        found: list[Finding] = []
        async for row in self._rows():
            try:
                reason = await self._difference(row)
            except (HoldfastError, RuntimeError) as error:
                reason = str(error)
            if reason:
                found.append(Finding("run", row.key[0], reason))
        return found

    async def _difference(self, row: RecordRow) -> str:
        """Return how a run is shown that its journal does not say; empty if it fits."""
        view: RunView | None = None
        after, stream = 0, stream_of(row.key[0])
        while True:
            head, page = await self._store.events(stream, after, EVENTS)
            for event in page:
                said = read_payload(event.type, event.payload)
                if isinstance(said, Started):
                    view = begun(said)
                elif view is not None:
                    view = fold(view, event.type, said)
                after = event.sequence
            if head is None or after >= head.last_sequence:
                break
        if view is None:
            return "its journal does not begin with a start"
        # It may have gone on since it was listed; only a view that stayed is compared.
        current = await self._store.read(lambda reader: reader.record(KIND, row.key))
        if current is None or current.version != row.version:
            return ""
        shown = decode_view(row.value or b"")
        if encode_view(view) != encode_view(shown):
            return f"is shown as {shown.status}, its journal says {view.status}"
        return ""

    async def _rows(self) -> AsyncIterator[RecordRow]:
        """Yield the records of all runs; one that is damaged is the store's to report."""
        first = b""
        while True:
            page = await self._page(first)
            for one in page:
                if one.intact:
                    yield one.row
            if len(page) < PAGE:
                return
            first = page[-1].place + b"\0"

    async def _page(self, first: bytes) -> Sequence[ListedRecord]:
        return await self._store.read(
            lambda reader: reader.listed(KIND, first, prefix_end(b""), PAGE)
        )


class Timers:
    """The boot's share for runs: timers of an earlier boot of the machine are set anew."""

    name = "timers"
    phase = Phase.RESTORING

    def __init__(self, views: Views) -> None:
        """Take the views of the runs."""
        self._views = views
        self._store = views.store

    async def plan(self) -> Sequence[Step]:
        """Return how many timers count by the clock of an earlier boot."""
        count = len(await self._foreign())
        return [Step(self.name, "rebase", "timers of an earlier boot", count)] if count else []

    async def execute(self, steps: Sequence[Step], progress: Progress) -> dict[str, Any]:
        """Set them anew, so that what the wall clock does from now on does not matter."""
        count = 0
        while steps and (rows := await self._foreign()):
            for row in rows:
                await self._store.commit_early(self._rebased(row))
            count += len(rows)
            progress(len(rows))
        return {"rebased": count}

    def _rebased(self, row: RecordRow) -> Unit:
        clock = self._views.clock
        try:
            timer = Timer.read(row)
        except DecodeError:
            return Unit((DeleteRecord(TIMER_KIND, row.key),))
        deadline = rebased(timer.deadline, clock.store_time(), clock.wall())
        put: PutRecord = Timer(timer.run_id, timer.wait, deadline).put()
        return Unit((DeleteRecord(TIMER_KIND, row.key), put))

    async def _foreign(self) -> list[RecordRow]:
        here = encode_key((self._views.clock.store_time().domain,))
        spans = ((b"", here), (prefix_end(here), prefix_end(b"")))
        return await self._store.read(
            lambda reader: [
                row
                for first, until in spans
                for row in reader.records(TIMER_KIND, first, until, PAGE, None)
            ]
        )
