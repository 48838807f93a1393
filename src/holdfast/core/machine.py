"""
Machines: a table of states, what is done in each, and what may come next.

    ingest = Machine("ingest", initial="read", final={"done"})

    @ingest.on("read", to="extract")
    async def read(step, ctx): ...

    @ingest.on("extract", to={"some": "write", "none": "done"})
    async def extract(step, ctx): return "some"

The table decides and does nothing: `next` names the state that follows, from the state that is
done, the outcome its handler returned and the fields. Whoever runs a machine journals that
decision with the work, so it is taken once.

Invariants of a checked machine: every state is declared and can be reached; from every state a
final one can be reached; every way of a branch leads to its join; what `next` returns was
declared for that state.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from holdfast.core import codec, drawing
from holdfast.core.context import Context, Derived
from holdfast.core.errors import InvalidValueError
from holdfast.core.key import check_word
from holdfast.core.refusal import InvalidMachineError, NoTransitionError

Handler = Callable[..., Any]
"""Async or plain; called with the step and the context; returns an outcome or None."""
H = TypeVar("H", bound=Handler)
Guard = Callable[[Context], bool]
STEP_BUDGET: Final = 10_000
"""Transitions of one run, unless the machine says otherwise."""


@dataclass(frozen=True, slots=True)
class Transition:
    """
    One way on from a state.

    Attributes:
        to: the state that comes next.
        outcome: taken only if the handler returned this; None: if it returned None.
        when: taken only if this holds for the fields; a function of them alone.
        label: what drawings write beside it instead of the outcome.
    """

    to: str
    outcome: str | None = None
    when: Guard | None = None
    label: str = ""

    @property
    def caption(self) -> str:
        """What a drawing writes beside the arrow."""
        guard = f"[{getattr(self.when, '__name__', 'guard')}]" if self.when else ""
        return self.label or " ".join(part for part in (self.outcome or "", guard) if part)


Targets = str | Transition | Mapping[str, str] | Sequence[Transition]


@dataclass(frozen=True, slots=True)
class Question:
    """
    What a state asks before it goes on.

    Attributes:
        text: the question, or a function of the fields that returns it.
        choices: what can be answered; each is an outcome.
        timeout: seconds to wait, None for ever.
        default: the answer when the time is over.
        into: field that gets the answer, None for none.
    """

    text: str | Callable[[Context], str]
    choices: tuple[str, ...]
    timeout: float | None = None
    default: str | None = None
    into: str | None = None


@dataclass(frozen=True, slots=True)
class Branches:
    """
    What a state does side by side.

    Attributes:
        names: the first state of each branch; the order in which their changes are merged.
        join: the state at which every branch ends, and which comes next.
        on_failure: `cancel` ends the other branches when one fails, `await` lets them end.
        merge: changes the context from the branches' results, instead of the union of what
            they changed; a function of its arguments alone.
    """

    names: tuple[str, ...]
    join: str
    on_failure: Literal["cancel", "await"] = "await"
    merge: Callable[[Context, dict[str, dict[str, Any]]], None] | None = None


@dataclass(frozen=True, slots=True)
class State:
    """
    One row of the table.

    Attributes:
        name: its name; also the name of its step.
        transitions: ways on; the first that fits is taken.
        handler: what is done here, None if it only asks or forks.
        question: what is asked here.
        branches: what runs side by side here.
        failed: the state that comes next when all attempts failed; None parks the run.
        options: options of its step: `effect`, `attempts`, `retry`, `timeout`, `resolver`.
    """

    name: str
    transitions: tuple[Transition, ...] = ()
    handler: Handler | None = None
    question: Question | None = None
    branches: Branches | None = None
    failed: str | None = None
    options: Mapping[str, Any] | None = None

    @property
    def targets(self) -> tuple[str, ...]:
        """Every state that can come next, branches first."""
        forked = (*self.branches.names, self.branches.join) if self.branches else ()
        ways = tuple(transition.to for transition in self.transitions)
        return (*forked, *ways, *((self.failed,) if self.failed else ()))


class Machine:
    """
    A table of states.

    Attributes:
        name: its name; part of the id of every run of it.
        initial: the state it begins with.
        final: the states in which it is finished.
        budget: transitions one run may make; a loop that does not end fails there.
        on_failure: whether a run that cannot go on pauses or fails.
        states: the table, by name, in the order of declaration.
        derived: fields that are rebuilt instead of stored.
    """

    def __init__(
        self,
        name: str,
        *,
        initial: str,
        final: Iterable[str],
        budget: int = STEP_BUDGET,
        on_failure: Literal["pause", "fail"] = "pause",
    ) -> None:
        """
        Take the ends of the table; states are declared with `on`, `ask` and `parallel`.

        Args:
            name: its name.
            initial: the state it begins with.
            final: one state or several.
            budget: transitions one run may make.
            on_failure: what a run does in a state whose attempts all failed and that declares
                no way on from there: `pause` until it is resumed, or `fail` for good.

        Raises:
            InvalidValueError: a name is not a short word, or the budget is not positive.
        """
        self.name = check_word("machine", name)
        self.initial = _name(initial)
        self.final = frozenset(map(_name, [final] if isinstance(final, str) else final))
        if budget < 1:
            raise InvalidValueError(what="budget", reason=f"is {budget}, at least 1")
        self.budget = budget
        self.on_failure = on_failure
        self.states: dict[str, State] = {}
        self.derived: dict[str, Derived] = {}

    def on(
        self, state: str, *, to: Targets, failed: str | None = None, **options: Any
    ) -> Callable[[H], H]:
        """
        Declare what is done in a state; decorates its handler.

        Args:
            state: name of the state.
            to: the next state; or next states by outcome; or transitions with guards.
            failed: the next state when all attempts failed; None parks the run until it is
                retried.
            options: `effect`, `retry`, `timeout`, `resolver`, as for a step of a run; `attempts`
                instead of a retry.

        Raises:
            InvalidMachineError: the state is declared already.
        """

        def declare(handler: H) -> H:
            self._add(State(state, _ways(to), handler, failed=failed, options=options))
            return handler

        return declare

    def ask(
        self,
        state: str,
        text: str | Callable[[Context], str],
        *,
        to: Mapping[str, str],
        timeout: float | None = None,
        default: str | None = None,
        into: str | None = None,
        then: Handler | None = None,
    ) -> None:
        """
        Declare a state that waits for an answer; each choice is a way on.

        Args:
            state: name of the state.
            text: the question, or a function of the fields.
            to: next states by answer.
            timeout: seconds to wait; None for ever.
            default: the answer when the time is over.
            into: field that gets the answer.
            then: what is done with the answer, as a handler; its outcome is the way on.

        Raises:
            InvalidMachineError: the state is declared already.
            InvalidValueError: the default is no choice, or there is a time and no default.
        """
        if (default is None) != (timeout is None) or (default and default not in to):
            reason = "a time needs a default and a default a time; it is one of the choices"
            raise InvalidValueError(what=f"question of {state}", reason=reason)
        question = Question(text, tuple(to), timeout, default, into)
        self._add(State(state, _ways(to), then, question))

    def parallel(
        self,
        state: str,
        branches: Iterable[str],
        *,
        join: str,
        on_failure: Literal["cancel", "await"] = "await",
        merge: Callable[[Context, dict[str, dict[str, Any]]], None] | None = None,
    ) -> None:
        """
        Declare a state whose branches run side by side; each has a copy of the fields.

        Args:
            state: name of the state.
            branches: first state of each branch.
            join: the state every branch leads to; it comes next, once, after all of them.
            on_failure: whether a failed branch cancels the others or lets them end.
            merge: gets the context and the final fields of each branch.

        Raises:
            InvalidMachineError: the state is declared already.
        """
        self._add(State(state, branches=Branches(tuple(branches), join, on_failure, merge)))

    def derive(
        self, name: str, of: Iterable[str] = ()
    ) -> Callable[[Callable[[Context], Any]], Callable[[Context], Any]]:
        """
        Declare a field that is rebuilt instead of stored; decorates the function that builds it.

        Args:
            name: name of the field.
            of: the stored fields it is made of; it is built anew after one of them changed.
        """

        def declare(build: Callable[[Context], Any]) -> Callable[[Context], Any]:
            self.derived[name] = Derived(name, build, tuple(of))
            return build

        return declare

    def _add(self, state: State) -> None:
        _name(state.name)
        if state.name in self.states:
            raise InvalidMachineError(
                machine=self.name, faults=(f"state {state.name!r} is declared twice",)
            )
        self.states[state.name] = state

    def next(self, state: str, outcome: str | None, fields: Context) -> str:
        """
        Return the state that follows.

        Args:
            state: the state that is done.
            outcome: what its handler returned.
            fields: the fields after it.

        Raises:
            NoTransitionError: nothing was declared for that.
        """
        row = self.states[state]
        if row.branches is not None:
            return row.branches.join
        for way in row.transitions:
            if way.outcome == outcome and (way.when is None or way.when(fields)):
                return way.to
        raise NoTransitionError(machine=self.name, state=state, outcome=str(outcome))

    def mermaid(self) -> str:
        """Return the machine as a Mermaid state diagram."""
        return drawing.mermaid(self)

    def dot(self) -> str:
        """Return the machine as a DOT digraph."""
        return drawing.dot(self)

    def check(self) -> None:
        """
        Say what is wrong with the table.

        Raises:
            InvalidMachineError: with every fault.
        """
        faults = tuple(_faults(self))
        if faults:
            raise InvalidMachineError(machine=self.name, faults=faults)

    @property
    def fingerprint(self) -> str:
        """A digest of the table: names, ways on, branches; not of the code of the handlers."""
        rows = [[name, *_shape(self.states[name])] for name in sorted(self.states)]
        whole = [self.name, self.initial, sorted(self.final), rows]
        return codec.content_digest(codec.encode(whole)).hex()[:16]


def _shape(state: State) -> list[Any]:
    ways = [[way.outcome, way.to, way.when is not None] for way in state.transitions]
    fork = state.branches
    forked = [list(fork.names), fork.join, fork.on_failure] if fork else []
    asked = list(state.question.choices) if state.question else []
    return [ways, forked, asked, state.failed]


def _ways(to: Targets) -> tuple[Transition, ...]:
    if isinstance(to, str):
        return (Transition(to),)
    if isinstance(to, Transition):
        return (to,)
    if isinstance(to, Mapping):
        return tuple(Transition(target, outcome) for outcome, target in to.items())
    return tuple(to)


def _name(name: str) -> str:
    check_word("state", name)
    if "/" in name:
        raise InvalidValueError(what="state", reason="must not contain '/'")
    return name


def _faults(machine: Machine) -> Iterable[str]:
    yield from _unknown(machine)
    yield from _shadowed(machine)
    yield from _lost(machine)
    for state in machine.states.values():
        if state.branches is not None:
            yield from _astray(machine, state, state.branches)


def _unknown(machine: Machine) -> Iterable[str]:
    known = machine.final | machine.states.keys()
    if not machine.final:
        yield "no final state"
    for name in sorted(machine.final & machine.states.keys()):
        yield f"final state {name!r} has something to do"
    if machine.initial not in machine.states:
        yield f"initial state {machine.initial!r} is not declared"
    for state in machine.states.values():
        for target in state.targets:
            if target not in known:
                yield f"state {state.name!r} leads to {target!r}, which is not declared"
        if not state.targets:
            yield f"state {state.name!r} leads nowhere"


def _shadowed(machine: Machine) -> Iterable[str]:
    for state in machine.states.values():
        open_for: set[str | None] = set()
        for way in state.transitions:
            if way.outcome in open_for:
                yield f"state {state.name!r}: the way to {way.to!r} is never taken"
            if way.when is None:
                open_for.add(way.outcome)


def _lost(machine: Machine) -> Iterable[str]:
    forward = {name: set(state.targets) for name, state in machine.states.items()}
    found = _reach({machine.initial}, forward)
    for name in sorted((machine.final | machine.states.keys()) - found):
        yield f"state {name!r} cannot be reached"
    backward: dict[str, set[str]] = {}
    for name, targets in forward.items():
        for target in targets:
            backward.setdefault(target, set()).add(name)
    ends = _reach(set(machine.final), backward)
    for name in sorted(machine.states.keys() - ends):
        yield f"from state {name!r} no final state can be reached"


def _astray(machine: Machine, state: State, fork: Branches) -> Iterable[str]:
    if not fork.names or len(set(fork.names)) < len(fork.names):
        yield f"parallel state {state.name!r} needs branches with different first states"
    forward = {name: set(row.targets) for name, row in machine.states.items()}
    forward[fork.join] = set()
    for branch in fork.names:
        inside = _reach({branch}, forward)
        if branch == fork.join:
            yield f"branch {branch!r} of {state.name!r} is its join"
        elif fork.join not in inside:
            yield f"branch {branch!r} of {state.name!r} never reaches {fork.join!r}"
        for name in sorted(inside & (machine.final - {fork.join})):
            yield f"branch {branch!r} of {state.name!r} ends in {name!r}, not in its join"
        if state.name in inside:
            yield f"branch {branch!r} of {state.name!r} leads back into it"


def _reach(begin: set[str], ways: Mapping[str, set[str]]) -> set[str]:
    found, ahead = set(begin), list(begin)
    while ahead:
        for target in ways.get(ahead.pop(), set()):
            if target not in found:
                found.add(target)
                ahead.append(target)
    return found
