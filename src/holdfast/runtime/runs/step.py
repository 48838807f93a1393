"""
Steps: journaled pieces of work, and what is done with one that was begun and not ended.

    begun, never before            run it
    failed before, tries left      wait for the pause, run it again
    interrupted, `safe`            run it again
    interrupted, `idempotent`      run it again with the same key
    interrupted, `once`            uncertain: a resolver or a person says what became of it

`step.started` is durable before anything runs that may not simply be run again, and before every
attempt but the first. The first attempt of a safe step does not wait for it, and a safe step
that ends within one turn of the loop needs none.

Invariant: a step that was recorded is never run again; an attempt is counted before it runs.
"""

import asyncio
import inspect
import secrets
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from holdfast.core import codec
from holdfast.core.errors import CodecError
from holdfast.core.journal import (
    NOTHING,
    Effect,
    Failure,
    StepFailed,
    StepResolved,
    StepStarted,
    StepSucceeded,
)
from holdfast.core.refusal import StepFailedError
from holdfast.core.run import Retry, Verdict
from holdfast.core.telemetry import Ended
from holdfast.runtime.runs.execution import Execution
from holdfast.runtime.runs.function import failure_of, placed, result_form
from holdfast.runtime.runs.journal import Trial
from holdfast.runtime.runs.telling import step_span, tell_step
from holdfast.runtime.runs.view import event_of

_ONE: Final = Retry(attempts=1)
Resolver = Callable[["Step"], "Awaitable[Verdict | None] | Verdict | None"]
current_step: ContextVar["Step"] = ContextVar("holdfast_step")


class Step:
    """
    The step under way, for the function that runs in it.

    Attributes:
        run_id: of the run.
        name: of the step.
        n: how often this name was asked for, from 1.
        attempt: how often it was begun, this time included.
        token: number of this owner of the run; it grows with each, so whoever is asked under two
            of them refuses the smaller one, that of an owner that was overtaken.
    """

    __slots__ = ("_seed", "attempt", "n", "name", "run_id", "token")

    def __init__(self, execution: Execution, name: str, n: int, attempt: int) -> None:
        """Take what it is a step of."""
        self.run_id = execution.run_id
        self.name = name
        self.n = n
        self.attempt = attempt
        self.token: int = execution.view.attempt
        self._seed = execution.view.seed

    @property
    def key(self) -> str:
        """A key that is the same in every attempt, and for no other effect of any run."""
        return codec.digest(self.run_id, self._seed, self.name, self.n).hex()


class Asked(NamedTuple):
    """What a program asks for: a step and how it is to be run."""

    name: str
    n: int
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    effect: Effect
    retry: Retry | None
    timeout: float | None
    resolver: Resolver | None
    mark: Callable[[Any], Any] | None


async def replayed(execution: Execution, asked: Asked, said: StepSucceeded | StepFailed) -> Any:
    """
    Return the result of a step that is over.

    Raises:
        StepFailedError: it failed for good.
    """
    if isinstance(said, StepFailed):
        raise _failed(asked, said.error, said.attempt)
    form = result_form(asked.fn)
    if said.blob:
        return form.decode(await execution.views.blobs.get(said.blob.hex()))
    return form.decode(bytes(said.result))


async def perform(execution: Execution, asked: Asked) -> Any:
    """
    Run a step that is not over.

    Raises:
        StepFailedError: it failed for good.
        CancelledError: the run is to end, to pause, or goes on elsewhere.
    """
    journal = execution.journal
    trial = journal.open.pop((asked.name, asked.n), None) or Trial()
    if not trial.attempts and journal.blocks(asked.name, asked.n):
        trial.effect, trial.interrupted = Effect.ONCE, True
    if trial.verdict is None:  # What was resolved is in the journal, and so is what came after.
        execution.check_course(f"step {asked.name}#{asked.n}")
    return await _Performance(execution, asked, trial).run()


class _Performance:
    """One step being run, attempt after attempt."""

    def __init__(self, execution: Execution, asked: Asked, trial: Trial) -> None:
        self._execution = execution
        self._asked = asked
        self._trial = trial
        self._name = f"{asked.name}#{asked.n}"
        self._began = execution.now()
        self._failed_by = "interrupted" if trial.interrupted else "error"

    async def run(self) -> Any:
        """Run it until it is over."""
        execution, asked, trial = self._execution, self._asked, self._trial
        if trial.interrupted and trial.effect is Effect.ONCE:
            over = await self._resolve()
            if over is not None:
                return await replayed(execution, asked, over)
        retry = asked.retry or _ONE
        while True:
            if trial.failures:
                await self._pause(retry)
            await execution.begin_work()
            try:
                if execution.held or execution.discarded:
                    await execution.check()
                if asked.retry is not None and trial.spent >= retry.attempts:
                    error = Failure("Interrupted", "every attempt was interrupted or failed")
                    await self._give_up(error, None)
                trial.attempts += 1
                trial.spent += 1
                self._tell_retry()
                began = self._began = execution.now()
                try:
                    await self._announce(began)
                    value = await self._call()
                except Exception as error:
                    await self._attempt_failed(error, retry)
                else:
                    return await self._succeeded(value, began)
            finally:
                execution.end_work()

    def _tell_retry(self) -> None:
        telemetry = self._execution.views.telemetry
        if telemetry.listens and self._trial.attempts > 1:
            telemetry.tell("step.retried", {"reason": self._failed_by})

    async def _announce(self, began: float) -> None:
        asked, trial = self._asked, self._trial
        started = StepStarted(asked.name, asked.n, began, trial.attempts, asked.effect)
        if asked.effect is Effect.SAFE and trial.attempts == 1:
            self._execution.submit((asked.name, asked.n), event_of("step.started", started))
        else:
            await self._execution.append(event_of("step.started", started))
            self._execution.store.world.failpoints.reach("run.step_started")

    async def _call(self) -> Any:
        """Call the function, within a span if somebody traces."""
        telemetry = self._execution.views.telemetry
        if not telemetry.traces:
            return await self._called()
        asked, execution, attempt = self._asked, self._execution, self._trial.attempts
        span = step_span(
            execution.run_id, execution.view, asked.name, asked.n, attempt, asked.effect.value
        )
        telemetry.begin(span)
        ended = Ended(outcome="cancelled")
        try:
            value = await self._called()
            ended = Ended(outcome="succeeded")
            return value
        except Exception as error:
            ended = Ended(outcome="failed", error=type(error).__name__)
            raise
        finally:
            telemetry.end(span, ended)

    async def _called(self) -> Any:
        asked = self._asked
        before = current_step.set(Step(self._execution, asked.name, asked.n, self._trial.attempts))
        try:
            value = asked.fn(*asked.args)
            if inspect.isawaitable(value):
                if asked.timeout is None:
                    value = await value
                else:
                    async with asyncio.timeout(asked.timeout):
                        value = await value
            return value
        finally:
            current_step.reset(before)

    async def _succeeded(self, value: Any, began: float) -> Any:
        execution, asked = self._execution, self._asked
        value = execution.views.redaction(value)
        try:
            encoded = result_form(asked.fn).encode(value)
            mark = None if asked.mark is None else execution.views.redaction(asked.mark(value))
            codec.encode(mark, "mark")
        except CodecError as error:
            await self._give_up(failure_of(error, self._execution.views.redaction), error)
        inline, blob, writes = placed(execution.run_id, encoded)
        said = StepSucceeded(
            asked.name,
            asked.n,
            began,
            execution.now(),
            msgspec.Raw(inline),
            blob,
            self._trial.attempts,
            asked.effect,
            mark,
        )
        execution.drop_submitted((asked.name, asked.n))
        if mark is None:
            await execution.append(event_of("step.succeeded", said), writes=writes)
        else:
            await execution.change(lambda _: [("step.succeeded", said)], *writes)
        tell_step(execution.views.telemetry, asked.name, "succeeded", execution.now() - began)
        execution.store.world.failpoints.reach("run.step_recorded")
        return value

    # What goes wrong.

    async def _attempt_failed(self, error: Exception, retry: Retry) -> None:
        asked, trial = self._asked, self._trial
        trial.failures += 1
        self._failed_by = "timeout" if isinstance(error, TimeoutError) else "error"
        if trial.spent >= retry.attempts:
            await self._give_up(failure_of(error, self._execution.views.redaction), error)
        pause = retry.pause(trial.failures, secrets.randbelow(1_000_001) / 1_000_000)
        said = StepFailed(
            asked.name,
            asked.n,
            self._execution.now(),
            failure_of(error, self._execution.views.redaction),
            trial.attempts,
            retry_in=pause,
            effect=asked.effect,
        )
        wait = f"retry:{self._name}"
        self._execution.journal.fired.discard(wait)
        timer = self._execution.views.timer(self._execution.run_id, wait, pause)
        await self._execution.append(event_of("step.failed", said), writes=(timer.put(),))

    async def _pause(self, retry: Retry) -> None:
        wait = f"retry:{self._name}"
        fired = self._execution.journal.fired
        if self._trial.spent < retry.attempts:
            await self._execution.wait(wait, lambda: wait in fired)
            fired.discard(wait)

    async def _give_up(self, failure: Failure, error: Exception | None) -> NoReturn:
        """Record that it failed for good, or let the run pause."""
        asked, execution = self._asked, self._execution
        final = asked.retry is None or asked.retry.on_exhausted == "fail"
        said = StepFailed(
            asked.name,
            asked.n,
            execution.now(),
            failure,
            self._trial.attempts,
            final,
            effect=asked.effect,
        )
        await execution.append(event_of("step.failed", said))
        tell_step(execution.views.telemetry, asked.name, "failed", execution.now() - self._began)
        if not final:
            execution.gave_up = self._name
            execution.stop()
        raise _failed(asked, failure, self._trial.attempts) from error

    async def _resolve(self) -> StepSucceeded | StepFailed | None:
        """Find out what became of an uncertain effect; None if it is to run again."""
        execution, asked, trial = self._execution, self._asked, self._trial
        key = (asked.name, asked.n)
        if trial.verdict is None and asked.resolver is not None:
            trial.verdict = await self._ask_resolver(asked.resolver)
        if trial.verdict is None:
            opened = execution.journal.open
            opened[key] = trial
            wait = f"uncertain_effect:{self._name}"
            await execution.wait(wait, lambda: opened[key].verdict is not None)
            trial = self._trial = opened.pop(key)
        verdict = trial.verdict
        trial.interrupted = False
        if verdict is None or verdict.verdict == "again":
            return None
        return resolution(verdict, trial.attempts, asked.effect)

    async def _ask_resolver(self, resolver: Resolver) -> StepResolved | None:
        execution, asked = self._execution, self._asked
        await execution.begin_work()
        try:
            found = resolver(Step(execution, asked.name, asked.n, self._trial.attempts))
            verdict = await found if inspect.isawaitable(found) else found
            if verdict is None:
                return None
            done = verdict.kind == "done"
            plain = execution.views.redaction(verdict.value)
            value = result_form(asked.fn).encode(plain) if done else NOTHING
            said = StepResolved(
                asked.name,
                asked.n,
                verdict.kind,
                execution.now(),
                msgspec.Raw(value),
                execution.views.redaction.text(verdict.reason),
                "resolver",
            )
            await execution.change(lambda _: [("step.resolved", said)])
            return said
        finally:
            execution.end_work()


def resolution(said: StepResolved, attempt: int, effect: Effect) -> StepSucceeded | StepFailed:
    """Return what the journal would say of a step if its effect had not been uncertain."""
    if said.verdict == "done":
        return StepSucceeded(said.name, said.n, said.at, said.at, said.result, b"", attempt, effect)
    failure = Failure("Resolved", said.reason)
    return StepFailed(said.name, said.n, said.at, failure, attempt, True, effect=effect)


def _failed(asked: Asked, error: Failure, attempts: int) -> StepFailedError:
    return StepFailedError(
        step=f"{asked.name}#{asked.n}",
        type=error.type,
        message=error.message,
        attempts=attempts,
    )
