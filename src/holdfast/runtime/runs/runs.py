"""
Runs: functions that are executed under an id and survive the process that executes them.

    run = await rt.runs.start(report, "lighthouses", run_id="report-7")
    await rt.runs.answer(question_id, "yes", by="ann")
    print(await run.result())

Everything here may be called from any runtime on the store, whoever executes the run.

Invariants: an id is used once, for ever; what a call changed is durable when it returns; once a
run ended, nothing changes it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, overload

import msgspec

from holdfast.core import codec
from holdfast.core.errors import (
    BlobNotFoundError,
    StreamClosedError,
    VersionConflictError,
)
from holdfast.core.journal import Failure, SignalReceived, StepResolved
from holdfast.core.key import Key, check_word, encode_name
from holdfast.core.refusal import (
    RunCancelledError,
    RunExistsError,
    RunFailedError,
    RunStateError,
)
from holdfast.core.run import Status, Verdict
from holdfast.core.unit import AtVersion, Expectation, PutRecord, Unit, Write
from holdfast.runtime.history import History
from holdfast.runtime.names import compare_names
from holdfast.runtime.runs.artifact import Artifacts
from holdfast.runtime.runs.checkpoint import Checkpoints
from holdfast.runtime.runs.control import Control, Mode
from holdfast.runtime.runs.executor import Executor
from holdfast.runtime.runs.fork import Fork, ForkPlan
from holdfast.runtime.runs.function import name_of
from holdfast.runtime.runs.handle import RunHandle, RunInfo
from holdfast.runtime.runs.journal import stream_of
from holdfast.runtime.runs.label import belonging, labelled
from holdfast.runtime.runs.question import QuestionInfo, Questions
from holdfast.runtime.runs.queue import Queues
from holdfast.runtime.runs.retention import KEY_KIND, Retention
from holdfast.runtime.runs.schedule import Schedules
from holdfast.runtime.runs.search import Search, Sought
from holdfast.runtime.runs.telling import tell_started
from holdfast.runtime.runs.upkeep import Upkeep
from holdfast.runtime.runs.view import KIND, Views
from holdfast.store.port import Finding


class Runs:
    """
    The runs on a store.

    Attributes:
        questions: what runs wait for somebody to say.
        artifacts: what runs left behind.
        queues: how many runs of a name run at once.
        schedules: runs that are started by the clock.
        checkpoints: what runs had done at places in their journals.
        search: finds runs, page by page, and counts them.
        retention: removes runs that ended.
    """

    def __init__(
        self,
        views: Views,
        executor: Executor,
        retention: Retention,
        history: Callable[[str], History],
    ) -> None:
        """Take the views, who executes, and who removes what is old."""
        self._views = views
        self._store = views.store
        self._executor = executor
        self.retention = retention
        self._history = history
        self.questions = Questions(views)
        self.artifacts = Artifacts(views)
        self.queues = Queues(views)
        self.schedules = Schedules(views)
        self.search = Search(views)
        self.checkpoints = Checkpoints(views)
        self._control = Control(views, executor)
        self._upkeep = Upkeep(views)

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
        fn: Callable[..., Any] | str,
        *args: Any,
        run_id: str | None = None,
        key: str | None = None,
        labels: dict[str, str] | None = None,
        session: Key | None = None,
        queue: str = "",
        priority: int = 0,
    ) -> RunHandle:
        """
        Start a run; when this returns, it is durable and goes on by itself.

        Args:
            fn: an async function whose first parameter is the run, or its name if registered.
            args: what it is called with behind the run.
            run_id: its id; drawn if not given.
            key: starting again with the same key returns the same run.
            labels: words by which runs are found.
            session: class and key of the session it belongs to; it need not be there yet.
            queue: name of the queue it waits in.
            priority: those with a higher one are taken first.

        Raises:
            RunExistsError: there is, or was, a run with this id.
            EncodeError, FunctionNotFoundError: it cannot be started so.
        """
        if isinstance(fn, str):
            fn, args = self._views.functions.named(fn, args)
        id = self._store.world.ids.incarnation().hex() if run_id is None else run_id
        encode_name("run id", stream_of(id))
        if queue:
            check_word("queue", queue)
        words = self._views.redaction(labelled(labels or {}, session))
        given = {"queue": queue, "priority": priority, "key": key or ""}
        said, also = self._views.started(fn, args, labels=words, **given)
        return self.handle(await self._begin(id, key, (*self._views.begin(id, said), *also)))

    async def _begin(
        self,
        id: str,
        key: str | None,
        writes: tuple[Write, ...],
        also: tuple[Expectation, ...] = (),
    ) -> str:
        expects = [AtVersion(KIND, (id,), 0), *also]
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
            if conflict.kind not in (KEY_KIND, KIND):
                raise
            raise RunExistsError(run_id=id) from None
        tell_started(self._views.telemetry, KIND, writes)
        self._views.on_queued(id)
        return id

    async def _known(self, key: str) -> str | None:
        row = await self._store.read(lambda reader: reader.record(KEY_KIND, (key,)))
        return None if row is None or row.value is None else str(codec.decode(row.value))

    # Finding.

    def handle(self, run_id: str) -> RunHandle:
        """Return a handle of a run by its id."""
        return RunHandle(self, self._views, run_id)

    def history(self, run_id: str) -> History:
        """Return the journal of a run."""
        return self._history(stream_of(run_id))

    async def get(self, run_id: str) -> RunInfo:
        """
        Return a run as it is now.

        Raises:
            RunNotFoundError: there is no such run.
        """
        return RunInfo.of(run_id, *await self._views.get(run_id))

    async def list(
        self,
        *,
        status: Status | str | None = None,
        function: Callable[..., Any] | str | None = None,
        labels: Mapping[str, str] | None = None,
        session: Key | None = None,
        text: str = "",
        after: str | None = None,
        limit: int = 100,
    ) -> list[RunInfo]:
        """
        Return runs in the order of their ids.

        Args:
            status: only those in this status.
            function: only those of this function.
            labels: only those with these labels.
            session: only those that belong to this session, by its class and key.
            text: only those with this text at the beginning of their arguments.
            after: id behind which to go on.
            limit: how many at most.
        """
        sought = Sought(
            status=None if status is None else Status(status),
            function=function
            if function is None or isinstance(function, str)
            else name_of(function),
            labels={**(labels or {}), **belonging(session)},
            text=text,
        )
        found = await self.search.page(sought, after, limit)
        infos = found.runs
        while len(infos) < limit and found.after is not None:
            found = await self.search.page(sought, found.after, limit - len(infos))
            infos += found.runs
        return infos

    async def ended(self, run_id: str) -> RunInfo:
        """
        Wait until a run ended, however, and return it.

        Raises:
            PoisonedError, FenceError, ClosedError: it cannot be seen here any more how it ends.
        """
        while True:
            # One that is executed here says so itself; every step of it would wake this.
            here = self._executor.moved(run_id)
            if here is not None and (last := await here) is not None:
                return RunInfo.of(run_id, last)
            waiter = self._store.wakes.register(stream_of(run_id))
            try:
                info = await self.get(run_id)
                if info.is_terminal:
                    return info
                self._store.check_writable()
                if not self._executor.executes(run_id):
                    await waiter
            finally:
                self._store.wakes.forget(stream_of(run_id), waiter)

    async def result(self, run_id: str) -> Any:
        """
        Wait until a run ended and return its result.

        Raises:
            RunFailedError: it failed.
            RunCancelledError: it was cancelled.
            PoisonedError, FenceError, ClosedError: it cannot be seen here any more how it ends.
        """
        info = await self.ended(run_id)
        if info.status is Status.FAILED:
            error = info.error or Failure("")
            raise RunFailedError(run_id=run_id, type=error.type, message=error.message)
        if info.status is Status.CANCELLED:
            raise RunCancelledError(run_id=run_id, reason=info.why, by=info.by)
        function = self._views.functions.find(info.function)
        raw = await self._result(info)
        return codec.decode(raw) if function is None else function.result.decode(raw)

    async def plain_result(self, info: RunInfo) -> Any:
        """Return the result of a run that succeeded as plain values."""
        return codec.decode(await self._result(info))

    async def _result(self, info: RunInfo) -> bytes:
        if not info.blob:
            return bytes(info.result)
        try:
            return await self._views.blobs.get(info.blob.hex())
        except BlobNotFoundError:
            await self._views.get(info.id)  # It may have been removed just now.
            raise

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

    async def signal(self, run_id: str, name: str, value: Any = None, *, by: str = "") -> int:
        """
        Send something to a run, which takes it with `run.signal(name)`.

        Returns:
            Its sequence in the journal of the run.

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: it ended.
        """
        raw = msgspec.Raw(self._views.checked(value, "signal"))
        said = SignalReceived(name, raw, self._views.wall(), self._views.redaction.text(by))
        return await self._views.put_in(run_id, "signal.received", said)

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
        text = self._views.redaction.text
        said = StepResolved(
            name, int(n), verdict.kind, self._views.wall(), value, text(verdict.reason), text(by)
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
        view = await self._control.cancel(run_id, mode=mode, reason=reason, by=by)
        return RunInfo.of(run_id, view)

    async def pause(self, run_id: str, *, reason: str = "", by: str = "") -> RunInfo:
        """
        Let a run rest; one that is executed rests at its next step.

        Raises:
            RunStateError: it ended, or is being cancelled.
        """
        return RunInfo.of(run_id, await self._control.pause(run_id, reason=reason, by=by))

    async def resume(self, run_id: str, *, force: bool = False, by: str = "") -> RunInfo:
        """
        Let a run go on that rests, diverged, or waits for code.

        Args:
            run_id: which run.
            force: accept the version of the function that is registered here; that is recorded.
            by: who wants it.

        Raises:
            RunStateError: it does not rest, or waits for something else.
        """
        return RunInfo.of(run_id, await self._control.resume(run_id, by, force=force, retry=False))

    async def retry(self, run_id: str, *, by: str = "") -> RunHandle:
        """
        Try again: a run that rests goes on with all attempts of its step, one that failed is
        forked into a new run that takes over everything that succeeded.

        Raises:
            RunStateError: it did not fail and does not rest.
        """
        view, _ = await self._views.get(run_id)
        if view.status is Status.FAILED:
            return await self.fork(run_id)
        await self._control.resume(run_id, by, force=False, retry=True)
        return self.handle(run_id)

    # Forks, upkeep.

    @overload
    async def fork(
        self,
        run_id: str,
        *,
        at: int | str | None = None,
        patch: Mapping[str, Any] | None = None,
        new_id: str | None = None,
        dry_run: Literal[False] = False,
    ) -> RunHandle: ...

    @overload
    async def fork(
        self,
        run_id: str,
        *,
        at: int | str | None = None,
        patch: Mapping[str, Any] | None = None,
        new_id: str | None = None,
        dry_run: Literal[True],
    ) -> ForkPlan: ...

    async def fork(
        self,
        run_id: str,
        *,
        at: int | str | None = None,
        patch: Mapping[str, Any] | None = None,
        new_id: str | None = None,
        dry_run: bool = False,
    ) -> RunHandle | ForkPlan:
        """
        Start a new run that takes over what a run did, up to a place.

        Args:
            run_id: the origin; it does not change.
            at: sequence in its journal up to which it is taken over, or a step such as `post#1`
                that is the first one not taken over; everything that succeeded if not given.
            patch: results by step that replace those of the origin.
            new_id: id of the new run; drawn if not given.
            dry_run: change nothing; return what becomes of each step of the origin: whether it
                is reused, replaced, repeated or blocked.

        Raises:
            InvalidValueError: there is no such place or step.
            RunExistsError: there is, or was, a run with the new id.
        """
        if dry_run:
            return await Fork(self._views, run_id, at, patch or {}).plan()
        id = self._store.world.ids.incarnation().hex() if new_id is None else new_id
        while True:
            unit = await Fork(self._views, run_id, at, patch or {}).unit(id)
            with suppress(VersionConflictError):  # Others began or ceased to name the same bytes.
                return self.handle(await self._begin(id, None, unit.writes, unit.expects))

    def look(self) -> None:
        """Look at once for what is due, instead of within half a second; for tests with a clock."""
        self._executor.look()

    async def verify(self) -> Sequence[Finding]:
        """Return the runs that are shown as what no journal says, and bytes counted wrongly."""
        return [*await self._upkeep.compare(), *await compare_names(self._store)]

    async def retain(
        self,
        seconds: float | None = None,
        *,
        newest: int | None = None,
        limit: int = 1_000,
        dry_run: bool = False,
    ) -> int:
        """
        Remove runs that ended, with their journals; by itself, see `runs_kept` of `Options`.

        Args:
            seconds: those that ended longer ago.
            newest: all but so many that ended last.
            limit: how many at most.
            dry_run: remove nothing; return how many would be.

        Returns:
            How many were removed; the newest version of a pipeline always stays.
        """
        return await self.retention.retain(seconds, newest, limit, dry_run=dry_run)
