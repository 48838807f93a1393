"""
Frames: events as bytes on the wire, the same for all readers of a log who ask for the same.

What was read once between two places of a log never changes, so a page is encoded once and kept
for a while: a thousand readers cost a thousand writes, not a thousand encodings.

Invariant: a page that would leave a gap, or go back, is never encoded.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from holdfast.core.errors import DamagedError
from holdfast.core.event import RecordedEvent
from holdfast.http.cursor import event_id
from holdfast.http.envelope import envelope
from holdfast.runtime.attachment import Page

SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
CONTROL: Final = "stream."
"""How names of frames begin that are not stored."""
_PAGES_KEPT: Final = 64
_PAGE_BYTES_KEPT: Final = 32 * 1024 * 1024
Wanted = Callable[[RecordedEvent], bool]


class Asked(NamedTuple):
    """
    What a reader of a log asks for.

    Attributes:
        name: of the log, for what is shared between readers.
        feed: it is the feed.
        filters: what is left out, as JSON; the same for readers who share pages.
        wanted: whether an event is sent.
        payloads: the reader may see content.
    """

    name: str
    feed: bool
    filters: str
    wanted: Wanted | None
    payloads: bool


class Encoded(NamedTuple):
    """
    A page as it is sent.

    Attributes:
        body: the bytes.
        shown: how many events are in it.
    """

    body: bytes
    shown: int


class Frames:
    """Pages as they are sent, kept for a while, so that many readers of one log share the work."""

    def __init__(self) -> None:
        """Keep none."""
        self._kept: OrderedDict[tuple[Any, ...], Encoded] = OrderedDict()
        self._size = 0

    def of(self, page: Page, asked: Asked, lineage: int, media_type: str, after: int) -> Encoded:
        """
        Return the page behind `after` as bytes.

        Raises:
            DamagedError: it is not what follows `after`.
        """
        key = (asked.name, asked.filters, asked.payloads, media_type, lineage, after, page.reached)
        found = self._kept.get(key)
        if found is None:
            check_order(page, after, asked)
            found = _encoded(page, asked, lineage, media_type)
            self._keep(key, found)
        return found

    def _keep(self, key: tuple[Any, ...], encoded: Encoded) -> None:
        self._kept[key] = encoded
        self._size += len(encoded.body)
        while len(self._kept) > _PAGES_KEPT or self._size > _PAGE_BYTES_KEPT:
            self._size -= len(self._kept.popitem(last=False)[1].body)


def check_order(page: Page, after: int, asked: Asked) -> None:
    """
    Return if a page is what follows: every sequence of a log, or growing positions of the feed.

    Raises:
        DamagedError: it is not; the reader is told, and nothing of the page is sent.
    """
    last = after
    for event in page.events:
        number = event.position if asked.feed else event.sequence
        if number <= last or (not asked.feed and number != last + 1):
            raise DamagedError(
                what="order of",
                name=asked.name or "feed",
                reason=f"{number} came behind {last}",
                sequence=number,
            )
        last = number


def frame(name: str, said: Any, id: str = "") -> bytes:
    """Return a server-sent event."""
    head = f"id: {id}\n" if id else ""
    return f"{head}event: {name}\ndata: ".encode() + msgspec.json.encode(said) + b"\n\n"


def cursor_frame(id: str, media_type: str) -> bytes:
    """Return what moves a reader's cursor over events that it does not get."""
    if media_type == SSE:
        return f"id: {id}\n\n".encode()
    return msgspec.json.encode({"control": "stream.cursor", "id": id}) + b"\n"


def _encoded(page: Page, asked: Asked, lineage: int, media_type: str) -> Encoded:
    """Return a page as frames or lines; what is left out at its end moves the cursor."""
    parts: list[bytes] = []
    shown = sent = 0
    sse = media_type == SSE
    for event in page.events:
        if asked.wanted is not None and not asked.wanted(event):
            continue
        out = envelope(event, lineage, feed=asked.feed, payloads=asked.payloads)
        line = msgspec.json.encode(out)
        parts += (_head(out.id, event.type), line, b"\n\n") if sse else (line, b"\n")
        sent = event.position if asked.feed else event.sequence
        shown += 1
    if sent < page.reached:
        parts.append(cursor_frame(event_id(lineage, page.reached, feed=asked.feed), media_type))
    return Encoded(b"".join(parts), shown)


def _head(id: str, type: str) -> bytes:
    """Return the fields before the data; what a program named as we name ours is renamed."""
    name = type if type.isprintable() and not type.startswith(CONTROL) else "event"
    return f"id: {id}\nevent: {name}\ndata: ".encode()
