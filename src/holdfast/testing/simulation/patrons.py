"""
Clients of a simulation that use the ledger and sessions, and what must hold of their history.

Workers of all processes are after the same few pieces of work; visitors of all processes find
one session by its name and count in it. Each change of the ledger carries an event of the same
unit, so that one stream holds the order in which things became true:

- a piece of work is begun or claimed under the next generation, and only whoever did so last
  works on it or settles it;
- what was settled, or stopped, is claimed by nobody until it is begun anew;
- work of a runtime that is neither killed nor closed nor was silent is claimed by nobody;
- an attempt is counted before it is handed out, and everything answered is there;
- of what was counted in a session everything flushed is there, and nothing twice.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from holdfast.core.errors import (
    FenceError,
    HoldfastError,
    StoreBusyError,
    VersionConflictError,
)
from holdfast.core.event import Event, RecordedEvent
from holdfast.core.ledger import RESUME, EntryState, Terms
from holdfast.core.refusal import EntryHeldError, NotReadyError
from holdfast.core.tier import BUFFERED
from holdfast.core.unit import Append, Unit
from holdfast.runtime.runtime import Runtime
from holdfast.runtime.sessions.session import Session
from holdfast.runtime.sessions.state import field, state
from holdfast.runtime.work.entry import Entry
from holdfast.runtime.work.info import EntryInfo
from holdfast.testing.simulation.clients import Client
from holdfast.testing.simulation.virtual import BrokenError

__all__ = ["JOBS", "Hall", "Visitor", "Worker", "check_hall", "check_jobs"]

JOBS: Final = "jobs"
KEYS: Final = ("job/a", "job/b")
NAMES: Final = ("hdr:hall", "fp:hall")
# So many that no piece of work is quarantined within a seed.
TERMS: Final = Terms(policy=RESUME, attempts=50)
SETTLED_SHARE: Final = 0.6
STOPPED_SHARE: Final = 0.1
FLUSHED_SHARE: Final = 0.5


class Worker(Client):
    """Begins work or goes on with that of the dead, works on it, and settles it or does not."""

    def employ(self, pieces: int) -> None:
        """Give it more to do than others, so that work of the dead is found."""
        super().employ(pieces + 2)

    async def turn(self, rt: Runtime, owner: str) -> None:
        """Get one piece of work and do some of it."""
        key = KEYS[int(self.loop.random.random() * len(KEYS))]
        if self.loop.random.random() < STOPPED_SHARE:
            await self.ask(owner, lambda: self._stop(rt, key))
            return
        self.tries += 1
        entry = await self.ask(owner, lambda: self._get(rt, owner, key))
        if isinstance(entry, EntryHeldError):
            self.reached["work was held"] += 1
        if not isinstance(entry, Entry):
            self.left -= isinstance(entry, HoldfastError) and not _again(entry)
            return
        self.note(f"{self.name} has {key} {entry.generation} attempt {entry.attempt}")
        await self._work(rt, owner, entry)
        self.left -= 1

    async def _get(self, rt: Runtime, owner: str, key: str) -> Entry:
        found = await rt.ledger.find(key)
        goes_on = found is not None and found.state is EntryState.RESUMABLE
        act = "claimed" if goes_on else "begun"
        also = Unit((self._event(act, key, owner),))
        if goes_on:
            entry = await rt.ledger.claim(key, also)
            self.reached["work was claimed"] += 1
        else:
            entry = await rt.ledger.start((key,), TERMS, None, also)
        return entry

    async def _work(self, rt: Runtime, owner: str, entry: Entry) -> None:
        for _ in range(1 + int(self.loop.random.random() * 2)):
            await self.rest(1.0)
            worked = self._event("worked", entry.key[0], owner, entry.generation)
            answer = await self.ask(owner, partial(rt.commit, Unit((worked,), entry.expects)))
            if isinstance(answer, FenceError | VersionConflictError):
                self.reached["stale work was refused"] += 1
                return
        if self.loop.random.random() < SETTLED_SHARE:
            await self.ask(owner, lambda: self._settle(rt, owner, entry))

    async def _settle(self, rt: Runtime, owner: str, entry: Entry) -> None:
        unit = entry.settlement("done")
        event = self._event("settled", entry.key[0], owner, entry.generation)
        entry.note_settled(await rt.commit(Unit((*unit.writes, event), unit.expects)))

    async def _stop(self, rt: Runtime, key: str) -> None:
        """Ask for a stop, and say of which generation if that is certain."""
        found = await rt.ledger.find(key)
        if found is None:
            return
        await rt.ledger.stop(key, "enough")
        self.reached["work was stopped"] += 1
        event = Event.of("stopped", [key, self.name, "", found.generation])
        await rt.commit(Unit((Append(JOBS, (event,)),)))

    def _event(self, act: str, key: str, owner: str, generation: int = 0) -> Append:
        return Append(JOBS, (Event.of(act, [key, self.name, owner, generation]),))


@state(version=1)
class Hall:
    """A session that all processes count in: one counter for each, and the sum."""

    p0: int = field(default=0, tier=BUFFERED, kind="counter")
    p1: int = field(default=0, tier=BUFFERED, kind="counter")
    p2: int = field(default=0, tier=BUFFERED, kind="counter")
    total: int = field(default=0, tier=BUFFERED, kind="counter")


class Visitor(Client):
    """
    Finds the session and counts in it; now and then it waits until that is durable.

    Attributes:
        flushed: how often it counted at the last flush that was answered.
        keys: sessions it was led to.
    """

    flushed = 0
    fresh = 0
    life = ""

    @property
    def field(self) -> str:
        """The counter of its process."""
        return self.name.partition(" ")[0]

    async def turn(self, rt: Runtime, owner: str) -> None:
        """Count once."""
        if owner != self.life:
            self.life, self.fresh = owner, 0
        answer = await self.ask(owner, lambda: self._count(rt))
        if isinstance(answer, int):
            self.left -= 1

    async def _count(self, rt: Runtime) -> int:
        hall = await rt.sessions.reach(Hall, NAMES)
        async with hall.edit() as draft:
            setattr(draft, self.field, getattr(draft, self.field) + 1)
            draft.total += 1
            self.tries += 1
            self.fresh += 1
        counted = self.fresh
        if self.loop.random.random() < FLUSHED_SHARE:
            await rt.flush()
            self.flushed += counted
            self.fresh -= counted
        return counted


# What must hold.


def check_jobs(
    events: Sequence[RecordedEvent],
    rows: Mapping[str, EntryInfo | None],
    silent: Callable[[str], bool],
) -> None:
    """
    Check the history of the work.

    Args:
        events: of `JOBS`.
        rows: what the ledger says of each key at the end.
        silent: whether a life of a process was killed, closed, or may have been silent.
    """
    jobs = {key: _Job(key) for key in KEYS}
    for event in events:
        key, name, owner, generation = event.data
        jobs[key].take(event.type, name, owner, generation, silent)
    for key, job in jobs.items():
        row = rows.get(key)
        told = (0, 0) if row is None else (row.generation, row.attempt)
        if told != (job.generation, job.attempt):
            raise BrokenError(f"{key} is {told}, handed out were {job.generation, job.attempt}")
        if job.settled and row is not None and row.state is not EntryState.SETTLED:
            raise BrokenError(f"{key} was settled and is {row.state.value}")


class _Job:
    """One piece of work, as far as its history was read."""

    def __init__(self, key: str) -> None:
        self._key = key
        self.generation = self.attempt = self._stopped = 0
        self._owner = self._name = ""
        self.settled = False

    def take(
        self, act: str, name: str, owner: str, generation: int, silent: Callable[[str], bool]
    ) -> None:
        """Take one event."""
        if act == "stopped":
            self._stopped = generation if generation == self.generation else self._stopped
        elif act in ("begun", "claimed"):
            self._hand_out(act, owner, silent)
            self._name = name
        elif (name, owner, generation) != (self._name, self._owner, self.generation):
            raise BrokenError(
                f"{name} in {owner} has {act} on {self._key} under {generation}, but "
                f"{self._name} in {self._owner} owns {self.generation}"
            )
        elif act == "settled":
            self.settled = True

    def _hand_out(self, act: str, owner: str, silent: Callable[[str], bool]) -> None:
        if act == "claimed":
            if not silent(self._owner):
                raise BrokenError(f"{owner} claimed {self._key}, and {self._owner} lives")
            if self.settled:
                raise BrokenError(f"{owner} claimed {self._key} after it was settled")
            if self._stopped == self.generation:
                raise BrokenError(f"{owner} claimed {self._key} after it was stopped")
        self.generation += 1
        self.attempt = self.attempt + 1 if act == "claimed" else 1
        self._owner, self.settled = owner, False


def check_hall(hall: Session[Hall], visitors: Iterable[Visitor], killed: Counter[str]) -> None:
    """Check that what was flushed is there, without a kill all of it, and nothing twice."""
    shown = hall.value
    for visitor in visitors:
        there = getattr(shown, visitor.field)
        least = visitor.flushed if killed[visitor.field] else visitor.tries
        if not least <= there <= visitor.tries:
            raise BrokenError(
                f"{visitor.name} counted {visitor.tries} times, {least} for certain; {there} there"
            )
    if shown.total != shown.p0 + shown.p1 + shown.p2:
        raise BrokenError(f"a sum is of another moment than its parts: {shown}")


def _again(error: HoldfastError) -> bool:
    """Return whether to ask once more: the store was busy, or this life is over."""
    return isinstance(error, StoreBusyError | NotReadyError)
