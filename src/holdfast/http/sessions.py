"""Sessions over HTTP: which there are, what is stored of them, put aside, taken up, closed."""

from datetime import datetime
from typing import Any, Final

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.denial import CursorError, InvalidRequestError
from holdfast.core.errors import InvalidValueError, RecordNotFoundError
from holdfast.core.key import Key, quoted_key, unquoted_key
from holdfast.http.answers import HEADERS, answer, moment, next_cursor
from holdfast.http.call import Call
from holdfast.http.cursor import after_of, event_id
from holdfast.http.operation import Handler, Operation, Query
from holdfast.http.runs import Limit, RunPage, RunQuery, Words, page_of_runs
from holdfast.runtime.sessions.stored import StoredSession


class SessionOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    A session, as it is stored.

    Attributes:
        id: class and key, each part quoted, with slashes between; one segment of an address.
        kind: name of its class.
        key: its key.
        version: version of the class it is stored as.
        created_at: when it was made.
        identities: by what it can be found; only for who may see content.
        archived: it was put aside.
        remaining: seconds until it ends, if it does.
        tiers: its stored fields by tier or group; only for who may see content, and of one alone.
    """

    id: str
    kind: str
    key: list[str]
    version: int
    created_at: datetime | None
    identities: list[str] = []
    archived: bool = False
    remaining: float | None = None
    tiers: dict[str, Any] | None = None


class SessionPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A page of sessions.

    Attributes:
        items: by class and key.
        next_cursor: where the next page begins; None at the end.
        stream_cursor: from where the feed tells what happened since.
    """

    items: list[SessionOut]
    next_cursor: str | None
    stream_cursor: str


class SessionQuery(Query, frozen=True):
    """
    Which sessions are listed.

    Attributes:
        kind: only those of the class of this name.
        archived: only those that were put aside, or only the others.
        limit: how many.
        cursor: where to go on.
    """

    kind: str | None = None
    archived: bool | None = None
    limit: Limit = 50
    cursor: str | None = None


class ChangeSession(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Why a session is changed.

    Attributes:
        reason: kept in the audit.
    """

    reason: Words = ""


def name_of(call: Call) -> Key:
    """Return the class and key of the session that is meant."""
    return unquoted_key(call.param("session_id"))


def shown(one: StoredSession, *, payloads: bool, tiers: dict[str, Any] | None = None) -> SessionOut:
    """Return a session as the caller may see it."""
    return SessionOut(
        id=quoted_key((one.kind, *one.key)),
        kind=one.kind,
        key=list(one.key),
        version=one.version,
        created_at=moment(one.created_at),
        identities=list(one.identities) if payloads else [],
        archived=one.archived,
        remaining=one.remaining,
        tiers=tiers if payloads else None,
    )


async def list_sessions(call: Call) -> SessionPage:
    """Return sessions of all classes."""
    asked = call.query(SessionQuery)
    filters = (asked.kind, asked.archived)
    after = None
    if asked.cursor is not None:
        after = unquoted_key(after_of(asked.cursor, filters))
    head = await call.rt.feed.head()
    found = await call.rt.sessions.stored.list(
        kind=asked.kind, archived=asked.archived, after=after, limit=asked.limit
    )
    last = quoted_key((found[-1].kind, *found[-1].key)) if found else ""
    return SessionPage(
        items=[shown(one, payloads=call.sees) for one in found],
        next_cursor=next_cursor(found, asked.limit, last, filters),
        stream_cursor=event_id(call.rt.lineage, head, feed=True),
    )


async def get_session(call: Call) -> Response:
    """Return a session with its fields."""
    one, tiers = await call.rt.sessions.stored.get(name_of(call))
    return answer(shown(one, payloads=call.sees, tiers=tiers))


async def session_runs(call: Call) -> RunPage:
    """Return the runs of a session that is there, as the list of runs does."""
    asked = call.query(RunQuery)
    if asked.session:
        raise InvalidRequestError(errors=(("/session", "the address says which session"),))
    await call.rt.sessions.stored.get(name_of(call))
    session = quoted_key(name_of(call))
    return await page_of_runs(call, msgspec.structs.replace(asked, session=session))


async def archive_session(call: Call) -> Response:
    """Put a session aside."""
    kind, key = await _known(call)
    await call.rt.sessions.archive(kind, key)
    return await get_session(call)


async def restore_session(call: Call) -> Response:
    """Take a session up again."""
    kind, key = await _known(call)
    await call.rt.sessions.restore(kind, key)
    return await get_session(call)


async def close_session(call: Call) -> Response:
    """End a session: its state and its identities are removed."""
    kind, key = await _known(call)
    await call.rt.sessions.close(kind, key)
    return await closed(call)


async def closed(_: Call) -> Response:
    """Answer that it is gone."""
    return Response(status_code=204, headers=HEADERS)


async def _known(call: Call) -> tuple[type[object], Key]:
    """Return class and key of a session that is there, and whose class is in use here."""
    one, _ = await call.rt.sessions.stored.get(name_of(call))
    return call.rt.sessions.known(one.kind), one.key


_ONE: Final = (RecordNotFoundError, InvalidValueError)


def _change(name: str, summary: str, handler: Handler) -> Operation:
    return Operation(
        method="POST",
        path=f"/v1/sessions/{{session_id}}/{name}",
        name=f"session_{name}",
        summary=summary,
        handler=handler,
        again=get_session,
        right=Right.OPERATE,
        body=ChangeSession,
        answer=SessionOut,
        changes=True,
        errors=_ONE,
        tag="sessions",
    )


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/sessions",
        name="session_list",
        summary="List sessions",
        handler=list_sessions,
        query=SessionQuery,
        answer=SessionPage,
        errors=(CursorError,),
        tag="sessions",
    ),
    Operation(
        method="GET",
        path="/v1/sessions/{session_id}",
        name="session_get",
        summary="Look at what is stored of a session",
        handler=get_session,
        answer=SessionOut,
        errors=_ONE,
        tag="sessions",
    ),
    Operation(
        method="GET",
        path="/v1/sessions/{session_id}/runs",
        name="session_runs",
        summary="List the runs that belong to a session",
        handler=session_runs,
        query=RunQuery,
        answer=RunPage,
        errors=(*_ONE, CursorError),
        tag="sessions",
    ),
    _change("archive", "Put a session aside", archive_session),
    _change("restore", "Take a session up again", restore_session),
    Operation(
        method="DELETE",
        path="/v1/sessions/{session_id}",
        name="session_close",
        summary="End a session and remove its state",
        handler=close_session,
        again=closed,
        right=Right.ADMIN,
        status=204,
        changes=True,
        errors=_ONE,
        tag="sessions",
    ),
)
