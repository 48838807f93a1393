"""
Writing buffered fields on a schedule of their own.

A service that does nothing else, so that no other duty can hold it up. What is sent was encoded
by the edit that changed it. Sessions are written in chunks: one unit for a whole chunk, so that
ten thousand of them cost a few dozen answers. If a chunk is refused, because another runtime
wrote one of its sessions, because one is damaged or too large, its sessions are written each by
itself; one whose own write is under way, or that cannot even be prepared, waits for the end, and
holds up nobody.

Invariants: unchanged sessions cause no write; a session is written in one unit with all its
groups; a failed flush leaves its session dirty and shows in the report; `flush` returns when
everything that was dirty at the call is durable.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from holdfast.core.clock import Clock
from holdfast.core.errors import CodecError, ConflictError, DamagedError
from holdfast.core.key import Key
from holdfast.core.telemetry import Telemetry
from holdfast.core.unit import RecordRow, Unit, Write
from holdfast.runtime.service import Service, breathe, carry_on
from holdfast.runtime.sessions.image import Portion
from holdfast.runtime.sessions.session import Session
from holdfast.store.store import Store

CHUNK_SESSIONS = 200
CHUNK_BYTES = 1024 * 1024
# So many are prepared or taken over at a stretch, while everybody else waits.
BREATH_SESSIONS = 25
# A flush is late when the last one that wrote all is so many intervals ago.
LATE_INTERVALS = 2
log = logging.getLogger("holdfast")
_REFUSALS = (ConflictError, CodecError, DamagedError)
Dirty = Session[Any]


class FlushReport(msgspec.Struct, frozen=True):
    """
    What one flush did.

    Attributes:
        sessions: how many were written.
        size_bytes: bytes of the fields that were written.
        oldest: seconds for which the oldest change had not been durable: the bound on what a
            crash would have taken.
        failures: sessions that could not be written and stay dirty.
        left: sessions that are dirty now, those that changed meanwhile included.
    """

    sessions: int = 0
    size_bytes: int = 0
    oldest: float = 0.0
    failures: int = 0
    left: int = 0


class Flusher(Service):
    """
    Writes the buffered fields of dirty sessions every interval.

    Attributes:
        flushed_at: monotonic time of the last flush that wrote all.
        report: what the last flush did.
    """

    def __init__(self, store: Store, interval: float) -> None:
        """Take the flush interval in seconds."""
        super().__init__("flush", interval)
        self._store = store
        self._clock: Clock = store.world.clock
        self._dirty: dict[Dirty, float] = {}
        self.flushed_at = self._clock.monotonic()
        self.report = FlushReport()

    def mark(self, session: Dirty) -> None:
        """Write this session with the next flush."""
        self._dirty.setdefault(session, self._clock.monotonic())

    @property
    def oldest(self) -> float:
        """Seconds for which the oldest change has not been durable; 0 if all is."""
        since = min(self._dirty.values(), default=None)
        return 0.0 if since is None else self._clock.monotonic() - since

    @property
    def late(self) -> bool:
        """Whether the last flush that wrote all is longer ago than it may be."""
        return self._clock.monotonic() - self.flushed_at > LATE_INTERVALS * self.interval

    async def tick(self) -> None:
        """Flush what is dirty."""
        await self.flush()

    async def flush(self) -> FlushReport:
        """
        Write everything that is dirty now; a barrier.

        Raises:
            HoldfastError: a session could not be written; all others were tried all the same.
        """
        oldest, began = self.oldest, self._clock.monotonic()
        waiting = list(self._dirty)
        work = _Work(self._store, self._dirty)
        for start in range(0, len(waiting), CHUNK_SESSIONS):
            await work.take(waiting[start : start + CHUNK_SESSIONS])
        await work.finish()
        self.report = FlushReport(
            work.sessions, work.size_bytes, oldest, len(work.failures), len(self._dirty)
        )
        self._tell(began)
        if work.failures:
            raise work.failures[0]
        self.flushed_at = self._clock.monotonic()
        return self.report

    def _tell(self, began: float) -> None:
        """Tell whoever measures what a flush did, if there was anything to do."""
        report, telemetry = self.report, self._store.world.telemetry
        if telemetry.listens and (report.sessions or report.failures):
            numbers = {
                "seconds": self._clock.monotonic() - began,
                "sessions": report.sessions,
                "bytes": report.size_bytes,
                "oldest": report.oldest,
            }
            result = {"result": "failed" if report.failures else "written"}
            telemetry.tell("flush.finished", result, numbers)


class _Work:
    """One flush: what was written, and what has to be written by itself."""

    def __init__(self, store: Store, dirty: dict[Dirty, float]) -> None:
        self._store = store
        self._dirty = dirty
        self._began = store.world.clock.monotonic()
        self._alone: list[Dirty] = []
        self.sessions = 0
        self.size_bytes = 0
        self.failures: list[Exception] = []

    async def take(self, sessions: Sequence[Dirty]) -> None:
        """Write a chunk in one unit, or in a few if it is large; to its end, once it is begun."""
        await carry_on(self._take(sessions))

    async def _take(self, sessions: Sequence[Dirty]) -> None:
        chunk: list[tuple[Dirty, Portion]] = []
        size = 0
        for number, session in enumerate(sessions):
            if number % BREATH_SESSIONS == 0:
                await breathe()
            if session.writing.locked():
                self._alone.append(session)
                continue
            await session.writing.acquire()
            portion = self._prepared(session)
            if portion is None:
                continue
            chunk.append((session, portion))
            size += _size(portion)
            if size > CHUNK_BYTES:
                await self._write(chunk)
                chunk, size = [], 0
        if chunk:
            await self._write(chunk)

    def _prepared(self, session: Dirty) -> Portion | None:
        """Return what there is to write of a session whose `writing` is ours; else let go of it."""
        portion: Portion | None = None
        try:
            portion = session.begin_flush()
            if portion is None:
                self._dirty.pop(session, None)
        except Exception:
            # Written by itself it meets its error again, which is then nobody else's.
            self._alone.append(session)
        finally:
            if portion is None:
                session.writing.release()
        return portion

    async def _write(self, chunk: list[tuple[Dirty, Portion]]) -> None:
        writes: list[Write] = []
        expects = [part for _, portion in chunk for part in portion.expects]
        for _, portion in chunk:
            writes += portion.writes
        try:
            committed = await self._store.commit(Unit(tuple(writes), tuple(expects)))
            await self._note(chunk, committed.records)
        except _REFUSALS:
            self._alone += [session for session, _ in chunk]
        except Exception as error:
            self.failures += [error] * len(chunk)
        finally:
            for session, _ in chunk:
                session.writing.release()

    async def _note(self, chunk: list[tuple[Dirty, Portion]], rows: Sequence[RecordRow]) -> None:
        by_key: dict[Key, list[RecordRow]] = {}
        for row in rows:
            by_key.setdefault(row.key, []).append(row)
        for number, (session, portion) in enumerate(chunk):
            if number % BREATH_SESSIONS == 0:
                await breathe()
            own = by_key.get(session.key, []) + by_key.get(session.name, [])
            session.end_flush(portion, own)
            self.size_bytes += _size(portion)
            self._count(session)

    def _count(self, session: Dirty) -> None:
        self.sessions += 1
        if session.dirty:
            self._dirty[session] = self._began
        else:
            self._dirty.pop(session, None)

    async def finish(self) -> None:
        """Write those that a chunk could not take, each by itself."""
        for start in range(0, len(self._alone), CHUNK_SESSIONS):
            some = self._alone[start : start + CHUNK_SESSIONS]
            answers = await asyncio.gather(
                *(session.flush() for session in some), return_exceptions=True
            )
            for session, answer in zip(some, answers, strict=True):
                if isinstance(answer, Exception):
                    self.failures.append(answer)
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    self._count(session)


def _size(portion: Portion) -> int:
    return sum(map(len, portion.fields.values()))


class Watchdog(Service):
    """
    Counts when flushes are late; a service of its own, as what it watches may hang.

    Attributes:
        late: how often a look found the last flush too long ago.
    """

    def __init__(self, flusher: Flusher, telemetry: Telemetry) -> None:
        """Take what is watched, and who is told."""
        super().__init__("flush-watchdog", flusher.interval)
        self._flusher = flusher
        self._telemetry = telemetry
        self.late = 0

    async def tick(self) -> None:
        """Look once."""
        if self._flusher.late:
            self.late += 1
            self._telemetry.tell("flush.late")
            log.warning("event=flush_late unflushed=%.3f", self._flusher.oldest)
