"""
Runs, told to whoever measures: what started and ended, and the segments in between.

A segment is the time from the moment a runtime takes a run until it lets go of it: because the
run ended, waits, pauses, or because the runtime goes away. Its id is the run's attempt, which is
durable, so the next segment names the one before, also where that one died and ended nowhere.

Invariants: what is told is durable; nothing is told, and nothing looked at, without a hook.
"""

from collections.abc import Sequence
from typing import Final

from holdfast.core.run import RunView, Status, decode_view
from holdfast.core.telemetry import Attributes, Ended, Span, Telemetry, bounded
from holdfast.core.unit import Append, PutRecord, Unit, Write
from holdfast.runtime.work.entry import Entry

_ASKED: Final = "question.asked"


def tell_started(telemetry: Telemetry, kind: str, writes: Sequence[Write]) -> None:
    """Tell of the runs that begin with these writes; `kind` is that of the records of runs."""
    if not telemetry.listens:
        return
    for write in writes:
        if isinstance(write, PutRecord) and write.kind == kind:
            telemetry.tell("run.started", {"kind": decode_view(write.value).function})


def tell_asked(telemetry: Telemetry, unit: Unit) -> None:
    """Tell of the questions that are asked by a unit of an owner."""
    for write in unit.writes:
        if isinstance(write, Append):
            for event in write.events:
                if event.type == _ASKED:
                    telemetry.tell(_ASKED)


def tell_taken(telemetry: Telemetry, run_id: str, entry: Entry, view: RunView) -> None:
    """Tell that this runtime took a run, by its entry and its view since."""
    recovered = entry.attempt > 1  # Work that is begun is at its first; of a dead one, beyond.
    if telemetry.listens:
        waited = {} if recovered else {"waited": max(0.0, view.updated - view.queued)}
        telemetry.tell("run.dispatched", {"kind": view.function}, waited)
        if recovered:
            cancelling = view.status is Status.CANCELLING
            verdict = "cancelled" if cancelling else "resumed"
            telemetry.tell("run.recovered", {"verdict": verdict})
    if telemetry.traces:
        telemetry.begin(_segment(run_id, view, recovered=recovered))


def tell_left(telemetry: Telemetry, run_id: str, before: RunView, after: RunView) -> None:
    """Tell that the owner of a run let go of it."""
    if telemetry.traces:
        error = "" if after.error is None else after.error.type
        attributes: Attributes = {"reason": after.reason} if after.reason else {}
        ended = Ended(outcome=after.status.value, error=error, attributes=attributes)
        telemetry.end(_segment(run_id, before), ended)
    tell_ended(telemetry, after)


def tell_ended(telemetry: Telemetry, view: RunView) -> None:
    """Tell that a run ended, if it did."""
    if telemetry.listens and view.is_terminal:
        labels = {"kind": view.function, "outcome": view.status.value}
        seconds = max(0.0, view.ended - view.created)
        telemetry.tell("run.finished", labels, {"seconds": seconds})


def tell_lost(telemetry: Telemetry, run_id: str, view: RunView) -> None:
    """Tell that a run goes on elsewhere or later; after its segment ended that says nothing."""
    if telemetry.traces:
        telemetry.end(_segment(run_id, view), Ended(outcome="lost"))


def step_span(run_id: str, view: RunView, name: str, n: int, attempt: int, effect: str) -> Span:
    """Return the span of an attempt at a step, part of the segment under way."""
    return Span(
        kind="step",
        name=name,
        trace=run_id,
        id=f"{view.attempt}/{name}#{n}.{attempt}",
        parent=str(view.attempt),
        attributes={
            "run.id": run_id,
            "step.name": name,
            "step.number": n,
            "step.attempt": attempt,
            "step.effect": effect,
        },
    )


def tell_step(telemetry: Telemetry, name: str, outcome: str, seconds: float) -> None:
    """Tell that a step ended."""
    if telemetry.listens:
        labels = {"step": bounded(name), "outcome": outcome}
        telemetry.tell("step.finished", labels, {"seconds": max(0.0, seconds)})


def _segment(run_id: str, view: RunView, *, recovered: bool = False) -> Span:
    attempt = view.attempt
    labels = {f"run.label.{name}": value for name, value in view.labels.items()}
    return Span(
        kind="segment",
        name=view.function,
        trace=run_id,
        id=str(attempt),
        links=(str(attempt - 1),) if attempt > 1 else (),
        attributes={
            "run.id": run_id,
            "run.kind": view.function,
            "run.version": view.version,
            "run.attempt": attempt,
            "run.parent": view.parent,
            "run.recovered": recovered,
            **labels,
        },
    )
