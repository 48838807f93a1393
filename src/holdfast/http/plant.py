"""
The plant over HTTP: what runs on the store and by what rules: workers, engines, queues, schedules.
"""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.denial import WorkerNotFoundError
from holdfast.core.errors import InvalidValueError, RecordNotFoundError
from holdfast.http.answers import Receipt, answer, moment
from holdfast.http.call import Call
from holdfast.http.operation import Handler, Operation, Query
from holdfast.http.runs import Words
from holdfast.runtime.engines.stored import LISTED_MAX, StoredSnapshot
from holdfast.runtime.worker import Worker


class WorkerOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    A runtime that has the store open.

    Attributes:
        id: its incarnation.
        host, pid: where it is.
        epoch: number of its opening.
        seen_at: when it was heard from.
        silent: seconds since.
        here: it is the one that answers.
        drained_at: since when it is to take no runs; none if it takes them.
    """

    id: str
    host: str
    pid: int
    epoch: int
    seen_at: datetime | None
    silent: float
    here: bool
    drained_at: datetime | None = None


class WorkerAct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Why a worker is drained, or takes runs again.

    Attributes:
        reason: kept in the audit.
    """

    reason: Words = ""


class WorkerList(msgspec.Struct, frozen=True):
    """
    All runtimes.

    Attributes:
        items: the runtimes.
    """

    items: list[WorkerOut]


class MemoryOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    A working memory that is loaded here.

    Attributes:
        key: which one; empty if the engine has one alone.
        sequence: of the last request in its journal.
        unsaved: events of its journal that are not durable yet.
        snapshot: sequence of the snapshot it stands on.
        tail: requests since.
        reason: why the last snapshot was not made.
    """

    key: list[str]
    sequence: int
    unsaved: int
    snapshot: int
    tail: int
    reason: str


class EngineOut(msgspec.Struct, frozen=True):
    """
    An engine of this runtime.

    Attributes:
        name: how it is called.
        memories: that are loaded.
    """

    name: str
    memories: list[MemoryOut]


class EngineList(msgspec.Struct, frozen=True):
    """
    All engines of this runtime.

    Attributes:
        items: the engines.
    """

    items: list[EngineOut]


class EngineKeys(msgspec.Struct, frozen=True):
    """
    The working memories of an engine that are kept.

    Attributes:
        items: their keys, the first 1,000.
    """

    items: list[list[str]]


class SnapshotOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    A snapshot of a working memory.

    Attributes:
        sequence: of the last event of the journal that it includes.
        tail: events behind it, which a start that begins with it does again.
        written_at: when it was made.
        size: of what was captured, in bytes.
        stored_size: of what is stored of that, in bytes.
        usable: a start would take it.
        reason: why not.
    """

    sequence: int
    tail: int
    written_at: datetime | None
    size: int
    stored_size: int
    usable: bool
    reason: str


class SnapshotList(msgspec.Struct, frozen=True):
    """
    The snapshots that are kept of a working memory.

    Attributes:
        items: the newest first.
    """

    items: list[SnapshotOut]


class SnapshotQuery(Query, frozen=True):
    """
    Whose snapshots are listed.

    Attributes:
        key: of the working memory, part by part; none if the engine has one alone.
        limit: how many.
    """

    key: list[str] = msgspec.field(default_factory=list[str])
    limit: Annotated[int, msgspec.Meta(ge=1, le=LISTED_MAX)] = LISTED_MAX


class MemoryAct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Which working memory is meant.

    Attributes:
        key: its key; empty if the engine has one alone.
    """

    key: list[str] = []


class QueueOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a queue lets run.

    Attributes:
        name: how it is called.
        concurrency: how many at once; None for any number.
        rate, per: how many begin within so many seconds.
    """

    name: str
    concurrency: int | None
    rate: int | None
    per: float


class QueueList(msgspec.Struct, frozen=True):
    """
    All queues with limits.

    Attributes:
        items: the queues.
    """

    items: list[QueueOut]


class ScheduleOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is started by the clock.

    Attributes:
        name: how it is called.
        cron, zone: when, and in which time zone that is meant.
        due_at: when next.
        function: what is started.
        count: how many it started.
        make_up: one run is started for times that were missed.
    """

    name: str
    cron: str
    zone: str
    due_at: datetime | None
    function: str
    count: int
    make_up: bool


class ScheduleList(msgspec.Struct, frozen=True):
    """
    All schedules.

    Attributes:
        items: the schedules.
    """

    items: list[ScheduleOut]


async def list_workers(call: Call) -> WorkerList:
    """Return the runtimes that have the store open."""
    return WorkerList([_worker(one) for one in await call.rt.workers.list()])


def _worker(one: Worker) -> WorkerOut:
    return WorkerOut(
        id=one.id,
        host=one.host,
        pid=one.pid,
        epoch=one.epoch,
        seen_at=moment(one.seen_at),
        silent=one.silent,
        here=one.here,
        drained_at=moment(one.drained_at),
    )


async def drain_worker(call: Call) -> Response:
    """Let a runtime take no runs any more, from within a second on; what it executes goes on."""
    return answer(_worker(await call.rt.workers.drain(call.param("worker_id"))), 202)


async def resume_worker(call: Call) -> Response:
    """Let a runtime take runs again."""
    return answer(_worker(await call.rt.workers.resume(call.param("worker_id"))), 202)


async def worker_now(call: Call) -> Response:
    """Answer for a change of a worker whose answer was lost."""
    return answer(_worker(await call.rt.workers.get(call.param("worker_id"))), 202)


async def list_engines(call: Call) -> EngineList:
    """Return the engines of this runtime and what is loaded of them."""
    return EngineList([_engine(call, name) for name in call.rt.engines.names()])


def _engine(call: Call, name: str) -> EngineOut:
    memories = [
        MemoryOut(
            key=list(one.key),
            sequence=one.sequence,
            unsaved=one.unsaved,
            snapshot=one.snapshot,
            tail=one.tail,
            reason=one.reason,
        )
        for one in call.rt.engines[name].memories()
    ]
    return EngineOut(name, memories)


async def engine_keys(call: Call) -> EngineKeys:
    """Return the keys of the working memories of an engine."""
    keys = await call.rt.engines[call.param("engine")].keys()
    return EngineKeys([list(key) for key in keys])


async def list_snapshots(call: Call) -> SnapshotList:
    """Return the snapshots that are kept of a working memory, loaded or not."""
    asked = call.query(SnapshotQuery)
    found = await call.rt.engines.stored.snapshots(
        call.param("engine"), tuple(asked.key), limit=asked.limit
    )
    return SnapshotList([_snapshot(one) for one in found])


def _snapshot(one: StoredSnapshot) -> SnapshotOut:
    return SnapshotOut(
        sequence=one.sequence,
        tail=one.tail,
        written_at=moment(one.written_at),
        size=one.size,
        stored_size=one.stored_size,
        usable=not one.reason,
        reason=one.reason,
    )


async def snapshot_memory(call: Call) -> Response:
    """Make a snapshot of a working memory."""
    engine, key = call.rt.engines[call.param("engine")], call.body(MemoryAct).key
    sequence = await engine.snapshot(tuple(key))
    return answer(Receipt(engine.name, "snapshot", f"at {sequence}"), 202)


async def evict_memory(call: Call) -> Response:
    """Let go of a working memory, what is unsaved written first."""
    engine, key = call.rt.engines[call.param("engine")], call.body(MemoryAct).key
    await engine.evict(tuple(key))
    return answer(Receipt(engine.name, "evicted"), 202)


async def list_queues(call: Call) -> QueueList:
    """Return the queues that have limits."""
    return QueueList(
        [
            QueueOut(name=one.name, concurrency=one.concurrency, rate=one.rate, per=one.per)
            for one in await call.rt.runs.queues.list()
        ]
    )


async def list_schedules(call: Call) -> ScheduleList:
    """Return what is started by the clock."""
    return ScheduleList(
        [
            ScheduleOut(
                name=one.name,
                cron=one.cron,
                zone=one.zone,
                due_at=moment(one.due),
                function=one.started.function,
                count=one.count,
                make_up=one.make_up,
            )
            for one in await call.rt.runs.schedules.list()
        ]
    )


def _listing(path: str, name: str, summary: str, handler: Any, shape: Any) -> Operation:
    return Operation(
        method="GET",
        path=path,
        name=name,
        summary=summary,
        handler=handler,
        answer=shape,
        tag="plant",
    )


def _act(name: str, summary: str, handler: Any) -> Operation:
    return Operation(
        method="POST",
        path=f"/v1/engines/{{engine}}/{name}",
        name=f"engine_{name}",
        summary=summary,
        handler=handler,
        right=Right.OPERATE,
        body=MemoryAct,
        answer=Receipt,
        status=202,
        changes=True,
        errors=(InvalidValueError,),
        tag="plant",
    )


def _worker_act(name: str, summary: str, handler: Handler) -> Operation:
    return Operation(
        method="POST",
        path=f"/v1/workers/{{worker_id}}/{name}",
        name=f"worker_{name}",
        summary=summary,
        handler=handler,
        again=worker_now,
        right=Right.OPERATE,
        body=WorkerAct,
        answer=WorkerOut,
        status=202,
        changes=True,
        errors=(WorkerNotFoundError,),
        tag="plant",
    )


OPERATIONS: Final = (
    _listing("/v1/workers", "worker_list", "List runtimes on the store", list_workers, WorkerList),
    _worker_act("drain", "Let a runtime take no runs any more", drain_worker),
    _worker_act("resume", "Let a runtime take runs again", resume_worker),
    _listing("/v1/engines", "engine_list", "List engines", list_engines, EngineList),
    _listing("/v1/queues", "queue_list", "List queues with limits", list_queues, QueueList),
    _listing("/v1/schedules", "schedule_list", "List schedules", list_schedules, ScheduleList),
    Operation(
        method="GET",
        path="/v1/engines/{engine}/keys",
        name="engine_keys",
        summary="List the working memories of an engine",
        handler=engine_keys,
        right=Right.PAYLOADS,
        answer=EngineKeys,
        errors=(InvalidValueError,),
        tag="plant",
    ),
    Operation(
        method="GET",
        path="/v1/engines/{engine}/snapshots",
        name="engine_snapshots",
        stored=True,
        summary="List the snapshots that are kept of a working memory",
        handler=list_snapshots,
        query=SnapshotQuery,
        answer=SnapshotList,
        errors=(RecordNotFoundError, InvalidValueError),
        tag="plant",
    ),
    _act("snapshot", "Make a snapshot of a working memory", snapshot_memory),
    _act("evict", "Let go of a working memory", evict_memory),
)
