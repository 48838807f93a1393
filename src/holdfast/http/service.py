"""The service about itself: what it is, who did what, and the pages of its errors."""

import html
from datetime import datetime
from importlib.metadata import version
from typing import Final

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.catalogue import catalogue
from holdfast.core.denial import CursorError, RouteNotFoundError
from holdfast.http.answers import HEADERS, answer, moment
from holdfast.http.call import Call
from holdfast.http.cursor import after_of, event_id, page_cursor
from holdfast.http.operation import Operation, Query
from holdfast.http.problem import title_of
from holdfast.http.runs import Limit
from holdfast.runtime.requests import Note

_HTML: Final = "text/html"


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """
    What this service is.

    Attributes:
        version: of Holdfast.
        lineage: number of the store's line of history; part of every event's id.
        epoch: number of this opening of the store.
        database: name and version of what keeps the store.
        durability: `synced`, or what is weaker about it.
        limits: largest things that are taken, in bytes, and most streams.
    """

    version: str
    lineage: int
    epoch: int
    database: str
    durability: str
    limits: dict[str, int]


class NoteOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    Who did what.

    Attributes:
        seq: place in the audit, without gaps.
        at: when.
        actor, address: who, and where from.
        action, target: what was asked for, and of what.
        reason: why, in the actor's words.
        request: id of the request, as it is in the logs.
    """

    seq: int
    at: datetime | None
    actor: str
    address: str
    action: str
    target: str
    reason: str
    request: str


class AuditPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A page of the audit.

    Attributes:
        items: in the order in which it happened.
        next_cursor: where the next page begins; None at the end.
        stream_cursor: from where the feed tells what happened since.
    """

    items: list[NoteOut]
    next_cursor: str | None
    stream_cursor: str


class AuditQuery(Query, frozen=True):
    """
    Which notes.

    Attributes:
        limit: how many.
        cursor: where to go on.
    """

    limit: Limit = 50
    cursor: str | None = None


class ProblemPage(msgspec.Struct, frozen=True):
    """
    What an error means.

    Attributes:
        code: short and stable.
        title: in words.
        status: of answers with it.
        family: kind of error it belongs to.
    """

    code: str
    title: str
    status: int
    family: str


async def get_info(call: Call) -> Info:
    """Return what this service is."""
    opened, settings = call.rt.opened, call.site.settings
    return Info(
        version=version("holdfast"),
        lineage=call.rt.lineage,
        epoch=opened.epoch,
        database=opened.software,
        durability=opened.durability,
        limits={
            "body_bytes": settings.body_bytes_max,
            "artifact_bytes": settings.artifact_bytes_max,
            "import_bytes": settings.import_bytes_max,
            "streams": settings.streams_max,
        },
    )


async def list_audit(call: Call) -> AuditPage:
    """Return who did what; each note is chained to the one before it."""
    asked = call.query(AuditQuery)
    after = 0 if asked.cursor is None else int(after_of(asked.cursor, "audit"))
    head = await call.rt.feed.head()
    found = await call.rt.requests.audit.read(after, asked.limit)
    items: list[NoteOut] = []
    for event in found:
        note = event.data_as(Note)
        items.append(
            NoteOut(
                seq=event.sequence,
                at=moment(note.at),
                actor=note.actor,
                address=note.address,
                action=note.action,
                target=note.target,
                reason=note.reason,
                request=note.request,
            )
        )
    more = page_cursor(str(items[-1].seq), "audit") if len(items) >= asked.limit else None
    return AuditPage(
        items=items,
        next_cursor=more,
        stream_cursor=event_id(call.rt.lineage, head, feed=True),
    )


async def get_problem(call: Call) -> Response:
    """Return the page of an error, for people or for programs."""
    code = call.param("code")
    kind = catalogue().get(code)
    if kind is None:
        raise RouteNotFoundError()
    family = str(getattr(kind.__mro__[1], "code", ""))
    page = ProblemPage(code, title_of(kind), kind.status, family)
    if _HTML not in (call.header("accept") or ""):
        return answer(page)
    words = [html.escape(str(one)) for one in (page.code, page.title, page.status, page.family)]
    body = (
        "<!doctype html><html lang=en><meta charset=utf-8><title>{0}</title>"
        "<h1>{0}</h1><p>{1}.</p><p>Status {2}, of the family {3}.</p></html>"
    ).format(*words)
    policy = {"Content-Security-Policy": "default-src 'none'"}
    return Response(body, headers={**HEADERS, **policy}, media_type=_HTML)


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/info",
        name="info",
        stored=True,
        summary="What this service is",
        handler=get_info,
        answer=Info,
        tag="service",
    ),
    Operation(
        method="GET",
        path="/v1/audit",
        name="audit",
        stored=True,
        summary="Who did what",
        handler=list_audit,
        right=Right.ADMIN,
        query=AuditQuery,
        answer=AuditPage,
        errors=(CursorError,),
        tag="service",
    ),
    Operation(
        method="GET",
        path="/v1/problems/{code}",
        name="problem",
        summary="What an error means",
        handler=get_problem,
        right=None,
        early=True,
        answer=ProblemPage,
        media_types=("application/json", _HTML),
        errors=(RouteNotFoundError,),
        tag="service",
    ),
)
