"""The ledger over HTTP: which work is in flight, or was when its runtime died."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.denial import CursorError
from holdfast.core.ledger import EntryState
from holdfast.core.refusal import EntryNotFoundError, EntryStateError
from holdfast.http.answers import answer, moment
from holdfast.http.call import Call
from holdfast.http.cursor import after_of, event_id, page_cursor
from holdfast.http.operation import Operation, Query
from holdfast.http.runs import Limit, Words
from holdfast.runtime.work.info import EntryInfo

Part = Annotated[str, msgspec.Meta(max_length=1_000)]


class EntryOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    A piece of work.

    Attributes:
        key: what it is work on.
        kind: family of the work.
        state: where it is.
        generation: number of this begin or claim.
        attempt: how often it was handed out.
        policy: what becomes of it when its runtime dies.
        owner: runtime whose it is, in words; `worker` its id.
        began_at, active_at: when it began, and its last sign of progress.
        silent: seconds since that.
        uncertain: effects that were begun and have no result.
        by, reason: who resolved or stopped it, and why.
        note, outcome: content; only for who may see it.
    """

    key: list[str]
    kind: str
    state: EntryState
    generation: int
    attempt: int
    policy: str
    owner: str
    worker: str
    began_at: datetime | None
    active_at: datetime | None
    silent: float
    uncertain: list[str] = []
    by: str = ""
    reason: str = ""
    note: Any = None
    outcome: Any = None


class EntryPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A page of work.

    Attributes:
        items: by key.
        next_cursor: where the next page begins; None at the end.
        stream_cursor: from where the feed tells what happened since.
    """

    items: list[EntryOut]
    next_cursor: str | None
    stream_cursor: str


class EntryQuery(Query, frozen=True):
    """
    Which work is listed.

    Attributes:
        state: only that in this state.
        kind: only that of this kind.
        limit: how many.
        cursor: where to go on.
    """

    state: EntryState | None = None
    kind: str | None = None
    limit: Limit = 50
    cursor: str | None = None


class ResolveEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What becomes of work whose runtime died.

    Attributes:
        key: what it is work on.
        outcome: `resume` lets it go on with all its attempts; anything else is what it came to.
        reason: why.
    """

    key: Annotated[list[Part], msgspec.Meta(min_length=1, max_length=20)]
    outcome: Any = "done"
    reason: Words = ""


def shown(info: EntryInfo, now: float, *, payloads: bool) -> EntryOut:
    """Return a piece of work as the caller may see it."""
    return EntryOut(
        key=list(info.key),
        kind=info.terms.kind,
        state=info.state,
        generation=info.generation,
        attempt=info.attempt,
        policy=info.terms.policy.value,
        owner=info.owner.holder,
        worker=info.owner.incarnation,
        began_at=moment(info.began.wall),
        active_at=moment(info.active.wall),
        silent=max(0.0, now - info.active.wall),
        uncertain=list(info.uncertain),
        by=info.by,
        reason=info.reason,
        note=info.note if payloads else None,
        outcome=info.outcome if payloads else None,
    )


async def list_entries(call: Call) -> EntryPage:
    """Return work by key."""
    asked = call.query(EntryQuery)
    filters = (asked.state, asked.kind)
    after = None
    if asked.cursor is not None:
        after = tuple(msgspec.json.decode(after_of(asked.cursor, filters), type=list[str]))
    head = await call.rt.feed.head()
    found = await call.rt.ledger.list(asked.state, kind=asked.kind, after=after, limit=asked.limit)
    more = None
    if len(found) >= asked.limit:
        more = page_cursor(msgspec.json.encode(found[-1].key).decode(), filters)
    now = call.clock.wall()
    return EntryPage(
        items=[shown(one, now, payloads=call.sees) for one in found],
        next_cursor=more,
        stream_cursor=event_id(call.rt.lineage, head, feed=True),
    )


async def resolve_entry(call: Call) -> Response:
    """Decide about work whose runtime died."""
    asked = call.body(ResolveEntry)
    info = await call.rt.ledger.resolve(
        tuple(asked.key), asked.outcome, by=call.who.name, reason=asked.reason
    )
    return answer(shown(info, call.clock.wall(), payloads=call.sees))


async def resolved_before(call: Call) -> Response:
    """Answer for a decision whose answer was lost."""
    key = tuple(call.body(ResolveEntry).key)
    info = await call.rt.ledger.find(key)
    if info is None:
        raise EntryNotFoundError(key=key)
    return answer(shown(info, call.clock.wall(), payloads=call.sees))


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/inflight",
        name="entry_list",
        summary="List work in flight, or that was when its runtime died",
        handler=list_entries,
        query=EntryQuery,
        answer=EntryPage,
        errors=(CursorError,),
        tag="ledger",
    ),
    Operation(
        method="POST",
        path="/v1/inflight/resolve",
        name="entry_resolve",
        summary="Decide about work whose runtime died",
        handler=resolve_entry,
        again=resolved_before,
        right=Right.OPERATE,
        body=ResolveEntry,
        answer=EntryOut,
        changes=True,
        errors=(EntryNotFoundError, EntryStateError),
        tag="ledger",
    ),
)
