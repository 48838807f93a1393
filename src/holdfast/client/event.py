"""Events as the service sends them."""

from datetime import datetime
from typing import Any

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """
    An event.

    Attributes:
        id: what to go on behind.
        stream: name of its stream.
        run_id: whose journal that is.
        seq: place in its stream, 1, 2, 3 ... without gaps.
        position: place over all streams.
        type: what happened.
        at: when it was committed.
        step, attempt: which it is about.
        actor: who did it.
        schema: version of this envelope.
        data: what it says.
        data_ref: where the data is (`href`, `size`), if it is too large for a stream.
        redacted: the data was left out because the caller may not see it.
        meta: what was stored beside the data.
    """

    id: str
    stream: str
    seq: int
    position: int
    type: str
    at: datetime | None = None
    schema: int = 1
    run_id: str = ""
    step: str = ""
    attempt: int = 0
    actor: str = ""
    data: Any = None
    data_ref: dict[str, Any] | None = None
    redacted: bool = False
    meta: dict[str, Any] = {}


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """
    A page of events.

    Attributes:
        items: the events.
        cursor: behind which to go on.
        head: id of the last event there is.
        ended: nothing follows any more.
    """

    items: list[Event]
    cursor: str
    head: str
    ended: bool = False
