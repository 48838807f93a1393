"""
Changing a run from outside: cancel, pause, let go on.

Whoever does this owns nothing: it is decided by the view as it was read, and decided anew if
somebody else was faster. A run that is executed is only asked; its owner does it.
"""

from typing import Final, Literal

from holdfast.core.errors import VersionConflictError
from holdfast.core.journal import Cancelling, Pausing, Resumed
from holdfast.core.refusal import RunNotFoundError, RunStateError
from holdfast.core.run import RunView, Said, Status, check_change, fold
from holdfast.core.unit import Append, AtVersion, CloseStream, Expectation, Unit, Write
from holdfast.runtime.runs.ending import ending_of
from holdfast.runtime.runs.executor import Executor
from holdfast.runtime.runs.journal import stream_of
from holdfast.runtime.runs.telling import tell_ended
from holdfast.runtime.runs.view import KIND, Change, Views, events_of, projected

Mode = Literal["now", "after_step"]
_RESUMABLE: Final = ("no_code", "version_mismatch", "diverged")


class Control:
    """Changes runs on behalf of others."""

    def __init__(self, views: Views, executor: Executor) -> None:
        """Take the views, and who executes here."""
        self._views = views
        self._store = views.store
        self._executor = executor
        executor.on_orphan = self._cancel_orphan

    async def cancel(
        self, run_id: str, *, mode: Mode = "now", reason: str = "", by: str = ""
    ) -> RunView:
        """
        End a run; one that is executed is asked to end, any other one ends at once.

        Args:
            run_id: which run.
            mode: `now` interrupts the step under way, `after_step` lets it end.
            reason: why.
            by: who wants it.

        Raises:
            RunStateError: it ended already.
        """
        reason, by = self._views.redaction.text(reason), self._views.redaction.text(by)
        while True:
            view, version = await self._views.get(run_id)
            now = self._views.wall()
            if view.status is Status.CANCELLING:
                return view
            if view.status is Status.RUNNING:
                said: Said = ("run.cancelling", Cancelling(now, mode, reason, by))
                if await self._change(run_id, view, version, said):
                    self._views.on_arrival(run_id)
                    return (await self._views.get(run_id))[0]
                continue
            check_change(run_id, view, "run.cancelled", "cancelled")
            if await self._end(run_id, view, version, Pausing(now, reason, by)):
                return (await self._views.get(run_id))[0]

    async def _end(self, run_id: str, view: RunView, version: int, said: Pausing) -> bool:
        """Cancel a run that nobody owns, with all that depends on it."""
        share = await ending_of(self._views, run_id, view, ("run.cancelled", said))
        closing = (CloseStream(stream_of(run_id)), *share.writes)
        ending: Said = ("run.cancelled", said)
        if not await self._change(run_id, view, version, ending, closing, share.expects):
            return False
        tell_ended(self._views.telemetry, fold(view, *ending))
        self._store.world.failpoints.reach("run.ended")
        self._executor.drop(run_id)
        if share.parent is not None:
            self._views.tell(*share.parent)
        await self._executor.cancel_children(run_id)
        return True

    async def _change(
        self,
        run_id: str,
        view: RunView,
        version: int,
        said: Said,
        writes: tuple[Write, ...] = (),
        expects: tuple[Expectation, ...] = (),
    ) -> bool:
        after = fold(view, *said)
        unit = Unit(
            (
                Append(stream_of(run_id), events_of([said])),
                *projected(run_id, view, after),
                *writes,
            ),
            (AtVersion(KIND, (run_id,), version), *expects),
        )
        try:
            await self._store.commit(unit)
        except VersionConflictError:
            return False
        return True

    async def _cancel_orphan(self, run_id: str) -> None:
        try:
            await self.cancel(run_id, reason="its parent was cancelled")
        except (RunNotFoundError, RunStateError):
            return

    async def pause(self, run_id: str, *, reason: str = "", by: str = "") -> RunView:
        """
        Let a run rest; one that is executed rests at its next step.

        Raises:
            RunStateError: it ended, or is being cancelled.
        """

        def decide(view: RunView) -> Change | None:
            if view.status is Status.PAUSED or view.pausing:
                return None
            check_change(run_id, view, "run.paused", "paused")
            running = view.status is Status.RUNNING
            type = "run.pausing" if running else "run.paused"
            text = self._views.redaction.text
            said = Pausing(self._views.wall(), text(reason), text(by))
            return Change([(type, said)], fold(view, type, said))

        return await self._views.change(run_id, decide)

    async def resume(self, run_id: str, by: str, *, force: bool, retry: bool) -> RunView:
        """
        Let a run go on that rests, diverged, or waits for code.

        Raises:
            RunStateError: it does not rest, or waits for something else.
        """
        action = "retried" if retry else "resumed"

        def decide(view: RunView) -> Change:
            check_change(run_id, view, "run.resumed", action)
            function = self._views.functions.find(view.function)
            version = function.version if force and function is not None else None
            # What waits for an answer is not resumed, unless it goes on with other code then.
            accepts = version not in (None, view.version)
            waiting = view.status is Status.WAITING
            if waiting and view.reason not in _RESUMABLE and not accepts:
                raise RunStateError(
                    run_id=run_id,
                    state=view.status.value,
                    action=action,
                    reason=f"it waits for {view.waits}",
                )
            said = Resumed(self._views.wall(), self._views.redaction.text(by), version, retry)
            return Change([("run.resumed", said)], fold(view, "run.resumed", said))

        return await self._views.change(run_id, decide)
