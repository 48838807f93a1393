"""
The rules of runs: which status follows which, what each event says, what a run is by its journal.

A run is one execution with an id. Everything that happens to it is an event of its stream
`run/<run_id>`, its journal. What one sees of it, the `RunView`, is a fold of that journal and is
written in the same unit as the event that changed it.

    start           dispatched                            succeeded | failed
    -----> queued ------------> running ------------------------------------------> (terminal)
             ^                  |  ^ | \\ cancelling
             | queued           |  | |  +-----------> cancelling ---> cancelled      (terminal)
             |                  v  | | waiting
             +-------------- waiting | | paused
             ^                       v v
             +-- resumed --------- paused

Authority. Only the owner of a run's ledger entry dispatches it, records its steps and ends it.
Others may put something in (an answer, a signal, a cancellation): that raises `inbox`, so that
the owner, whose own changes expect the view it knows, never overlooks it.

Waiting. A run that only waits is owned by nobody. What it waits for is named in `waits`; whoever
makes one of these arrive puts the run back to `queued` in the same unit.

Invariants: every change of status is one of `CHANGES`; nothing follows a terminal status; the
view depends on the events alone; a view that is written is the fold of the journal with it.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from holdfast.core import codec
from holdfast.core.errors import InvalidValueError
from holdfast.core.journal import (
    NOTHING,
    Answered,
    ChildEnded,
    Failure,
    Pausing,
    Payload,
    Queued,
    SignalReceived,
    Started,
    StepResolved,
    StepSucceeded,
    TimerFired,
)
from holdfast.core.refusal import RunStateError

CRASHES_MAX: Final = 3


class Status(StrEnum):
    """Where a run is."""

    QUEUED = "queued"
    """It goes on as soon as somebody takes it."""

    RUNNING = "running"
    """A runtime executes it, or died doing so and is not replaced yet."""

    WAITING = "waiting"
    """It waits for what `waits` names."""

    PAUSED = "paused"
    """It rests until it is resumed."""

    CANCELLING = "cancelling"
    """It was asked to end and is doing so."""

    SUCCEEDED = "succeeded"
    """It came to its result."""

    FAILED = "failed"
    """It ended with an error."""

    CANCELLED = "cancelled"
    """It was ended from outside."""


TERMINAL: Final = frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED})
LIVE: Final = tuple(status.value for status in Status if status not in TERMINAL)
ATTENTION: Final = ("no_code", "version_mismatch", "uncertain_effect", "diverged", "crash_loop")
"""Reasons for which a run waits for an operator."""
_Q, _R, _W, _P = Status.QUEUED, Status.RUNNING, Status.WAITING, Status.PAUSED
_C = Status.CANCELLING

CHANGES: Final[dict[str, dict[Status, Status]]] = {
    "run.dispatched": {_Q: _R, _R: _R, _C: _C},
    "run.waiting": {_R: _W},
    "run.diverged": {_R: _W},
    "run.queued": {_W: _Q, _R: _Q},
    "run.paused": {_R: _P, _Q: _P, _W: _P},
    "run.resumed": {_P: _Q, _W: _Q},
    "run.cancelling": {_R: _C},
    "run.succeeded": {_R: Status.SUCCEEDED},
    "run.failed": {_R: Status.FAILED},
    "run.cancelled": dict.fromkeys((_Q, _W, _P, _C), Status.CANCELLED),
}
"""By event, from which status it leads to which; nothing else changes a status."""

ARRIVALS: Final = frozenset(
    {
        "question.answered",
        "question.expired",
        "timer.fired",
        "signal.received",
        "child.ended",
        "step.resolved",
        "run.pausing",
        "artifact.received",
    }
)
"""Events that others put into a journal, and that leave the status as it is."""


class RunView(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What one sees of a run.

    Attributes:
        status: where it is.
        waits: what it waits for, each as `kind:which`.
        why: reason in words, for a run that waits, is paused, or ended.
        by: who wanted that.
        attempt: how often a runtime took it.
        inbox: how many things others put in.
        mark: what it shows of its progress.
        pausing: somebody asked for a pause.
        mode: how it is to be cancelled.
        expected, asked: both sides of a divergence.
        queued: since when it is queued, by which its place is found.
        inputs: the beginning of its arguments as text.
        key: with which it was started.
    """

    function: str
    version: str
    status: Status
    seed: str
    created: float
    updated: float
    labels: dict[str, str] = {}
    queue: str = ""
    priority: int = 0
    parent: str = ""
    origin: str = ""
    origin_sequence: int = 0
    waits: list[str] = []
    why: str = ""
    by: str = ""
    attempt: int = 0
    inbox: int = 0
    mark: Any = None
    pausing: bool = False
    mode: str = ""
    expected: str = ""
    asked: str = ""
    result: msgspec.Raw = NOTHING
    blob: bytes = b""
    error: Failure | None = None
    ended: float = 0.0
    queued: float = 0.0
    inputs: str = ""
    key: str = ""

    @property
    def reason(self) -> str:
        """What kind of thing it waits for first: question, timer, signal, child, retry ..."""
        return self.waits[0].partition(":")[0] if self.waits else ""

    @property
    def is_terminal(self) -> bool:
        """Whether it ended."""
        return self.status in TERMINAL


PERSONS: Final = frozenset(
    {"question", "uncertain_effect", "no_code", "version_mismatch", "diverged"}
)
"""Kinds of waits that end when somebody does something."""


def needs_somebody(view: RunView) -> bool:
    """Return whether a run waits for somebody to do something, rather than for time or a run."""
    if view.status is Status.WAITING:
        return any(wait.partition(":")[0] in PERSONS for wait in view.waits)
    return view.status is Status.PAUSED


def begun(said: Started) -> RunView:
    """Return the view of a run that was just started."""
    return RunView(
        said.function,
        said.version,
        Status.QUEUED,
        said.seed,
        said.at,
        said.at,
        said.labels,
        said.queue,
        said.priority,
        said.parent,
        said.origin,
        said.origin_sequence,
        queued=said.at,
        inputs=said.inputs,
        key=said.key,
    )


def fold(view: RunView, type: str, said: Payload) -> RunView:
    """
    Return the view after one more event.

    Raises:
        RuntimeError: the table does not allow the event; a fault of ours, or of the journal.
    """
    if type in ARRIVALS:
        after = _with(view, inbox=view.inbox + 1, updated=getattr(said, "at", view.updated))
        if isinstance(said, Pausing):
            after = _with(after, pausing=True, why=said.reason, by=said.by)
        return after
    if isinstance(said, StepSucceeded):
        return view if said.mark is None else _with(view, mark=said.mark, updated=said.at)
    changes = CHANGES.get(type)
    if changes is None:
        return view
    status = changes.get(view.status)
    if status is None:
        raise RuntimeError(f"{type} does not follow {view.status}")
    return _FOLDS[type](_with(view, status=status, updated=said.at), said)  # type: ignore[attr-defined]


def _with(view: RunView, **fields: Any) -> RunView:
    return msgspec.structs.replace(view, **fields)


def _resting(view: RunView, **fields: Any) -> RunView:
    """Return a view without what belonged to the status before."""
    return _with(view, **({"waits": [], "why": "", "by": ""} | fields))


_FOLDS: Final[dict[str, Callable[[RunView, Any], RunView]]] = {
    "run.dispatched": lambda view, said: _with(
        view, waits=[], attempt=said.attempt, expected="", asked=""
    ),
    "run.waiting": lambda view, said: _resting(view, waits=said.waits),
    "run.diverged": lambda view, said: _resting(
        view, waits=["diverged:" + said.asked], expected=said.expected, asked=said.asked
    ),
    "run.queued": lambda view, said: _resting(view, why=said.cause, queued=said.at),
    "run.paused": lambda view, said: _resting(view, why=said.reason, by=said.by, pausing=False),
    "run.resumed": lambda view, said: _resting(
        view,
        by=said.by,
        pausing=False,
        queued=said.at,
        version=view.version if said.version is None else said.version,
    ),
    "run.cancelling": lambda view, said: _resting(
        view, why=said.reason, by=said.by, mode=said.mode
    ),
    "run.succeeded": lambda view, said: _resting(
        view, result=said.result, blob=said.blob, ended=said.at
    ),
    "run.failed": lambda view, said: _resting(view, error=said.error, ended=said.at),
    "run.cancelled": lambda view, said: _resting(
        view,
        why=said.reason or view.why,
        by=said.by or view.by,
        ended=said.at,
    ),
}


def wait_ended_by(type: str, said: Payload) -> str:
    """Return the wait that an arrival ends, as it stands in `waits`; empty if none."""
    match said:
        case Answered():
            return f"question:{said.id}"
        case TimerFired():
            return said.wait
        case SignalReceived():
            return f"signal:{said.name}"
        case ChildEnded():
            return f"child:{said.id}"
        case StepResolved():
            return f"uncertain_effect:{said.name}#{said.n}"
        case _:
            return ""


Said = tuple[str, Payload]


def arrive(view: RunView, type: str, said: Payload, at: float) -> tuple[list[Said], RunView]:
    """Return what to append when something arrives, and the view: who waited for it is queued."""
    events: list[Said] = [(type, said)]
    after = fold(view, type, said)
    wait = wait_ended_by(type, said)
    if after.status is Status.WAITING and wait in after.waits:
        queued = Queued(at, wait)
        events.append(("run.queued", queued))
        after = fold(after, "run.queued", queued)
    return events, after


def check_change(run_id: str, view: RunView, type: str, action: str) -> None:
    """
    Return if an event may follow.

    Raises:
        RunStateError: it may not; names status, action, reason and limit.
    """
    if view.status not in CHANGES[type]:
        allowed = ", ".join(sorted(CHANGES[type]))
        over = "a run that ended does not change any more" if view.is_terminal else ""
        raise RunStateError(
            run_id=run_id,
            state=view.status.value,
            action=action,
            reason=over or f"only a run that is one of [{allowed}] can be",
        )


class Retry(msgspec.Struct, frozen=True):
    """
    How often a step is tried, and when again.

    Attributes:
        attempts: how often at most, crashes included.
        backoff: seconds before the second attempt.
        factor: by which the pause grows with each attempt.
        longest: seconds no pause exceeds.
        jitter: share of the pause that is left to chance, from 0 to 1.
        on_exhausted: `fail` gives up with an error, `pause` lets the run rest until it is resumed.
    """

    attempts: int = 3
    backoff: float = 1.0
    factor: float = 2.0
    longest: float = 300.0
    jitter: float = 0.1
    on_exhausted: Literal["fail", "pause"] = "fail"

    def __post_init__(self) -> None:
        """
        Refuse what cannot work.

        Raises:
            InvalidValueError: a number is out of range.
        """
        if self.attempts < 1:
            raise InvalidValueError(what="attempts", reason=f"is {self.attempts}, at least 1")
        if self.backoff < 0 or self.longest < 0 or self.factor < 1:
            raise InvalidValueError(what="backoff", reason="pauses are not negative and not less")
        if not 0 <= self.jitter <= 1:
            raise InvalidValueError(what="jitter", reason=f"is {self.jitter}, 0 to 1")

    def pause(self, attempt: int, chance: float) -> float:
        """Return the seconds after a failed attempt; `chance` is a number from 0 to 1."""
        pause = min(self.backoff * self.factor ** min(attempt - 1, 64), self.longest)
        return pause * (1 + self.jitter * (2 * chance - 1))


class Verdict(msgspec.Struct, frozen=True):
    """
    What became of an uncertain step: what a resolver or a person says.

    Attributes:
        kind: `done` takes `value` as its result, `failed` lets it fail, `again` runs it again.
        value: its result.
        reason: why it failed.
    """

    kind: Literal["done", "failed", "again"]
    value: Any = None
    reason: str = ""


def encode_view(view: RunView) -> bytes:
    """Return a view as it is stored."""
    return msgspec.msgpack.encode(view)


def decode_view(value: bytes) -> RunView:
    """
    Return a stored view.

    Raises:
        DecodeError: it was written by something else.
    """
    return codec.decode_as(value, RunView, "run")
