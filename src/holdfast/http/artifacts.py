"""
Artifacts over HTTP: bytes that runs left behind, and bytes that somebody puts beside a run.

What is served was written by programs and people: it is always a download, under a policy that
lets nothing in it run, with the type it was stored as and no guessing.
"""

import base64
import hashlib
import re
from datetime import datetime
from typing import Final

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.denial import (
    ArtifactExistsError,
    CursorError,
    MalformedError,
    PreconditionFailedError,
    RangeError,
)
from holdfast.core.errors import InvalidValueError, LimitError
from holdfast.core.refusal import ArtifactNotFoundError, RunNotFoundError, RunStateError
from holdfast.http.address import quoted
from holdfast.http.answers import answer, moment, next_cursor
from holdfast.http.call import Call
from holdfast.http.cursor import after_of, event_id
from holdfast.http.etag import etag, is_seen
from holdfast.http.operation import Operation, Query
from holdfast.http.problem import answer_problem
from holdfast.http.runs import Limit
from holdfast.runtime.runs.artifact import Artifact

BYTES: Final = "application/octet-stream"
_TYPE: Final = re.compile(r"[\w!#$&^.+-]{1,100}/[\w!#$&^.+-]{1,100}(; ?charset=[\w-]{1,40})?", re.A)
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.A)
_DIGEST: Final = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):", re.A)
_SAFE: Final = {
    "Cache-Control": "private, no-cache",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Accept-Ranges": "bytes",
}


class ArtifactOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    Bytes that belong to a run.

    Attributes:
        id: by which they are read.
        run_id: whose they are.
        name: how they are called; a value, never a path.
        digest: SHA-256 in hexadecimal; the ETag of the content.
        size: in bytes.
        media_type: what they are.
        attached_at: when.
    """

    id: str
    run_id: str
    name: str
    digest: str
    size: int
    media_type: str
    attached_at: datetime | None


class ArtifactPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A page of artifacts.

    Attributes:
        items: in the order in which they came.
        next_cursor: where the next page begins; None at the end.
        stream_cursor: from where the feed tells what happened since.
    """

    items: list[ArtifactOut]
    next_cursor: str | None
    stream_cursor: str


class ArtifactQuery(Query, frozen=True):
    """
    Which artifacts are listed.

    Attributes:
        limit: how many.
        cursor: where to go on.
    """

    limit: Limit = 50
    cursor: str | None = None


def shown(one: Artifact) -> ArtifactOut:
    """Return what is known of an artifact."""
    return ArtifactOut(
        id=one.id,
        run_id=one.run_id,
        name=one.name,
        digest=one.digest,
        size=one.size,
        media_type=one.media_type,
        attached_at=moment(one.attached_at),
    )


async def list_artifacts(call: Call) -> ArtifactPage:
    """Return the artifacts of a run."""
    asked, run = call.query(ArtifactQuery), await call.rt.runs.get(call.param("run_id"))
    after = None if asked.cursor is None else after_of(asked.cursor, run.id)
    head = await call.rt.feed.head()
    found = await call.rt.runs.artifacts.list(run.id, after=after, limit=asked.limit)
    return ArtifactPage(
        items=[shown(one) for one in found],
        next_cursor=next_cursor(found, asked.limit, found[-1].id if found else "", run.id),
        stream_cursor=event_id(call.rt.lineage, head, feed=True),
    )


async def get_artifact(call: Call) -> Response:
    """Return the bytes of an artifact by its id."""
    return await _content(call, await call.rt.runs.artifacts.get(call.param("artifact_id")))


async def get_named(call: Call) -> Response:
    """Return the bytes of the newest artifact of a run with a name."""
    run_id, name = call.param("run_id"), call.param("name")
    await call.rt.runs.get(run_id)
    return await _content(call, await call.rt.runs.artifacts.named(run_id, name))


async def _content(call: Call, one: Artifact) -> Response:
    headers = {
        **_SAFE,
        "ETag": etag(one.digest),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quoted(one.name)}",
    }
    if is_seen(call, one.digest):
        return Response(status_code=304, headers=headers)
    media_type = one.media_type if _TYPE.fullmatch(one.media_type) else BYTES
    try:
        part = _part(call, one)
    except RangeError as error:
        response = answer_problem(error, call.root, call.id)
        response.headers["Content-Range"] = f"bytes */{one.size}"
        return response
    data = await call.rt.runs.artifacts.read(one.id)
    # RFC 9530: `Content-Digest` is of what is sent, `Repr-Digest` of the whole.
    headers["Repr-Digest"] = digest_of(bytes.fromhex(one.digest))
    status = 200
    if part is None:
        headers["Content-Digest"] = headers["Repr-Digest"]
    else:
        first, last = part
        headers["Content-Range"] = f"bytes {first}-{last}/{one.size}"
        data, status = data[first : last + 1], 206
    response = Response(data, status, headers, media_type)
    response.headers["Content-Type"] = media_type
    return response


def _part(call: Call, one: Artifact) -> tuple[int, int] | None:
    """Return the first and the last byte that are asked for, or None for all."""
    found = _RANGE.fullmatch((call.header("range") or "").strip())
    only_if = call.header("if-range")
    if found is None or only_if not in (None, etag(one.digest)):
        return None
    begin, end = found[1], found[2]
    if not begin and not end:
        return None
    if not begin:
        first, last = max(0, one.size - int(end)), one.size - 1
    else:
        first, last = int(begin), min(int(end), one.size - 1) if end else one.size - 1
    if end and begin and int(end) < int(begin):
        return None
    if first > last:
        raise RangeError(size=one.size)
    return first, last


def digest_of(sha256: bytes) -> str:
    """Return a digest as RFC 9530 writes it."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


async def put_artifact(call: Call) -> Response:
    """Put bytes beside a run that did not end."""
    run_id, name = call.param("run_id"), call.param("name")
    check_digest(call, hashlib.sha256(call.raw).digest())
    await call.rt.runs.get(run_id)
    if (call.header("if-none-match") or "").strip() == "*":
        await _check_absent(call, run_id, name)
    media_type = call.header("content-type") or BYTES
    made, new = await call.rt.runs.artifacts.put(
        run_id,
        name,
        call.raw,
        media_type=media_type if _TYPE.fullmatch(media_type) else BYTES,
        by=call.who.name,
    )
    return _put(call, made, 201 if new else 200)


async def put_before(call: Call) -> Response:
    """Answer for bytes whose answer was lost."""
    made = await call.rt.runs.artifacts.named(call.param("run_id"), call.param("name"))
    return _put(call, made, 200)


def _put(call: Call, made: Artifact, status: int) -> Response:
    location = f"{call.root}/v1/artifacts/{quoted(made.id)}"
    return answer(shown(made), status, {"ETag": etag(made.digest), "Location": location})


async def _check_absent(call: Call, run_id: str, name: str) -> None:
    try:
        there = await call.rt.runs.artifacts.named(run_id, name)
    except ArtifactNotFoundError:
        return
    raise PreconditionFailedError(expected="nothing", actual=there.digest)


def check_digest(call: Call, sha256: bytes) -> None:
    """
    Return if a body is the one that the client sent, or the client does not say.

    Args:
        call: the request.
        sha256: of what came.

    Raises:
        MalformedError: it is not.
    """
    said = call.header("content-digest")
    if said is None:
        return
    found = _DIGEST.search(said)
    if found is None:
        return  # An algorithm that is not known here, which the RFC lets us pass over.
    if f"sha-256=:{found[1]}:" != digest_of(sha256):
        raise MalformedError(what="the body", reason="is not what Content-Digest says")


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/runs/{run_id}/artifacts",
        name="artifact_list",
        stored=True,
        summary="List what a run left behind",
        handler=list_artifacts,
        query=ArtifactQuery,
        answer=ArtifactPage,
        errors=(RunNotFoundError, CursorError),
        tag="artifacts",
    ),
    Operation(
        method="GET",
        path="/v1/artifacts/{artifact_id}",
        name="artifact_get",
        stored=True,
        summary="Read an artifact",
        handler=get_artifact,
        right=Right.PAYLOADS,
        media_types=(BYTES,),
        errors=(ArtifactNotFoundError, RangeError),
        also=(206, 304),
        tag="artifacts",
    ),
    Operation(
        method="GET",
        path="/v1/runs/{run_id}/artifacts/{name}",
        name="artifact_named",
        stored=True,
        summary="Read the newest artifact of a run with a name",
        handler=get_named,
        right=Right.PAYLOADS,
        media_types=(BYTES,),
        errors=(ArtifactNotFoundError, RunNotFoundError, RangeError),
        also=(206, 304),
        tag="artifacts",
    ),
    Operation(
        method="PUT",
        path="/v1/runs/{run_id}/artifacts/{name}",
        name="artifact_put",
        begins=True,
        summary="Put bytes beside a run",
        handler=put_artifact,
        again=put_before,
        right=Right.OPERATE,
        raw=True,
        answer=ArtifactOut,
        status=201,
        changes=True,
        errors=(
            RunNotFoundError,
            RunStateError,
            ArtifactExistsError,
            InvalidValueError,
            LimitError,
            MalformedError,
            PreconditionFailedError,
        ),
        also=(200,),
        tag="artifacts",
    ),
)
