"""Runs over HTTP: start, find, look at; `http.control` changes them."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.denial import CursorError, FunctionNotFoundError
from holdfast.core.errors import HoldfastError
from holdfast.core.explanation import explain
from holdfast.core.key import Key, unquoted_key
from holdfast.core.refusal import RunExistsError, RunNotFoundError
from holdfast.core.run import Status, needs_somebody
from holdfast.http.address import quoted
from holdfast.http.answers import HEADERS, Receipt, answer, moment
from holdfast.http.call import Call
from holdfast.http.cursor import after_of, event_id, page_cursor
from holdfast.http.etag import etag, is_seen
from holdfast.http.operation import Operation, Query
from holdfast.runtime.runs.handle import RunInfo
from holdfast.runtime.runs.label import belonging, labelled
from holdfast.runtime.runs.search import Sought

Limit = Annotated[int, msgspec.Meta(ge=1, le=500)]
RunSession = Annotated[str, msgspec.Meta(max_length=10_000)]
RunId = Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Words = Annotated[str, msgspec.Meta(max_length=10_000)]
WAIT_MAX: Final = 60.0


class Wait(msgspec.Struct, frozen=True):
    """
    What a run waits for.

    Attributes:
        kind: question, timer, signal, child, retry, no_code, version_mismatch ...
        which: of that kind, such as the id of a question.
    """

    kind: str
    which: str


class Failed(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Why a run failed.

    Attributes:
        type: name of the exception.
        message: what it said; only for who may see content.
        code: of an error of Holdfast.
    """

    type: str
    message: str = ""
    code: str = ""


class RunOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    A run.

    Attributes:
        id: its id.
        function, version: what it executes.
        status: where it is.
        revision: number of the last change of this; the ETag.
        explanation: why it is where it is, in a sentence.
        attention: it waits for somebody to do something.
        waits: for what it waits.
        why, by: reason for its state in words, and who wanted it.
        attempt: how often it was taken.
        labels, queue, priority: as given at the start.
        parent, origin: run that started it, run that it was forked from.
        created_at, updated_at, ended_at: when.
        mark: what it shows of its progress.
        inputs: the beginning of its arguments as text.
        result: what it came to.
        error: why it failed.
    """

    id: str
    function: str
    status: Status
    version: str = ""
    revision: int = 0
    explanation: str = ""
    attention: bool = False
    waits: list[Wait] = []
    why: str = ""
    by: str = ""
    attempt: int = 0
    labels: dict[str, str] = {}
    queue: str = ""
    priority: int = 0
    parent: str = ""
    origin: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    mark: Any = None
    inputs: str = ""
    result: Any = None
    error: Failed | None = None


class CountOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    How many there are.

    Attributes:
        value: so many.
        relation: `eq` if that is all, `gte` if there are at least so many.
    """

    value: int
    relation: Literal["eq", "gte"]


class RunPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A page of runs.

    Attributes:
        items: the runs.
        next_cursor: where the next page begins; None at the end.
        stream_cursor: from where the feed tells what happened since.
        count: how many there are on all pages, if asked for.
    """

    items: list[RunOut]
    next_cursor: str | None
    stream_cursor: str
    count: CountOut | None = None


class RunPut(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What a run is started with under an id of the client's choice.

    Attributes:
        function: name of a registered function.
        args: its arguments.
        labels: words by which it is found.
        session_id: of the session it belongs to; which need not be there yet.
        queue: in which it waits.
        priority: higher goes first.
    """

    function: Annotated[str, msgspec.Meta(min_length=1, max_length=1_000)]
    args: list[Any] = []
    labels: dict[str, str] = {}
    session_id: RunSession = ""
    queue: str = ""
    priority: Annotated[int, msgspec.Meta(ge=-100_000, le=100_000)] = 0


class RunStart(RunPut, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What a run is started with.

    Attributes:
        run_id: its id; drawn if not given.
    """

    run_id: RunId | None = None


class RunFilter(Query, frozen=True):
    """
    Which runs are meant; every condition that is given has to hold.

    Attributes:
        status, function: only those.
        label: `name:value`, each has to be there.
        q: text in the beginning of the arguments; needs the right to see content.
        session: only those that belong to the session of this id.
        parent, origin: children of this run, forks of this run.
        created_after, created_before, updated_after: moments in RFC 3339.
        attention: only those that wait for somebody to do something.
    """

    status: Status | None = None
    function: str | None = None
    label: list[str] = msgspec.field(default_factory=list[str])
    q: str = ""
    session: RunSession = ""
    parent: str = ""
    origin: str = ""
    created_after: Moment | None = None
    created_before: Moment | None = None
    updated_after: Moment | None = None
    attention: bool = False


class RunQuery(RunFilter, frozen=True):
    """
    Which runs are listed.

    Attributes:
        count: also say how many there are on all pages.
        limit: how many.
        cursor: where to go on.
    """

    count: bool = False
    limit: Limit = 50
    cursor: str | None = None


class Look(Query, frozen=True):
    """
    How a run is looked at.

    Attributes:
        wait: `terminal` waits until it ended, `change` until it is another one than the ETag in
            `If-None-Match` says, or than it is now.
        timeout: seconds to wait at most.
    """

    wait: Literal["", "terminal", "change"] = ""
    timeout: Annotated[float, msgspec.Meta(ge=0, le=WAIT_MAX)] = 30.0


def shown(info: RunInfo, *, payloads: bool, result: Any = None) -> RunOut:
    """Return a run as the caller may see it."""
    error = info.error
    failed = None
    if error is not None:
        failed = Failed(error.type, error.message if payloads else "", error.code)
    return RunOut(
        id=info.id,
        function=info.function,
        status=info.status,
        version=info.version,
        revision=info.revision,
        explanation=explain(info),
        attention=needs_somebody(info),
        waits=[Wait(*one.partition(":")[::2]) for one in info.waits],
        why=info.why,
        by=info.by,
        attempt=info.attempt,
        labels=info.labels,
        queue=info.queue,
        priority=info.priority,
        parent=info.parent,
        origin=info.origin,
        created_at=moment(info.created),
        updated_at=moment(info.updated),
        ended_at=moment(info.ended),
        mark=info.mark if payloads else None,
        inputs=info.inputs if payloads else "",
        result=result if payloads else None,
        error=failed,
    )


def answered(call: Call, info: RunInfo, status: int, *, created: bool = False) -> Response:
    """Return a run as an answer, with its ETag."""
    headers = {"ETag": etag(info.revision)}
    if created:
        headers["Location"] = f"{call.root}/v1/runs/{quoted(info.id)}"
    return answer(shown(info, payloads=call.sees), status, headers)


async def start_run(call: Call) -> Response:
    """Start a run; answered when it is durable."""
    asked = call.body(RunStart)
    return await _started(call, asked, asked.run_id)


async def put_run(call: Call) -> Response:
    """Start a run under an id; the same once more changes nothing."""
    asked, id = call.body(RunPut), call.param("run_id")
    try:
        return await _started(call, asked, id)
    except RunExistsError:
        labels = labelled(asked.labels, _session(asked.session_id))
        if not await call.rt.runs.search.is_like(
            id, asked.function, asked.args, labels, asked.queue, asked.priority
        ):
            raise
    return answered(call, await call.rt.runs.get(id), 200, created=True)


async def _started(call: Call, asked: RunPut, id: str | None) -> Response:
    run = await call.rt.runs.start(
        asked.function,
        *asked.args,
        run_id=id,
        labels=asked.labels,
        session=_session(asked.session_id),
        queue=asked.queue,
        priority=asked.priority,
    )
    return answered(call, await call.rt.runs.get(run.id), 201, created=True)


def _session(id: str) -> Key | None:
    return unquoted_key(id) if id else None


async def started_before(call: Call) -> Response:
    """Answer for a start whose answer was lost."""
    asked = call.loaded
    id = asked.run_id if isinstance(asked, RunStart) else call.param("run_id")
    if id is None:
        # The crash took the id that was drawn; the audit has it no more than the client does.
        return answer(Receipt("", "started"), 200)
    return answered(call, await call.rt.runs.get(id), 200, created=True)


async def list_runs(call: Call) -> RunPage:
    """Return runs by id, and from where on the feed tells what changed."""
    return await page_of_runs(call, call.query(RunQuery))


async def page_of_runs(call: Call, asked: RunQuery) -> RunPage:
    """Return the runs that are asked for, a page of them."""
    filters = msgspec.structs.replace(asked, cursor=None, limit=1, count=False)
    after = None if asked.cursor is None else after_of(asked.cursor, filters)
    sought = sought_of(call, asked)
    # First the place in the feed: what changes while the list is read is told again, not lost.
    head = await call.rt.feed.head()
    found = await call.rt.runs.search.page(sought, after, asked.limit)
    count = None
    if asked.count:
        value, exact = await call.rt.runs.search.count(sought)
        count = CountOut(value=value, relation="eq" if exact else "gte")
    return RunPage(
        items=[shown(info, payloads=call.sees) for info in found.runs],
        next_cursor=None if found.after is None else page_cursor(found.after, filters),
        stream_cursor=event_id(call.rt.lineage, head, feed=True),
        count=count,
    )


def sought_of(call: Call, asked: RunFilter) -> Sought:
    """
    Return what a filter says, as runs are searched.

    Raises:
        ForbiddenError: it looks into content, which the caller may not see.
        InvalidValueError: no session can be called so.
    """
    if asked.q:
        call.check(Right.PAYLOADS)
    moments = {
        name: at.timestamp()
        for name in ("created_after", "created_before", "updated_after")
        if (at := getattr(asked, name)) is not None
    }
    labels = {name: value for name, _, value in (one.partition(":") for one in asked.label)}
    return Sought(
        status=asked.status,
        function=asked.function,
        labels={**labels, **belonging(_session(asked.session))},
        text=asked.q,
        parent=asked.parent,
        origin=asked.origin,
        attention=asked.attention,
        **moments,
    )


async def get_run(call: Call) -> Response:
    """Return a run, perhaps once it changed or ended."""
    info = await looked_at(call, await call.rt.runs.get(call.param("run_id")))
    headers = {"ETag": etag(info.revision)}
    if call.request.method in ("GET", "HEAD") and is_seen(call, info.revision):
        return Response(status_code=304, headers={**HEADERS, **headers})
    result = None
    if info.status is Status.SUCCEEDED and call.sees:
        result = await call.rt.runs.plain_result(info)
    return answer(shown(info, payloads=call.sees, result=result), 200, headers)


async def looked_at(call: Call, info: RunInfo) -> RunInfo:
    """Return a run as the caller wants to look at it: now, once it changed, or once it ended."""
    asked = call.query(Look)
    if asked.wait == "change" and not info.is_terminal:
        known = is_seen(call, info.revision) or call.header("if-none-match") is None
        return await _changed(call, info, asked.timeout) if known else info
    if asked.wait and not info.is_terminal:
        await call.within(asked.timeout, call.rt.runs.ended(info.id))
        return await call.rt.runs.get(info.id)
    return info


async def _changed(call: Call, info: RunInfo, timeout: float) -> RunInfo:
    """Wait until a run is another one than it was, so long at most."""
    revision, until = info.revision, call.clock.monotonic() + timeout
    with call.rt.runs.history(info.id).attach() as reader:
        while True:
            await reader.read(0, 1)
            info = await call.rt.runs.get(info.id)
            left = until - call.clock.monotonic()
            if info.revision != revision or left <= 0 or not await reader.wait(left):
                return info


ONE: Final[tuple[type[HoldfastError], ...]] = (RunNotFoundError,)
OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/v1/runs",
        name="run_start",
        begins=True,
        summary="Start a run",
        handler=start_run,
        again=started_before,
        right=Right.OPERATE,
        body=RunStart,
        answer=RunOut,
        status=201,
        changes=True,
        errors=(RunExistsError, FunctionNotFoundError),
        tag="runs",
    ),
    Operation(
        method="PUT",
        path="/v1/runs/{run_id}",
        name="run_put",
        begins=True,
        summary="Start a run under an id; the same once more changes nothing",
        handler=put_run,
        again=started_before,
        right=Right.OPERATE,
        body=RunPut,
        answer=RunOut,
        status=201,
        changes=True,
        errors=(RunExistsError, FunctionNotFoundError),
        also=(200,),
        tag="runs",
    ),
    Operation(
        method="GET",
        path="/v1/runs",
        name="run_list",
        stored=True,
        summary="List runs",
        handler=list_runs,
        query=RunQuery,
        answer=RunPage,
        errors=(CursorError,),
        tag="runs",
    ),
    Operation(
        method="GET",
        path="/v1/runs/{run_id}",
        name="run_get",
        stored=True,
        summary="Look at a run",
        handler=get_run,
        query=Look,
        answer=RunOut,
        errors=ONE,
        also=(304,),
        tag="runs",
    ),
)
