"""
The envelope of an event: the same in a page, a line, a frame.

Every event says by itself where it belongs, so that one that was taken out of its stream is not
lost; `id` is what a reader sends back to go on behind it.
"""

from datetime import datetime
from typing import Any, Final, cast

import msgspec

from holdfast.core.event import RecordedEvent
from holdfast.core.unit import JOURNALS
from holdfast.http.answers import moment
from holdfast.http.cursor import event_id

DATA_BYTES_MAX: Final = 256 * 1024


class DataRef(msgspec.Struct, frozen=True):
    """
    Where data is that is too large for a stream.

    Attributes:
        size: in bytes, as stored.
        href: address of the event alone, with its data.
    """

    size: int
    href: str


class EventOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    An event.

    Attributes:
        id: `<lineage>.<seq>`, in the feed `<lineage>.f<position>`.
        stream: name of its stream.
        run_id: whose journal that is.
        seq: place in its stream, 1, 2, 3 ... without gaps.
        position: place over all streams.
        type: what happened.
        at: when it was committed.
        step, attempt: which it is about.
        actor: who did it.
        schema: version of this envelope.
        data: what it says; None if the caller may not see content.
        data_ref: where the data is, if it is too large.
        redacted: the data was left out because the caller may not see it.
        meta: what was stored beside the data.
    """

    id: str
    stream: str
    seq: int
    position: int
    type: str
    at: datetime | None
    schema: int = 1
    run_id: str = ""
    step: str = ""
    attempt: int = 0
    actor: str = ""
    data: Any = None
    data_ref: DataRef | None = None
    redacted: bool = False
    meta: dict[str, Any] = {}


def envelope(
    event: RecordedEvent, lineage: int, *, feed: bool, payloads: bool, whole: bool = False
) -> EventOut:
    """
    Return an event as it is sent.

    Args:
        event: as it was read.
        lineage: of the store.
        feed: its id is a place in the feed.
        payloads: the reader may see content.
        whole: also data that is large.
    """
    journal = event.stream.startswith(JOURNALS)
    small = whole or len(event.payload) <= DATA_BYTES_MAX
    data = event.data if small else None
    fields = _fields(event, data)
    number = event.position if feed else event.sequence
    return EventOut(
        id=event_id(lineage, number, feed=feed),
        stream=event.stream,
        run_id=event.stream.removeprefix(JOURNALS) if journal else "",
        seq=event.sequence,
        position=event.position,
        type=event.type,
        at=moment(event.recorded_at),
        step=_step(fields),
        attempt=_number(fields.get("attempt")),
        actor=str(fields.get("by", "") or ""),
        data=data if payloads else None,
        data_ref=None if small else DataRef(len(event.payload), _href(event)),
        redacted=not payloads,
        meta=event.metadata if payloads else {},
    )


def step_of(event: RecordedEvent) -> str:
    """Return which step an event is about, as its envelope says it; empty for none."""
    small = len(event.payload) <= DATA_BYTES_MAX
    return _step(_fields(event, event.data)) if small else ""


def _fields(event: RecordedEvent, data: Any) -> dict[str, Any]:
    is_known = event.stream.startswith(JOURNALS) and isinstance(data, dict)
    return cast(dict[str, Any], data) if is_known else {}


def _step(fields: dict[str, Any]) -> str:
    return f"{fields['name']}#{fields['n']}" if "name" in fields and "n" in fields else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _href(event: RecordedEvent) -> str:
    return f"/v1/runs/{event.stream.removeprefix(JOURNALS)}/events/{event.sequence}"
