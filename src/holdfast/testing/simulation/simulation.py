"""
Several processes on one store, in one thread, in virtual time, by one seed.

Work under faults, once or twice, followed by quiet in which everything has to come to an end:
callbacks stall, processes freeze and are killed (at any await and within a commit), wall clocks
jump, callers are cancelled, a foreign program holds the write lock. The clients are those of
`testing.simulation.clients`, the store is the real driver on a real file.

What must hold, always and at the end:

- everything acknowledged is there, once; nothing is there that was refused or found absent;
- each follower is shown exactly 1 to n, and reaches n soon once faults have stopped;
- what only an owner may write stands between its grant and the next;
- counters are the sum of what was committed;
- once faults have stopped, everybody finishes.

The same seed gives the same history, byte for byte, in any process.
"""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import apsw

from holdfast.core.recovery import Phase
from holdfast.runtime.presence import LEASE_TTL
from holdfast.runtime.runtime import Runtime
from holdfast.testing.disk.images import remove_image
from holdfast.testing.simulation.clients import (
    CANCELLED_SHARE,
    NOTES,
    WORK,
    Adder,
    Appender,
    Client,
    Follower,
    Owner,
    Parts,
    check_notes,
    check_work,
)
from holdfast.testing.simulation.instance import Instance, virtual_owners
from holdfast.testing.simulation.patrons import (
    JOBS,
    KEYS,
    NAMES,
    Hall,
    Visitor,
    Worker,
    check_hall,
    check_jobs,
)
from holdfast.testing.simulation.place import fresh_store, memory
from holdfast.testing.simulation.virtual import BrokenError, VirtualLoop

__all__ = ["Campaign", "History", "campaign", "simulate", "with_patrons"]

T = TypeVar("T")
SECOND_ROUND_SHARE: Final = 0.05
# Seeds whose clients use sessions and the ledger, and those among them with short leases.
PATRONS_SHARE: Final = 0.15
HASTY_SHARE: Final = 0.4
HASTY_LEASE: Final = 3.0
# So long that no heartbeat falls into a seed in which nobody has work in flight.
QUIET_LEASE: Final = 300.0
SETTLE_MAX: Final = 90.0
SHOWN_WITHIN: Final = 10.0
# A seed is short: half of its time goes into openings, and what many short ones find in a second
# is what fewer long ones do.
ALONE_SHARE: Final = 0.35
CROWD_SHARE: Final = 0.05
MORE_WORK_SHARE: Final = 0.1
ROUND_SECONDS: Final = 0.9
POINTS: Final = (
    "commit.begun",
    "commit.decided",
    "commit.written",
    "commit.committed",
    "commit.marked",
    "commit.answered",
)
VERIFIED_EVERY: Final = 16
WRITERS: Final[Sequence[type[Client]]] = (Appender, Adder, Owner)
PATRONS: Final[Sequence[type[Client]]] = (Appender, Worker, Visitor)
OPENED_SHARE: Final = 0.15
CLOSE_CANCELLED_SHARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class History:
    """
    What one seed gave.

    Attributes:
        seed: the seed.
        lines: what happened, in order.
        broken: what was broken, or empty.
        reached: how often rare states were reached.
        steps: callbacks that ran.
        seconds: virtual seconds that passed.
    """

    seed: int
    lines: tuple[str, ...]
    broken: str
    reached: Counter[str]
    steps: int
    seconds: float

    def text(self) -> bytes:
        """Return the history as bytes; equal for equal seeds."""
        last = f"{self.steps} steps, {self.seconds!r} s, {self.broken}"
        return "\n".join([*self.lines, last]).encode()


@dataclass(slots=True)
class Campaign:
    """
    What many seeds gave.

    Attributes:
        seeds: how many ran.
        steps: callbacks that ran.
        seconds: virtual seconds that passed.
        reached: in how many seeds a rare state was reached.
        broken: seeds that broke something, and what.
    """

    seeds: int = 0
    steps: int = 0
    seconds: float = 0.0
    reached: Counter[str] = field(default_factory=Counter[str])
    broken: dict[int, str] = field(default_factory=dict[int, str])

    def add(self, history: History) -> None:
        """Count a seed."""
        self.seeds += 1
        self.steps += history.steps
        self.seconds += history.seconds
        self.reached.update(dict.fromkeys(+history.reached, 1))
        if history.broken:
            self.broken[history.seed] = history.broken

    def join(self, other: "Campaign") -> None:
        """Count what another process ran."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.seconds += other.seconds
        self.reached.update(other.reached)
        self.broken.update(other.broken)


def campaign(seeds: Iterable[int], parts: Parts | None = None, *, enough: int = 5) -> Campaign:
    """
    Run many seeds; stop after `enough` that broke something.

    Args:
        seeds: the seeds.
        parts: what the simulation is made of.
        enough: how many broken seeds are enough.
    """
    total = Campaign()
    with tempfile.TemporaryDirectory(prefix="hf-", dir=memory()) as name:
        for seed in seeds:
            total.add(simulate(seed, parts, folder=Path(name)))
            if len(total.broken) >= enough:
                break
    return total


def with_patrons(seeds: Iterable[int]) -> Iterator[int]:
    """Give the seeds whose clients use sessions and the ledger."""
    return (seed for seed in seeds if _cast(Random(seed))[1])


def _cast(random: Random) -> tuple[int, bool]:
    """Draw how many processes there are, and whether their clients use sessions and the ledger."""
    drawn = random.random()
    count = 1 if drawn < ALONE_SHARE else 2 if drawn < 1 - CROWD_SHARE else 3
    return count, random.random() < PATRONS_SHARE


def simulate(seed: int, parts: Parts | None = None, *, folder: Path | None = None) -> History:
    """
    Run one seed.

    Args:
        seed: gives the history.
        parts: what the simulation is made of.
        folder: where to put stores; the first call leaves an empty one there as a template.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="hf-", dir=memory()) as name:
            return simulate(seed, parts, folder=Path(name))
    path = fresh_store(folder)
    world = _Simulation(seed, parts or Parts(), path)
    try:
        return world.run()
    finally:
        world.drop()
        remove_image(str(path.parent))


class _Simulation:
    """One seed."""

    def __init__(self, seed: int, parts: Parts, path: Path) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.loop = VirtualLoop(self.random)
        self.path = path
        self.reached: Counter[str] = Counter()
        self.lines: list[str] = []
        count, self.patrons = _cast(self.random)
        self.hasty = self.patrons and self.random.random() < HASTY_SHARE
        lease = HASTY_LEASE if self.hasty else LEASE_TTL if self.patrons else QUIET_LEASE
        self.instances = [
            Instance(f"p{number}", path, self.loop, parts.store, lease) for number in range(count)
        ]
        self.killed: Counter[str] = Counter()
        self.clients: list[Client] = []
        self.of: dict[str, list[Client]] = {}
        self.followers: list[Follower] = []
        self.restarting: set[str] = set()
        self.closed: set[str] = set()
        # Two kinds of three, the same everywhere: what matters is that they meet their like.
        kinds = self.random.sample(PATRONS if self.patrons else WRITERS, 2)
        for instance in self.instances:
            self._people(instance.name, kinds, parts)

    def _people(self, name: str, kinds: Sequence[type[Client]], parts: Parts) -> None:
        mine: list[Client] = [
            kind(f"{name} {kind.__name__}", self.loop, self.note, self.reached, parts)
            for kind in kinds
        ]
        self.of[name] = mine
        self.clients += mine
        # Two in one process, because what they read at the same moment is read once.
        self.followers += [
            Follower(f"{name} Follower {letter}", self.loop, parts, self.note, self.reached)
            for letter in ("a" if self.followers else "ab")
        ]

    def note(self, what: str) -> None:
        """Write a line of the history."""
        self.lines.append(f"{self.loop.time():.6f} {what}")

    def run(self) -> History:
        broken = ""
        try:
            with virtual_owners(self.loop):
                self.loop.run(self._main())
        except BrokenError as error:
            broken = str(error)
        except Exception as error:
            broken = f"{type(error).__name__}: {error}"
        steps, seconds = self.loop.steps, self.loop.time()
        return History(self.seed, tuple(self.lines), broken, self.reached, steps, seconds)

    def drop(self) -> None:
        for instance in self.instances:
            instance.kill()

    async def _main(self) -> None:
        for instance in self.instances:
            await self._start(instance)
        for number in range(1 + (self.random.random() < SECOND_ROUND_SHARE)):
            self.note(f"round {number}")
            for client in self.clients:
                client.employ(1 + (self.random.random() < MORE_WORK_SHARE))
            self.loop.stalling = True
            await self._faults()
            self.loop.stalling = False
            self.note("quiet")
            await self._settle()
        await self._close_stream()
        await self._end()

    async def _start(self, instance: Instance) -> None:
        """Open one process and let its people go on."""
        owner = instance.owner
        rt = None
        while rt is None:
            rt = await self._may_be_cancelled(owner, instance.open(), CANCELLED_SHARE)
            if rt is None:
                self.reached["opening was cancelled"] += 1
        self.note(f"{owner} is up")
        for client in self.of[instance.name]:
            self.loop.spawn(owner, client.live(rt, owner))
        for follower in self.followers:
            if follower.name.startswith(instance.name):
                self.loop.spawn(owner, follower.live(rt, owner))

    async def _may_be_cancelled(
        self, owner: str, work: Coroutine[Any, Any, T], share: float
    ) -> T | None:
        """Open or close; return None if that was cancelled at one of its awaits."""
        task = self.loop.spawn(owner, work)
        if self.random.random() < share:
            self.loop.call_later(self.random.random() * 0.03, task.cancel)
        try:
            return await task
        except asyncio.CancelledError:
            return None

    # Faults.

    async def _faults(self) -> None:
        random = self.random.random
        until = self.loop.time() + ROUND_SECONDS
        while self.loop.time() < until:
            await self.loop.pause(random() * 2.0)
            self._bury()
            instance = self.instances[int(random() * len(self.instances))]
            if instance.rt is None:
                continue
            which = random()
            if which < 0.15:
                self._kill(instance, "at an await")
            elif which < 0.3:
                self._kill_within(instance)
            elif which < 0.5:
                seconds = 1.0 + random() * 7.0
                self.note(f"{instance.owner} freezes for {seconds:.3f}")
                self.reached["froze"] += 1
                self.loop.freeze(instance.owner, seconds)
            elif which < 0.7:
                instance.clock.offset = (random() - 0.5) * 20_000.0
                self.note(f"{instance.owner} has its clock set")
                self.reached["clock was set"] += 1
            elif which < 0.8:
                await self._hold()

    def _kill(self, instance: Instance, where: str) -> None:
        self.note(f"{instance.owner} is killed {where}")
        self.reached[f"killed {where}"] += 1
        instance.kill()
        self.killed[instance.name] += 1
        self.restarting.add(instance.name)
        self.loop.spawn("", self._restart(instance))

    def _bury(self) -> None:
        """Start those again that stopped because they were overtaken."""
        for instance in self.instances:
            if instance.rt is not None and instance.rt.phase is Phase.FAILED:
                self._kill(instance, "after it was overtaken")

    def _kill_within(self, instance: Instance) -> None:
        point = POINTS[int(self.random.random() * len(POINTS))]
        instance.kill_at(point, lambda: self._kill(instance, f"at {point}"))

    async def _restart(self, instance: Instance) -> None:
        await self.loop.pause(self.random.random() * 2.0)
        await self._start(instance)
        self.restarting.discard(instance.name)

    async def _hold(self) -> None:
        """Let a foreign program hold the write lock for a while."""
        foreign = apsw.Connection(str(self.path))
        foreign.execute("BEGIN IMMEDIATE")
        await self.loop.pause(self.random.random())
        foreign.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        foreign.close(True)

    # Quiet.

    async def _settle(self) -> None:
        """Wait until everybody is done, then until everybody was shown everything."""
        until = self.loop.time() + SETTLE_MAX
        while self.restarting or any(
            client.left > 0 or client.pending is not None for client in self.clients
        ):
            if self.loop.time() > until:
                busy = [one.name for one in self.clients if one.left > 0 or one.pending is not None]
                raise BrokenError(f"no progress after faults stopped: {busy or self.restarting}")
            self._bury()
            await self.loop.pause(0.5)
        total = sum(len(one.committed) for one in self.clients if isinstance(one, Appender))
        until = self.loop.time() + SHOWN_WITHIN
        while any(len(follower.seen) < total for follower in self.followers):
            if self.loop.time() > until:
                seen = {one.name: len(one.seen) for one in self.followers}
                raise BrokenError(f"a follower waits although {total} events are there: {seen}")
            await self.loop.pause(0.25)

    async def _close_stream(self) -> None:
        """Close the stream: followers of every process have to end."""
        rt = await self._any()
        await rt.history(NOTES).close()
        until = self.loop.time() + SHOWN_WITHIN
        while not all(follower.ended for follower in self.followers):
            if self.loop.time() > until:
                raise BrokenError("a follower waits although the stream was closed")
            await self.loop.pause(0.25)

    async def _any(self) -> Runtime:
        """Return a runtime that is up; all may just have been overtaken and start again."""
        until = self.loop.time() + SETTLE_MAX
        while not (ready := self._ready()):
            if self.loop.time() > until:
                raise BrokenError("no process is up")
            self._bury()
            await self.loop.pause(0.5)
        return ready[0]

    def _ready(self) -> list[Runtime]:
        """Return the runtimes that are up; one that was overtaken is not."""
        running = [instance.rt for instance in self.instances if instance.rt is not None]
        return [rt for rt in running if rt.phase is Phase.READY]

    # The end.

    async def _end(self) -> None:
        """Compare what is there; now and then only after everybody was closed, or killed."""
        which = self.random.random()
        if self.patrons:
            await self._flush()
        rt = await self._any()
        if which < OPENED_SHARE:
            rt = await self._open_again(killed=which < OPENED_SHARE / 4)
        check_notes(await rt.history(NOTES).read(), self.clients, self.followers)
        if self.patrons:
            await self._check_patrons(rt)
        else:
            check_work(await rt.history(WORK).read(), self.clients)
            await self._check_counter(rt)
        if self.seed % VERIFIED_EVERY == 0 and (findings := await rt.verify()):
            raise BrokenError(f"verify found {findings}")

    async def _open_again(self, *, killed: bool) -> Runtime:
        for instance in self.instances:
            if killed:
                instance.kill()
                continue
            while instance.rt is None:
                await self.loop.pause(0.1)  # It is on its way up; what it was before is dead.
            self.closed.add(instance.owner)
            close = instance.close()
            if await self._may_be_cancelled(instance.owner, close, CLOSE_CANCELLED_SHARE) is None:
                self.reached["closing was cancelled"] += 1
        # What was cancelled goes on, and ends soon.
        await self.loop.pause(1.0)
        self.reached["opened again after all were " + ("killed" if killed else "closed")] += 1
        rt = await self.instances[0].open()
        if not self.instances[0].alone:
            raise BrokenError("somebody still has the store open, although all were closed")
        return rt

    async def _flush(self) -> None:
        """Write what is buffered; a runtime that was overtaken cannot, and counts as killed."""
        ready = self._ready()
        for rt in ready:
            await rt.flush()
        self.killed.update(one.name for one in self.instances if one.rt not in ready)

    async def _check_patrons(self, rt: Runtime) -> None:
        rows = {key: await rt.ledger.find(key) for key in KEYS}
        check_jobs(await rt.history(JOBS).read(), rows, self._may_be_rescued)
        halls = await rt.sessions.list(Hall)
        found = await rt.sessions.find(Hall, NAMES)
        if [info.key for info in halls] != list(found.candidates):
            raise BrokenError(f"{len(halls)} sessions, and the name leads to {found.candidates}")
        if found.key is not None:
            async with rt.session(Hall, found.key) as hall:
                await hall.refresh()
                visitors = [one for one in self.clients if isinstance(one, Visitor)]
                check_hall(hall, visitors, self.killed)

    def _may_be_rescued(self, owner: str) -> bool:
        """Return whether a life is over, or may have been silent for longer than its lease."""
        return self.hasty or self.loop.is_dead(owner) or owner in self.closed

    async def _check_counter(self, rt: Runtime) -> None:
        adders = [one for one in self.clients if isinstance(one, Adder)]
        if not adders:
            return
        value = (await rt.records.get("counter", "all")).value
        expected = {one.name: len(one.committed) for one in adders if one.committed}
        expected["n"] = sum(expected.values())
        if value != expected:
            raise BrokenError(f"the counter is {value}, committed were {expected}")
