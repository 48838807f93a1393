"""
One process of a simulation: a runtime on the real SQLite driver, without a thread.

What differs from a real process is where things run, not what runs: the writer commits in a
callback of the loop, reads are executor functions that the loop runs itself, and looking for
commits of others takes virtual time. `drop` is what the operating system does after SIGKILL:
locks end, files are closed, and nobody writes the log home.
"""

import asyncio
import contextvars
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final

import apsw

from holdfast.core.clock import Clock, StoreTime
from holdfast.core.errors import FenceError, StoreBusyError
from holdfast.core.ids import Ids
from holdfast.core.redaction import Redactor
from holdfast.core.unit import Unit
from holdfast.core.world import World
from holdfast.runtime import presence
from holdfast.runtime.opening import Opening
from holdfast.runtime.runs import executor
from holdfast.runtime.runtime import Options, Runtime
from holdfast.runtime.work import roll
from holdfast.store.owner import Owner
from holdfast.store.port import Answers, Changes, Opened
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.store.store import Store
from holdfast.store.writer import Entry, Writer
from holdfast.testing.simulation.virtual import OWNER, Killed, VirtualLoop
from holdfast.testing.slips import replaced

__all__ = ["Instance", "LoopStore", "VirtualClock", "virtual_owners"]

FLUSH_INTERVAL: Final = 30.0
LOOK: Final = 10.0
OPTIONS: Final = Options(busy_wait=0.0, readers=1)


class VirtualClock:
    """
    The clock of one process: store time is the machine's, wall time may be set.

    Attributes:
        offset: by how much the wall clock is off.
    """

    def __init__(self, loop: VirtualLoop) -> None:
        """Take the loop whose time it shows."""
        self._loop = loop
        self.offset = 0.0

    def wall(self) -> float:
        """Return virtual seconds since 1970, as this process sees them."""
        return 1_700_000_000.0 + self._loop.time() + self.offset

    def store_time(self) -> StoreTime:
        """Return the moment by which leases are judged, the same for all processes."""
        return StoreTime("boot:virtual", self._loop.time())

    def monotonic(self) -> float:
        """Return virtual seconds."""
        return self._loop.time()


@contextmanager
def virtual_owners(loop: VirtualLoop) -> Generator[None]:
    """Let runtimes be owned by lives of processes, whose death the loop can prove."""

    def this_owner(clock: Clock) -> Owner:
        return Owner(OWNER.get(), clock.store_time().domain, 0, "virtual", None)

    def proven_dead(owner: Owner, _: Owner) -> bool:
        return loop.is_dead(owner.host)

    with (
        replaced(presence, "this_owner", this_owner),
        replaced(roll, "proven_dead", proven_dead),
        # Nobody runs anything here, and a look for runs every half second costs a third of a seed.
        replaced(executor, "LOOK", LOOK),
    ):
        yield


class LoopWriter(Writer):
    """The writer, driven by callbacks instead of a thread."""

    _asked = False

    def drive(self, loop: VirtualLoop) -> None:
        """Take the loop to commit in."""
        self._loop = loop

    def start(self) -> None:
        """Start nothing: the loop commits when something was queued."""

    def _offer(self, entry: Entry) -> asyncio.Future[None] | None:
        self._ask()
        return super()._offer(entry)

    async def barrier(self) -> None:
        """Wait until everything queued before this call has its answer."""
        self._ask()
        await super().barrier()

    def stop(self) -> None:
        """Commit what is queued."""
        super().stop()
        while (batch := self._take()) is not None:
            self._commit(batch)

    def _ask(self) -> None:
        if not self._asked:
            self._asked = True
            self._loop.call_later(self._loop.hand_over(), self._serve)

    def _serve(self) -> None:
        self._asked = False
        if self._left_over is not None or not self._queue.empty():
            batch = self._take()
            if batch is not None:
                self._commit(batch)
        if self._left_over is not None or not self._queue.empty():
            self._ask()


class LoopStore(Store):
    """The store, with such a writer, and looking for foreign commits now and then."""

    driver: "DroppableDriver"

    def __init__(self, driver: "DroppableDriver", world: World, loop: VirtualLoop) -> None:
        """Take a driver that is not opened yet."""
        super().__init__(driver, OPTIONS, world)
        self.loop = loop
        self.drive()

    def drive(self) -> None:
        """Make the writer."""
        writer = LoopWriter(self.driver, self.options, self.world, self.wakes.wake)
        writer.drive(self.loop)
        self._writer = writer

    async def wait_foreign(self, timeout: float) -> Changes:
        """Look once, after a while; if there can be nothing new then, when the time is over."""
        seconds = self.loop.random.random() * timeout
        await self.loop.pause(seconds)
        if self.driver.has_seen_all():
            await self.loop.pause(timeout - seconds)
        if self.driver.has_seen_all():
            return Changes()  # As a look would say.
        return await super().wait_foreign(timeout)


class DroppableDriver(SqliteDriver):
    """The SQLite driver, with the end that SIGKILL makes of it."""

    def __init__(self, path: Path, world: World, loop: VirtualLoop) -> None:
        """Take the loop that counts writes."""
        super().__init__(path, OPTIONS, world)
        self._loop = loop
        self._seen = -1

    def open(self) -> Opened:
        """Open, which writes."""
        self._loop.writes += 1
        return super().open()

    def commit(self, units: Sequence[Unit]) -> Answers:
        """Commit; counted before, because it may be killed within."""
        self._loop.writes += 1
        return super().commit(units)

    def close(self) -> None:
        """Close, which writes."""
        self._loop.writes += 1
        super().close()

    def has_seen_all(self) -> bool:
        """Return whether nobody has written since it looked."""
        return self._seen == self._loop.writes

    def wait_foreign(self, timeout: float) -> Changes:
        """Look once; the waiting is the loop's."""
        self._seen = self._loop.writes
        return self._look() or Changes()

    def drop(self) -> None:
        """Let the operating system close what is open."""
        free = self._readers._free  # pyright: ignore[reportPrivateUsage]
        for connection in [self._main, *free]:
            if connection is not None:
                with suppress(apsw.ConnectionClosedError):
                    connection.raw.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                    connection.raw.close(True)
        self._main = None
        self._files.close()
        if self._guard is not None:
            self._guard.leave()


class Instance:
    """
    A process that is started again after each kill.

    Attributes:
        name: its name; what runs in one of its lives belongs to `owner`.
        clock: its clock.
        life: how often it was started.
        rt: its runtime, if it is up.
        alone: whether nobody else had the store open when it was opened.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        loop: VirtualLoop,
        store: type[LoopStore],
        lease_ttl: float = OPTIONS.lease_ttl,
    ) -> None:
        """Take the store's file, the kind of store to open it with, and when it counts as dead."""
        self.name = name
        self.clock = VirtualClock(loop)
        self.life = 0
        self.rt: Runtime | None = None
        self.alone = False
        self._path = path
        self._loop = loop
        self._store = store
        self._lease_ttl = lease_ttl
        self._world = World(clock=self.clock)
        self._opening: Opening | None = None
        self._drivers: list[DroppableDriver] = []

    @property
    def owner(self) -> str:
        """Name of the life it is in."""
        return f"{self.name}.{self.life}"

    async def open(self) -> Runtime:
        """Open the store; as long as somebody else is in the way, again and again."""
        while True:
            random = Random(self._loop.random.getrandbits(64))
            self._world = World(clock=self.clock, ids=Ids(random.randbytes))
            driver = DroppableDriver(self._path, self._world, self._loop)
            self._drivers.append(driver)
            store = self._store(driver, self._world, self._loop)
            store.options = replace(store.options, lease_ttl=self._lease_ttl)
            self._opening = Opening(store, FLUSH_INTERVAL, Redactor())
            try:
                self.rt = await self._opening.__aenter__()
            except (StoreBusyError, FenceError):
                # Somebody else writes, or took over while this one was frozen on its way up.
                await self._loop.pause(self._loop.random.random())
                continue
            self.alone = store.opened is not None and store.opened.alone
            return self.rt

    async def close(self) -> bool:
        """Close the store in good order; return whether it was open."""
        self.rt = None
        if self._opening is not None:
            await self._opening.__aexit__(None, None, None)
        return self._opening is not None

    def kill(self) -> None:
        """End this life at once."""
        self._loop.kill(self.owner)
        self.rt = None
        self.life += 1
        for driver in self._drivers:
            driver.drop()
        self._drivers.clear()

    def kill_at(self, point: str, then: Callable[[], None]) -> None:
        """While faults go on, end this life at a failpoint, and call a function soon after."""
        owner = self.owner

        def act() -> None:
            if owner == self.owner and self._loop.stalling:
                self._loop.kill(owner)
                self._loop.call_soon(then, context=contextvars.Context())
                raise Killed

        self._world.failpoints.arm(point, act)
