"""
Chronicles: streams in which Holdfast says what it did, and which keep the last so many events.

Invariant: nothing waits for a chronicle. One whose head is damaged takes no more events; the
damage is noted, and what the event says of goes on.
"""

from holdfast.core.errors import DamagedError
from holdfast.core.event import Event, Head
from holdfast.core.unit import Append, TrimStream, Write
from holdfast.store.port import Reads

Found = Head | DamagedError | None
"""The head of a chronicle; what is wrong with it; or None if nothing was said yet."""


def find(reader: Reads, stream: str) -> Found:
    """Return the head of a stream, damaged or not."""
    try:
        return reader.head(stream)
    except DamagedError as damage:
        return damage


def saying(stream: str, found: Found, event: Event, kept: int) -> tuple[Write, ...]:
    """Return the writes that append an event and drop what is older than the last so many."""
    if isinstance(found, DamagedError):
        return ()
    append = Append(stream, (event,))
    if found is None or found.last_sequence + 1 - found.first_sequence < kept:
        return (append,)
    return (append, TrimStream(stream, found.last_sequence + 2 - kept))
