"""
Writing buffered fields on a schedule of their own.

A service that does nothing else, so that no other duty can hold it up. Sessions are written in
chunks side by side, and group commit puts a chunk into few transactions, each session's write
being one unit.

Invariants: unchanged sessions cause no write; a failed flush leaves its session dirty and shows
in `failures`; `flush` returns when everything that was dirty at the call is durable.
"""

import asyncio
from weakref import WeakSet

from holdfast.core.clock import Clock
from holdfast.runtime.service import Service
from holdfast.runtime.session import Session

CHUNK_SESSIONS = 500


class Flusher(Service):
    """Writes the buffered fields of dirty sessions every interval."""

    def __init__(self, interval: float, clock: Clock) -> None:
        """Take the flush interval in seconds."""
        super().__init__("flush", interval)
        self._clock = clock
        self._sessions: WeakSet[Session[object]] = WeakSet()
        self.flushed_at = clock.monotonic()

    def watch(self, session: Session[object]) -> None:
        """Flush this session from now on, as long as somebody holds it."""
        self._sessions.add(session)

    async def tick(self) -> None:
        """Flush what is dirty."""
        await self.flush()

    async def flush(self) -> None:
        """
        Write everything that is dirty now; a barrier.

        Raises:
            HoldfastError: a session could not be written; all others were tried all the same.
        """
        dirty = [session for session in self._sessions if session.dirty]
        failures: list[BaseException] = []
        for start in range(0, len(dirty), CHUNK_SESSIONS):
            chunk = dirty[start : start + CHUNK_SESSIONS]
            work = (session.flush() for session in chunk)
            answers = await asyncio.gather(*work, return_exceptions=True)
            failures += [answer for answer in answers if answer is not None]
        if failures:
            raise failures[0]
        self.flushed_at = self._clock.monotonic()
