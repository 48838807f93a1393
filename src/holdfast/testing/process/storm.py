"""
Kill and stop storms: real processes on one store, killed and frozen at any moment.

    found = storm(Storm(store="sqlite:////tmp/a.db", seed=7, kills=100))
    assert found.sound, found.failures

A process of its own forks the workers from a warm interpreter. Each opens the store, commits
and says on a pipe of its own what it tries and what was acknowledged. They are killed, stopped
and continued by a seeded plan; with a PostgreSQL server of its own, that is killed as well. When
it is over, everything acknowledged has to be there under its sequence, nothing that was never
tried, counters between what was acknowledged and what was tried, no generation of a lease held
twice, no write of an owner behind one of its successor; and `verify` finds nothing.

The plan is what the seed decides; when a signal arrives is up to the machine.
"""

import asyncio
import os
import selectors
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final, NoReturn, cast

import msgspec

import holdfast
from holdfast.core.clock import SystemClock
from holdfast.core.errors import ConflictError, FenceError, HoldfastError
from holdfast.core.event import Event
from holdfast.core.unit import (
    Append,
    Fence,
    GrantLease,
    PatchRecord,
    ReleaseLease,
    Unit,
)
from holdfast.testing.faults import planted
from holdfast.testing.server import PostgresServer

__all__ = ["Child", "Storm", "Survey", "storm"]

_OWNED: Final = "owned"
_LEASE_SECONDS: Final = 0.1
_PAGE: Final = 500
_EARLY: Final = 0.05
_FAILURES_KEPT: Final = 10


class Storm(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is to be done.

    Attributes:
        store: URL of the store; empty for a PostgreSQL server of its own.
        folder: where that server keeps its data.
        seed: decides who is hit, when and how.
        kills: how many workers are killed.
        workers: how many processes work at a time.
        servers: how often the PostgreSQL server is killed and started again.
        plant: a bug of `holdfast.testing.faults` that the workers have.
    """

    store: str = ""
    folder: str = ""
    seed: int = 0
    kills: int = 100
    workers: int = 4
    servers: int = 0
    plant: str = ""


class Survey(msgspec.Struct):
    """
    What was done and what was found afterwards.

    Attributes:
        seed: the plan's.
        kills: workers killed.
        stops: workers frozen and continued, or killed while frozen.
        servers: times the server was killed.
        opened: times a worker had opened the store.
        acknowledged: units that were acknowledged.
        tokens: leases that were granted.
        ended: by error code, workers that ended of their own.
        lost: acknowledged units that are gone.
        unsound: other things that are not as promised.
        failures: the first of both in words.
        seconds: how long the storm lasted.
    """

    seed: int
    kills: int = 0
    stops: int = 0
    servers: int = 0
    opened: int = 0
    acknowledged: int = 0
    tokens: int = 0
    ended: dict[str, int] = {}
    lost: int = 0
    unsound: int = 0
    failures: list[str] = []
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        """Whether everything was as promised."""
        return not self.lost and not self.unsound

    def blame(self, what: str, *, lost: bool) -> None:
        """Count a failure; the first few are kept in words."""
        self.lost += lost
        self.unsound += not lost
        if len(self.failures) < _FAILURES_KEPT:
            self.failures.append(f"seed {self.seed}: {what}")


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The worker has opened the store."""


class Tried(msgspec.Struct, frozen=True, tag=True):
    """The worker is about to append this to a stream, and to count it."""

    stream: str
    payload: list[int]


class Acknowledged(msgspec.Struct, frozen=True, tag=True):
    """The append was acknowledged."""

    stream: str
    sequence: int
    payload: list[int]


class Granted(msgspec.Struct, frozen=True, tag=True):
    """The worker was granted the lease."""

    generation: int
    incarnation: bytes


class Ended(msgspec.Struct, frozen=True, tag=True):
    """The worker gives up, because of an error with this code."""

    code: str


Word = Opened | Tried | Acknowledged | Granted | Ended
Say = Callable[[Word], None]


class Child:
    """
    A forked process and what it says on its pipe, line by line.

    Attributes:
        pid: its process id.
        pipe: where it is heard.
        stopped: it was frozen and not continued.
        ready: whoever listens may note here that it is at work.
    """

    def __init__(self, work: Callable[[int], None], others: "tuple[Child, ...]" = ()) -> None:
        """
        Fork; the child does its work, given where to write, and never returns.

        Args:
            work: what the child does.
            others: siblings whose pipes the child has no business with.
        """
        self.pipe, out = os.pipe()
        self.stopped = False
        self.ready = False
        self._said = bytearray()
        self.pid = os.fork()
        if self.pid == 0:
            for pipe in (self.pipe, *(other.pipe for other in others)):
                os.close(pipe)
            _end_with(work, out)
        os.close(out)

    def read(self) -> list[bytes] | None:
        """Return the lines that were completed, or None at the end."""
        data = os.read(self.pipe, 1 << 16)
        if not data:
            return None
        self._said += data
        *lines, rest = self._said.split(b"\n")
        self._said = bytearray(rest)
        return [bytes(line) for line in lines]

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.stopped = number is signal.SIGSTOP
        os.kill(self.pid, number)

    def reap(self) -> list[bytes]:
        """Return what was still on the pipe of a child that was killed or ended."""
        os.waitpid(self.pid, 0)
        lines: list[bytes] = []
        while (more := self.read()) is not None:
            lines += more
        os.close(self.pipe)
        return lines


def _end_with(work: Callable[[int], None], out: int) -> NoReturn:
    try:
        work(out)
    finally:
        os._exit(0)


class _Worker:
    """One life of one worker."""

    def __init__(self, order: Storm, number: int, life: int, out: int) -> None:
        self._order = order
        self._stream = f"worker-{number}"
        self._life = life
        self._out = out
        self._incarnation = b""

    async def run(self) -> None:
        """Work until an error that only a new opening helps against."""
        async with holdfast.open(self._order.store, busy_wait=30.0) as rt:
            self._say(Opened())
            self._incarnation = rt.opened.incarnation
            number = 0
            while True:
                number += 1
                await asyncio.gather(*(self._append(rt, self._stream, number, n) for n in (0, 1)))
                with suppress(ConflictError, FenceError):
                    await self._own(rt, number)

    async def _own(self, rt: holdfast.Runtime, number: int) -> None:
        """Take the lease if it is free, write under it twice, give it back now and then."""
        granted = await rt.commit(Unit((GrantLease(_OWNED, _LEASE_SECONDS, self._stream),)))
        generation = granted.leases[0].generation
        self._say(Granted(generation, self._incarnation))
        fence = Fence(_OWNED, generation, self._incarnation)
        for part in (0, 1):
            await self._append(rt, _OWNED, generation, part, fence)
        if number % 2:
            await rt.commit(Unit((ReleaseLease(_OWNED, generation),)))

    async def _append(
        self, rt: holdfast.Runtime, stream: str, number: int, part: int, *fences: Fence
    ) -> None:
        payload = [self._life, number, part]
        count = PatchRecord("storm", (stream,), {}, {"n": 1})
        event = Event.of("happened", payload)
        self._say(Tried(stream, payload))
        answer = await rt.commit(Unit((Append(stream, (event,)), count), fences))
        self._say(Acknowledged(stream, answer.events[0][1].sequence, payload))

    def _say(self, word: Word) -> None:
        os.write(self._out, msgspec.json.encode(word) + b"\n")


def _work(order: Storm, number: int, life: int, out: int) -> None:
    code = "ended"
    try:
        if order.plant:
            with planted(order.plant):
                asyncio.run(_Worker(order, number, life, out).run())
        else:
            asyncio.run(_Worker(order, number, life, out).run())
    except BaseExceptionGroup as errors:
        code = type(errors.exceptions[0]).__name__
    except HoldfastError as error:
        code = error.code
    os.write(out, msgspec.json.encode(Ended(code)) + b"\n")


class _Weather:
    """The storm: who works, who is hit, what was said."""

    def __init__(self, order: Storm, server: PostgresServer | None) -> None:
        self.order = order
        self.survey = Survey(order.seed)
        self.acknowledged: dict[tuple[str, int], list[int]] = {}
        self.tried: dict[str, Counter[tuple[int, ...]]] = {}
        self.granted: dict[int, bytes] = {}
        self._server = server
        self._rng = Random(order.seed)
        self._children: list[Child] = []
        self._lives = 0
        self._selector = selectors.DefaultSelector()

    def blow(self) -> None:
        """Let it rage until everybody who has to be killed was, then kill the rest."""
        clock = SystemClock()
        began = clock.monotonic()
        for number in range(self.order.workers):
            self._children.append(self._fork(number))
        survey, order = self.survey, self.order
        while survey.kills < order.kills or survey.servers < order.servers:
            self._listen(clock.monotonic() + self._rng.uniform(0.0, 0.03), clock)
            self._strike()
        for number in range(order.workers):
            self._end(number)
        survey.seconds = round(clock.monotonic() - began, 1)
        survey.acknowledged, survey.tokens = len(self.acknowledged), len(self.granted)

    def _strike(self) -> None:
        number = self._rng.randrange(self.order.workers)
        child = self._children[number]
        kind = self._rng.random()
        if self.survey.servers < self.order.servers * self.survey.kills / self.order.kills:
            self._kill_server()
        elif not child.ready and self._rng.random() > _EARLY:
            return  # Most get as far as working, or nothing would be acknowledged.
        elif kind < 0.02:
            for one in range(self.order.workers):
                self._kill(one)
        elif child.stopped and kind < 0.7:
            child.send(signal.SIGCONT)
        elif kind < 0.7:
            self._kill(number)
        elif not child.stopped:
            child.send(signal.SIGSTOP)
            self.survey.stops += 1

    def _kill_server(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.start()
        self.survey.servers += 1

    def _kill(self, number: int) -> None:
        self._end(number)
        self.survey.kills += 1
        self._children[number] = self._fork(number)

    def _end(self, number: int) -> None:
        child = self._children[number]
        self._selector.unregister(child.pipe)
        child.send(signal.SIGKILL)
        for line in child.reap():
            self._hear(child, line)

    def _fork(self, number: int) -> Child:
        self._lives += 1
        life = self._lives
        others = tuple(self._children[:number] + self._children[number + 1 :])
        child = Child(lambda out: _work(self.order, number, life, out), others)
        self._selector.register(child.pipe, selectors.EVENT_READ, number)
        return child

    def _listen(self, until: float, clock: SystemClock) -> None:
        while (left := until - clock.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                number = cast(int, key.data)
                child = self._children[number]
                lines = child.read()
                if lines is None:  # It ended of its own; somebody takes its place.
                    self._selector.unregister(child.pipe)
                    child.reap()
                    self._children[number] = self._fork(number)
                for line in lines or ():
                    self._hear(child, line)

    def _hear(self, child: Child, line: bytes) -> None:
        word: Word = msgspec.json.decode(line, type=Word)
        match word:
            case Opened():
                child.ready = True
                self.survey.opened += 1
            case Tried(stream, payload):
                self.tried.setdefault(stream, Counter())[tuple(payload)] += 1
            case Acknowledged(stream, sequence, payload):
                if self.acknowledged.setdefault((stream, sequence), payload) != payload:
                    self.survey.blame(f"{stream} {sequence} was acknowledged twice", lost=False)
            case Granted(generation, incarnation):
                if self.granted.setdefault(generation, incarnation) != incarnation:
                    self.survey.blame(f"generation {generation} was granted twice", lost=False)
            case Ended(code):
                self.survey.ended[code] = self.survey.ended.get(code, 0) + 1


class _Inquest:
    """What the store holds when the storm is over, against what was said."""

    def __init__(self, weather: _Weather) -> None:
        self._weather = weather
        self._survey = weather.survey
        self._acknowledged: Counter[str] = Counter(stream for stream, _ in weather.acknowledged)

    async def hold(self) -> None:
        """Open the store once more and compare."""
        async with holdfast.open(self._weather.order.store, busy_wait=30.0) as rt:
            for finding in await rt.verify():
                self._survey.blame(f"verify: {finding}", lost=False)
            for stream in self._weather.tried:
                found = await self._events(rt, stream)
                self._compare(stream, found)
                await self._count(rt, stream, len(found))
            lease = await rt.leases.find(_OWNED)
            highest = max(self._weather.granted, default=0)
            if highest > (lease.generation if lease else 0):
                self._survey.blame(f"generation {highest} was granted and is gone", lost=True)

    async def _events(self, rt: holdfast.Runtime, stream: str) -> list[list[int]]:
        history, found = rt.history(stream), list[list[int]]()
        while page := await history.read(after=len(found), limit=_PAGE):
            for event in page:
                if event.sequence != len(found) + 1:
                    self._survey.blame(f"{stream}: {event.sequence} is out of order", lost=False)
                found.append(event.data)
        return found

    def _compare(self, stream: str, found: list[list[int]]) -> None:
        for (name, sequence), payload in self._weather.acknowledged.items():
            if name == stream and (sequence > len(found) or found[sequence - 1] != payload):
                self._survey.blame(f"{stream} {sequence} was acknowledged and is gone", lost=True)
        strange = Counter(map(tuple, found)) - self._weather.tried[stream]
        for which in strange:
            self._survey.blame(f"{stream}: {which} is there too often", lost=False)
        numbers = [payload[1] for payload in found]
        if stream == _OWNED and numbers != sorted(numbers):
            self._survey.blame("a stale owner wrote behind its successor", lost=False)

    async def _count(self, rt: holdfast.Runtime, stream: str, events: int) -> None:
        """The counter was raised with each event, in the same unit."""
        record = await rt.records.find("storm", (stream,))
        counted = record.value["n"] if record is not None else 0
        if counted != events:
            self._survey.blame(f"{stream}: counted {counted}, appended {events}", lost=False)


def storm(order: Storm) -> Survey:
    """
    Raise a storm in a process of its own, and return what it left.

    Raises:
        subprocess.CalledProcessError: the storm itself failed; what it said is in the note.
    """
    command = [sys.executable, "-m", "holdfast.testing.process.storm"]
    done = subprocess.run(command, input=msgspec.json.encode(order), capture_output=True)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, command)
        error.add_note(done.stderr.decode(errors="replace"))
        raise error
    return msgspec.json.decode(done.stdout, type=Survey)


def _raise_storm(order: Storm) -> Survey:
    if order.store:
        return _rage(order, None)
    with PostgresServer(Path(order.folder) if order.folder else None) as server:
        server.start()
        return _rage(msgspec.structs.replace(order, store=server.url), server)


def _rage(order: Storm, server: PostgresServer | None) -> Survey:
    weather = _Weather(order, server)
    weather.blow()
    asyncio.run(_Inquest(weather).hold())
    return weather.survey


if __name__ == "__main__":
    found = _raise_storm(msgspec.json.decode(sys.stdin.buffer.read(), type=Storm))
    sys.stdout.buffer.write(msgspec.json.encode(found))
