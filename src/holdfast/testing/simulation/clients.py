"""
What the clients of a simulation do, and what they remember.

A client lives outside: its memory survives the process that serves it, and another life of that
process goes on from it. Before anything else it asks what became of the unit whose answer it
never got. So each knows exactly which of its tries were committed, and at the end the store has
to hold those and no others.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from holdfast.core.errors import (
    FenceError,
    HoldfastError,
    LeaseHeldError,
    SequenceConflictError,
    StoreBusyError,
)
from holdfast.core.event import Event, RecordedEvent
from holdfast.core.unit import (
    Append,
    Committed,
    Fence,
    GrantLease,
    PatchRecord,
    ReleaseLease,
    RenewLease,
    Unit,
)
from holdfast.runtime.outcome import Outcome
from holdfast.runtime.runtime import Runtime
from holdfast.testing.simulation.instance import LoopStore
from holdfast.testing.simulation.virtual import BrokenError, VirtualLoop

__all__ = [
    "CANCELLED_SHARE",
    "LEASE",
    "NOTES",
    "WORK",
    "Adder",
    "Appender",
    "Client",
    "Follower",
    "Owner",
    "Parts",
    "check_notes",
    "check_work",
]

T = TypeVar("T")
NOTES: Final = "notes"
WORK: Final = "work"
LEASE: Final = "owner"
TTL: Final = 3.0
CANCELLED_SHARE: Final = 0.06
Note = Callable[[str], None]


def follow(rt: Runtime, stream: str, after: int) -> AsyncIterator[RecordedEvent]:
    """Follow a stream as the product does."""
    return rt.history(stream).follow(after)


async def ask_outcome(rt: Runtime, unit_id: bytes) -> Outcome:
    """Ask what became of a unit whose answer was lost."""
    return await rt.outcome(unit_id)


async def write_fenced(rt: Runtime, token: Fence, unit: Unit, until: float) -> Committed:
    """Commit what only the owner may write, as the product means it."""
    return await rt.commit(Unit(unit.writes, (*unit.expects, token), unit.id))


@dataclass(frozen=True, slots=True)
class Parts:
    """
    What a simulation is made of; a test of the simulation exchanges one for a broken one.

    Attributes:
        store: the store of each process.
        follow: how a stream is followed.
        write: how an owner writes.
        resolve: how it is found out what became of a unit.
    """

    store: type[LoopStore] = LoopStore
    follow: Callable[[Runtime, str, int], AsyncIterator[RecordedEvent]] = follow
    write: Callable[[Runtime, Fence, Unit, float], Awaitable[Committed]] = write_fenced
    resolve: Callable[[Runtime, bytes], Coroutine[Any, Any, Outcome]] = ask_outcome


@dataclass(slots=True)
class Client:
    """
    A client that writes.

    Attributes:
        name: its name.
        loop: the loop it lives in.
        note: how it tells what happens.
        reached: counts rare states that were reached.
        parts: what it uses.
        committed: numbers of its tries of which it knows that they were committed.
        tries: how many it made.
        pending: id and number of the unit whose answer it waits for.
        left: how much it has to do until it may rest.
        idle: what it waits for while it has nothing to do.
    """

    name: str
    loop: VirtualLoop
    note: Note
    reached: Counter[str]
    parts: Parts
    committed: list[int] = field(default_factory=list[int])
    tries: int = 0
    pending: tuple[bytes, int] | None = None
    left: int = 0
    idle: asyncio.Future[None] | None = None

    async def live(self, rt: Runtime, owner: str) -> None:
        """Work as long as there is work, in one life of a process."""
        while True:
            if self.pending is not None:
                await self._ask_outcome(rt, owner)
            elif self.left > 0:
                await self.turn(rt, owner)
            else:
                self.idle = self.loop.create_future()
                await self.idle
            await self.rest(0.6)

    def employ(self, pieces: int) -> None:
        """Give it work to do."""
        self.left = pieces
        if self.idle is not None and not self.idle.done():
            self.idle.set_result(None)

    async def turn(self, rt: Runtime, owner: str) -> None:
        """Do one piece of work."""
        raise NotImplementedError

    async def rest(self, longest: float) -> None:
        """Do nothing for a while."""
        await self.loop.pause(self.loop.random.random() * longest)

    async def attempt(
        self,
        rt: Runtime,
        owner: str,
        write: Callable[[bytes, int], Coroutine[Any, Any, T]],
    ) -> T | HoldfastError | None:
        """
        Make one try, which may lose its answer.

        Returns:
            The answer, the refusal, or None if it was lost.
        """
        self.tries += 1
        number = self.tries
        unit_id = rt.unit_id()
        self.pending = (unit_id, number)
        answer = await self.ask(owner, lambda: write(unit_id, number))
        if answer is None:
            return None
        self.pending = None
        if isinstance(answer, StoreBusyError):
            self.reached["refused while another process writes"] += 1
        elif not isinstance(answer, HoldfastError):
            self._has(number, "answered")
        return answer

    async def ask(
        self, owner: str, work: Callable[[], Coroutine[Any, Any, T]]
    ) -> T | HoldfastError | None:
        """Await something that may be cancelled at any of its awaits."""
        task = self.loop.spawn(owner, _caught(work))
        if self.loop.stalling and self.loop.random.random() < CANCELLED_SHARE:
            self.loop.call_later(self.loop.random.random() * 0.03, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            self.reached["cancelled"] += 1
            return None

    async def _ask_outcome(self, rt: Runtime, owner: str) -> None:
        if self.pending is None:
            return
        unit_id, number = self.pending
        outcome = await self.ask(owner, lambda: self.parts.resolve(rt, unit_id))
        if outcome is None:
            return
        if isinstance(outcome, HoldfastError):
            raise outcome
        self.pending = None
        self.reached[f"unknown outcome resolved {outcome}"] += 1
        if outcome is Outcome.COMMITTED:
            self._has(number, "found")
        else:
            self.note(f"{self.name} knows that {number} is absent")

    def _has(self, number: int, how: str) -> None:
        self.committed.append(number)
        self.left -= 1
        self.note(f"{self.name} has {number} {how}")


class Appender(Client):
    """Appends to a stream that others append to as well, at the sequence it expects."""

    known = 0

    async def turn(self, rt: Runtime, owner: str) -> None:
        """Append one event; after a conflict, at the sequence it names."""
        history = rt.history(NOTES)
        answer = await self.attempt(
            rt,
            owner,
            lambda unit_id, number: history.append(
                "note", [self.name, number], expected=self.known, unit_id=unit_id
            ),
        )
        if isinstance(answer, SequenceConflictError):
            self.reached["conflict retried"] += 1
            self.known = answer.actual
        elif isinstance(answer, RecordedEvent):
            self.known = answer.sequence


class Adder(Client):
    """Adds to a counter that others add to as well."""

    async def turn(self, rt: Runtime, owner: str) -> None:
        """Add one."""
        write = PatchRecord("counter", ("all",), add={"n": 1, self.name: 1})
        await self.attempt(rt, owner, lambda unit_id, _: rt.commit(Unit((write,), (), unit_id)))


class Owner(Client):
    """Takes a lease, writes what only its owner may write, and gives it back or does not."""

    until = 0.0

    async def turn(self, rt: Runtime, owner: str) -> None:
        """Own the lease once."""
        asked = self.loop.time()
        grant = GrantLease(LEASE, TTL, self.name)
        event = Event.of("granted", [self.name, 0])
        unit = (grant, Append(WORK, (event,)))
        answer = await self.ask(owner, lambda: rt.commit(Unit(unit)))
        if isinstance(answer, LeaseHeldError):
            self.reached["lease was held"] += 1
            await self.loop.pause(answer.remaining * (0.5 + self.loop.random.random()))
        elif isinstance(answer, Committed):
            row = answer.leases[0]
            self.note(f"{self.name} is granted {row.generation}")
            self.until = self.loop.time() + TTL
            self._count_takeover(asked, row.generation)
            await self._own(rt, owner, Fence(LEASE, row.generation, row.incarnation))

    def _count_takeover(self, asked: float, generation: int) -> None:
        if self.loop.time() - asked > TTL:
            self.reached["grant was answered after its end"] += 1
        if generation > 1:
            self.reached["granted to the next"] += 1

    async def _own(self, rt: Runtime, owner: str, token: Fence) -> None:
        generation = token.generation
        for _ in range(1 + int(self.loop.random.random() * 4)):
            await self.rest(1.5)
            if self.pending is not None or self.left <= 0:
                break
            if self.loop.random.random() < 0.2:
                if not await self._renewed(rt, owner, token):
                    return
                continue
            if not await self._worked(rt, owner, token):
                return
        if self.pending is None and self.loop.random.random() < 0.5:
            event = Event.of("released", [self.name, generation])
            unit = Unit((ReleaseLease(LEASE, generation), Append(WORK, (event,))))
            await self.ask(owner, lambda: rt.commit(unit))

    async def _worked(self, rt: Runtime, owner: str, token: Fence) -> bool:
        """Write once; return whether it may still be the owner."""
        began, until = self.loop.time(), self.until

        async def work(unit_id: bytes, number: int) -> Committed:
            event = Event.of("worked", [self.name, number, token.generation])
            unit = Unit((Append(WORK, (event,)),), (), unit_id)
            return await self.parts.write(rt, token, unit, until)

        answer = await self.attempt(rt, owner, work)
        if isinstance(answer, FenceError):
            self.reached[f"stale owner got {answer.code}"] += 1
        if isinstance(answer, Committed) and began > until:
            raise BrokenError(f"{self.name} wrote at {began:.3f}, its lease ended {until:.3f}")
        return not isinstance(answer, FenceError)

    async def _renewed(self, rt: Runtime, owner: str, token: Fence) -> bool:
        unit = Unit((RenewLease(LEASE, token.generation, TTL),))
        answer = await self.ask(owner, lambda: rt.commit(unit))
        if answer is None:
            self.until = max(self.until, self.loop.time() + TTL)
        if isinstance(answer, Committed):
            self.until = self.loop.time() + TTL
            self.reached["renewed"] += 1
        return not isinstance(answer, FenceError)


class Follower:
    """
    Follows a stream over all lives of a process.

    Attributes:
        seen: what it was shown, in order.
        ended: the stream was closed, and it was shown everything.
    """

    def __init__(
        self, name: str, loop: VirtualLoop, parts: Parts, note: Note, reached: Counter[str]
    ) -> None:
        """Take the loop, how it follows and how it tells."""
        self.name = name
        self.seen: list[list[object]] = []
        self.ended = False
        self._loop = loop
        self._parts = parts
        self._note = note
        self._reached = reached

    async def live(self, rt: Runtime, owner: str) -> None:
        """Follow in one life of a process, also after being cancelled."""
        if self.seen:
            self._reached["follower went on after a kill"] += 1
        while not self.ended:
            task = self._loop.spawn(owner, self._follow(rt))
            if self._loop.stalling and self._loop.random.random() < CANCELLED_SHARE:
                self._loop.call_later(self._loop.random.random() * 3.0, task.cancel)
            try:
                await task
            except asyncio.CancelledError:
                self._reached["follower was cancelled"] += 1

    async def _follow(self, rt: Runtime) -> None:
        """Go on behind what was seen last."""
        async for event in self._parts.follow(rt, NOTES, len(self.seen)):
            if event.sequence != len(self.seen) + 1:
                raise BrokenError(f"{self.name} was shown {event.sequence} behind {len(self.seen)}")
            self.seen.append(event.data)
            self._note(f"{self.name} sees {event.sequence} {event.data}")
            if event.data[0].partition(" ")[0] != self.name.partition(" ")[0]:
                self._reached["follower was shown another process's event"] += 1
        self.ended = True


def check_notes(
    events: Sequence[RecordedEvent], clients: Iterable[Client], followers: Iterable[Follower]
) -> None:
    """Check that what is there is what was committed, and what followers were shown."""
    stored = [event.data for event in events]
    _check_tries(stored, [one for one in clients if isinstance(one, Appender)])
    for follower in followers:
        if follower.seen != stored:
            raise BrokenError(f"{follower.name} was shown something else than what is there")


def _check_tries(stored: Sequence[list[Any]], clients: Sequence[Client]) -> None:
    for client in clients:
        numbers = [said[1] for said in stored if said[0] == client.name]
        if numbers != client.committed:
            raise BrokenError(f"{client.name} committed {client.committed}, there is {numbers}")


def check_work(events: Sequence[RecordedEvent], clients: Iterable[Client]) -> None:
    """Check that work was written by whoever owned the lease then."""
    generation, owner = 0, ""
    for event in events:
        name, *_, shown = event.data
        if event.type == "granted":
            generation, owner = generation + 1, name
        elif (name, shown) != (owner, generation):
            raise BrokenError(
                f"{name} has {event.type} under {shown} at {event.sequence}, "
                f"but {owner or 'nobody'} owns {generation}"
            )
        elif event.type == "released":
            owner = ""
    worked = [event.data for event in events if event.type == "worked"]
    _check_tries(worked, [one for one in clients if isinstance(one, Owner)])


async def _caught(work: Callable[[], Coroutine[Any, Any, T]]) -> T | HoldfastError:
    """Return what is refused; everything else is a fault of the product or of ours."""
    try:
        return await work()
    except HoldfastError as error:
        return error
