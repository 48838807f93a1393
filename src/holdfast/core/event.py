"""
Events and streams: what is appended, what is found again, and how damage shows.

A stream is a chain: each event's digest covers every stored field and the digest of the event
before it, back to an anchor derived from the stream's name. So a changed, exchanged, missing
or moved event is noticed at its exact sequence.

Invariants:
- sequences of one stream are 1, 2, 3 ... without gaps; retention removes a prefix only;
- positions grow over all streams in commit order of each stream, gaps allowed;
- `digest(event n)` depends on `digest(event n-1)`; `anchor` stands for the event before the
  first one kept;
- the head's own digest covers what the head says about the chain.
"""

import builtins
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DamagedError
from holdfast.core.ids import derived_id
from holdfast.core.key import check_word, encode_name

T = TypeVar("T")


class Event(msgspec.Struct, frozen=True, gc=False):
    """
    An immutable fact before it is stored; make one with `Event.of`.

    Attributes:
        type: what happened, a short word such as `turn_added`.
        payload: the encoded data.
        meta: encoded metadata (who, why, correlation), or None.
    """

    type: str
    payload: bytes
    meta: bytes | None = None

    @staticmethod
    def of(type: str, data: object = None, meta: object = None) -> "Event":
        """
        Return the event with its data encoded.

        Raises:
            EncodeError: data or meta cannot be stored exactly.
            InvalidValueError: the type is not a short word.
            LimitError: the data is larger than `codec.PAYLOAD_BYTES_MAX` bytes.
        """
        return Event(
            check_word("event type", type),
            codec.encode(data),
            None if meta is None else codec.encode(meta, "meta"),
        )


class RecordedEvent(msgspec.Struct, frozen=True, gc=False):
    """
    An event after storing.

    Attributes:
        stream: name of its stream.
        sequence: place in its stream: 1, 2, 3 ... without gaps.
        position: place over all streams: increasing, gaps allowed.
        type: what happened.
        payload: the encoded data; `data` decodes it.
        meta: encoded metadata or None.
        recorded_at: wall time of the commit in seconds since 1970 UTC, for people.
        digest: chained digest, 16 bytes.
    """

    stream: str
    sequence: int
    position: int
    type: str
    payload: bytes
    meta: bytes | None
    recorded_at: float
    digest: bytes

    @property
    def data(self) -> Any:
        """Decode the data; a new value each time, so nobody changes another reader's."""
        return codec.decode(self.payload)

    @property
    def metadata(self) -> dict[str, Any]:
        """Decode the metadata; empty if there is none."""
        return {} if self.meta is None else codec.decode(self.meta, "meta")

    def data_as(self, shape: builtins.type[T]) -> T:
        """
        Decode the data as a type that msgspec can build.

        Raises:
            DecodeError: it is not of that shape.
        """
        return codec.decode_as(self.payload, shape)


class EventRow(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One stored event as the databases keep it; the field order is the column order."""

    position: int
    origin: int
    sequence: int
    type: str
    payload: bytes
    meta: bytes | None
    recorded_at: float
    digest: bytes
    format: int = codec.FORMAT


class Head(msgspec.Struct, frozen=True, gc=False):
    """
    What the store knows of a stream as a whole.

    Attributes:
        name: the stream's name.
        origin: the position at which the stream began; names it inside the store.
        last_sequence: sequence of its last event, 0 before the first.
        last_digest: digest of that event, or the anchor.
        first_sequence: sequence of the first event still there.
        anchor: digest of the event before the first one kept.
        closed: nothing can be appended any more.
    """

    name: str
    origin: int
    last_sequence: int
    last_digest: bytes
    first_sequence: int
    anchor: bytes
    closed: bool

    def seal(self) -> bytes:
        """Return the digest that is stored beside these fields."""
        return codec.digest(
            self.name,
            self.origin,
            self.last_sequence,
            self.last_digest,
            self.first_sequence,
            self.anchor,
            int(self.closed),
        )


def stream_id(name: str) -> bytes:
    """Return the bytes by which a stream is found."""
    return derived_id(b"stream", encode_name("stream", name))


def fresh_head(name: str, origin: int) -> Head:
    """Return the head of a stream that begins at position `origin`."""
    anchor = codec.digest("stream", name)
    return Head(name, origin, 0, anchor, 1, anchor, closed=False)


def chained_digest(previous: bytes, row: EventRow) -> bytes:
    """Return what `row.digest` has to be, given the digest of the event before it."""
    return event_digest(
        previous,
        row.position,
        row.origin,
        row.sequence,
        row.type,
        row.payload,
        row.meta,
        row.recorded_at,
        row.format,
    )


# One positional signature in column order, because it runs once per appended event.
event_digest = codec.digest


def recorded(stream: str, row: EventRow) -> RecordedEvent:
    """Return the stored row as the event it holds."""
    return RecordedEvent(
        stream,
        row.sequence,
        row.position,
        row.type,
        row.payload,
        row.meta,
        row.recorded_at,
        row.digest,
    )


def first_damage(
    stream: str, rows: Sequence[EventRow], after: int, previous: bytes
) -> DamagedError | None:
    """
    Return the first break in a chain, or None.

    Args:
        stream: name, for the error.
        rows: what was read behind sequence `after`.
        after: the sequence before the first row.
        previous: digest of the event at `after`.
    """
    for row in rows:
        after += 1
        if row.sequence != after:
            return damaged_event(stream, after, "the event is missing")
        try:
            expected = chained_digest(previous, row)
        except (TypeError, ValueError, OverflowError):
            return damaged_event(stream, after, "a column is not of its type")
        if expected != row.digest:
            return damaged_event(stream, after, "stored bytes and digest differ")
        previous = row.digest
    return None


def damaged_event(stream: str, sequence: int, reason: str) -> DamagedError:
    """Return the error that names one damaged event."""
    return DamagedError(what="stream", name=stream, sequence=sequence, reason=reason)
