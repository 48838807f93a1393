"""Upkeep of runs: what is shown is compared with the journals; timers outlive a boot."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from holdfast.core.deadline import rebased
from holdfast.core.errors import DecodeError, HoldfastError
from holdfast.core.key import encode_key, prefix_end
from holdfast.core.recovery import Phase, Step
from holdfast.core.run import decode_view, encode_view
from holdfast.core.unit import DeleteRecord, PutRecord, RecordRow, Unit
from holdfast.runtime.boot import Planning, Progress
from holdfast.runtime.listing import TolerantReader, intact
from holdfast.runtime.runs.journal import folded
from holdfast.runtime.runs.view import KIND, TIMER_KIND, Timer, Views
from holdfast.store.port import Finding, Reads

PAGE: Final = 500


class Upkeep:
    """Compares."""

    def __init__(self, views: Views) -> None:
        """Take the views of the runs."""
        self._views = views
        self._store = views.store

    async def compare(self) -> list[Finding]:
        """Fold every journal and return the runs that are shown as something else."""
        found: list[Finding] = []
        async for row in intact(self._store, KIND):
            try:
                reason = await self._difference(row)
            except (HoldfastError, RuntimeError) as error:
                reason = str(error)
            if reason:
                found.append(Finding("run", row.key[0], reason))
        return found

    async def _difference(self, row: RecordRow) -> str:
        """Return how a run is shown that its journal does not say; empty if it fits."""
        view = await folded(self._store, row.key[0])
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


class Timers:
    """The boot's share for runs: timers of an earlier boot of the machine are set anew."""

    name = "timers"
    phase = Phase.RESTORING

    def __init__(self, views: Views) -> None:
        """Take the views of the runs."""
        self._views = views
        self._store = views.store

    def look(self, reader: Reads) -> Planning:
        """Count the timers that go by the clock of an earlier boot."""
        return partial(self._plan, len(self._foreign(reader)))

    async def _plan(self, count: int) -> Sequence[Step]:
        """Return that they are set anew, if there are any."""
        return [Step(self.name, "rebase", "timers of an earlier boot", count)] if count else []

    async def execute(self, steps: Sequence[Step], progress: Progress) -> dict[str, Any]:
        """Set them anew, so that what the wall clock does from now on does not matter."""
        count = 0
        while steps and (rows := await self._store.read(self._foreign)):
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

    def _foreign(self, reader: Reads) -> list[RecordRow]:
        here = encode_key((self._views.clock.store_time().domain,))
        lists = TolerantReader(reader)
        spans = ((b"", here), (prefix_end(here), prefix_end(b"")))
        return [
            row
            for first, until in spans
            for row in lists.records(TIMER_KIND, first, until, PAGE, None)
        ]
