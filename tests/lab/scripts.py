"""
What the program of runs does by a seed, and what comes of it if nothing disturbs it.

A `Plan` is a run as plain data: its actions, one after the other, and what is done to it from
outside. `expected` says what it comes to, by reading the actions and by nothing of the product;
so a run that was killed is compared with the uninterrupted one without executing that.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Any, Final, NamedTuple

NARROW: Final = "narrow"
# Ids that would meet each other in a file system, or lead out of it.
IDS: Final = ("..", "a/b", "A/B", "quatre-vingts é")
# They begin with an effect that is under way when the first life ends, and who says what became
# of it.
CUT_SHORT: Final = MappingProxyType({IDS[0]: "person", IDS[2]: "again"})
CANCELLED: Final = ("left alone", "left at work")
# It is held in one step until somebody ends it; the steps behind it are never begun.
HELD: Final = "held#1"
_BUSY: Final = ("step", "held", "step", "step", "step", "step")
KEY: Final = ("bank", "source")
TEXT: Final = "one two three"
DOOMED_ATTEMPTS: Final = 2
_KINDS: Final = ("step", "pair", "ask", "late", "sleep", "signal", "child", "attach", "emit")


class Plan(NamedTuple):
    """
    A run of the program.

    Attributes:
        run_id: its id.
        actions: what it does; the first word of each is what kind of thing that is.
        answers: what a person says to its questions, by number; none to those that are missing.
        queue: in which it waits.
        cancel: when somebody ends it: `running`, `waiting` when it waits for good, or empty.
        mode: how.
        rests: somebody lets it rest once, and go on.
    """

    run_id: str
    actions: list[list[Any]]
    answers: Mapping[int, str] = MappingProxyType({})
    queue: str = ""
    cancel: str = ""
    mode: str = "now"
    rests: bool = False


class Expected(NamedTuple):
    """
    What comes of a run.

    Attributes:
        status: how it ends.
        result: with what.
        steps: what it records, in order; those of one group in any order.
        signals: what it is sent, by name.
        kept: artifacts by name.
        emitted: how many events of its own.
    """

    status: str
    result: list[Any]
    steps: list[set[str]]
    signals: dict[str, list[str]]
    kept: dict[str, bytes]
    emitted: int


def plans_of(seed: int) -> list[Plan]:
    """Return the runs of a seed, without the pipeline."""
    rng = Random(f"runs/{seed}")
    plans = [_drawn(rng, run_id, number) for number, run_id in enumerate(IDS)]
    modes = rng.sample(("now", "after_step"), 2)
    alone = rng.choice(([["ask", "Still there?"]], [["child", 3, True]]))
    endings = (alone, [["ask", "Still there?"]])
    for run_id, when, mode, end in zip(
        CANCELLED, ("waiting", "running"), modes, endings, strict=True
    ):
        kinds = _BUSY if when == "running" else ("step", "pair")
        actions = [_action(rng, kind, number) for number, kind in enumerate(kinds)]
        plans.append(Plan(run_id, actions + end, cancel=when, mode=mode))
    return plans


def _drawn(rng: Random, run_id: str, number: int) -> Plan:
    """Draw a run; over those of a seed, every kind of action comes."""
    kinds = ["step", *_KINDS[number::2], *rng.choices(_KINDS, k=2), "doomed", "once"]
    rng.shuffle(kinds)
    actions = [_action(rng, kind, at) for at, kind in enumerate(kinds)]
    if run_id in CUT_SHORT:
        actions.pop(kinds.index("once"))
        actions.insert(0, ["once", "post", CUT_SHORT[run_id]])
    asked = [action for action in actions if action[0] in ("ask", "late")]
    answers = {
        n: rng.choice(("yes", "no")) for n, action in enumerate(asked, 1) if action[0] == "ask"
    }
    queue = NARROW if number % 2 else ""
    return Plan(run_id, actions, answers, queue=queue, rests=number == 2)


def _action(rng: Random, kind: str, at: int) -> list[Any]:
    match kind:
        case "step":
            effect = rng.choice(("safe", "idempotent"))
            return ["step", rng.choice(("fetch", "sum")), effect, rng.choice((0, 0, 1))]
        case "once":
            return ["once", "post", rng.choice(("done", "again", "person"))]
        case "held":
            return ["held", "held"]
        case "pair":
            return ["pair", f"left{at}", f"right{at}"]
        case "ask" | "late":
            return [kind, f"Number {at}?"]
        case "child":
            return ["child", rng.randrange(100), False]
        case "signal":
            return ["signal", rng.choice(("word", "bell"))]
        case "attach":
            return ["attach", f"file {at}"]
        case "doomed":
            return ["doomed", "break"]
        case _:
            return [kind]


def value_of(run_id: str, step: str) -> str:
    """Return what a step comes to."""
    return f"{step} of {run_id}"


def content_of(run_id: str, name: str) -> bytes:
    """Return what is in an artifact."""
    return f"{name} of {run_id}\n".encode()


def expected(plan: Plan) -> Expected:
    """Return what comes of a run that nobody disturbs."""
    made = Expected("cancelled" if plan.cancel else "succeeded", [], [], {}, {}, 0)
    counts: Counter[str] = Counter()
    for kind, *words in plan.actions:
        value = _Walk(plan, made, counts).do(kind, words)
        made.result.append(value)
        made = made._replace(emitted=made.emitted + (kind == "emit"))
    return made


class _Walk:
    """One action, by the book."""

    def __init__(self, plan: Plan, made: Expected, counts: Counter[str]) -> None:
        self._plan = plan
        self._made = made
        self._counts = counts

    def do(self, kind: str, words: Sequence[Any]) -> Any:
        """Return what an action comes to; note what it records."""
        match kind:
            case "step" | "once" | "held":
                return self._steps([words[0]])[0]
            case "pair":
                return self._steps(words)
            case "ask" | "late":
                self._counts["?"] += 1
                # To a question that is left to its time the answer is no.
                answer = self._plan.answers.get(self._counts["?"], "no")
                return [answer, *self._steps([f"on {answer}"])]
            case "signal":
                sent = self._made.signals.setdefault(words[0], [])
                sent.append(f"{words[0]} {len(sent) + 1}")
                return sent[-1]
            case "child":
                self._counts["/"] += 1
                return words[0] ** 2
            case "attach":
                self._made.kept[words[0]] = content_of(self._plan.run_id, words[0])
                return len(self._made.kept)
            case "doomed":
                self._counts[words[0]] += 1
                return "gave up"
            case _:
                return None

    def _steps(self, names: Sequence[str]) -> list[str]:
        steps: list[str] = []
        for name in names:
            self._counts[name] += 1
            steps.append(f"{name}#{self._counts[name]}")
        self._made.steps.append(set(steps))
        return [value_of(self._plan.run_id, step) for step in steps]


class Way(NamedTuple):
    """
    What the pipeline of a seed does.

    Attributes:
        rounds: how often it goes round its loop.
        answer: what a person says to it.
    """

    rounds: int
    answer: str

    @property
    def fields(self) -> dict[str, Any]:
        """What it knows in the end."""
        words = len(TEXT.split())
        visits = Counter(step.partition("#")[0] for step in self._visited())
        listed = {f"list.{state}": [words] * times for state, times in visits.items()}
        return listed | {"rounds": self.rounds, "answer": self.answer}

    @property
    def steps(self) -> list[set[str]]:
        """What it records, in order; branches in any order."""
        branches = {"fork/left/left#1", "fork/left/left2#1", "fork/right/right2#1"}
        inner = {"fork/right/right/up/up#1", "fork/right/right/down/down#1", "fork/right/right#1"}
        last = [{f"{state}#1"} for state in ("review", self.last)]
        return [{"read#1"}, branches | inner, {"fork#1"}, *self._loop(), *last]

    @property
    def last(self) -> str:
        """The state before the end."""
        return "write" if self.answer == "yes" else "drop"

    def _loop(self) -> Iterator[set[str]]:
        for n in range(1, self.rounds + 1):
            yield {f"check#{n}"}
            if n < self.rounds:
                yield {f"again#{n}"}

    def _visited(self) -> Iterator[str]:
        for group in self.steps:
            for step in group:
                state = step.rpartition("/")[2]
                if state.partition("#")[0] not in ("fork", "right", "review"):
                    yield state


def way_of(seed: int) -> Way:
    """Return what the pipeline of a seed does."""
    rng = Random(f"pipeline/{seed}")
    return Way(rng.randint(1, 3), rng.choice(("yes", "no")))
