"""
Chronicles: streams in which Holdfast says what it did, and which keep the last so many events.

Invariant: nothing waits for a chronicle. One whose head is damaged takes no more events; the
damage is noted, and what the event says of goes on.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from holdfast.core.errors import DamagedError
from holdfast.core.event import Event, Head
from holdfast.core.unit import Append, TrimStream, Write
from holdfast.runtime.damage import Damages
from holdfast.store.port import Reads

T = TypeVar("T")
Found = Head | DamagedError | None
"""The head of a chronicle; what is wrong with it; or None if nothing was said yet."""


def find(reader: Reads, stream: str) -> Found:
    """Return the head of a stream, damaged or not."""
    try:
        return reader.head(stream)
    except DamagedError as damage:
        return damage


class Chronicle:
    """One chronicle."""

    def __init__(self, damages: Damages, stream: str, kept: int) -> None:
        """Take its name, and how many events it keeps."""
        self._damages = damages
        self._stream = stream
        self._kept = kept

    async def say(
        self, event: Event, found: Found, commit: Callable[[tuple[Write, ...]], Awaitable[T]]
    ) -> T:
        """
        Commit with an event of it.

        Args:
            event: what is said.
            found: its head as it was read.
            commit: commits these writes together with what the event says of.
        """
        if isinstance(found, DamagedError):
            await self._damages.note_once(found)
            return await commit(())
        append = (Append(self._stream, (event,)),)
        if found is None or found.last_sequence + 1 - found.first_sequence < self._kept:
            return await commit(append)
        trim = TrimStream(self._stream, found.last_sequence + 2 - self._kept)
        try:
            return await commit((*append, trim))
        except DamagedError as damage:  # Perhaps of what is to be dropped; so nothing is.
            await self._damages.note_once(damage)
            return await commit(append)
