"""
Many processes after the same thing at once: of k racers exactly one gets it.

    outcome = race(url, racers=32, rounds=1_000)
    outcome = race(url, racers=32, rounds=1_000, kinds=["entry"])
    assert outcome.sound, outcome.failures

Each racer is a process with the store open. A round names one thing that can be had once: a
lease, the first version of a record, the first event of a stream, work that a dead runtime left
behind, a question to be answered, a run to be resumed or executed. Some racers, two or more, at
times all, hear of it at the same moment and try; each says whether it got it. Several rounds are
called out together and tried in another order by each racer, so that winners vary.
Afterwards each thing had exactly one winner, the store names that one, and `verify` finds nothing.
"""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import holdfast
from holdfast import Run
from holdfast.core import codec
from holdfast.core.errors import ConflictError, LeaseHeldError
from holdfast.core.ledger import RESUME, EntryState, Owned, Sign, Terms, begun
from holdfast.core.refusal import (
    AnswerConflictError,
    EntryHeldError,
    EntryStateError,
    RunStateError,
)
from holdfast.core.unit import Unit
from holdfast.runtime.runtime import Runtime
from holdfast.runtime.work.entry import written

__all__ = ["CLAIMS", "LOST", "RUN_CLAIMS", "Claim", "Race", "race"]

LOST: Final = (
    AnswerConflictError,
    ConflictError,
    EntryHeldError,
    EntryStateError,
    LeaseHeldError,
    RunStateError,
)
"""What somebody hears who came too late."""

_CALLED_TOGETHER: Final = 20
_TRIED_TOGETHER: Final = 4
_BUSY_WAIT: Final = 120.0
_LEASE_SECONDS: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Claim:
    """
    Something that can be had once.

    Attributes:
        take: tries to get it for somebody; raises if another was faster.
        taken: returns who has it, by the store.
        lay: puts it there, for racers of one process.
        leave: puts it there in a process that dies then.
    """

    take: Callable[[Runtime, str, str], Awaitable[object]]
    taken: Callable[[Runtime, str], Awaitable[str]]
    lay: Callable[[Runtime, str], Awaitable[object]] | None = None
    leave: Callable[[Runtime, str], Awaitable[object]] | None = None


async def _grant(rt: Runtime, thing: str, name: str) -> None:
    await rt.leases.grant(thing, _LEASE_SECONDS, holder=name)


async def _granted(rt: Runtime, thing: str) -> str:
    row = await rt.leases.find(thing)
    return row.holder if row and row.generation == 1 else ""


async def _put(rt: Runtime, thing: str, name: str) -> None:
    await rt.records.put("race", thing, name, expected=0)


async def _was_put(rt: Runtime, thing: str) -> str:
    record = await rt.records.get("race", thing)
    return str(record.value) if record.version == 1 else ""


async def _begin(rt: Runtime, thing: str, name: str) -> None:
    await rt.history(thing).append("begun", name, expected=0)


async def _was_begun(rt: Runtime, thing: str) -> str:
    events = await rt.history(thing).read()
    return str(events[0].data) if len(events) == 1 else ""


async def _interrupt(rt: Runtime, thing: str) -> None:
    """Write what a rescue writes of work that may go on."""
    now, owner = Sign(0.0, "", 0.0), Owned("", 0, "nobody", "")
    row = begun((thing,), None, Terms(policy=RESUME), owner, now)
    await rt.commit(Unit((written((thing,), row.changed(EntryState.RESUMABLE)),)))


async def _left(rt: Runtime, thing: str) -> None:
    await rt.ledger.begin(thing, policy=RESUME)


async def _claim(rt: Runtime, thing: str, name: str) -> None:
    entry = await rt.ledger.claim(thing)
    await entry.settle(name)


async def _claimed(rt: Runtime, thing: str) -> str:
    info = await rt.ledger.find(thing)
    if info is None or info.state is not EntryState.SETTLED:
        return ""
    return str(info.outcome) if (info.generation, info.attempt) == (2, 2) else ""


# Runs. Only a racer has a name; where nobody races, a run is begun and stays under way.


async def _asking(run: Run) -> Any:
    return await run.ask("Who?")


async def _ask(rt: Runtime, thing: str) -> None:
    run = await rt.runs.start(_asking, run_id=thing)
    async for event in run.follow():
        if event.type == "run.waiting":
            return


async def _answer(rt: Runtime, thing: str, name: str) -> None:
    await rt.runs.answer(f"{thing}?1", name, by=name)


async def _answered(rt: Runtime, thing: str) -> str:
    said = await _said(rt, thing, "question.answered")
    info = await rt.runs.ended(thing)
    names = {codec.decode(bytes(info.result)), *(one["by"] for one in said)}
    return str(names.pop()) if (len(said), len(names)) == (1, 1) else ""


async def _rest(rt: Runtime, thing: str) -> None:
    await _ask(rt, thing)
    await rt.runs.pause(thing)


async def _resume(rt: Runtime, thing: str, name: str) -> None:
    await rt.runs.resume(thing, by=name)


async def _resumed(rt: Runtime, thing: str) -> str:
    said = await _said(rt, thing, "run.resumed")
    return str(said[0]["by"]) if len(said) == 1 else ""


async def _said(rt: Runtime, run_id: str, type: str) -> list[Any]:
    events = await rt.runs.history(run_id).read()
    return [event.data for event in events if event.type == type]


def _worker(name: str) -> Callable[[Run], Awaitable[str]]:
    async def work(run: Run) -> str:
        async def here() -> str:
            if not name:
                await asyncio.Event().wait()
            _EXECUTED.add(run.id)
            return name

        return await run.step("here", here)

    return work


async def _start(rt: Runtime, thing: str) -> None:
    worker = rt.runs.register(_worker(""), name=thing)
    await rt.runs.start(worker, run_id=thing)


async def _execute(rt: Runtime, thing: str, name: str) -> None:
    rt.runs.register(_worker(name), name=thing)
    await rt.runs.ended(thing)
    if thing not in _EXECUTED:
        raise RunStateError(run_id=thing, state="ended", action="executed", reason="others did")


async def _executed(rt: Runtime, thing: str) -> str:
    said = await _said(rt, thing, "step.succeeded")
    return str(said[0]["result"]) if len(said) == 1 else ""


_EXECUTED: Final[set[str]] = set()
CLAIMS: Final[Mapping[str, Claim]] = {
    "entry": Claim(_claim, _claimed, _interrupt, _left),
    "lease": Claim(_grant, _granted),
    "record": Claim(_put, _was_put),
    "stream": Claim(_begin, _was_begun),
}
"""What any racers may be after, also those of one process."""

RUN_CLAIMS: Final[Mapping[str, Claim]] = {
    "answer": Claim(_answer, _answered, leave=_ask),
    "resume": Claim(_resume, _resumed, leave=_rest),
    "run": Claim(_execute, _executed, leave=_start),
}
"""What only processes may be after: the answer to a question, a run to be resumed or executed."""


@dataclass(slots=True)
class Race:
    """
    What was raced for and who won.

    Attributes:
        seed: decides in which order racers try.
        racers: how many processes.
        rounds: how many things there were to be had.
        winners: how often each racer won.
        failures: things that had no winner or several, or another one by the store.
    """

    seed: int
    racers: int
    rounds: int = 0
    winners: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])

    @property
    def sound(self) -> bool:
        """Whether each thing had exactly one winner."""
        return not self.failures


def race(
    url: str,
    *,
    racers: int = 32,
    rounds: int = 1_000,
    seed: int = 0,
    kinds: Collection[str] = frozenset(CLAIMS),
    patience: float = 180.0,
) -> Race:
    """
    Let processes race on an empty store.

    Args:
        url: a store that several processes can open.
        racers: how many processes; a half of them, a quarter and so on race as often as all.
        rounds: how many things there are to be had, of each kind in turn.
        seed: decides in which order racers are called, and each tries.
        kinds: keys of `CLAIMS` or `RUN_CLAIMS`: what is raced for.
        patience: seconds within which a racer has to say what it got, more than it may wait for
            the store.

    Raises:
        RuntimeError: a racer failed, its error was written to stderr; or it hangs.
    """
    outcome, rng = Race(seed, racers), Random(seed)
    chosen = sorted(kinds)
    things = [f"{chosen[number % len(chosen)]}/{number}" for number in range(rounds)]
    _leave_behind(url, [thing for thing in things if _claim_of(thing).leave is not None])
    won: dict[str, list[str]] = {thing: [] for thing in things}
    with _started(url, [f"r{n}" for n in range(racers)], seed) as everybody:
        for start in range(0, rounds, _CALLED_TOGETHER):
            # All at first, and now and then; what two do to each other is as likely to be wrong.
            called = rng.sample(everybody, rng.choice(_sizes(racers)) if start else racers)
            for racer in called:
                racer.call(things[start : start + _CALLED_TOGETHER])
            for racer in called:
                for thing in racer.hear(patience):
                    won[thing].append(racer.name)
    asyncio.run(_judge(url, won, outcome))
    return outcome


def _sizes(racers: int) -> list[int]:
    """Return how many may race: all of them, a half and so on, down to two."""
    sizes = [racers]
    while sizes[-1] >= 4:
        sizes.append(sizes[-1] // 2)
    return sizes


def _leave_behind(url: str, things: list[str]) -> None:
    """Let a process die with this work in flight, and a start find it."""
    program = [sys.executable, "-m", __name__, url]
    ended = subprocess.run(program, input=json.dumps(things), text=True, check=False)
    if ended.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the process that leaves work behind ended with {ended.returncode}")
    asyncio.run(_judge(url, {}, Race(0, 0)))


async def _die(url: str, things: Sequence[str]) -> None:
    async with holdfast.open(url, busy_wait=_BUSY_WAIT, functions=[_asking]) as rt:
        leaving = (leave(rt, thing) for thing in things if (leave := _claim_of(thing).leave))
        await asyncio.gather(*leaving)
        os.kill(os.getpid(), signal.SIGKILL)


def _claim_of(thing: str) -> Claim:
    kind = thing.partition("/")[0]
    return CLAIMS.get(kind) or RUN_CLAIMS[kind]


async def _judge(url: str, won: Mapping[str, list[str]], outcome: Race) -> None:
    # An answer may have come when everybody was about to leave; then the run goes on here.
    async with holdfast.open(url, functions=[_asking]) as rt:
        for thing, names in won.items():
            outcome.rounds += 1
            outcome.winners.update(names)
            taken = await _claim_of(thing).taken(rt, thing)
            if names != [taken]:
                what = f"{thing} was won by {names or 'nobody'}, the store says {taken or 'nobody'}"
                outcome.failures.append(f"seed {outcome.seed}: {what}")
        outcome.failures += [f"verify: {finding}" for finding in await rt.verify()]


class _Racer:
    """One process, seen from outside."""

    def __init__(self, name: str, to: int, by: int) -> None:
        self.name = name
        self._to, self._by = os.fdopen(to, "w"), os.fdopen(by)

    def call(self, things: list[str]) -> None:
        """Say what there is to be had now."""
        self._to.write(json.dumps(things) + "\n")
        self._to.flush()

    def hear(self, patience: float) -> list[str]:
        """Return what this racer got; it says one line for each call."""
        if not select.select([self._by], [], [], patience)[0]:
            raise RuntimeError(f"racer {self.name} has said nothing for {patience} s")
        line = self._by.readline()
        if not line:
            raise RuntimeError(f"racer {self.name} ended")
        return list(json.loads(line))

    def close(self) -> None:
        """Let it end."""
        self._to.close()
        self._by.close()


@contextmanager
def _started(url: str, names: Sequence[str], seed: int) -> Generator[list[_Racer]]:
    """Lend racers; one process imports everything once, and forks them."""
    pipes = {name: (*os.pipe(), *os.pipe()) for name in names}
    theirs = {name: (hears, says) for name, (hears, _, _, says) in pipes.items()}
    starter = subprocess.Popen(
        [sys.executable, "-m", __name__, url, str(seed), json.dumps(theirs)],
        stdin=subprocess.DEVNULL,
        pass_fds=[end for ends in theirs.values() for end in ends],
        start_new_session=True,
    )
    for end in (end for ends in theirs.values() for end in ends):
        os.close(end)
    racers = [_Racer(name, to, by) for name, (_, to, by, _) in pipes.items()]
    try:
        yield racers
    except BaseException:
        # One that hangs does not end because nobody calls it any more.
        os.killpg(starter.pid, signal.SIGKILL)
        raise
    finally:
        for racer in racers:
            racer.close()
        starter.wait()


def _start_all(url: str, seed: int, ends: Mapping[str, tuple[int, int]]) -> None:
    """Fork the racers and wait for their ends."""
    children: list[int] = []
    for name, (hears, says) in ends.items():
        child = os.fork()
        if not child:
            os.dup2(hears, 0)
            os.dup2(says, 1)
            # Whoever listens has to notice when this one ends, whether others live or not.
            for end in (end for others in ends.values() for end in others):
                os.close(end)
            asyncio.run(_run(url, name, seed))
            os._exit(0)
        children.append(child)
    for end in (end for both in ends.values() for end in both):
        os.close(end)
    ended = {os.waitpid(child, 0)[1] for child in children}
    sys.exit(next((f"a racer ended with wait status {one}" for one in sorted(ended) if one), 0))


async def _run(url: str, name: str, seed: int) -> None:
    """Be a racer: hear what there is, try, say what was got, until the input ends."""
    rng = Random(f"{seed}/{name}")
    # So many racers take three connections each: few servers allow more than a hundred.
    async with holdfast.open(url, busy_wait=_BUSY_WAIT, readers=1, functions=[_asking]) as rt:
        while line := await asyncio.to_thread(sys.stdin.readline):
            things: list[str] = json.loads(line)
            rng.shuffle(things)
            got: list[str] = []
            for start in range(0, len(things), _TRIED_TOGETHER):
                tries = (_try(rt, thing, name) for thing in things[start : start + _TRIED_TOGETHER])
                got += [thing for thing in await asyncio.gather(*tries) if thing]
            sys.stdout.write(json.dumps(got) + "\n")
            sys.stdout.flush()


async def _try(rt: Runtime, thing: str, name: str) -> str:
    try:
        await _claim_of(thing).take(rt, thing, name)
    except LOST:
        return ""
    return thing


if __name__ == "__main__":
    if len(sys.argv) == 2:
        asyncio.run(_die(sys.argv[1], json.loads(sys.stdin.read())))
    else:
        _start_all(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))
