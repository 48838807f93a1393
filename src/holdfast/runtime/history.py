"""
Streams in a user's hands: append, read, follow.

Following has no seam: a follower only ever reads the log. It asks to be woken, looks, hands
out what it found, and looks again. A wake-up carries no data, so nothing is shown before it is
durable, nothing is shown twice, and a slow follower costs nobody anything.

Invariant: for every `after=n` a reader gets exactly the events n+1, n+2 ... in order, once.
"""

from collections.abc import AsyncIterator, Iterable

import msgspec

from holdfast.core.errors import DamagedError, InvalidValueError, LimitError, StreamNotFoundError
from holdfast.core.event import Event, EventRow, Head, RecordedEvent, recorded
from holdfast.core.key import encode_name, prefix_end
from holdfast.core.redaction import Redactor
from holdfast.core.unit import (
    JOURNALS,
    RESERVED_STREAMS,
    Append,
    AtSequence,
    CloseStream,
    Expectation,
    TrimStream,
    Unit,
)
from holdfast.runtime.attachment import PAGE_EVENTS, PAGE_EVENTS_MAX, Attachment, Page
from holdfast.runtime.damage import Damages
from holdfast.store.port import Listed, Reads
from holdfast.store.store import Store
from holdfast.store.wake import ANY


class StreamInfo(Head, frozen=True):
    """
    What is known of a stream as a whole.

    Attributes:
        damaged_at: sequence of an event that was found damaged; everything before it reads.
            1 in a listing if it is the head itself: nothing of the stream reads then.
    """

    damaged_at: int | None = None


class History:
    """One stream."""

    def __init__(self, store: Store, name: str, redaction: Redactor, damages: Damages) -> None:
        """Take the stream's name; the stream begins with its first event."""
        encode_name("stream", name)
        self.name = name
        self._ours = name.startswith((RESERVED_STREAMS, JOURNALS))
        self._store = store
        self._redaction = redaction
        self._damages = damages

    def event(self, type: str, data: object = None, meta: dict[str, object] | None = None) -> Event:
        """
        Return an event, redacted and encoded, to be appended here or within a unit.

        Raises:
            EncodeError: data or meta cannot be stored exactly.
        """
        return Event.of(type, self._redaction(data), self._redaction(meta))

    async def append(
        self,
        type: str,
        data: object = None,
        *,
        meta: dict[str, object] | None = None,
        expected: int | None = None,
        unit_id: bytes = b"",
    ) -> RecordedEvent:
        """
        Append one event; when this returns, it survives SIGKILL and power loss.

        Args:
            type: what happened, a short word.
            data: plain value (None, bool, int, float, str, bytes, list, dict).
            meta: who, why, correlation; stored beside the data.
            expected: sequence the stream has to be at; 0 for a new stream.
            unit_id: id from `Runtime.unit_id`, to ask for the outcome later.

        Raises:
            EncodeError: data cannot be stored exactly.
            InvalidValueError: Holdfast writes the stream itself.
            SequenceConflictError: the stream is not at `expected`.
            StreamClosedError: the stream was closed.
            OutcomeUnknownError: the commit failed; ask `Runtime.outcome`.
        """
        event = self.event(type, data, meta)
        committed = await self._store.commit(self._unit((event,), expected, unit_id))
        return recorded(*committed.events[0])

    async def append_all(
        self, events: Iterable[Event], *, expected: int | None = None, unit_id: bytes = b""
    ) -> list[RecordedEvent]:
        """Append several events in one unit: all of them or none."""
        committed = await self._store.commit(self._unit(tuple(events), expected, unit_id))
        return [recorded(stream, row) for stream, row in committed.events]

    async def read(self, after: int = 0, limit: int = PAGE_EVENTS) -> list[RecordedEvent]:
        """
        Return up to `limit` events behind sequence `after`; fewer only at the end, or before
        a damaged event.

        Raises:
            TooOldError: retention removed events behind `after`; names the first still there.
            DamagedError: the event at `after` + 1 is damaged.
        """
        return (await self.page(after, limit)).events

    async def page(self, after: int = 0, limit: int = PAGE_EVENTS) -> Page:
        """
        Return up to `limit` events behind sequence `after`, with where the stream begins and ends.

        Raises:
            TooOldError: retention removed events behind `after`; names the first still there.
            DamagedError: the event at `after` + 1 is damaged.
        """
        if after < 0:
            raise InvalidValueError(what="after", reason=f"is {after}, must be 0 or more")
        if not 1 <= limit <= PAGE_EVENTS_MAX:
            raise LimitError(what="limit", size=limit, limit=PAGE_EVENTS_MAX)
        return await self._page(after, limit)

    def attach(self) -> Attachment:
        """Return a reader that can wait for more; for who follows with a heartbeat."""
        return Attachment(self._store.wakes, self.name, self._page)

    async def follow(self, after: int = 0) -> AsyncIterator[RecordedEvent]:
        """
        Yield the events behind sequence `after`, then wait for more; ends when the stream is
        closed and everything was yielded.

        Raises:
            TooOldError: retention removed events behind `after`.
            DamagedError: the next event is damaged.
            ClosedError: the store was closed.
        """
        with self.attach() as reader:
            while True:
                page = await reader.read(after)
                for event in page.events:
                    yield event
                    after = event.sequence
                if page.events:
                    continue
                if page.ended:
                    return
                await reader.wait()

    async def close(self) -> None:
        """Close the stream for good: nothing can be appended, followers end."""
        self._check_free()
        await self._store.commit(Unit((CloseStream(self.name),)))

    async def trim(self, before: int) -> None:
        """
        Remove the events before sequence `before`; numbering and chain go on.

        Raises:
            StreamNotFoundError: there is no such stream.
            InvalidValueError: `before` is beyond the end.
        """
        self._check_free()
        await self._store.commit(Unit((TrimStream(self.name, before),)))

    async def info(self) -> StreamInfo:
        """
        Return what is known of the stream.

        Raises:
            StreamNotFoundError: it has no event yet.
        """
        head = await self._store.read(lambda reader: reader.head(self.name))
        if head is None:
            raise StreamNotFoundError(stream=self.name)
        return described(head, await self._damages.known())

    def _unit(self, events: tuple[Event, ...], expected: int | None, unit_id: bytes) -> Unit:
        self._check_free()
        expects: tuple[Expectation, ...] = ()
        if expected is not None:
            expects = (AtSequence(self.name, expected),)
        return Unit((Append(self.name, events),), expects, unit_id)

    def _check_free(self) -> None:
        """Refuse to write into what Holdfast writes itself; reading it is free."""
        if self._ours:
            raise InvalidValueError(
                what=f"stream {self.name!r}", reason="is written by Holdfast alone, choose another"
            )

    async def _page(self, after: int, limit: int) -> Page:
        try:
            head, rows = await self._store.events(self.name, after, limit)
        except DamagedError as damage:
            await self._damages.note(damage)
            raise
        reached = rows[-1].sequence if rows else after
        first, last = (1, 0) if head is None else (head.first_sequence, head.last_sequence)
        ended = head is not None and head.closed and reached >= last
        return Page([recorded(self.name, row) for row in rows], reached, first, last, ended)


class Feed:
    """All streams, in the order of positions."""

    def __init__(self, store: Store, damages: Damages) -> None:
        """Take the store."""
        self._store = store
        self._damages = damages

    async def read(
        self, after: int = 0, limit: int = PAGE_EVENTS, *, reserved: bool = False
    ) -> list[RecordedEvent]:
        """
        Return up to `limit` events of all streams behind position `after`.

        Only positions are read below which no event can appear any more, also while other
        processes commit out of order.

        Args:
            after: position behind which to begin.
            limit: how many at most; fewer only at the end.
            reserved: also the events of Holdfast's own streams.

        Raises:
            DamagedError: an event in the page is damaged.
        """
        found: list[RecordedEvent] = []
        while len(found) < limit and (rows := await self._rows(after, limit - len(found))):
            found += _shown(rows, reserved)
            after = rows[-1][1].position
        return found

    async def _rows(self, after: int, limit: int) -> list[tuple[str, EventRow]]:
        return (await self._looked(after, limit))[1]

    async def _looked(self, after: int, limit: int) -> tuple[int, list[tuple[str, EventRow]]]:
        def look(reader: Reads) -> tuple[int, list[tuple[str, EventRow]]]:
            horizon = reader.horizon()
            return horizon, reader.feed(after, horizon, limit)

        try:
            return await self._store.read(look)
        except DamagedError as damage:
            await self._damages.note(damage)
            raise

    async def page(self, after: int, limit: int = PAGE_EVENTS) -> Page:
        """
        Return the events among the next `limit` ones behind `after`, without Holdfast's own;
        there may be more behind `reached` although there are few, or none.
        """
        horizon, rows = await self._looked(after, limit)
        reached = rows[-1][1].position if rows else after
        return Page(_shown(rows, False), reached, 1, horizon, ended=False)

    async def head(self) -> int:
        """Return the position up to which no event can appear any more."""
        return await self._store.read(lambda reader: reader.horizon())

    def attach(self) -> Attachment:
        """Return a reader that can wait for more; for who follows with a heartbeat."""
        return Attachment(self._store.wakes, ANY, self.page)

    async def follow(self, after: int = 0) -> AsyncIterator[RecordedEvent]:
        """Yield events of all streams but Holdfast's own behind `after`, then wait for more."""
        with self.attach() as reader:
            while True:
                page = await reader.read(after)
                for event in page.events:
                    yield event
                if page.reached == after:
                    await reader.wait()
                after = page.reached


def _shown(rows: list[tuple[str, EventRow]], reserved: bool) -> list[RecordedEvent]:
    return [
        recorded(stream, row)
        for stream, row in rows
        if reserved or not stream.startswith(RESERVED_STREAMS)
    ]


async def list_streams(
    store: Store,
    damages: Damages,
    prefix: str,
    after: str | None,
    limit: int,
    *,
    reserved: bool,
) -> list[StreamInfo]:
    """Return streams by name, from behind `after`; those of Holdfast itself if asked for."""
    begin = encode_name("prefix", prefix)
    # The smallest name behind `after` is that name with a zero byte appended.
    first = begin if after is None else max(begin, encode_name("after", after) + b"\0")
    until = prefix_end(begin)
    ours = encode_name("prefix", RESERVED_STREAMS)
    spans = [(first, until)]
    if not reserved:
        # Around our own names, so that a listing never reads what it does not show.
        spans = [(first, min(until, ours)), (max(first, prefix_end(ours)), until)]
    heads: list[Listed] = []
    for start, end in spans:
        if start < end and len(heads) < limit:
            room = limit - len(heads)
            heads += await store.read(lambda reader, s=start, e=end, n=room: reader.heads(s, e, n))  # type: ignore[misc]
    known = await damages.known()
    infos = [described(one.head, known) for one in heads]
    return [
        info if one.intact else msgspec.structs.replace(info, damaged_at=1)
        for one, info in zip(heads, infos, strict=True)
    ]


def described(head: Head, known: dict[tuple[str, str], int | None]) -> StreamInfo:
    """Return a head together with the damage known of its stream."""
    damaged_at = known.get(("stream", head.name))
    if damaged_at is not None and damaged_at < head.first_sequence:
        damaged_at = None
    return StreamInfo(
        head.name,
        head.origin,
        head.last_sequence,
        head.last_digest,
        head.first_sequence,
        head.anchor,
        head.closed,
        damaged_at,
    )
