"""
Taking over work in flight as a model, searched exhaustively.

A few runtimes are after one piece of work, in every order there is. Each is up under a lease of
its own; each may die, be silent until its lease ends, rescue a dead one, and itself die or be
silent in the middle of that. The rules are those of `core.ledger` and `core.lease`, the very
functions that the product runs; what a unit expects is written down here as the product says it.

Whatever takes more than one transaction takes more than one act here: a runtime *aims* at a
dead one (reads its lease) and takes that lease later; it *looks* at the work and claims it later.

What must hold is judged by a record of its own, which knows whose the work is in truth:

- whoever changes the work owns it, and of one generation of it one claim is served;
- nobody takes over from a runtime that lives and whose lease has not ended;
- generations grow; an attempt is counted before it is handed out, and none beyond the limit;
- what somebody stopped is claimed by nobody until it is begun anew;
- work of a dead runtime can always be taken over by whoever comes.

`BROKEN_TAKEOVERS` has protocols with a known mistake; each has to be refuted.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from holdfast.core import lease, ledger
from holdfast.core.clock import StoreTime
from holdfast.core.errors import HoldfastError
from holdfast.core.ledger import (
    RESUME,
    EntryRow,
    EntryState,
    Owned,
    Sign,
    Terms,
    decode_row,
    encode_row,
)
from holdfast.core.unit import Fence, GrantLease, LeaseRow, ReleaseLease
from holdfast.testing.orders.model import Searched

__all__ = ["BROKEN_TAKEOVERS", "Limits", "Takeover", "search_takeover"]

KEY: Final = ("work",)
NOW: Final = Sign(0.0, "boot", 0.0)
STORE_NOW: Final = StoreTime("boot", 0.0)
TERMS: Final = Terms(policy=RESUME, attempts=2)
TTL: Final = 1.0


class Runtime(NamedTuple):
    """
    A runtime.

    Attributes:
        alive: its process is there.
        present: it did not say goodbye, as far as the store knows.
        lease: what the store knows of its lease; the end is relative to now.
        aim: whom it thinks dead, and the generation of whose lease it means to take.
        taken: whose lease it took, and under which generation.
        looked: the work as it saw it and means to claim it; empty if it does not.
        has: generation of the work that it believes to have; 0 if none.
    """

    alive: bool
    present: bool
    lease: LeaseRow
    aim: tuple[int, int] | None = None
    taken: tuple[int, int] | None = None
    looked: bytes = b""
    has: int = 0


class State(NamedTuple):
    """
    Everything at one moment.

    Attributes:
        runtimes: all of them.
        row: the work as it is stored; empty if there is none. No row comes twice, so that the
            row says as much as the version of its record.
        stop: generation that somebody asked to stop; 0 if none.
        owner: whose the work is in truth; -1 if nobody's.
        highest: highest generation that was handed out.
        attempts: how often the work was handed out since it was begun.
        stopped: generation that is stopped in truth.
        deaths, silences: how many there were.
    """

    runtimes: tuple[Runtime, ...]
    row: bytes = b""
    stop: int = 0
    owner: int = -1
    highest: int = 0
    attempts: int = 0
    stopped: int = 0
    deaths: int = 0
    silences: int = 0


class Step(NamedTuple):
    """What somebody did, what came of it, and what it broke."""

    act: str
    state: State
    broken: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Takeover:
    """
    The rules under test; by default those of the product.

    Attributes:
        name: what is special about it.
        begun, claimed, verdict: the rules of `core.ledger`.
        proof: a runtime is aimed at only if it is gone or its lease has ended.
        compared: the lease is taken only under the generation that was proven dead.
        fenced: whoever changes work expects its lease; a rescue the one that it took.
        versioned: whoever changes work expects the version it saw.
    """

    name: str = "as shipped"
    begun: Callable[..., EntryRow] = ledger.begun
    claimed: Callable[..., EntryRow] = ledger.claimed
    verdict: Callable[..., EntryState] = ledger.verdict
    proof: bool = True
    compared: bool = True
    fenced: bool = True
    versioned: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How far the search goes; within these limits it leaves out nothing."""

    runtimes: int = 3
    deaths: int = 2
    silences: int = 1
    begins: int = 2


def search_takeover(rules: Takeover | None = None, limits: Limits | None = None) -> Searched:
    """Visit every state that can be reached, breadth first; stop at the first violation."""
    rules, limits = rules or Takeover(), limits or Limits()
    start = State(tuple(_fresh(number) for number in range(limits.runtimes)))
    came_from: dict[State, tuple[State, str] | None] = {start: None}
    level, depth, steps = [start], 0, 0
    while level:
        following: list[State] = []
        for state in level:
            for step in _steps(rules, state, limits):
                steps += 1
                if step.broken:
                    trace = (*_trace(came_from, state), step.act)
                    return Searched(rules.name, len(came_from), steps, depth, step.broken, trace)
                if step.state not in came_from:
                    came_from[step.state] = (state, step.act)
                    following.append(step.state)
        depth += bool(following)
        level = following
    return Searched(rules.name, len(came_from), steps, depth)


def _trace(came_from: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    acts: list[str] = []
    while (found := came_from[state]) is not None:
        state, act = found
        acts.append(act)
    return acts[::-1]


def _steps(rules: Takeover, state: State, limits: Limits) -> Iterator[Step]:
    if broken := _stuck(state):
        yield Step(f"then: {broken}", state, broken)
    for number, runtime in enumerate(state.runtimes):
        if runtime.alive:
            yield from _work(rules, state, limits, number)
            yield from _rescue(rules, state, number)
            if state.deaths < limits.deaths:
                dead = _with(state, number, runtime._replace(alive=False))
                yield Step(f"r{number} dies", dead._replace(deaths=state.deaths + 1))
        if state.silences < limits.silences and runtime.lease.expires_at > 0:
            late = _with(state, number, runtime._replace(lease=_ended(runtime.lease)))
            yield Step(f"the lease of r{number} ends", late._replace(silences=state.silences + 1))
    yield from _stop(state)


# What a runtime does with the work.


def _work(rules: Takeover, state: State, limits: Limits, number: int) -> Iterator[Step]:
    runtime, row = state.runtimes[number], _row(state)
    passes = _passes(runtime.lease, 1, number) or not rules.fenced
    if passes and state.highest < limits.begins:
        yield from _begin(rules, state, number)
    if row is not None and row.state is EntryState.RESUMABLE and not runtime.looked:
        looking = _with(state, number, runtime._replace(looked=state.row))
        yield Step(f"r{number} looks at the work", looking)
    if row is None or not passes:
        return
    if runtime.looked and (runtime.looked == state.row or not rules.versioned):
        yield from _claim(rules, state, number)
    if runtime.has and row.state is EntryState.RUNNING and row.owner.incarnation == str(number):
        if runtime.has == row.generation:
            broken = "" if state.owner == number else "settled by somebody who does not own it"
            over = _stored(state, ledger.settled(row, "done"), owner=-1, stop=0)
            yield Step(f"r{number} settles", _with(over, number, runtime._replace(has=0)), broken)
    elif runtime.has and not rules.versioned:
        yield Step(f"r{number} settles", state, "settled by somebody who was overtaken")


def _begin(rules: Takeover, state: State, number: int) -> Iterator[Step]:
    try:
        row = rules.begun(KEY, _row(state), TERMS, _owned(number), NOW)
    except HoldfastError:
        return
    broken = "" if row.generation > state.highest else "a generation was used again"
    if state.owner not in (-1, number) and not _over(state, state.owner):
        broken = "begun although a living runtime works on it"
    after = _stored(state, row, owner=number, stop=0)
    after = after._replace(highest=row.generation, attempts=1, stopped=0)
    runtime = state.runtimes[number]._replace(has=row.generation, looked=b"")
    yield Step(
        f"r{number} begins generation {row.generation}", _with(after, number, runtime), broken
    )


def _claim(rules: Takeover, state: State, number: int) -> Iterator[Step]:
    runtime, row = state.runtimes[number], _row(state)
    if row is None:
        return
    seen = row if rules.versioned else _as_left(row)
    try:
        claimed = rules.claimed(KEY, seen, _owned(number), NOW)
    except HoldfastError:
        return
    broken = ""
    if state.owner != -1:
        broken = "claimed although somebody else goes on with it"
    elif claimed.generation <= state.highest:
        broken = "a generation was used again"
    elif state.stopped:
        broken = "claimed although it was stopped"
    elif claimed.attempt != state.attempts + 1:
        broken = f"handed out {state.attempts + 1} times, counted {claimed.attempt}"
    elif claimed.attempt > TERMS.attempts:
        broken = "handed out more often than it may be"
    after = _stored(state, claimed, owner=number)
    after = after._replace(highest=claimed.generation, attempts=state.attempts + 1)
    mine = runtime._replace(has=claimed.generation, looked=b"")
    yield Step(
        f"r{number} claims generation {claimed.generation}", _with(after, number, mine), broken
    )


def _as_left(row: EntryRow) -> EntryRow:
    """Return the row as somebody saw it who looked before it was claimed."""
    return replace(row, state=EntryState.RESUMABLE)


def _stop(state: State) -> Iterator[Step]:
    """Let somebody ask for a stop."""
    row = _row(state)
    if row is None or state.stopped:
        return
    if row.state is EntryState.RUNNING:
        asked = state._replace(stop=row.generation, stopped=row.generation)
        yield Step("somebody asks for a stop", asked)
    elif row.state is EntryState.RESUMABLE:
        stopped = ledger.stopped(KEY, row, "", "enough")
        after = _stored(state, stopped)._replace(stopped=row.generation)
        yield Step("somebody stops it", after)


# Rescue.


def _rescue(rules: Takeover, state: State, number: int) -> Iterator[Step]:
    runtime = state.runtimes[number]
    if not _passes(runtime.lease, 1, number):
        return
    if runtime.taken is not None:
        yield from _go_on(rules, state, number, *runtime.taken)
    elif runtime.aim is not None:
        yield from _take(rules, state, number, *runtime.aim)
    else:
        for other, dead in enumerate(state.runtimes):
            if other == number or not dead.present:
                continue
            if rules.proof and _lives(state, dead.lease):
                continue
            aimed = runtime._replace(aim=(other, dead.lease.generation))
            yield Step(f"r{number} takes r{other} for dead", _with(state, number, aimed))


def _take(rules: Takeover, state: State, number: int, other: int, over: int) -> Iterator[Step]:
    runtime, dead = state.runtimes[number], state.runtimes[other]
    row = _granted(dead.lease, over if rules.compared else dead.lease.generation, number)
    missed = _with(state, number, runtime._replace(aim=None))
    if row is None or not dead.present:
        yield Step(f"r{number} does not get the lease of r{other}", missed)
        return
    broken = "" if _over(state, other) else "taken over from a runtime that lives"
    if not broken and _lives(state, dead.lease):
        broken = "taken from a rescuer that lives"
    after = _with(state, other, dead._replace(lease=row))
    mine = runtime._replace(aim=None, taken=(other, row.generation))
    yield Step(f"r{number} takes the lease of r{other}", _with(after, number, mine), broken)


def _go_on(rules: Takeover, state: State, number: int, other: int, held: int) -> Iterator[Step]:
    runtime, dead, row = state.runtimes[number], state.runtimes[other], _row(state)
    mine = runtime._replace(taken=None)
    if rules.fenced and not _passes(dead.lease, held, number):
        yield Step(f"r{number} was overtaken in its rescue", _with(state, number, mine))
        return
    if row is not None and row.state is EntryState.RUNNING and row.owner.incarnation == str(other):
        broken = "" if _over(state, other) else "a living runtime was rescued"
        became = rules.verdict(row, NOW, NOW, stop=state.stop == row.generation)
        after = _stored(state, row.changed(became), owner=-1, stop=0)
        yield Step(f"r{number} finds the work {became}", after, broken)
        return
    mark = dead.lease
    release = ReleaseLease(mark.key, held if rules.fenced else mark.generation)
    free = lease.released(mark, release, mark.incarnation)
    forgotten = _with(state, other, dead._replace(present=False, lease=free))
    yield Step(f"r{number} forgets r{other}", _with(forgotten, number, mine))


# What is true, and what the rules of core say.


def _lives(state: State, row: LeaseRow) -> bool:
    """Return whether the holder of a lease may live, as a neighbour can prove it."""
    if not row.incarnation or lease.expired(row, STORE_NOW):
        return False
    return state.runtimes[int(row.incarnation)].alive


def _over(state: State, number: int) -> bool:
    """Return whether a runtime is dead, or has no right to act any more."""
    runtime = state.runtimes[number]
    return not runtime.alive or not _passes(runtime.lease, 1, number)


def _stuck(state: State) -> str:
    """Say if work of a dead runtime can be taken over by nobody who comes."""
    row = _row(state)
    if row is None or row.state is not EntryState.RUNNING:
        return ""
    owner = state.runtimes[int(row.owner.incarnation)]
    if owner.alive:
        return ""
    if not owner.present:
        return "work of a runtime that nobody looks for"
    newcomer = len(state.runtimes)
    taken = _granted(_ended(owner.lease), 0, newcomer)
    return "" if taken else "nobody can take over from the dead"


def _fresh(number: int) -> Runtime:
    row = lease.granted(None, GrantLease(f"r{number}", TTL, ""), _name(number), STORE_NOW)
    return Runtime(True, True, row)


@cache
def _granted(row: LeaseRow, over: int, number: int) -> LeaseRow | None:
    try:
        return lease.granted(row, GrantLease(row.key, TTL, "", over), _name(number), STORE_NOW)
    except HoldfastError:
        return None


@cache
def _passes(row: LeaseRow, generation: int, number: int) -> bool:
    try:
        lease.check_fence(row, Fence(row.key, generation, _name(number)), STORE_NOW)
    except HoldfastError:
        return False
    return True


def _name(number: int) -> bytes:
    return b"%d" % number


def _owned(number: int) -> Owned:
    return Owned(str(number), number, "", "")


def _ended(row: LeaseRow) -> LeaseRow:
    return LeaseRow(row.key, row.generation, row.incarnation, row.holder, row.domain, 0.0)


def _row(state: State) -> EntryRow | None:
    return _decoded(state.row) if state.row else None


_decoded: Final = cache(decode_row)


def _stored(state: State, row: EntryRow, **changes: Any) -> State:
    return state._replace(row=encode_row(row), **changes)


def _with(state: State, number: int, runtime: Runtime) -> State:
    runtimes = (*state.runtimes[:number], runtime, *state.runtimes[number + 1 :])
    return state._replace(runtimes=runtimes)


# Mistakes.


def _uncounted(key: Any, before: EntryRow, *rest: Any) -> EntryRow:
    row = ledger.claimed(key, before, *rest)
    return replace(row, attempt=before.attempt)


def _forgetful(*arguments: Any, stop: bool) -> EntryState:
    return ledger.verdict(*arguments, stop=False)


def _from_the_start(key: Any, before: EntryRow | None, *rest: Any) -> EntryRow:
    gone = before is not None and before.state is EntryState.SETTLED
    return ledger.begun(key, None if gone else before, *rest)


BROKEN_TAKEOVERS: Final = (
    Takeover(name="death is believed without proof", proof=False),
    Takeover(name="a lease is taken under any generation", compared=False),
    Takeover(name="work is changed without a fence", fenced=False),
    Takeover(name="work is claimed without a version", versioned=False),
    Takeover(name="an attempt is not counted when handed out", claimed=_uncounted),
    Takeover(name="a stop is forgotten at the rescue", verdict=_forgetful),
    Takeover(name="generations begin anew after a settlement", begun=_from_the_start),
)
