"""
Runs: functions that are executed under an id and survive the process that executes them.

    run = await rt.runs.start(report, "lighthouses", run_id="report-7")
    await rt.runs.answer(question_id, "yes", by="ann")
    print(await run.result())

Everything here may be called from any runtime on the store, whoever executes the run.

Invariants: an id is used once, for ever; what a call changed is durable when it returns; once a
run ended, nothing changes it.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final, Literal

import msgspec

from holdfast.core import codec
from holdfast.core.errors import LimitError, StreamClosedError, VersionConflictError
from holdfast.core.event import RecordedEvent
from holdfast.core.journal import (
    Cancelling,
    Pausing,
    Resumed,
    SignalReceived,
    StepResolved,
)
from holdfast.core.key import check_word, encode_key, encode_name, prefix_end
from holdfast.core.refusal import (
    RunCancelledError,
    RunExistsError,
    RunFailedError,
    RunStateError,
)
from holdfast.core.run import RunView, Said, Status, Verdict, check_change, decode_view, fold
from holdfast.core.unit import Append, AtVersion, CloseStream, PutRecord, RecordRow, Unit, Write
from holdfast.runtime.artifact import Artifacts
from holdfast.runtime.ending import ending_of
from holdfast.runtime.executor import Executor
from holdfast.runtime.history import History
from holdfast.runtime.journal import stream_of
from holdfast.runtime.question import QuestionInfo, Questions
from holdfast.runtime.view import KIND, Change, Views, events_of, projected

KEY_KIND: Final = "holdfast.run.key"
LISTED_MAX: Final = 10_000
Mode = Literal["now", "after_step"]


class RunInfo(RunView, frozen=True, kw_only=True, omit_defaults=True):
    """
    A run as it is now.

    Attributes:
        id: its id.
    """

    id: str

    @staticmethod
    def of(run_id: str, view: RunView) -> "RunInfo":
        """Return a view together with its id."""
        return RunInfo(**msgspec.structs.asdict(view), id=run_id)


class RunHandle:
    """
    A run in the hands of whoever started or found it.

    Attributes:
        id: its id.
    """

    def __init__(self, runs: "Runs", run_id: str) -> None:
        """Take the run's id."""
        self.id = run_id
        self._runs = runs

    async def view(self) -> RunInfo:
        """Return the run as it is now."""
        return await self._runs.get(self.id)

    async def ended(self) -> RunInfo:
        """Wait until the run ended, however, and return it."""
        return await self._runs.ended(self.id)

    async def result(self) -> Any:
        """
        Wait until the run ended and return its result.

        Raises:
            RunFailedError: it failed.
            RunCancelledError: it was cancelled.
        """
        return await self._runs.result(self.id)

    def follow(self, after: int = 0) -> AsyncIterator[RecordedEvent]:
        """Yield the events of its journal behind `after`; ends when the run ended."""
        return self._runs.history(self.id).follow(after)


class Runs:
    """The runs on a store."""

    def __init__(self, views: Views, executor: Executor, history: Callable[[str], History]) -> None:
        """Take the views, and who executes."""
        self._views = views
        self._store = views.store
        self._executor = executor
        self._history = history
        self.questions = Questions(views)
        self.artifacts = Artifacts(views)
        executor.on_orphan = self._cancel_orphan

    # Functions.

    def register(
        self, fn: Callable[..., Any], *, name: str | None = None, version: str = ""
    ) -> Callable[..., Any]:
        """
        Let runs of a function go on here; `start` does it by itself.

        Args:
            fn: an async function whose first parameter is the run.
            name: how it is called in the store; its module and name if not given.
            version: captured when a run starts; a run of another version waits until it is
                resumed with `force=True`.
        """
        self._views.functions.add(fn, name, version)
        self._executor.nudge_for_code()
        return fn

    # Starting.

    async def start(
        self,
        fn: Callable[..., Any],
        *args: Any,
        run_id: str | None = None,
        key: str | None = None,
        labels: dict[str, str] | None = None,
        queue: str = "",
        priority: int = 0,
    ) -> RunHandle:
        """
        Start a run; when this returns, it is durable and goes on by itself.

        Args:
            fn: an async function whose first parameter is the run.
            args: what it is called with behind the run.
            run_id: its id; drawn if not given.
            key: starting again with the same key returns the same run.
            labels: words by which runs are found.
            queue: name of the queue it waits in.
            priority: those with a higher one are taken first.

        Raises:
            RunExistsError: there is, or was, a run with this id.
            EncodeError: an argument cannot be stored exactly.
        """
        id = self._store.world.ids.incarnation().hex() if run_id is None else run_id
        encode_name("run id", stream_of(id))
        if queue:
            check_word("queue", queue)
        said, also = self._views.started(
            fn, args, labels=dict(labels or {}), queue=queue, priority=priority
        )
        return RunHandle(self, await self._begin(id, key, (*self._views.begin(id, said), *also)))

    async def _begin(self, id: str, key: str | None, writes: tuple[Write, ...]) -> str:
        expects = [AtVersion(KIND, (id,), 0)]
        if key is not None:
            known = await self._known(key)
            if known is not None:
                return known
            expects.append(AtVersion(KEY_KIND, (key,), 0))
            writes = (*writes, PutRecord(KEY_KIND, (key,), codec.encode(id)))
        try:
            await self._store.commit(Unit(writes, tuple(expects)))
        except StreamClosedError:
            raise RunExistsError(run_id=id) from None
        except VersionConflictError as conflict:
            known = None if key is None else await self._known(key)
            if known is not None and conflict.kind in (KEY_KIND, KIND):
                return known
            raise RunExistsError(run_id=id) from None
        self._views.on_queued(id)
        return id

    async def _known(self, key: str) -> str | None:
        row = await self._store.read(lambda reader: reader.record(KEY_KIND, (key,)))
        return None if row is None or row.value is None else str(codec.decode(row.value))

    # Finding.

    def handle(self, run_id: str) -> RunHandle:
        """Return a handle of a run by its id."""
        return RunHandle(self, run_id)

    def history(self, run_id: str) -> History:
        """Return the journal of a run."""
        return self._history(stream_of(run_id))

    async def get(self, run_id: str) -> RunInfo:
        """
        Return a run as it is now.

        Raises:
            RunNotFoundError: there is no such run.
        """
        return RunInfo.of(run_id, (await self._views.get(run_id))[0])

    async def list(
        self,
        *,
        status: Status | str | None = None,
        where: Callable[[RunInfo], bool] | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> list[RunInfo]:
        """
        Return runs in the order of their ids.

        Args:
            status: only those in this status.
            where: only those for which this is true, such as `lambda run: "team" in run.labels`.
            after: id behind which to go on.
            limit: how many at most.
        """
        if not 1 <= limit <= LISTED_MAX:
            raise LimitError(what="limit", size=limit, limit=LISTED_MAX)
        first = b"" if after is None else encode_key((after,)) + b"\0"
        tag = None if status is None else Status(status).value
        found: list[RunInfo] = []
        while len(found) < limit:
            rows = await self._page(first, limit, tag)
            infos = [RunInfo.of(row.key[0], decode_view(row.value or b"")) for row in rows]
            found += [info for info in infos if where is None or where(info)]
            if len(rows) < limit:
                break
            first = encode_key(rows[-1].key) + b"\0"
        return found[:limit]

    async def _page(self, first: bytes, limit: int, tag: str | None) -> Sequence[RecordRow]:
        return await self._store.read(
            lambda reader: reader.records(KIND, first, prefix_end(b""), limit, tag)
        )

    async def ended(self, run_id: str) -> RunInfo:
        """Wait until a run ended, however, and return it."""
        while True:
            here = self._executor.expect_end(run_id)
            if here is not None:
                await here
            waiter = self._store.wakes.register(stream_of(run_id))
            try:
                info = await self.get(run_id)
                if info.is_terminal:
                    return info
                if self._executor.is_here(run_id):
                    continue
                await waiter
            finally:
                self._store.wakes.forget(stream_of(run_id), waiter)

    async def result(self, run_id: str) -> Any:
        """
        Wait until a run ended and return its result.

        Raises:
            RunFailedError: it failed.
            RunCancelledError: it was cancelled.
        """
        info = await self.ended(run_id)
        if info.status is Status.FAILED:
            error = info.error
            raise RunFailedError(
                run_id=run_id,
                type=error.type if error else "",
                message=error.message if error else "",
            )
        if info.status is Status.CANCELLED:
            raise RunCancelledError(run_id=run_id, reason=info.why, by=info.by)
        function = self._views.functions.find(info.function)
        raw = await self._views.blobs.get(info.blob.hex()) if info.blob else bytes(info.result)
        return codec.decode(raw) if function is None else function.result.decode(raw)

    # Changing.

    async def answer(
        self, question_id: str, value: Any, *, by: str = "", key: str = ""
    ) -> QuestionInfo:
        """
        Answer a question; see `Questions.answer`.

        Raises:
            AnswerConflictError: another answer was first; names whose.
            QuestionNotFoundError: there is no such question.
        """
        return await self.questions.answer(question_id, value, by=by, key=key)

    async def signal(self, run_id: str, name: str, value: Any = None, *, by: str = "") -> None:
        """
        Send something to a run, which takes it with `run.signal(name)`.

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: it ended.
        """
        raw = msgspec.Raw(self._views.checked(value, "signal"))
        said = SignalReceived(name, raw, self._views.wall(), by)
        await self._views.put_in(run_id, "signal.received", said)

    async def resolve(self, run_id: str, step: str, verdict: Verdict, *, by: str = "") -> None:
        """
        Say what became of an uncertain step; the run goes on with it.

        Args:
            run_id: which run.
            step: its name and number, such as `publish#1`.
            verdict: what became of it.
            by: who says so.

        Raises:
            RunStateError: the run does not wait for that.
        """
        name, _, n = step.rpartition("#")
        wait = f"uncertain_effect:{step}"
        value = msgspec.Raw(self._views.checked(verdict.value, "value"))
        view, _ = await self._views.get(run_id)
        if wait not in view.waits:
            raise RunStateError(
                run_id=run_id,
                state=view.status.value,
                action="resolved",
                reason=f"it waits for {view.waits or 'nothing'}, not for step {step}",
            )
        said = StepResolved(
            name, int(n), verdict.kind, self._views.wall(), value, verdict.reason, by
        )
        await self._views.put_in(run_id, "step.resolved", said)

    async def cancel(
        self, run_id: str, *, mode: Mode = "now", reason: str = "", by: str = ""
    ) -> RunInfo:
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
        while True:
            view, version = await self._views.get(run_id)
            now = self._views.wall()
            if view.status is Status.CANCELLING:
                return RunInfo.of(run_id, view)
            if view.status is Status.RUNNING:
                said: Said = ("run.cancelling", Cancelling(now, mode, reason, by))
                if await self._change(run_id, view, version, said):
                    self._views.on_arrival(run_id)
                    return await self.get(run_id)
                continue
            check_change(run_id, view, "run.cancelled", "cancelled")
            if await self._end(run_id, view, version, Pausing(now, reason, by)):
                return await self.get(run_id)

    async def _end(self, run_id: str, view: RunView, version: int, said: Pausing) -> bool:
        """Cancel a run that nobody owns, with all that depends on it."""
        share = await ending_of(self._views, run_id, view, ("run.cancelled", said))
        closing = (CloseStream(stream_of(run_id)), *share.writes)
        ending: Said = ("run.cancelled", said)
        if not await self._change(run_id, view, version, ending, closing, share.expects):
            return False
        self._executor.tell_ended(run_id, fold(view, *ending))
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
        expects: tuple[Any, ...] = (),
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
        except RunStateError:
            return

    async def pause(self, run_id: str, *, reason: str = "", by: str = "") -> RunInfo:
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
            said = Pausing(self._views.wall(), reason, by)
            return Change([(type, said)], fold(view, type, said))

        return RunInfo.of(run_id, await self._views.change(run_id, decide))

    async def resume(self, run_id: str, *, force: bool = False, by: str = "") -> RunInfo:
        """
        Let a run go on that rests, diverged, or waits for code.

        Args:
            run_id: which run.
            force: accept the version of the function that is registered here.
            by: who wants it.

        Raises:
            RunStateError: it does not rest, or waits for something else.
        """
        return await self._resume(run_id, by, force=force, retry=False)

    async def retry(self, run_id: str, *, by: str = "") -> RunInfo:
        """
        Let a run go on that rests because a step was tried often enough; it is tried anew.

        Raises:
            RunStateError: it does not rest.
        """
        return await self._resume(run_id, by, force=False, retry=True)

    async def _resume(self, run_id: str, by: str, *, force: bool, retry: bool) -> RunInfo:
        def decide(view: RunView) -> Change:
            check_change(run_id, view, "run.resumed", "resumed")
            if view.status is Status.WAITING and view.reason not in _RESUMABLE:
                raise RunStateError(
                    run_id=run_id,
                    state=view.status.value,
                    action="resumed",
                    reason=f"it waits for {view.waits}",
                )
            function = self._views.functions.find(view.function)
            version = function.version if force and function is not None else None
            said = Resumed(self._views.wall(), by, version, retry)
            return Change([("run.resumed", said)], fold(view, "run.resumed", said))

        return RunInfo.of(run_id, await self._views.change(run_id, decide))


_RESUMABLE: Final = ("no_code", "version_mismatch", "diverged")
