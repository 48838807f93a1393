"""
Group commit: one thread, one transaction at a time, every waiting unit in it.

    caller (any loop)                    writer thread
    -----------------                    -------------
    submit(unit) -> future  ---queue-->  take all that wait, up to the batch limits
    await future                         load, decide, write, COMMIT (one sync)
         ^                               |
         +------ one wake-up per loop ---+   answers, only after COMMIT returned

A commit costs a sync of the disk, whatever is in it. While one is under way, units gather, and
the next transaction takes them all: one caller gets a sync per unit, a thousand callers share
one. Nothing waits on purpose; a lone unit is committed at once.

What a caller knows:

- An answer: it is durable. A refusal (conflict, fence, ...): nothing of the unit was written,
  and what the refusal is based on is durable too.
- `StoreError` before COMMIT (disk full, another writer too long): nothing was written.
- `OutcomeUnknownError`: COMMIT failed. A failed sync may have written everything, and a second
  sync proves nothing. The writer stops for good (*poisoned*): everything that waits gets
  `PoisonedError` (never taken, so nothing was written). After reopening, `outcome(unit_id)`
  tells which it was.
- Cancelled while waiting: a unit that was not taken yet is dropped. One that was taken is
  committed with its batch; `outcome(unit_id)` waits for the batch and tells.

Back-pressure: the queue is bounded in units and bytes. A caller that finds it full waits its
turn up to a limit, then gets `QueueFullError`; nothing was accepted.

Invariants: units are taken in the order of submission; an answer leaves only after COMMIT
returned; after poisoning nothing is taken any more; every accepted unit gets exactly one
answer; the bounds count what is queued, not what is being committed.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

from holdfast.core.errors import (
    ClosedError,
    FenceError,
    HoldfastError,
    IncarnationFencedError,
    OutcomeUnknownError,
    PoisonedError,
    QueueFullError,
    StateError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreUnavailableError,
    UnexpectedError,
)
from holdfast.core.unit import Append, Committed, Unit, size_bytes
from holdfast.core.world import World
from holdfast.store.options import Options
from holdfast.store.port import Answer, Answers, CommitFailed, Driver

FULL: Final = "SQLITE_FULL"
log = logging.getLogger("holdfast")
Loop = asyncio.AbstractEventLoop
T = TypeVar("T")
# Errors of the store as a whole: trying the units of a batch one by one would not help.
_CONCERNS_ALL: Final = (
    StoreBusyError,
    StoreFullError,
    StoreUnavailableError,
    IncarnationFencedError,
    StateError,
)


class Entry:
    """A unit on its way, or (without one) a barrier: who waits, and how much room it takes."""

    __slots__ = ("future", "loop", "size", "unit")

    def __init__(self, unit: Unit | None, size: int, loop: Loop) -> None:
        """Remember the unit; its future belongs to the caller's loop."""
        self.unit = unit
        self.size = size
        self.loop = loop
        self.future: asyncio.Future[Committed] = loop.create_future()


class Writer:
    """The queue and the thread behind it."""

    def __init__(
        self,
        driver: Driver,
        options: Options,
        world: World,
        on_change: Callable[[Collection[str]], None],
    ) -> None:
        """
        Take the driver that commits.

        Args:
            driver: an opened driver.
            options: limits of the queue and of a batch.
            world: source of unit ids, and places for tests.
            on_change: called in the writer's thread with the names of the streams that a
                committed batch changed, before its answers are given out; wakes followers.
        """
        self._driver = driver
        self._options = options
        self._ids = world.ids
        self._failpoints = world.failpoints
        self._telemetry = world.telemetry
        self._clock = world.clock
        self._on_change = on_change
        self._queue: SimpleQueue[Entry | None] = SimpleQueue()
        self._left_over: Entry | None = None
        self._lock = threading.Lock()
        self._items = 0
        self._bytes = 0
        self._closing = False
        self._rooms: list[tuple[asyncio.Future[None], Loop]] = []
        self.poisoned: str | None = None
        self.on_poison: Callable[[], None] = lambda: None
        self.trouble: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name="holdfast-writer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    async def submit(self, unit: Unit) -> Committed:
        """
        Queue a unit and wait until it is durable.

        Raises:
            LimitError: the unit is larger than any transaction may be.
            QueueFullError: no room within the wait limit.
            PoisonedError: an earlier commit failed.
            ClosedError: the store is closing.
            OutcomeUnknownError: this unit's commit failed.
            HoldfastError: the unit was refused.
        """
        entry = Entry(unit, size_bytes(unit), asyncio.get_running_loop())
        room = self._offer(entry)
        if room is not None:
            await self._wait_for_room(entry, room)
        return await entry.future

    async def barrier(self) -> None:
        """Wait until everything queued before this call has its answer."""
        entry = Entry(None, 0, asyncio.get_running_loop())
        with self._lock:
            if self._closing:
                return
            self._queue.put(entry)
        await entry.future

    def stop(self) -> None:
        """Commit what is queued, then end the thread; blocks until it ended."""
        with self._lock:
            self._closing = True
            self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    # The caller's side.

    def _offer(self, entry: Entry) -> asyncio.Future[None] | None:
        """Queue an entry, or return what is done when there may be room."""
        options = self._options
        with self._lock:
            self._check_open()
            full = (
                self._items >= options.queue_items or self._bytes + entry.size > options.queue_bytes
            )
            # A unit larger than the whole bound still passes alone, or it could never pass.
            if full and self._items:
                room: asyncio.Future[None] = entry.loop.create_future()
                self._rooms.append((room, entry.loop))
                return room
            self._items += 1
            self._bytes += entry.size
            self._queue.put(entry)
        return None

    async def _wait_for_room(self, entry: Entry, room: asyncio.Future[None] | None) -> None:
        try:
            async with asyncio.timeout(self._options.queue_wait):
                while room is not None:
                    await room
                    room = self._offer(entry)
        except TimeoutError:
            raise QueueFullError(
                items=self._items, size_bytes=self._bytes, waited=self._options.queue_wait
            ) from None

    def _check_open(self) -> None:
        if self.poisoned is not None:
            raise PoisonedError(reason=self.poisoned)
        if self._closing:
            raise ClosedError(store=self._driver.location)

    # The writer's side.

    def _run(self) -> None:
        while (batch := self._take()) is not None:
            try:
                self._commit(batch)
            except BaseException as error:
                # The thread must not end while anybody waits for it.
                log.exception("event=writer_failed")
                self._poison(f"the writer failed with {type(error).__name__}")
                _answer(batch, [_lost(entry, str(self.poisoned)) for entry in batch])

    def _take(self) -> list[Entry] | None:
        """Wait for work; return a batch, or None when closing with nothing left."""
        first = self._left_over or self._queue.get()
        self._left_over = None
        if first is None:
            return None
        batch = [first]
        size = first.size
        with suppress(Empty):
            while len(batch) < self._options.batch_units:
                entry = self._queue.get_nowait()
                if entry is None:
                    self._queue.put(None)
                    break
                size += entry.size
                if size > self._options.batch_bytes:
                    self._left_over = entry
                    break
                batch.append(entry)
        self._make_room(batch)
        return batch

    def _make_room(self, batch: list[Entry]) -> None:
        with self._lock:
            for entry in batch:
                self._bytes -= entry.size
                self._items -= entry.unit is not None
            rooms, self._rooms = self._rooms, []
        for room, loop in rooms:
            _call(loop, _finish, room)

    def _commit(self, batch: list[Entry]) -> None:
        """Commit what was not cancelled before it was taken, then answer."""
        units = [entry for entry in batch if entry.unit and not entry.future.cancelled()]
        if units:
            self._failpoints.reach("commit.taken")
            answers = self._decide(units)
            _answer(units, answers)
            self._failpoints.reach("commit.answered")
        barriers = [entry for entry in batch if entry.unit is None]
        _answer(barriers, [Committed(b"")] * len(barriers))
        self._tidy()

    def _decide(self, entries: list[Entry]) -> list[Answer]:
        """Commit a batch; whatever goes wrong becomes an answer for each unit."""
        if self.poisoned is not None:
            return [PoisonedError(reason=self.poisoned) for _ in entries]
        units = self._named([entry.unit for entry in entries if entry.unit])
        listens = self._telemetry.listens
        began = self._clock.monotonic() if listens else 0.0
        try:
            answers = self._driver.commit(units)
        except CommitFailed as error:
            self._tell_failed(OutcomeUnknownError.code)
            self._poison(str(error))
            return [OutcomeUnknownError(unit_id=unit.id.hex(), reason=str(error)) for unit in units]
        except _CONCERNS_ALL as error:
            self._tell_failed(error.code)
            if isinstance(error, FenceError) and listens:
                self._telemetry.tell("unit.fenced", {}, {"count": len(entries)})
            self.trouble = error if isinstance(error, StoreError) else None
            return [error.fresh() for _ in entries]
        except Exception as error:
            # A value that cannot be stored, a damaged row, a fault of ours. Nothing was
            # written; one by one, the unit at fault takes only itself down.
            if len(entries) > 1:
                return [self._decide([entry])[0] for entry in entries]
            self._tell_failed(getattr(error, "code", UnexpectedError.code))
            if isinstance(error, HoldfastError):
                return [error.fresh()]
            unexpected = UnexpectedError(reason=type(error).__name__)
            unexpected.__cause__ = error
            return [unexpected]
        self.trouble = None
        if listens:
            self._tell(units, answers, self._clock.monotonic() - began)
        self._on_change(answers.streams)
        return answers.units

    def _tell(self, units: list[Unit], answers: Answers, seconds: float) -> None:
        """Tell whoever measures what a batch came to."""
        done = [isinstance(answer, Committed) for answer in answers.units]
        appends = [
            write
            for unit, committed in zip(units, done, strict=True)
            if committed
            for write in unit.writes
            if isinstance(write, Append)
        ]
        fenced = sum(isinstance(answer, FenceError) for answer in answers.units)
        if any(done):
            numbers = {
                "seconds": seconds,
                "sync": answers.sync,
                "units": sum(done),
                "events": sum(len(append.events) for append in appends),
                "event_bytes": sum(len(one.payload) for two in appends for one in two.events),
            }
            self._telemetry.tell("store.committed", {}, numbers)
        if fenced:
            self._telemetry.tell("unit.fenced", {}, {"count": fenced})
        if answers.tries > 1:
            self._telemetry.tell("store.busy", {}, {"count": answers.tries - 1})

    def _tell_failed(self, code: str) -> None:
        if self._telemetry.listens:
            self._telemetry.tell("store.failed", {"class": code})
            if code == StoreBusyError.code:
                self._telemetry.tell("store.busy", {}, {"count": 1})

    def _named(self, units: list[Unit]) -> list[Unit]:
        """Return the units, each with an id by which its outcome can be asked for."""
        ids = self._ids.units(self._driver.last_number(), len(units))
        return [
            unit if unit.id else Unit(unit.writes, unit.expects, id)
            for unit, id in zip(units, ids, strict=True)
        ]

    def _tidy(self) -> None:
        if self.poisoned is None:
            try:
                self._driver.tidy()
            except CommitFailed as error:
                self._tell_failed(PoisonedError.code)
                self._poison(str(error))
            except StoreError:
                return  # Looked at again after the next batch.

    def _poison(self, reason: str) -> None:
        with self._lock:
            self.poisoned = reason
        if FULL in reason:
            self._driver.relieve()
        self.on_poison()  # Who waits for something new looks, and finds that nothing will come.


def _answer(batch: Sequence[Entry], answers: Sequence[Answer]) -> None:
    """Hand answers to their loops, waking each loop once."""
    by_loop: dict[Loop, list[tuple[asyncio.Future[Committed], Answer]]] = {}
    for entry, answer in zip(batch, answers, strict=True):
        by_loop.setdefault(entry.loop, []).append((entry.future, answer))
    for loop, pairs in by_loop.items():
        _call(loop, _settle, pairs)


def _lost(entry: Entry, reason: str) -> Answer:
    unit_id = entry.unit.id.hex() if entry.unit else ""
    return OutcomeUnknownError(unit_id=unit_id, reason=reason)


def _settle(pairs: Iterable[tuple[asyncio.Future[Committed], Answer]]) -> None:
    for future, answer in pairs:
        if future.done():
            continue
        if isinstance(answer, HoldfastError):
            future.set_exception(answer)
        else:
            future.set_result(answer)


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _call(loop: Loop, function: Callable[[T], None], argument: T) -> None:
    """Run something on a loop; a loop that was closed has nobody waiting any more."""
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError:
        return
