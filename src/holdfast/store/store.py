"""
The store as the runtime sees it: commit a unit, read, wait for more.

One object over a driver and its writer thread. Everything that waits is an `await`; blocking
reads run in a small pool of threads. A read that many followers ask for at the same moment is
done once.

Invariants: nothing is accepted before `open` returned and after `close` began; reads see only
what is committed; `outcome` answers only when the unit cannot be under way any more.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from holdfast.core.errors import (
    ClosedError,
    ForkedError,
    HoldfastError,
    InvalidValueError,
    OutcomeForgottenError,
    PoisonedError,
    StoreError,
    UncheckedError,
)
from holdfast.core.event import EventRow, Head
from holdfast.core.ids import UNIT_ID_BYTES
from holdfast.core.unit import Committed, Unit
from holdfast.core.world import World
from holdfast.store.keyring import Keyring
from holdfast.store.options import Options
from holdfast.store.port import ALL, Changes, Depth, Driver, Finding, Opened, Reads
from holdfast.store.rider import current
from holdfast.store.unlock import unlock
from holdfast.store.vault import Vault
from holdfast.store.wake import Wakes
from holdfast.store.writer import Writer

T = TypeVar("T")
Page = tuple[Head | None, list[EventRow]]


class Store:
    """An opened store."""

    def __init__(self, driver: Driver, options: Options, world: World) -> None:
        """
        Take a driver that is not opened yet.

        Raises:
            InvalidValueError: the keyring cannot be used.
            MissingExtraError: there is a keyring, and what encrypts is not installed.
        """
        keyring = Keyring.of(options.keyring)
        self.vault = None if keyring is None else Vault(keyring)
        self.driver = driver
        self.options = options
        self.world = world
        self.wakes = Wakes()
        self.opened: Opened | None = None
        self._writer = Writer(driver, options, world, self.wakes.wake)
        self._writer.on_poison = self.wakes.wake_all
        self._threads = ThreadPoolExecutor(options.readers + 2, "holdfast-reader")
        self._pages: dict[tuple[str, int, int, int], asyncio.Future[Page]] = {}
        self._closed = False
        self._lock = threading.Lock()
        self._is_open = False
        self._refusal: Callable[[], HoldfastError] | None = None
        self._failure: HoldfastError | None = None
        self._abandoned = False
        self._pid = os.getpid()

    async def open(
        self, migrating: Callable[[], None] = lambda: None, *, locked: bool = False
    ) -> Opened:
        """
        Open the driver and start the writer; if this is cancelled, nothing stays open.

        Args:
            migrating: called, in another thread, when the driver begins to migrate.
            locked: ask for no key; then only digests can be checked of what is encrypted.

        Raises:
            StoreError: the store is refused, damaged, newer, locked or unsafe.
            KeyMissingError, KeyWrongError: it is encrypted, and the keyring does not fit.
        """
        self.driver.migrating = migrating
        try:
            opened = await self._start(lambda: self._open(locked=locked))
        except BaseException:
            self._abandon()
            raise
        self.opened = opened
        self._writer.start()
        return opened

    def _open(self, *, locked: bool) -> Opened:
        opened = self.driver.open()
        if not locked:
            try:
                unlock(self.driver, self.vault, self.world, read_only=self.options.read_only)
            except BaseException:
                self.driver.close()
                raise
        with self._lock:
            self._is_open = True
            abandoned = self._abandoned
        if abandoned:
            self.driver.close()
        return opened

    def _abandon(self) -> None:
        """Close what was opened for nobody: here, or in the thread that is still at it."""
        with self._lock:
            self._abandoned = True
            is_open = self._is_open
        if is_open:
            self._start(self.driver.close)
        self._threads.shutdown(wait=False)

    async def close(self) -> None:
        """Commit what is queued, wake everybody who waits, release the store."""
        if self._closed:
            return
        self._closed = True
        if self.opened is None:
            return
        # One step, in a thread, which goes on to its end if this is cancelled.
        await asyncio.shield(asyncio.get_running_loop().run_in_executor(None, self._release))

    def _release(self) -> None:
        """Let commits and reads under way end, then close; no connection is closed in use."""
        self.driver.interrupt_wait()
        self._writer.stop()
        self._threads.shutdown(wait=True)
        self.driver.close()
        # Only now does everybody who looks again find the store closed.
        self.wakes.wake_all()

    @property
    def closed(self) -> bool:
        """Whether `close` began."""
        return self._closed

    @property
    def poisoned(self) -> str | None:
        """Why the store stopped, or None."""
        return self._writer.poisoned

    def check_writable(self) -> None:
        """
        Return if something may still change here.

        Raises:
            PoisonedError: nothing will, before the store is opened anew.
            HoldfastError: what this opening was stopped with.
        """
        if self._writer.poisoned is not None:
            raise PoisonedError(reason=self._writer.poisoned)
        if self._failure is not None:
            raise self._failure.fresh()

    @property
    def trouble(self) -> StoreError | None:
        """What the last transaction failed with (full, busy, out of reach), or None."""
        return self._writer.trouble

    def shut(self, refusal: Callable[[], HoldfastError]) -> None:
        """Refuse every commit from now on, but for those that pass early; until `admit`."""
        self._refusal = refusal

    def admit(self) -> None:
        """Let commits pass."""
        self._refusal = None

    def stop(self, failure: HoldfastError) -> None:
        """Let nothing change here any more, and have everybody who waits for it look."""
        self._failure = failure
        self.wakes.wake_all()

    def check_admitted(self) -> None:
        """
        Return if state may be changed now.

        Raises:
            NotReadyError: it may not; says why.
        """
        if self._refusal is not None:
            raise self._refusal()

    def unit_id(self) -> bytes:
        """Return a fresh unit id, to be remembered before the unit is submitted."""
        return self.world.ids.unit(self.driver.last_number())

    def commit(self, unit: Unit) -> Coroutine[None, None, Committed]:
        """
        Commit a unit; when the returned coroutine is done, it is durable.

        Raises:
            InvalidValueError: the unit's id is not one of `unit_id`.
            NotReadyError: state may not be changed now.
            HoldfastError: refused, not written, or `OutcomeUnknownError`.
        """
        self.check_admitted()
        rider = current()
        return self.commit_early(unit) if rider is None else rider.take(unit, self.commit_early)

    def commit_early(self, unit: Unit) -> Coroutine[None, None, Committed]:
        """
        Commit a unit of the boot or of the goodbye, which pass while everybody else may not.

        Raises:
            HoldfastError: as for `commit`.
        """
        if unit.id and len(unit.id) != UNIT_ID_BYTES:
            raise InvalidValueError(what="unit id", reason=f"has {len(unit.id)} bytes, not 16")
        self._check_process()
        return self._writer.submit(unit)

    async def committed(self, unit_id: bytes) -> bool:
        """
        Return whether a unit was committed, once that cannot change any more.

        Raises:
            OutcomeForgottenError: its outcome is not kept any more.
            PoisonedError: a commit failed; what became of it is only known after reopening.
        """
        await self.barrier()
        if self._writer.poisoned is not None:
            raise PoisonedError(reason=self._writer.poisoned)
        verdict = await self.blocking(lambda: self.driver.outcome(unit_id))
        if verdict == "forgotten":
            raise OutcomeForgottenError(unit_id=unit_id.hex())
        return verdict == "committed"

    async def barrier(self) -> None:
        """Wait until every unit submitted before has its answer."""
        self._check_process()
        self._check_opened()
        await self._writer.barrier()

    async def read(self, what: Callable[[Reads], T]) -> T:
        """Run a read in a reader thread."""
        self._check_opened()
        return await self._start(lambda: self._lend(what))

    async def events(self, stream: str, after: int, limit: int) -> Page:
        """
        Return a stream's head and a page behind `after`; equal reads under way are shared.

        Raises:
            TooOldError: retention removed events behind `after`.
            DamagedError: the event at `after` + 1 is damaged.
        """
        # A read that began at this count sees every commit anybody was woken for, so a
        # follower may join it without missing one.
        key = (stream, after, limit, self.wakes.count)
        self._check_opened()
        page = self._pages.get(key)
        if page is None or page.get_loop() is not asyncio.get_running_loop():
            page = self._start(
                lambda: self._lend(lambda reader: reader.events(stream, after, limit))
            )
            self._pages[key] = page
            page.add_done_callback(lambda done: self._drop_page(key, done))
        return await asyncio.shield(page)

    def _drop_page(self, key: tuple[str, int, int, int], done: asyncio.Future[Page]) -> None:
        self._pages.pop(key, None)
        if not done.cancelled():
            done.exception()  # Read once, so that a page nobody waits for any more is not logged.

    async def wait_foreign(self, timeout: float) -> Changes:
        """Wait for commits of other openings and wake whom they concern."""
        changes = await self.blocking(lambda: self.driver.wait_foreign(timeout))
        if changes.streams:
            self.wakes.wake(changes.streams)
        return changes

    async def verify(self, depth: Depth = ALL) -> list[Finding]:
        """
        Read as much as is asked for and return what does not fit.

        Raises:
            UncheckedError: something could not be read; holds what was found until then.
        """
        found: list[Finding] = []

        def check() -> None:
            try:
                found.extend(self.driver.verify(depth))
            except StoreError as error:
                until = tuple((one.what, one.name, one.sequence, one.reason) for one in found)
                raise UncheckedError(reason=error.code, findings=until) from error

        await self.blocking(check)
        return found

    async def blocking(self, function: Callable[[], T]) -> T:
        """Run a blocking function in one of the store's threads."""
        self._check_opened()
        return await self._start(function)

    def _check_process(self) -> None:
        """Refuse to wait for threads that a fork did not take along."""
        if os.getpid() != self._pid:
            raise ForkedError(opened_by=self._pid, used_by=os.getpid())

    def _check_opened(self) -> None:
        """Refuse what needs a driver that is open."""
        if self.opened is None:
            self.check_admitted()
            raise ClosedError(store=self.driver.location)

    def _start(self, function: Callable[[], T]) -> asyncio.Future[T]:
        self._check_process()
        try:
            return asyncio.get_running_loop().run_in_executor(self._threads, function)
        except RuntimeError as error:
            if self._closed:
                raise ClosedError(store=self.driver.location) from error
            raise

    def _lend(self, what: Callable[[Reads], T]) -> T:
        with self.driver.reading() as reader:
            return what(reader)
