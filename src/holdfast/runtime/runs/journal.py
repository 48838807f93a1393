"""
A journal as a run that goes on needs it: read once, taken apart, handed out piece by piece.

What the function asks for again is found by its key: the name of a step and how often that name
was asked for, or the number of a question, a timer, a child. What was found is taken out, so
that what is left at the end, or when the function asks for something new, is what it did before
and does not do any more: it diverged.

Invariant: no query per step; everything a replay needs is in memory after `read_journal`.
"""

from collections import defaultdict
from typing import Final

import msgspec

from holdfast.core.journal import (
    Answered,
    Asked,
    Attached,
    Cancelling,
    ChildEnded,
    ChildStarted,
    Effect,
    Emitted,
    Payload,
    SignalReceived,
    SignalTaken,
    Started,
    StepFailed,
    StepResolved,
    StepStarted,
    StepSucceeded,
    TimerFired,
    TimerSet,
    read_payload,
)
from holdfast.core.run import ARRIVALS, RunView, begun, fold
from holdfast.core.unit import JOURNALS
from holdfast.store.store import Store

PAGE: Final = 5_000
PREFIX: Final = JOURNALS
StepKey = tuple[str, int]
_PROGRESS: Final = (StepSucceeded, StepFailed, Asked, TimerSet, ChildStarted, SignalTaken)


def stream_of(run_id: str) -> str:
    """Return the name of the journal of a run."""
    return PREFIX + run_id


class Trial(msgspec.Struct):
    """
    What is known of a step that is not over.

    Attributes:
        attempts: how often it was begun.
        spent: how often it was begun since somebody last let it try anew.
        failures: how often it failed since then.
        effect: what may be done with it after a crash.
        interrupted: it was begun and nothing says what became of it.
        verdict: what somebody said became of it.
    """

    attempts: int = 0
    spent: int = 0
    failures: int = 0
    effect: Effect = Effect.SAFE
    interrupted: bool = False
    verdict: StepResolved | None = None


class Journal:
    """
    What a journal says.

    Attributes:
        started: how the run began.
        sequence: up to where it was read.
        in_vain: dispatches since anything came of one.
        steps: steps that are over, not asked for yet.
        open: steps that are not over.
        questions: how many were asked.
        asked: questions not asked for again yet, by name and number of that name.
        timers, children, attached, emitted: the same of other things, by number.
        answers, fired, signals, taken, ended: what arrived.
        cancelling: it was asked to end.
    """

    def __init__(self) -> None:
        """Know nothing yet."""
        self.started: Started | None = None
        self.sequence = 0
        self.in_vain = 0
        self.steps: dict[StepKey, StepSucceeded | StepFailed] = {}
        self.open: dict[StepKey, Trial] = {}
        self.asked: dict[StepKey, Asked] = {}
        self.questions = 0
        self.answers: dict[str, Answered] = {}
        self.timers: dict[int, TimerSet] = {}
        self.fired: set[str] = set()
        self.signals: defaultdict[str, list[SignalReceived]] = defaultdict(list)
        self.taken: dict[StepKey, SignalTaken] = {}
        self.handed: dict[str, int] = {}
        self.children: dict[int, ChildStarted] = {}
        self.ended: dict[str, ChildEnded] = {}
        self.attached: dict[int, Attached] = {}
        self.emitted: dict[int, Emitted] = {}
        self.cancelling: Cancelling | None = None

    def take(self, type: str, said: Payload) -> None:
        """Take in one event."""
        match said:
            case StepSucceeded() | StepFailed():
                self._step_over(said)
            case StepStarted():
                trial = self.open.setdefault((said.name, said.n), Trial())
                trial.spent += said.attempt - trial.attempts
                trial.attempts, trial.effect, trial.interrupted = said.attempt, said.effect, True
                trial.verdict = None  # It was about the attempt before this one.
            case StepResolved():
                self.open.setdefault((said.name, said.n), Trial()).verdict = said
            case Started():
                self.started = said
            case Asked():
                self.asked[said.name, said.nth or said.n] = said
                self.questions = max(self.questions, said.n)
            case TimerSet():
                self.timers[said.n] = said
            case ChildStarted():
                self.children[said.n] = said
            case Attached():
                self.attached[said.n] = said
            case Emitted():
                self.emitted[said.n] = said
            case SignalTaken():
                self.taken[said.name, said.n] = said
                self.handed[said.name] = said.index + 1
            case _:
                self._take_other(type, said)
        if isinstance(said, _PROGRESS):
            self.in_vain = 0

    @property
    def has_asked(self) -> bool:
        """Whether the run ever asked a question; it may have if this was not read."""
        return self.started is None or self.questions > 0

    def arrived(self, type: str, said: Payload) -> None:
        """Take in what others put in while the run went on."""
        match said:
            case Answered():
                self.answers[said.id] = said
            case TimerFired():
                self.fired.add(said.wait)
            case SignalReceived():
                self.signals[said.name].append(said)
            case ChildEnded():
                self.ended[said.id] = said
            case StepResolved():
                # Nobody waits for it if the resolver of this execution said it.
                if (trial := self.open.get((said.name, said.n))) is not None:
                    trial.verdict = said
            case Cancelling():
                self.cancelling = said
            case _:
                return

    def blocks(self, name: str, n: int) -> bool:
        """Return whether a step was done by the run this one was forked from."""
        blocked = self.started.blocked if self.started is not None else ()
        return bool(blocked) and f"{name}#{n}" in blocked

    @property
    def left(self) -> str:
        """The first thing that was done and not asked for again; empty if there is none."""
        for name, n in self.steps:
            return f"step {name}#{n}"
        for name, n in self.asked:
            return f"question {name}#{n}" if name else f"question {n}"
        for n in self.timers:
            return f"sleep {n}"
        for name, n in self.taken:
            return f"signal {name}#{n}"
        for n in self.children:
            return f"child {n}"
        for n in self.attached:
            return f"artifact {n}"
        for n in self.emitted:
            return f"emit {n}"
        for name, n in self.open:
            return f"step {name}#{n}"
        return ""

    def _step_over(self, said: StepSucceeded | StepFailed) -> None:
        key = (said.name, said.n)
        if isinstance(said, StepSucceeded) or said.final:
            self.open.pop(key, None)
            self.steps[key] = said
            return
        trial = self.open.setdefault(key, Trial())
        trial.spent += said.attempt - trial.attempts
        trial.attempts, trial.effect, trial.interrupted = said.attempt, said.effect, False
        trial.failures += 1
        self.fired.discard(f"retry:{said.name}#{said.n}")

    def _take_other(self, type: str, said: Payload) -> None:
        if type == "run.dispatched":
            self.in_vain += 1
        elif type in ("run.waiting", "run.queued", "run.paused"):
            self.in_vain = 0
        elif type == "run.resumed":
            for trial in self.open.values():
                trial.failures = trial.spent = 0
        self.arrived(type, said)


async def read_journal(store: Store, run_id: str) -> Journal:
    """
    Return a whole journal.

    Raises:
        DamagedError: an event is damaged.
        DecodeError: an event is not one of a journal.
    """
    journal = Journal()
    stream = stream_of(run_id)
    while True:
        head, page = await store.events(stream, journal.sequence, PAGE)
        for row in page:
            journal.take(row.type, read_payload(row.type, row.payload))
        if page:
            journal.sequence = page[-1].sequence
        # A page may end before damage; only the head says where the end is.
        if head is None or journal.sequence >= head.last_sequence:
            return journal


async def read_arrivals(store: Store, run_id: str, journal: Journal) -> list[tuple[str, Payload]]:
    """Bring a journal up to date with what others put in, and return that."""
    found: list[tuple[str, Payload]] = []
    stream = stream_of(run_id)
    while True:
        head, page = await store.events(stream, journal.sequence, PAGE)
        for row in page:
            journal.sequence = row.sequence
            if row.type in ARRIVALS or row.type == "run.cancelling":
                said = read_payload(row.type, row.payload)
                journal.arrived(row.type, said)
                found.append((row.type, said))
        if head is None or journal.sequence >= head.last_sequence:
            return found


async def folded(store: Store, run_id: str) -> RunView | None:
    """
    Return the view of a run as its journal says; None if that does not begin with a start.

    Raises:
        DamagedError: an event is damaged.
        RuntimeError: an event does not follow the ones before it.
    """
    view: RunView | None = None
    after, stream = 0, stream_of(run_id)
    while True:
        head, page = await store.events(stream, after, PAGE)
        for row in page:
            said = read_payload(row.type, row.payload)
            if isinstance(said, Started):
                view = begun(said)
            elif view is not None:
                view = fold(view, row.type, said)
            after = row.sequence
        if head is None or after >= head.last_sequence:
            return view
