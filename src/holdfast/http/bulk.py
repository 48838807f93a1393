"""Many runs over HTTP: order what is done to all of a selection, see how far it is, stop it."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from starlette.responses import Response

from holdfast.core import codec
from holdfast.core.access import Right
from holdfast.core.bulk import SELECTED_MAX, Action, Item, Order, Outcome
from holdfast.core.denial import (
    BulkCountError,
    CursorError,
    InvalidRequestError,
    OperationNotFoundError,
)
from holdfast.core.errors import LimitError
from holdfast.core.explanation import explain
from holdfast.core.refusal import RunStateError
from holdfast.core.run import Status
from holdfast.http.address import quoted
from holdfast.http.answers import answer, moment, next_cursor
from holdfast.http.call import Call
from holdfast.http.cursor import after_of, page_cursor
from holdfast.http.operation import Operation, Query
from holdfast.http.runs import (
    Limit,
    Look,
    RunFilter,
    RunId,
    RunOut,
    Words,
    looked_at,
    shown,
    sought_of,
)
from holdfast.runtime.runs.bulk import BulkInfo
from holdfast.runtime.runs.handle import RunInfo

_SAMPLE: Final = 10
_LISTING: Final = "operations"


class BulkAsk(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What is to be done to many runs: to those of a filter, or to those that are named.

    Attributes:
        action: what; `remove` needs the right to delete.
        filter: which runs, by the same conditions as their list; `{}` is all of them.
        ids: which runs, by name.
        limit: only the first so many of the filter, in the order of their ids.
        expected_count: how many they have to be; otherwise nothing is begun.
        dry_run: begin nothing; answer how many they are, and the first of them.
        reason: why; kept in the audit, with every run.
        mode: of `cancel`: `now` interrupts the step under way, `after_step` lets it end.
        force: of `resume`: accept the version of the function that is registered.
    """

    action: Action
    filter: RunFilter | None = None
    ids: Annotated[list[RunId], msgspec.Meta(max_length=SELECTED_MAX)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=SELECTED_MAX)] | None = None
    expected_count: Annotated[int, msgspec.Meta(ge=0)] | None = None
    dry_run: bool = False
    reason: Words = ""
    mode: Literal["now", "after_step"] = "now"
    force: bool = False


class ItemOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    One run of a selection.

    Attributes:
        number: its place in the selection, from 0.
        run_id: which run.
        outcome: `open` until something became of it; `gone` if there was no such run any more.
        code: of the problem with which it was refused; see `/v1/problems/{code}`.
        reason: what that says.
        became: the new run, of a retry that made one.
    """

    number: int
    run_id: str
    outcome: Outcome
    code: str = ""
    reason: str = ""
    became: str = ""


class ItemPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A page of a selection.

    Attributes:
        items: in the order of the selection.
        next_cursor: where the next page begins; None at the end.
    """

    items: list[ItemOut]
    next_cursor: str | None


class OperationOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    An operation on many runs.

    Attributes:
        id: its id; it is a run, and can be looked at, paused and followed as one.
        action: what is done.
        status: where it is.
        selected: how many runs were selected.
        open, done, refused, gone: what became of them so far.
        reason, by: why, and who wanted it.
        mode, force: as they were asked for.
        filter: by what the runs were selected; None if they were named.
        explanation: why it is where it is, in a sentence.
        failures: the first that were refused; not in lists.
        created_at, updated_at, ended_at: when.
    """

    id: str
    action: Action
    status: Status
    selected: int
    open: int
    done: int
    refused: int
    gone: int
    reason: str
    by: str
    mode: str
    force: bool
    filter: dict[str, Any] | None
    explanation: str
    failures: list[ItemOut]
    created_at: datetime | None
    updated_at: datetime | None
    ended_at: datetime | None


class BulkPlan(msgspec.Struct, frozen=True, kw_only=True):
    """
    What an operation would be done to.

    Attributes:
        action: what would be done.
        selected: how many runs there are.
        by_status: how many of them are where; `gone` for those that are not there.
        sample: the first of them.
    """

    action: Action
    selected: int
    by_status: dict[str, int]
    sample: list[RunOut]


class BulkOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    What was ordered.

    Attributes:
        operation: that was begun.
        plan: what would be done; of a dry run.
    """

    operation: OperationOut | None = None
    plan: BulkPlan | None = None


class OperationPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A page of operations.

    Attributes:
        items: the operations, the newest first.
        next_cursor: where the next page begins; None at the end.
    """

    items: list[OperationOut]
    next_cursor: str | None


class OperationQuery(Query, frozen=True):
    """
    Which operations are listed.

    Attributes:
        limit: how many.
        cursor: where to go on.
    """

    limit: Limit = 50
    cursor: str | None = None


class ItemQuery(OperationQuery, frozen=True):
    """
    Which items are listed.

    Attributes:
        outcome: only those of which this became.
    """

    outcome: Outcome | None = None


class CancelOperation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Why an operation is to end.

    Attributes:
        reason: in words.
    """

    reason: Words = ""


async def start_bulk(call: Call) -> Response:
    """Begin to do something to all runs of a selection, or say which these are."""
    asked = call.body(BulkAsk)
    if asked.action == "remove":
        call.check(Right.ADMIN)
    if (asked.filter is None) == (asked.ids is None):
        raise InvalidRequestError(errors=(("/filter", "either this or `ids` is needed"),))
    if asked.dry_run:
        return answer(BulkOut(plan=await _plan(call, asked)))
    order = Order(
        action=asked.action,
        mode=asked.mode,
        force=asked.force,
        reason=asked.reason,
        by=call.who.name,
        sought=None if asked.filter is None else _said(asked.filter),
    )
    ids = asked.ids if asked.filter is None else [one.id for one in await _selected(call, asked)]
    id = await call.rt.bulk.begin(order, ids or (), expected=asked.expected_count, key=_key(call))
    return await _begun(call, id)


async def begun_before(call: Call) -> Response:
    """Answer for an operation whose answer was lost."""
    return await _begun(call, await call.rt.bulk.begun(_key(call)))


def _key(call: Call) -> str:
    """Return by what an operation is found that was asked for with a key; nothing without one."""
    key = call.header("idempotency-key")
    if key is None:
        return ""
    asked = msgspec.json.encode(call.loaded, order="deterministic")
    return "bulk/" + codec.digest("bulk", call.who.name, key, asked).hex()


async def _begun(call: Call, id: str) -> Response:
    headers = {"Location": f"{call.root}/v1/operations/{quoted(id)}"}
    found = _shown(call, await call.rt.bulk.get(id))
    return answer(BulkOut(operation=found), 202, headers)


async def _selected(call: Call, asked: BulkAsk) -> Sequence[RunInfo]:
    sought = sought_of(call, asked.filter or RunFilter())
    return await call.rt.bulk.select(sought, asked.limit)


async def _plan(call: Call, asked: BulkAsk) -> BulkPlan:
    """Return what the order would be done to, if it is as many as expected."""
    found: Sequence[RunInfo | None]
    if asked.filter is None:
        found = await call.rt.bulk.named(list(dict.fromkeys(asked.ids or ())))
    else:
        found = await _selected(call, asked)
    if asked.expected_count not in (None, len(found)):
        raise BulkCountError(expected=asked.expected_count or 0, count=len(found))
    there = [one for one in found if one is not None]
    counts = Counter(one.status.value for one in there)
    return BulkPlan(
        action=asked.action,
        selected=len(found),
        by_status=dict(counts + Counter(gone=len(found) - len(there))),
        sample=[shown(one, payloads=call.sees) for one in there[:_SAMPLE]],
    )


def _said(filter: RunFilter) -> dict[str, Any]:
    """Return the conditions of a filter that were given."""
    said: dict[str, Any] = msgspec.to_builtins(filter)
    return {name: value for name, value in said.items() if value}


def _shown(call: Call, one: BulkInfo) -> OperationOut:
    info, order = one.run, one.order
    filter = order.sought
    if filter is not None and not call.sees:
        filter = {name: value for name, value in filter.items() if name != "q"}
    return OperationOut(
        id=info.id,
        action=order.action,
        status=info.status,
        selected=order.selected,
        reason=order.reason,
        by=order.by,
        mode=order.mode,
        force=order.force,
        filter=filter,
        explanation=explain(info),
        failures=[_item(*failure) for failure in one.failures],
        created_at=moment(info.created),
        updated_at=moment(info.updated),
        ended_at=moment(info.ended),
        **one.counts,
    )


def _item(number: int, one: Item) -> ItemOut:
    return ItemOut(
        number=number,
        run_id=one.run_id,
        outcome=one.outcome,
        code=one.code,
        reason=one.reason,
        became=one.became,
    )


async def list_operations(call: Call) -> OperationPage:
    """Return operations on many runs, the newest first."""
    asked = call.query(OperationQuery)
    after = None if asked.cursor is None else tuple(after_of(asked.cursor, _LISTING).split(" ", 1))
    found = await call.rt.bulk.list(after, asked.limit)
    last = " ".join(found.after or ())
    return OperationPage(
        items=[_shown(call, one) for one in found.items],
        next_cursor=page_cursor(last, _LISTING) if last else None,
    )


async def get_operation(call: Call) -> OperationOut:
    """Return an operation, perhaps once it changed or ended."""
    id = call.param("operation_id")
    await looked_at(call, (await call.rt.bulk.get(id)).run)
    return _shown(call, await call.rt.bulk.get(id))


async def list_items(call: Call) -> ItemPage:
    """Return what became of each run of a selection."""
    asked, id = call.query(ItemQuery), call.param("operation_id")
    await call.rt.bulk.get(id)
    filters = [id, asked.outcome]
    after = -1 if asked.cursor is None else int(after_of(asked.cursor, filters))
    found = await call.rt.bulk.items(id, outcome=asked.outcome, after=after, limit=asked.limit)
    last = str(found[-1][0]) if found else ""
    return ItemPage(
        items=[_item(*one) for one in found],
        next_cursor=next_cursor(found, asked.limit, last, filters),
    )


async def cancel_operation(call: Call) -> Response:
    """Ask an operation to end; what was done to runs stays done."""
    asked, id = call.body(CancelOperation), call.param("operation_id")
    before = (await call.rt.bulk.get(id)).run.status
    over = before in (Status.CANCELLED, Status.CANCELLING)
    if before is not Status.CANCELLED:
        await call.rt.runs.cancel(id, mode="after_step", reason=asked.reason, by=call.who.name)
    return answer(_shown(call, await call.rt.bulk.get(id)), 200 if over else 202)


_PATH: Final = "/v1/operations/{operation_id}"
OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/v1/bulk",
        name="bulk_start",
        summary="Do something to all runs of a selection",
        handler=start_bulk,
        again=begun_before,
        right=Right.OPERATE,
        body=BulkAsk,
        answer=BulkOut,
        status=202,
        also=(200,),
        changes=True,
        errors=(BulkCountError, LimitError, OperationNotFoundError),
        tag="operations",
    ),
    Operation(
        method="GET",
        path="/v1/operations",
        name="operation_list",
        stored=True,
        summary="List operations on many runs",
        handler=list_operations,
        query=OperationQuery,
        answer=OperationPage,
        errors=(CursorError,),
        tag="operations",
    ),
    Operation(
        method="GET",
        path=_PATH,
        name="operation_get",
        stored=True,
        summary="Look at an operation on many runs",
        handler=get_operation,
        query=Look,
        answer=OperationOut,
        errors=(OperationNotFoundError,),
        tag="operations",
    ),
    Operation(
        method="GET",
        path=f"{_PATH}/items",
        name="operation_items",
        stored=True,
        summary="List what became of each run of a selection",
        handler=list_items,
        query=ItemQuery,
        answer=ItemPage,
        errors=(OperationNotFoundError, CursorError),
        tag="operations",
    ),
    Operation(
        method="POST",
        path=f"{_PATH}/cancel",
        name="operation_cancel",
        summary="Ask an operation on many runs to end",
        handler=cancel_operation,
        again=get_operation,
        right=Right.OPERATE,
        body=CancelOperation,
        answer=OperationOut,
        status=202,
        also=(200,),
        changes=True,
        errors=(OperationNotFoundError, RunStateError),
        tag="operations",
    ),
)
