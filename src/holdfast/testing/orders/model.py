"""
The lease and fencing protocol as a model, searched exhaustively.

A few workers act on one lease in every order there is. What an act does is not written down
here: the rules of `core.lease`, the very functions that the product runs, decide, so that model
and product cannot drift apart. Around them are the faults of the world: time passes, a wall
clock is set, a process is opened anew but remembers its token, the machine boots, the store is
cloned, and a clone takes the place of the original. Whoever sees that the process of a holder is
gone may take its lease, at once or much later; the proof ends with the opening that found it,
because in another copy the same generation may be somebody else's.

A worker that does nothing while others act is paused; every order includes every pause. `pause`
is the special case in which the paused one does not notice that time passes.

What must hold is judged by a record of its own (`Copy.owner`, `Copy.left`) which knows who was
granted last, in true time:

- at most one grant passes the fence of a store;
- a generation is higher than all before it, and no token is given out twice;
- no write is accepted but the owner's, and before its end;
- nobody takes over before the owner's end, unless it was given back or its process is gone;
- after the longest lease has passed without further faults, whoever comes gets it, and writes.

Searching breadth first, the trace of a violation is a shortest one. `testing.orders.protocol` has
protocols with a known mistake; each has to be refuted, or the search would prove nothing.
Another protocol (a ledger of work in flight) goes in as further rules that yield steps.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from operator import attrgetter
from typing import Final

from holdfast.core.clock import StoreTime
from holdfast.core.errors import HoldfastError
from holdfast.core.unit import Fence, GrantLease, LeaseRow, ReleaseLease, RenewLease
from holdfast.testing.orders.protocol import (
    FENCED,
    JUMP,
    KEY,
    TTL,
    Bounds,
    Copy,
    Protocol,
    State,
    Step,
    Worker,
)

__all__ = ["RULES", "Searched", "search"]


@dataclass(frozen=True, slots=True)
class Searched:
    """
    What a search found.

    Attributes:
        protocol: name of the protocol.
        states: different states that can be reached.
        steps: acts that were tried in them.
        depth: acts to the state that is farthest away.
        broken: what does not hold, or empty.
        trace: a shortest way there.
    """

    protocol: str
    states: int
    steps: int
    depth: int
    broken: str = ""
    trace: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """Return the result in words, with the trace if there is one."""
        counts = f"{self.states} states, {self.steps} steps, {self.depth} deep"
        if not self.broken:
            return f"{self.protocol}: holds; {counts}"
        lines = [f"{number}. {act}" for number, act in enumerate(self.trace, start=1)]
        return "\n  ".join([f"{self.protocol}: {self.broken}; {counts}", *lines])


Rule = Callable[[Protocol, State, Bounds], Iterator[Step]]


def search(protocol: Protocol | None = None, bounds: Bounds | None = None) -> Searched:
    """Visit every state that can be reached, breadth first; stop at the first violation."""
    protocol, bounds = protocol or Protocol(), bounds or Bounds()
    start = State(tuple(Worker(number) for number in range(bounds.workers)))
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    seen = {_outline(start)}
    level, depth, steps = [start], 0, 0
    while level:
        following: list[State] = []
        for state in level:
            for step in _steps(protocol, state, bounds):
                steps += 1
                if step.broken:
                    trace = (*_trace(came_from, state), step.act)
                    return Searched(protocol.name, len(came_from), steps, depth, step.broken, trace)
                outline = _outline(step.state)
                if outline not in seen:
                    seen.add(outline)
                    came_from[step.state] = (state, step.act)
                    following.append(step.state)
        depth += bool(following)
        level = following
    return Searched(protocol.name, len(came_from), steps, depth)


def _steps(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    if broken := _wrong(protocol, state):
        yield Step(f"then: {broken}", state, broken)
    for rule in RULES:
        yield from rule(protocol, state, bounds)


def _trace(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    acts: list[str] = []
    found = came_from[state]
    while found is not None:
        state, act = found
        acts.append(act)
        found = came_from[state]
    return acts[::-1]


# What workers do. A refusal changes nothing, so it is no step.


def grant(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    """Let each worker ask for the lease."""
    if state.grants == bounds.grants:
        return
    for index, worker, copy, over in _who_asks(state):
        row = _granted(protocol, copy.row, worker.incarnation, protocol.now(state), over)
        if row is None:
            continue
        number = state.grants + 1
        token = Fence(KEY, row.generation, row.incarnation)
        broken = ""
        if copy.left > 0 and not (over and _is_orphan(state, copy)):
            broken = "taken from its owner before the end"
        elif row.generation <= copy.highest:
            broken = "a generation was used again"
        elif token in {other.token for other in state.workers}:
            broken = "a token was given out twice"
        trust = TTL if protocol.trusts else 0
        taken = worker._replace(token=token, grant=number, looked=False, trust=trust, proven=0)
        changed = _with(state, index, taken, Copy(row, number, TTL, row.generation))
        yield Step(f"w{index} is granted {_shown(token)}", changed._replace(grants=number), broken)


def prove(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    """Let each worker find that the process of the holder is gone."""
    for index, worker, copy in _at_work(state):
        if copy.row is not None and _is_orphan(state, copy):
            generation = copy.row.generation
            if worker.proven != generation:
                found = _with(state, index, worker._replace(proven=generation), copy)
                yield Step(f"w{index} finds the holder of generation {generation} dead", found)


def renew(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    """Let each worker renew what it believes to hold."""
    for index, worker, copy in _at_work(state):
        token = worker.token
        if token is None:
            continue
        row = _renewed(
            protocol, copy.row, token.generation, worker.incarnation, protocol.now(state)
        )
        if row is not None:
            broken = "" if _rightful(worker, copy) else "renewed by somebody who is not the owner"
            trust = TTL if protocol.trusts else 0
            kept = _with(
                state, index, worker._replace(trust=trust), copy._replace(row=row, left=TTL)
            )
            yield Step(f"w{index} renews {_shown(token)}", kept, broken)


def release(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    """Let each worker give back what it believes to hold."""
    for index, worker, copy in _at_work(state):
        token = worker.token
        if token is None:
            continue
        row = _released(protocol, copy.row, token.generation, worker.incarnation)
        if row is not None and copy.row != row:
            broken = "" if worker.grant == copy.owner else "given back by somebody else"
            done = worker._replace(looked=False, trust=0)
            free = _with(state, index, done, copy._replace(row=row, owner=0, left=0))
            yield Step(f"w{index} gives back {_shown(token)}", free, broken)


def write(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    """Let each worker write, with its token as an expectation."""
    for index, worker, copy in _at_work(state):
        if worker.token is None:
            continue
        name = f"w{index} writes with {_shown(worker.token)}"
        passes = _passes(protocol, copy.row, worker.token, protocol.now(state))
        if protocol.trusts:
            passes = worker.trust > 0
        elif protocol.looks_first:
            if passes and not worker.looked:
                looked = _with(state, index, worker._replace(looked=True), copy)
                yield Step(f"w{index} looks at the fence with {_shown(worker.token)}", looked)
            passes = worker.looked
        if passes:
            broken = "" if _rightful(worker, copy) else "the write of a stale owner was accepted"
            yield Step(name, _with(state, index, worker._replace(looked=False), copy), broken)


# What the world does.


def tick(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    """Let time pass."""
    yield Step("time passes", _later(state, unnoticed_by=None))


def pause(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    """Let time pass while one worker is paused."""
    for index, worker in enumerate(state.workers):
        if worker.trust:
            yield Step(f"time passes, w{index} is paused", _later(state, unnoticed_by=index))


def jump(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    """Set the wall clock ahead, or back."""
    if protocol.by_wall:
        for wall in (0, JUMP):
            if wall != state.wall:
                yield Step(f"the wall clock is set to {wall:+d}", state._replace(wall=wall))


def reopen(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    """Let each worker open the store, or its clone, anew; it remembers its token."""
    if state.openings == bounds.openings:
        # Whoever was fenced may always come back, or nobody could go on after a restore.
        indexes = [n for n, worker in enumerate(state.workers) if worker.place == FENCED]
    else:
        indexes = list(range(len(state.workers)))
    for index in indexes:
        spent = state.openings + (state.workers[index].place != FENCED)
        for place in range(len(state.copies)):
            opened = state.workers[index]._replace(
                incarnation=_fresh(state), place=place, looked=False, proven=0
            )
            changed = _with(state, index, opened, state.copies[place])
            what = ("the store", "the clone")[place]
            yield Step(f"w{index} opens {what} anew", changed._replace(openings=spent))


def boot(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    """Boot the machine: every process is gone, and store time begins again."""
    if state.domain == bounds.boots:
        return
    fresh = _fresh(state)
    workers = tuple(
        worker._replace(incarnation=fresh + index, looked=False, trust=0, proven=0)
        for index, worker in enumerate(state.workers)
    )
    copies = tuple(
        copy._replace(row=_shifted(copy.row, JUMP), owner=0, left=0) for copy in state.copies
    )
    booted = state._replace(workers=workers, copies=copies, domain=state.domain + 1)
    yield Step("the machine boots", booted)


def clone(protocol: Protocol, state: State, bounds: Bounds) -> Iterator[Step]:
    """Copy the directory of the store; or put the copy where the original is."""
    if len(state.copies) == 1:
        if state.clones < bounds.clones:
            cloned = state._replace(copies=state.copies * 2, clones=state.clones + 1)
            yield Step("the store is cloned", cloned)
    else:
        workers = tuple(worker._replace(place=FENCED, looked=False) for worker in state.workers)
        restored = state._replace(workers=workers, copies=state.copies[1:])
        yield Step("the clone takes the place of the store", restored)


RULES: Final[tuple[Rule, ...]] = (
    grant,
    prove,
    renew,
    release,
    write,
    tick,
    pause,
    jump,
    reopen,
    boot,
    clone,
)


# What must hold in a state.


def _wrong(protocol: Protocol, state: State) -> str:
    now = protocol.now(state)
    for copy in state.copies:
        passing = {
            worker.grant
            for worker in state.workers
            if worker.token and _passes(protocol, copy.row, worker.token, now)
        }
        if len(passing) > 1:
            return "two grants pass the fence of one store"
        if not _can_go_on(protocol, _aged(copy.row, TTL), now):
            return "nobody can take the lease although its time has passed"
    return ""


@cache
def _can_go_on(protocol: Protocol, row: LeaseRow | None, now: StoreTime) -> bool:
    """Return whether a newcomer gets the lease and may write."""
    mine = _granted(protocol, row, 99, now)
    if mine is None:
        return False
    return _passes(protocol, mine, Fence(KEY, mine.generation, mine.incarnation), now)


def _is_orphan(state: State, copy: Copy) -> bool:
    """Return whether the lease is held by an opening whose process is gone."""
    holder = b"" if copy.row is None else copy.row.incarnation
    return bool(holder) and holder not in {_name(one.incarnation) for one in state.workers}


def _who_asks(state: State) -> Iterator[tuple[int, Worker, Copy, int]]:
    """Yield who may ask for the lease, as anybody may and with what was proven."""
    for index, worker, copy in _at_work(state):
        yield index, worker, copy, 0
        if worker.proven:
            yield index, worker, copy, worker.proven


def _rightful(worker: Worker, copy: Copy) -> bool:
    return worker.grant == copy.owner and copy.left > 0


# The rules of `core.lease`, each asked once about the same things.


@cache
def _name(incarnation: int) -> bytes:
    return b"incarnation %d" % incarnation


@cache
def _granted(
    protocol: Protocol, row: LeaseRow | None, incarnation: int, now: StoreTime, over: int = 0
) -> LeaseRow | None:
    try:
        return protocol.granted(row, GrantLease(KEY, TTL, "", over), _name(incarnation), now)
    except HoldfastError:
        return None


@cache
def _renewed(
    protocol: Protocol, row: LeaseRow | None, generation: int, incarnation: int, now: StoreTime
) -> LeaseRow | None:
    try:
        return protocol.renewed(row, RenewLease(KEY, generation, TTL), _name(incarnation), now)
    except HoldfastError:
        return None


@cache
def _released(
    protocol: Protocol, row: LeaseRow | None, generation: int, incarnation: int
) -> LeaseRow | None:
    try:
        return protocol.released(row, ReleaseLease(KEY, generation), _name(incarnation))
    except HoldfastError:
        return None


@cache
def _passes(protocol: Protocol, row: LeaseRow | None, token: Fence, now: StoreTime) -> bool:
    try:
        protocol.check_fence(row, token, now)
    except HoldfastError:
        return False
    return True


# States.

_ORDER: Final = attrgetter("grant", "place", "looked", "trust", "proven")


def _at_work(state: State) -> Iterator[tuple[int, Worker, Copy]]:
    """
    Yield who may act.

    An opening whose directory was exchanged or replaced is refused by the driver, which looks
    at the file and at its own incarnation before each commit.
    """
    for index, worker in enumerate(state.workers):
        if 0 <= worker.place < len(state.copies):
            yield index, worker, state.copies[worker.place]


def _outline(state: State) -> tuple[object, ...]:
    """
    Return what is the same for states that differ in names only.

    Workers are alike, and of incarnations only equality matters.
    """
    names: dict[bytes, int] = {b"": 0}
    known = names.setdefault
    parts: list[object] = [state.domain, state.wall, state.grants, state.openings, state.clones]
    for worker in sorted(state.workers, key=_ORDER):
        token = worker.token
        mine = known(_name(worker.incarnation), len(names))
        parts += [worker.place, worker.grant, worker.looked, worker.trust, worker.proven, mine]
        if token is not None:
            parts += [token.generation, known(token.incarnation, len(names))]
    for copy in state.copies:
        row = copy.row
        parts += [copy.owner, copy.left, copy.highest]
        if row is not None:
            holder = known(row.incarnation, len(names))
            parts += [row.generation, holder, row.domain, row.expires_at]
    return tuple(parts)


def _with(state: State, index: int, worker: Worker, copy: Copy) -> State:
    workers = (*state.workers[:index], worker, *state.workers[index + 1 :])
    place = worker.place
    copies = (*state.copies[:place], copy, *state.copies[place + 1 :])
    return state._replace(workers=workers, copies=copies)


def _fresh(state: State) -> int:
    """Return the first number that no opening has had yet, as far as anybody remembers."""
    return 1 + max(worker.incarnation for worker in state.workers)


def _later(state: State, unnoticed_by: int | None) -> State:
    copies = tuple(
        copy._replace(row=_aged(copy.row, 1), left=max(copy.left - 1, 0)) for copy in state.copies
    )
    workers = tuple(
        worker if index == unnoticed_by else worker._replace(trust=max(worker.trust - 1, 0))
        for index, worker in enumerate(state.workers)
    )
    return state._replace(copies=copies, workers=workers)


@cache
def _aged(row: LeaseRow | None, ticks: int) -> LeaseRow | None:
    """Bring the end nearer; how long it is past makes no difference."""
    if row is None or not row.incarnation:
        return row
    return _ending(row, max(row.expires_at - ticks, 0.0))


@cache
def _shifted(row: LeaseRow | None, ticks: int) -> LeaseRow | None:
    """Read the end on a clock that began again."""
    return row if row is None or not row.incarnation else _ending(row, row.expires_at + ticks)


def _ending(row: LeaseRow, end: float) -> LeaseRow:
    return LeaseRow(row.key, row.generation, row.incarnation, row.holder, row.domain, end)


def _shown(token: Fence) -> str:
    return f"generation {token.generation} of {token.incarnation.decode()}"
