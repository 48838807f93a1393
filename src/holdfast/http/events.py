"""
Events over HTTP: one resource, three forms, by what the client accepts.

A page of JSON for who asks now and then, server-sent events for browsers, lines of JSON for
programs. The cursor of the header `Last-Event-ID` counts before that of the address, since a
browser that comes again sends the old address with a fresh header.
"""

from typing import Annotated, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from holdfast.core.denial import CursorResetError
from holdfast.core.errors import TooOldError
from holdfast.core.event import RecordedEvent
from holdfast.core.refusal import RunNotFoundError
from holdfast.http.call import Call
from holdfast.http.cursor import Place, event_id, place_of
from holdfast.http.envelope import EventOut, envelope, step_of
from holdfast.http.frames import NDJSON, SSE, Asked, check_order
from holdfast.http.operation import Operation, Query
from holdfast.http.stream import EventStream, first_look, start_of
from holdfast.runtime.attachment import Attachment, Page
from holdfast.runtime.runs.journal import stream_of

PAGE_BYTES_MAX: Final = 4 * 1024 * 1024
"""Bytes of stored data behind which a page of JSON ends, however many events were asked for."""
_READ: Final = 64
_READS_MAX: Final = 100
"""So many reads a page is made of; a filter may leave it empty, and its cursor moves on."""
Seconds = Annotated[float, msgspec.Meta(ge=0, le=60)]


class EventQuery(Query, frozen=True):
    """
    Which events.

    Attributes:
        after: id of the event behind which to begin, `earliest` or `latest`.
        limit: how many in a page of JSON.
        types: only these.
        step: only those about it, such as `post#1`.
        wait: seconds a page of JSON waits if there is nothing.
    """

    after: str | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 100
    types: tuple[str, ...] = ()
    step: str = ""
    wait: Seconds = 0


class FeedQuery(EventQuery, frozen=True):
    """
    Which events of all streams.

    Attributes:
        run: only those of these runs.
        stream: only those of streams whose names begin so.
    """

    run: tuple[str, ...] = ()
    stream: str = ""


class EventPage(msgspec.Struct, frozen=True):
    """
    A page of events.

    Attributes:
        items: the events.
        cursor: behind which to go on; the same as before if there was nothing.
        head: id of the last event there is.
        ended: nothing follows any more.
    """

    items: list[EventOut]
    cursor: str
    head: str
    ended: bool


async def run_events(call: Call) -> Response | EventPage:
    """Return the journal of a run."""
    run_id = call.param("run_id")
    asked = call.query(EventQuery)
    await call.rt.runs.get(run_id)
    reader = call.rt.runs.history(run_id).attach()
    return await _events(call, asked, reader, stream_of(run_id), feed=False)


async def feed_events(call: Call) -> Response | EventPage:
    """Return the events of all streams."""
    asked = call.query(FeedQuery)
    return await _events(call, asked, call.rt.feed.attach(), "", feed=True)


async def one_event(call: Call) -> EventOut:
    """Return one event of a run, with its data, however large that is."""
    run_id, seq = call.param("run_id"), int(call.param("seq"))
    await call.rt.runs.get(run_id)
    found = await call.rt.runs.history(run_id).read(max(seq - 1, 0), 1)
    if not found or found[0].sequence != seq:
        raise RunNotFoundError(run_id=f"{run_id}, event {seq}")
    return envelope(found[0], call.rt.lineage, feed=False, payloads=call.sees, whole=True)


async def _events(
    call: Call, query: EventQuery, reader: Attachment, name: str, *, feed: bool
) -> Response | EventPage:
    asked = _asked(call, query, name, feed=feed)
    place = _place(call, query, feed=feed)
    form = form_of(call.request)
    if form is None:
        with reader:
            return await _page(call, query, asked, reader, place)
    if form == SSE and not feed and await _is_over(reader, place, call.rt.lineage):
        return Response(status_code=204, headers={"Cache-Control": "no-store"})
    call.site.check_streams(call.who.name)
    return EventStream(call, asked, form, reader, place)


async def _page(
    call: Call, query: EventQuery, asked: Asked, reader: Attachment, place: Place
) -> EventPage:
    """Return a page of JSON; waits for something if asked to."""
    lineage = call.rt.lineage
    first = await first_look(reader, place, feed=asked.feed)
    after, reason = start_of(place, first, lineage, feed=asked.feed)
    if reason:
        raise CursorResetError(
            reason=reason,
            earliest=event_id(lineage, max(first.first - 1, 0), feed=asked.feed),
            latest=event_id(lineage, first.last, feed=asked.feed),
        )
    until = call.clock.monotonic() + query.wait
    while True:
        items, page = await _items(query, asked, reader, after, lineage)
        rest = until - call.clock.monotonic()
        if items or page.ended or rest <= 0:
            break
        after = page.reached
        await reader.wait(rest)
    return EventPage(
        items,
        event_id(lineage, page.reached, feed=asked.feed),
        event_id(lineage, page.last, feed=asked.feed),
        page.ended,
    )


async def _items(
    query: EventQuery, asked: Asked, reader: Attachment, after: int, lineage: int
) -> tuple[list[EventOut], Page]:
    """Return events behind a place, as many as asked for or as memory allows, and the last look."""
    items: list[EventOut] = []
    size, reads = 0, 0
    while True:
        page = await reader.read(after, min(_READ, query.limit - len(items)))
        reads += 1
        check_order(page, after, asked)
        for event in page.events:
            if asked.wanted is None or asked.wanted(event):
                items.append(envelope(event, lineage, feed=asked.feed, payloads=asked.payloads))
                size += len(event.payload)
        full = len(items) >= query.limit or size >= PAGE_BYTES_MAX or reads >= _READS_MAX
        if page.reached == after or full:
            return items, page
        after = page.reached


async def _is_over(reader: Attachment, place: Place, lineage: int) -> bool:
    """Return whether a reader has everything of a log that ended: a browser stops then."""
    if place.word or place.lineage != lineage or not place.number:
        return False
    with reader:
        page = await first_look(reader, place, feed=False)
        if place.number != page.last:
            return False
        return (await reader.read(page.last, 1)).ended


def _asked(call: Call, query: EventQuery, name: str, *, feed: bool) -> Asked:
    runs = frozenset(query.run) if isinstance(query, FeedQuery) else frozenset[str]()
    prefix = query.stream if isinstance(query, FeedQuery) else ""
    types, step = frozenset(query.types), query.step
    if not (runs or prefix or types or step):
        return Asked(name, feed, "", None, call.sees)
    streams = {stream_of(one) for one in runs}

    def wanted(event: RecordedEvent) -> bool:
        return (
            (not streams or event.stream in streams)
            and event.stream.startswith(prefix)
            and (not types or event.type in types)
            and (not step or step_of(event) == step)
        )

    named = {"run": sorted(runs), "stream": prefix, "types": sorted(types), "step": step}
    filters = msgspec.json.encode({name: what for name, what in named.items() if what}).decode()
    return Asked(name, feed, filters, wanted, call.sees)


def _place(call: Call, query: EventQuery, *, feed: bool) -> Place:
    said = call.header("last-event-id") or query.after
    if said is None:
        return Place(word="latest" if feed and form_of(call.request) is not None else "earliest")
    return place_of(said, feed=feed)


def form_of(request: Request) -> str | None:
    """Return in which form somebody wants to follow; None for a page of JSON."""
    accept = request.headers.get("accept") or ""
    return next((form for form in (SSE, NDJSON) if form in accept), None)


FORMS: Final = ("application/json", SSE, NDJSON)
OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/runs/{run_id}/events",
        name="run_events",
        stored=True,
        summary="Read or follow the journal of a run",
        handler=run_events,
        query=EventQuery,
        answer=EventPage,
        media_types=FORMS,
        errors=(RunNotFoundError, CursorResetError),
        tag="events",
    ),
    Operation(
        method="GET",
        path="/v1/runs/{run_id}/events/{seq:int}",
        name="event_get",
        stored=True,
        summary="Read one event whole",
        handler=one_event,
        answer=EventOut,
        errors=(RunNotFoundError, TooOldError),
        tag="events",
    ),
    Operation(
        method="GET",
        path="/v1/events",
        name="feed",
        stored=True,
        summary="Read or follow the events of all streams",
        handler=feed_events,
        query=FeedQuery,
        answer=EventPage,
        media_types=FORMS,
        errors=(CursorResetError,),
        tag="events",
    ),
)
