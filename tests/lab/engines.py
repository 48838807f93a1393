"""
A program of rule engines for the crash lab: many small ones, crashed at a random operation.

By the seed it makes cases, each with rules of its own, and a script of requests; it works on all
of them in turns, makes snapshots in between, and notes what was answered. Killed anywhere and
started again it compares what came back, and goes on until all scripts are at their end.

The comparison: each case is played again from its first request in one memory that never
crashed, taking the snapshots that the journal says; then every request has to have fired the
same rules on the same facts in the same order and left the same facts behind, and the two
memories are equal in everything that can be seen, after every crash and at the end.
"""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from random import Random
from typing import Any, Final, NamedTuple

import msgspec

from holdfast import Runtime
from holdfast.adapters.clips import ClipsEngine, Hands
from holdfast.core import codec
from holdfast.core.clock import StoreTime
from holdfast.core.engine import REBASED, REQUESTED, Rebased, Request, seed_of, stream_of
from holdfast.core.errors import NotFoundError
from holdfast.core.refusal import EvaluationError, NotCapturedError
from holdfast.runtime.engines.attached import AttachedEngine
from holdfast.runtime.engines.snapshot import Cadence
from holdfast.runtime.engines.turn import a_turn
from holdfast.testing.trials.trial import Lab
from tests.lab.rulesets import SUITES, play, rules_of, state_of

CASES: Final = 18
_REQUESTS: Final = (3, 9)
_AT_ONCE: Final = 6
_GO_ON: Final = 3
_SNAPSHOT: Final = 0.3
_NOW: Final = StoreTime("reference", 1.0)
_BY_HAND: Final = Cadence(requests=10**6, seconds=1e9, idle=1e9, on_close=False, journal=True)


class Played(NamedTuple):
    """A request, and whether a snapshot was taken behind it."""

    request: Request
    marked: bool


class Case:
    """One engine and its script."""

    def __init__(self, seed: int, number: int) -> None:
        """Draw it."""
        self.name = f"c{number}"
        self.suite = SUITES[number % len(SUITES)]
        self.seed = f"{seed}/{number}"
        rng = Random(self.seed)
        self.engine = ClipsEngine(rules_of(rng, self.suite), functions={"ask": self._ask})
        self.requests = rng.randint(*_REQUESTS)
        self._asked = Random(f"{self.seed}/asked")

    def _ask(self) -> int:
        return self._asked.randrange(3)

    def work(self, hands: Hands, number: int) -> list[str]:
        """Do the request of a number."""
        return play(hands, f"{self.seed}/{number}", self.suite)

    def wants_snapshot(self, number: int) -> bool:
        """Return whether one is made behind the request of a number."""
        return Random(f"{self.seed}/{number}/snapshot").random() < _SNAPSHOT


class Uncrashed:
    """A case in a memory that nobody crashed; it is played on as far as the journal goes."""

    def __init__(self, case: Case) -> None:
        """Begin at its beginning."""
        self._case = case
        self._memory = case.engine.fresh()
        self._played: list[Played] = []

    def follow(self, journal: list[Played]) -> list[Any]:
        """Do what the journal says behind what is done already; return what can be seen then."""
        played, before = self._played, len(self._played)
        if played and journal[before - 1 : before] == [played[-1]._replace(marked=True)]:
            if not played[-1].marked:
                self._rebase()  # There is a snapshot of it by now.
            played = [*played[:-1], journal[before - 1]]
        assert played == journal[:before], f"{self._case.name}: its journal is not what it was"
        for number, (request, marked) in enumerate(journal[before:], before):
            self._play(number, request)
            if marked:
                self._rebase()
        self._played = journal
        return state_of(self._memory)

    def _play(self, before: int, request: Request) -> None:
        case, memory = self._case, self._memory
        again = msgspec.structs.replace(request, operations=[], heard=[])
        # What functions answered is outside; everything else is played, not redone.
        memory.begin(seed_of(stream_of(case.name, ()), before), _NOW, 0.0)
        memory.voices.replay(request.heard)
        case.work(memory.hands, int(request.id))
        done = memory.end()
        assert done.agrees(again), f"{case.name} ({case.suite}): request {request.id} differs"
        assert done.operations == request.operations

    def _rebase(self) -> None:
        parts = [part for part in self._memory.capture() if part]
        self._memory.close()
        self._memory = self._case.engine.fresh()
        for _ in self._memory.restore(parts):
            pass


@lru_cache(2 * CASES)
def case_of(seed: int, number: int) -> Case:
    """Return a case; a process that works and compares makes its rules once."""
    return Case(seed, number)


@lru_cache(2 * CASES)
def uncrashed(seed: int, number: int) -> Uncrashed:
    """Return the other memory of a case; a process that compares more than once goes on with it."""
    return Uncrashed(case_of(seed, number))


def prepare(argument: Mapping[str, Any]) -> None:
    """Make the cases of a seed once, in the process that forks all others."""
    for number in range(CASES):
        uncrashed(argument["seed"], number)


async def work(lab: Lab) -> None:
    """Compare what came back, if this is not the first life, and play all scripts to their end."""
    async with lab.open(flush_interval=3600.0) as rt:
        for number in range(CASES):
            case = case_of(lab.seed, number)
            await rt.engines.attach(case.name, case.engine, cadence=_BY_HAND)
        room = asyncio.Semaphore(_AT_ONCE)
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(CASES):
                    group.create_task(_live(lab, rt, number, room))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # It says what is wrong.


async def _live(lab: Lab, rt: Runtime, number: int, room: asyncio.Semaphore) -> None:
    case = case_of(lab.seed, number)
    engine = rt.engines[case.name]
    async with room:
        await _compare(rt, engine, lab.seed, number)
    for request in range(case.requests):
        async with room:
            try:
                answer = await engine.request(case.work, request, id=str(request))
            except EvaluationError:
                continue  # The rules are wrong; the same every time, and nothing was done.
            lab.acknowledged([case.name, request, answer.facts])
            if case.wants_snapshot(request) and not answer.repeated:
                await _snapshot(lab, engine)


async def _snapshot(lab: Lab, engine: AttachedEngine) -> None:
    try:
        await engine.snapshot()
        lab.sometimes("a memory went on from a snapshot")
    except NotCapturedError:
        lab.sometimes("a memory had no snapshot, its journal went on")


async def invariant(rt: Runtime, acknowledged: list[Any], lab: Lab) -> None:
    """Compare every case with one that never crashed."""
    for number in range(CASES):
        case = case_of(lab.seed, number)
        engine = await rt.engines.attach(case.name, case.engine, cadence=_BY_HAND)
        kept = await _compare(rt, engine, lab.seed, number)
        last = 0
        for facts in [facts for name, _, facts in acknowledged if name == case.name]:
            assert facts in kept[max(0, last - 1) :] or facts in kept, (
                f"{case.name}: {facts} is gone"
            )
            last = kept.index(facts)


async def _compare(rt: Runtime, engine: AttachedEngine, seed: int, number: int) -> list[str]:
    """Compare a case with one that never crashed; return what its requests left behind."""
    case = case_of(seed, number)
    journal = await _journal(rt, case)
    if not journal:
        return []
    ids = [request.id for request, _ in journal if request.id]
    assert len(ids) == len(set(ids)), f"{case.name}: done twice: {ids}"
    found = await engine.request(_state)
    with a_turn():  # All engines of a process draw from one generator.
        wanted = uncrashed(seed, number).follow(journal)
    assert found.value == wanted, f"{case.name} ({case.suite}) is another memory"
    return [request.facts.hex() for request, _ in journal]


def _state(hands: Hands) -> Any:
    return state_of(hands.memory)


async def _journal(rt: Runtime, case: Case) -> list[Played]:
    """Return the requests of a case, and whether a snapshot was taken behind each."""
    try:
        events = await rt.history(stream_of(case.name, ())).read(limit=1_000)
    except NotFoundError:
        return []
    marks = {event.data_as(Rebased).sequence for event in events if event.type == REBASED}
    return [
        Played(codec.decode_as(event.payload, Request), event.sequence in marks)
        for event in events
        if event.type == REQUESTED
    ]
