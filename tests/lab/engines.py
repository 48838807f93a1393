"""
A program of rule engines for the crash lab: many small ones, crashed at a random operation.

By the seed it makes cases, each with rules of its own, and a script of requests; it works on all
of them in turns, makes snapshots in between, and notes what was answered. Killed anywhere and
started again it goes on until all scripts are at their end.

The invariant is a comparison: each case is played again from its first request in one memory
that never crashed, taking the snapshots that the journal says; then every request has to have
fired the same rules on the same facts in the same order and left the same facts behind, and at
the end the two memories are equal in everything that can be seen, and go on alike.
"""

import asyncio
from collections.abc import Mapping
from functools import lru_cache
from random import Random
from typing import Any, Final

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
from holdfast.testing.trials.trial import Lab
from tests.lab.rulesets import SUITES, play, rules_of, state_of

CASES: Final = 18
_REQUESTS: Final = (3, 9)
_AT_ONCE: Final = 6
_GO_ON: Final = 3
_SNAPSHOT: Final = 0.3
_NOW: Final = StoreTime("reference", 1.0)
_BY_HAND: Final = Cadence(requests=10**6, seconds=1e9, idle=1e9, on_close=False, journal=True)
FAILED: Final = "failed"


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


@lru_cache(2 * CASES)
def case_of(seed: int, number: int) -> Case:
    """Return a case; a process that works and compares makes its rules once."""
    return Case(seed, number)


def prepare(argument: Mapping[str, Any]) -> None:
    """Make the cases of a seed once, in the process that forks all others."""
    for number in range(CASES):
        case_of(argument["seed"], number)


async def work(lab: Lab) -> None:
    """Play all scripts to their end."""
    cases = [case_of(lab.seed, number) for number in range(CASES)]
    async with lab.open(flush_interval=3600.0) as rt:
        for case in cases:
            await rt.engines.attach(case.name, case.engine, cadence=_BY_HAND)
        room = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for case in cases:
                group.create_task(_play(lab, rt.engines[case.name], case, room))


async def _play(lab: Lab, engine: AttachedEngine, case: Case, room: asyncio.Semaphore) -> None:
    for number in range(case.requests):
        async with room:
            try:
                answer = await engine.request(case.work, number, id=str(number))
            except EvaluationError:
                continue  # The rules are wrong; the same every time, and nothing was done.
            lab.acknowledged([case.name, number, answer.facts])
            if case.wants_snapshot(number) and not answer.repeated:
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
        told = [facts for name, _, facts in acknowledged if name == case.name]
        await _compare(rt, engine, case, told)


async def _compare(rt: Runtime, engine: AttachedEngine, case: Case, told: list[str]) -> None:
    requests = await _journal(rt, case)
    kept = [request.facts.hex() for request, _ in requests]
    last = 0
    for facts in told:
        assert facts in kept[max(0, last - 1) :] or facts in kept, f"{case.name}: {facts} is gone"
        last = kept.index(facts)
    ids = [request.id for request, _ in requests if request.id]
    assert len(ids) == len(set(ids)), f"{case.name}: done twice: {ids}"
    reference = await asyncio.to_thread(_reference, case, requests)
    found = await engine.request(_state)
    assert found.value == state_of(reference), f"{case.name} ({case.suite}) is another memory"
    reference.close()


def _state(hands: Hands) -> Any:
    return state_of(hands.memory)


async def _journal(rt: Runtime, case: Case) -> list[tuple[Request, bool]]:
    """Return the requests of a case, and whether a snapshot was taken behind each."""
    try:
        events = await rt.history(stream_of(case.name, ())).read(limit=1_000)
    except NotFoundError:
        return []
    marks = {event.data_as(Rebased).sequence for event in events if event.type == REBASED}
    return [
        (codec.decode_as(event.payload, Request), event.sequence in marks)
        for event in events
        if event.type == REQUESTED
    ]


def _reference(case: Case, requests: list[tuple[Request, bool]]) -> Any:
    """Play a case from its beginning in memories that nobody crashed."""
    memory = case.engine.fresh()
    for before, (request, marked) in enumerate(requests):
        again = msgspec.structs.replace(request, operations=[], heard=[])
        # What functions answered is outside; everything else is played, not redone.
        memory.begin(seed_of(stream_of(case.name, ()), before), _NOW, 0.0)
        memory.voices.replay(request.heard)
        case.work(memory.hands, int(request.id))
        done = memory.end()
        assert done.agrees(again), f"{case.name} ({case.suite}): request {request.id} differs"
        assert done.operations == request.operations
        if marked:
            parts = [part for part in memory.capture() if part]
            memory.close()
            memory = case.engine.fresh()
            for _ in memory.restore(parts):
                pass
    return memory
