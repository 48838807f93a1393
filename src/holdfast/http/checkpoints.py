"""Checkpoints over HTTP: what a run had done at a place, and what lies between two places."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.denial import CheckpointNotFoundError, CursorError, MalformedError
from holdfast.core.errors import InvalidValueError, LimitError
from holdfast.core.patch import NOTHING, differences, pointed, tree
from holdfast.core.refusal import RunNotFoundError
from holdfast.http.answers import answer, moment, next_cursor
from holdfast.http.call import Call
from holdfast.http.cursor import after_of, event_id
from holdfast.http.etag import etag
from holdfast.http.operation import Operation, Query
from holdfast.http.runs import Limit

Pointer = Annotated[str, msgspec.Meta(pattern="^(/.*)?$", max_length=10_000)]
PATCH: Final = "application/json-patch+json"
_LATEST: Final = "latest"


class CheckpointOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    A place in the journal of a run from where another one can go on.

    Attributes:
        id: sequence of its event; `at` of a fork.
        parent: id of the one before it.
        cause: type of its event.
        step: which it is about.
        at: when.
        size: of the event in bytes.
        hash: over the journal up to it.
    """

    id: int
    parent: int
    cause: str
    step: str = ""
    at: datetime | None = None
    size: int = 0
    hash: str = ""


class CheckpointPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A page of checkpoints.

    Attributes:
        items: in the order of the journal.
        next_cursor: where the next page begins; None at the end.
        stream_cursor: from where the feed tells what happened since.
    """

    items: list[CheckpointOut]
    next_cursor: str | None
    stream_cursor: str


class CheckpointQuery(Query, frozen=True):
    """
    Which checkpoints are listed.

    Attributes:
        limit: how many.
        cursor: where to go on.
    """

    limit: Limit = 50
    cursor: str | None = None


class StateQuery(Query, frozen=True):
    """
    What is wanted of a state.

    Attributes:
        pointer: JSON pointer to a part of it.
    """

    pointer: Pointer = ""


class StateOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a run had done at a place in its journal.

    Attributes:
        run_id: which run.
        id: sequence in its journal.
        pointer: to which part of it `state` is.
        state: how it was seen (`run`) and results so far (`steps`, `answers`, `signals`,
            `children`, `artifacts`).
    """

    run_id: str
    id: int
    pointer: str
    state: Any


class DiffQuery(Query, frozen=True, kw_only=True):
    """
    Between which places.

    Attributes:
        source: `RUN@SEQ`, the sequence may be `latest`; named `from`.
        to: the same, of this run or another one.
        format: `json-patch` (RFC 6902), or `tree` for people.
        pointer: only below this place.
        max_bytes: largest answer that is taken.
    """

    source: str = msgspec.field(name="from")
    to: str
    format: Literal["json-patch", "tree"] = "json-patch"
    pointer: Pointer = ""
    max_bytes: Annotated[int, msgspec.Meta(ge=1, le=32 * 1024 * 1024)] = 1024 * 1024


async def list_checkpoints(call: Call) -> CheckpointPage:
    """Return what a run has done."""
    asked, run_id = call.query(CheckpointQuery), call.param("run_id")
    after = 0 if asked.cursor is None else int(after_of(asked.cursor, run_id))
    head = await call.rt.feed.head()
    found = await call.rt.runs.checkpoints.list(run_id, after=after, limit=asked.limit)
    return CheckpointPage(
        items=[
            CheckpointOut(
                id=one.id,
                parent=one.parent,
                cause=one.cause,
                step=one.step,
                at=moment(one.at),
                size=one.size,
                hash=one.digest,
            )
            for one in found
        ],
        next_cursor=next_cursor(found, asked.limit, str(found[-1].id) if found else "", run_id),
        stream_cursor=event_id(call.rt.lineage, head, feed=True),
    )


async def get_checkpoint(call: Call) -> Response:
    """Return the state of a run at a place."""
    run_id, pointer = call.param("run_id"), call.query(StateQuery).pointer
    id = await _number(call, run_id, call.param("checkpoint"))
    state = await _part(call, run_id, id, pointer)
    if state is NOTHING:
        raise InvalidValueError(what="pointer", reason="leads to nothing there")
    out = StateOut(run_id=run_id, id=id, pointer=pointer, state=state)
    return answer(out, 200, {"ETag": etag(id)})


async def diff(call: Call) -> Response:
    """Return what lies between two places."""
    asked = call.query(DiffQuery)
    before = await _at(call, asked.source, asked.pointer)
    after = await _at(call, asked.to, asked.pointer)
    if NOTHING in (before, after) and before is not after:
        before, after = [one if one is not NOTHING else None for one in (before, after)]
    if asked.format == "tree":
        response = answer(tree(before, after))
    else:
        response = answer(list(differences(before, after)))
        response.headers["Content-Type"] = PATCH
    if len(response.body) > asked.max_bytes:
        raise LimitError(what="difference in bytes", size=len(response.body), limit=asked.max_bytes)
    return response


async def _at(call: Call, place: str, pointer: str) -> Any:
    run_id, mark, number = place.rpartition("@")
    if not mark:
        raise MalformedError(what="a place", reason="is RUN@SEQ or RUN@latest")
    return await _part(call, run_id, await _number(call, run_id, number), pointer)


async def _part(call: Call, run_id: str, id: int, pointer: str) -> Any:
    return pointed(await call.rt.runs.checkpoints.state(run_id, id), pointer)


async def _number(call: Call, run_id: str, said: str) -> int:
    if said == _LATEST:
        return await call.rt.runs.checkpoints.latest(run_id)
    if not (said.isascii() and said.isdigit() and len(said) <= 15):
        raise MalformedError(what="the checkpoint", reason="is a sequence or `latest`")
    return int(said)


_ONE: Final = (RunNotFoundError, CheckpointNotFoundError, MalformedError)
OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/runs/{run_id}/checkpoints",
        name="checkpoint_list",
        stored=True,
        summary="List what a run has done",
        handler=list_checkpoints,
        query=CheckpointQuery,
        answer=CheckpointPage,
        errors=(RunNotFoundError, CursorError),
        tag="checkpoints",
    ),
    Operation(
        method="GET",
        path="/v1/runs/{run_id}/checkpoints/{checkpoint}",
        name="checkpoint_get",
        stored=True,
        summary="Look at the state of a run at a place in its journal",
        handler=get_checkpoint,
        right=Right.PAYLOADS,
        query=StateQuery,
        answer=StateOut,
        errors=(*_ONE, InvalidValueError, LimitError),
        tag="checkpoints",
    ),
    Operation(
        method="GET",
        path="/v1/diff",
        name="diff",
        stored=True,
        summary="Compare two places, also of two runs",
        handler=diff,
        right=Right.PAYLOADS,
        query=DiffQuery,
        answer=Any,
        media_types=("application/json", PATCH),
        errors=(*_ONE, LimitError),
        tag="checkpoints",
    ),
)
