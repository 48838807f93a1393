"""
A run in the hands of the function that is executed: steps, questions, timers, artifacts.

    async def report(run: Run, topic: str) -> str:
        outline = await run.step("outline", plan, topic)          # after a crash: read back
        if await run.ask("Publish this?", choices=["yes", "no"]) == "yes":
            await run.step("publish", post, outline, effect="once")
        return outline

After a crash the function is called again with the same arguments, and everything it asks for
that is in the journal is handed out from there. What it does between these calls should depend
on nothing else; if it asks for something else than before, the run is shown as diverged.

Invariant: what a call of this object returned is durable, and is returned again in every replay.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from holdfast.core import codec
from holdfast.core.errors import InvalidValueError
from holdfast.core.event import Event
from holdfast.core.journal import (
    USER_PREFIX,
    Attached,
    ChildEnded,
    ChildStarted,
    Effect,
    EffectName,
    Emitted,
    SignalTaken,
    StepSucceeded,
    TimerSet,
)
from holdfast.core.key import check_word
from holdfast.core.refusal import ChildFailedError
from holdfast.core.run import Retry, Status
from holdfast.core.unit import AtVersion, Expectation, PutBlob, Write
from holdfast.runtime.runs import step as steps
from holdfast.runtime.runs.artifact import put_artifact
from holdfast.runtime.runs.execution import Execution
from holdfast.runtime.runs.function import result_form
from holdfast.runtime.runs.question import Question, put_question
from holdfast.runtime.runs.telling import tell_started
from holdfast.runtime.runs.view import KIND, event_of

T = TypeVar("T")


class Run:
    """The run under way, as its function sees it."""

    def __init__(self, execution: Execution) -> None:
        """Take the execution."""
        self._execution = execution

    @property
    def id(self) -> str:
        """The id of the run."""
        return self._execution.run_id

    @property
    def attempt(self) -> int:
        """How often the run was taken up, this time included; do not branch on it."""
        return self._execution.view.attempt

    @property
    def labels(self) -> dict[str, str]:
        """The labels it was started with."""
        return dict(self._execution.view.labels)

    @property
    def current(self) -> steps.Step:
        """
        The step under way around the caller: its key, token and attempt.

        Raises:
            InvalidValueError: no step is.
        """
        try:
            return steps.current_step.get()
        except LookupError:
            raise InvalidValueError(what="current", reason="no step is under way") from None

    async def step(
        self,
        name: str,
        fn: Callable[..., "Awaitable[T] | T"],
        *args: Any,
        effect: EffectName = "safe",
        retry: Retry | None = None,
        timeout: float | None = None,
        resolver: steps.Resolver | None = None,
        mark: Callable[[Any], Any] | None = None,
    ) -> T:
        """
        Do a piece of work once; in every replay its result is read back.

        Args:
            name: of the step; with how often it was asked for before, its key.
            fn: an ordinary or async function; its result has to be storable.
            args: what it is called with.
            effect: what is done with it if it was begun and has no result after a crash:
                `safe` runs again, `idempotent` runs again with the same key, `once` never does
                by itself.
            retry: how often it is tried; without it once, crashes aside.
            timeout: seconds after which an attempt failed.
            resolver: asked about an uncertain effect, before a person is.
            mark: called with the result; what it returns is shown in the run's view from then on.

        Raises:
            StepFailedError: it failed for good; the same in every replay.
            EncodeError: its result cannot be stored exactly, as the cause of that.
        """
        execution = self._execution
        n = self._next(name)
        said = execution.journal.steps.pop((name, n), None)
        if execution.held or execution.discarded:
            await execution.check()
        if type(said) is StepSucceeded and not said.blob:
            return result_form(fn).decode(bytes(said.result))  # type: ignore[no-any-return]
        asked = steps.Asked(name, n, fn, args, Effect(effect), retry, timeout, resolver, mark)
        if said is not None:
            return await steps.replayed(execution, asked, said)  # type: ignore[no-any-return]
        return await steps.perform(execution, asked)  # type: ignore[no-any-return]

    async def ask(
        self,
        prompt: str,
        *,
        choices: Sequence[Any] = (),
        default: Any = None,
        timeout: float | None = None,
        name: str = "",
    ) -> Any:
        """
        Ask somebody and wait for the answer; the question is durable before anybody sees it.

        Args:
            prompt: what is asked.
            choices: answers that are possible; any is, if there are none.
            default: the answer when the time is over.
            timeout: seconds until then; time while nothing runs counts, restarts do not extend it.
            name: with how often it was asked for before, its key; needed where several tasks of
                the function ask, in whatever order.
        """
        execution = self._execution
        journal = execution.journal
        key = (name, self._next(f"\0question {name}"))
        asked = journal.asked.pop(key, None)
        await execution.check()
        if asked is None:
            execution.check_course(f"question {name}#{key[1]}" if name else f"question {key[1]}")
            question = Question.of(execution, key, prompt, choices, default, timeout)
            journal.questions = question.n
            id, (event, writes) = question.id, put_question(execution, question)
            await execution.wait(f"question:{id}", lambda: id in journal.answers, [event], writes)
        elif (id := asked.id) not in journal.answers:
            await execution.wait(f"question:{id}", lambda: id in journal.answers)
        return codec.decode(bytes(journal.answers[id].value))

    async def sleep(self, seconds: float) -> None:
        """Sleep; the time goes on while nothing runs, and a restart does not extend it."""
        execution = self._execution
        n = self._next("\0sleep")
        wait = f"timer:{n}"
        known = execution.journal.timers.pop(n, None)
        fired = execution.journal.fired
        await execution.check()
        if wait in fired:
            return
        if known is not None:
            await execution.wait(wait, lambda: wait in fired)
            return
        execution.check_course(f"sleep {n}")
        timer = execution.views.timer(execution.run_id, wait, seconds)
        said = TimerSet(n, float(seconds), execution.now())
        await execution.wait(wait, lambda: wait in fired, [("timer.set", said)], (timer.put(),))

    async def signal(self, name: str) -> Any:
        """Wait for the next signal of a name, and take it; signals of a name keep their order."""
        execution = self._execution
        journal = execution.journal
        n = self._next(f"\0signal {name}")
        await execution.check()
        taken = journal.taken.pop((name, n), None)
        received = journal.signals[name]
        if taken is None:
            execution.check_course(f"signal {name}#{n}")
            # Kept before waiting, so that two who wait for a name do not take the same one.
            index = journal.handed.get(name, 0)
            journal.handed[name] = index + 1
            if len(received) <= index:
                await execution.wait(f"signal:{name}", lambda: len(received) > index)
            taken = SignalTaken(name, n, index, execution.now())
            await self._do(event_of("signal.taken", taken))
        return codec.decode(bytes(received[taken.index].value))

    async def attach(
        self, name: str, data: bytes, *, media_type: str = "application/octet-stream"
    ) -> str:
        """
        Keep bytes as an artifact of the run.

        Returns:
            Its id, by which it is read.
        """
        execution = self._execution
        n = self._next("\0artifact")
        await execution.check()
        known = execution.journal.attached.pop(n, None)
        if known is not None:
            return known.id
        execution.check_course(f"artifact {n}")
        redaction = execution.views.redaction
        blob = PutBlob.of(redaction.content(data))
        id = f"{execution.run_id}!{n}"
        said = Attached(
            n,
            id,
            redaction.text(name),
            blob.digest,
            blob.size,
            redaction.text(media_type),
            execution.now(),
        )
        writes = (blob, *put_artifact(execution.run_id, said))
        await self._do(event_of("artifact.attached", said), *writes)
        return id

    async def emit(self, type: str, data: object = None) -> None:
        """Append an event of the program's own to the journal, once."""
        execution = self._execution
        check_word("event type", type)
        n = self._next("\0emit")
        await execution.check()
        if execution.journal.emitted.pop(n, None) is not None:
            return
        execution.check_course(f"emit {n}")
        said = Emitted(n, msgspec.Raw(execution.views.checked(data, "data")))
        await self._do(event_of(USER_PREFIX + type, said))

    async def child(self, fn: Callable[..., Any], *args: Any) -> Any:
        """
        Start a run of another function and wait for its result.

        Raises:
            ChildFailedError: it failed or was cancelled.
        """
        execution = self._execution
        journal = execution.journal
        n = self._next("\0child")
        await execution.check()
        started = journal.children.pop(n, None)
        id = f"{execution.run_id}/{n}"
        if started is None:
            execution.check_course(f"child {n}")
            start = execution.views.starting(fn, args, id, execution.run_id)
            said = ChildStarted(n, id, execution.now())
            absent = (AtVersion(KIND, (id,), 0),)
            await self._do(event_of("child.started", said), *start, expects=absent)
            tell_started(execution.views.telemetry, KIND, start)
            execution.views.on_queued(id)
        if id not in journal.ended:
            await execution.wait(f"child:{id}", lambda: id in journal.ended)
        return await self._child_result(fn, journal.ended[id])

    async def _child_result(self, fn: Callable[..., Any], ended: ChildEnded) -> Any:
        if ended.status != Status.SUCCEEDED:
            error = ended.error
            raise ChildFailedError(
                run_id=ended.id,
                state=ended.status,
                type=error.type if error else "",
                message=error.message if error else "",
            )
        blobs = self._execution.views.blobs
        raw = await blobs.get(ended.blob.hex()) if ended.blob else bytes(ended.result)
        return result_form(fn).decode(raw)

    async def _do(
        self, event: Event, *writes: Write, expects: tuple[Expectation, ...] = ()
    ) -> None:
        execution = self._execution
        await execution.begin_work()
        try:
            await execution.check()
            await execution.append(event, writes=writes, expects=expects)
        finally:
            execution.end_work()

    def _next(self, what: str) -> int:
        """Count what is asked for; note whether several tasks of the program ask."""
        execution = self._execution
        if execution.alone and asyncio.current_task() is not execution.root:
            execution.alone = False
        n = execution.counts[what] = execution.counts[what] + 1
        return n
