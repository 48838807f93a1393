"""
Operations on many runs, each done once: cancel, pause, resume, retry, remove.

    order = Order(action="cancel", reason="the source was wrong", by="ann")
    id = await rt.bulk.begin(order, await rt.bulk.select(Sought(status=Status.WAITING)))
    print((await rt.bulk.get(id)).counts)

An operation is a run of a function that every runtime knows, so whoever has the store open may
execute it, and whatever holds for runs holds for it: it goes on after a crash, and can be paused,
cancelled and watched.

    begin ---> order + an item for each run of the selection + the run      (one unit)
    item  ---> what is done to its run + what became of the item + a note   (one unit)

Invariants: the selection does not change once it was ordered; of all who work on an item one does
something, and what it did and that it did are one unit.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.bulk import (
    FUNCTION,
    ITEM_KIND,
    KIND,
    OVER,
    SELECTED_MAX,
    Item,
    Order,
    Outcome,
    item_key,
    order_key,
)
from holdfast.core.denial import BulkCountError, OperationNotFoundError
from holdfast.core.errors import (
    ClosedError,
    CodecError,
    ConflictError,
    DamagedError,
    HoldfastError,
    LimitError,
    NotFoundError,
    StateError,
    VersionConflictError,
)
from holdfast.core.key import Key, encode_key, prefix_end
from holdfast.core.refusal import NotReadyError, RunNotFoundError, RunStateError
from holdfast.core.run import Retry, RunView, Status, decode_view
from holdfast.core.unit import AtVersion, PutRecord, RecordRow, Unit, Write
from holdfast.runtime.requests import Note, Requests
from holdfast.runtime.runs.handle import RunInfo
from holdfast.runtime.runs.retention import KEY_KIND
from holdfast.runtime.runs.run import Run
from holdfast.runtime.runs.runs import Runs
from holdfast.runtime.runs.search import Sought
from holdfast.runtime.runs.telling import tell_started
from holdfast.runtime.runs.view import KIND as RUN_KIND
from holdfast.runtime.runs.view import Views
from holdfast.store.port import Reads
from holdfast.store.rider import Rider, TakenError, riding

BATCH: Final = 25
FAILURES_SHOWN: Final = 10
LISTED_MAX: Final = 10_000
_PAGE: Final = 2_000
_PATIENCE: Final = Retry(attempts=5, on_exhausted="pause")
_REFUSALS: Final = (StateError, ConflictError, NotFoundError, CodecError, DamagedError)
Act = Callable[[Order, str], Coroutine[Any, Any, Any]]


class BulkInfo(NamedTuple):
    """
    An operation.

    Attributes:
        run: that carries it out; its id is the operation's.
        order: what is to be done.
        counts: how many items there are by what became of them, those that are open included.
        failures: the first ones that were refused, with their numbers.
    """

    run: RunInfo
    order: Order
    counts: dict[str, int]
    failures: Sequence[tuple[int, Item]] = ()


class BulkPage(NamedTuple):
    """
    A page of operations.

    Attributes:
        items: the operations.
        after: place behind which to go on; None at the end.
    """

    items: Sequence[BulkInfo]
    after: Key | None


class Bulk:
    """The operations on many runs of a store."""

    def __init__(self, views: Views, runs: Runs, requests: Requests) -> None:
        """Take the runs, and where it is noted what was done to each."""
        self._views = views
        self._store = views.store
        self._runs = runs
        self._requests = requests
        self._acts: dict[str, Act] = {
            "cancel": self._cancel,
            "pause": lambda order, id: runs.pause(id, reason=order.reason, by=order.by),
            "resume": lambda order, id: runs.resume(id, force=order.force, by=order.by),
            "retry": lambda order, id: runs.retry(id, by=order.by),
            "remove": lambda _, id: runs.retention.remove(id),
        }
        runs.register(self._work, name=FUNCTION)

    # Ordering.

    async def select(self, sought: Sought, limit: int | None = None) -> Sequence[RunInfo]:
        """
        Return the runs of a selection, in the order of their ids; operations are none of them.

        Args:
            sought: which runs; those of `holdfast.bulk` only if just these are sought.
            limit: the first so many; all if not given.

        Raises:
            LimitError: there are more than one operation takes.
        """
        most = SELECTED_MAX if limit is None else limit
        found: list[RunInfo] = []
        async for info in self._sought(sought):
            if len(found) == most and limit is not None:
                break
            found.append(info)
            if len(found) > SELECTED_MAX:
                raise LimitError(what="runs selected", size=len(found), limit=SELECTED_MAX)
        return found

    async def _sought(self, sought: Sought) -> AsyncIterator[RunInfo]:
        after: str | None = None
        while True:
            found = await self._runs.search.page(sought, after, _PAGE)
            for info in found.runs:
                if info.function != FUNCTION or sought.function == FUNCTION:
                    yield info
            if found.after is None:
                return
            after = found.after

    async def named(self, ids: Sequence[str]) -> Sequence[RunInfo | None]:
        """Return runs by their ids; None for each that is not there."""
        keys = [(id,) for id in ids]
        rows = await self._store.read(lambda reader: reader.records_at(RUN_KIND, keys))
        return [
            None
            if row is None or row.value is None
            else RunInfo.of(id, decode_view(row.value), row.version)
            for id, row in zip(ids, rows, strict=True)
        ]

    async def begin(
        self, order: Order, ids: Sequence[str], *, expected: int | None = None, key: str = ""
    ) -> str:
        """
        Begin an operation; when this returns, the selection is durable and does not change.

        Args:
            order: what is to be done; how many is counted here.
            ids: of the runs; each counts once.
            expected: how many they have to be.
            key: beginning again with the same key returns the same operation.

        Returns:
            Its id, which is that of a run.

        Raises:
            BulkCountError: they are not as many as expected.
            LimitError: they are more than one operation takes.
        """
        chosen = list(dict.fromkeys(ids))
        if len(chosen) > SELECTED_MAX:
            raise LimitError(what="runs selected", size=len(chosen), limit=SELECTED_MAX)
        if expected not in (None, len(chosen)):
            raise BulkCountError(expected=expected or 0, count=len(chosen))
        id = f"bulk-{self._store.world.ids.incarnation().hex()}"
        labels = {"action": order.action}
        said, also = self._views.started(self._work, (), labels=labels, key=key)
        clean = self._views.redaction
        order = msgspec.structs.replace(
            order,
            reason=clean.text(order.reason),
            by=clean.text(order.by),
            sought=clean(order.sought),
            selected=len(chosen),
        )
        writes = [
            *self._views.begin(id, said),
            *also,
            PutRecord(KIND, order_key(said.at, id), msgspec.msgpack.encode(order)),
            *[_written(item_key(id, n), Item(run_id=one)) for n, one in enumerate(chosen)],
        ]
        return await self._commit(id, key, writes)

    async def _commit(self, id: str, key: str, writes: list[Write]) -> str:
        """Commit what an operation begins with, or return the one that has its key already."""
        expects = [AtVersion(RUN_KIND, (id,), 0)]
        if key:
            writes.append(PutRecord(KEY_KIND, (key,), codec.encode(id)))
            expects.append(AtVersion(KEY_KIND, (key,), 0))
        try:
            await self._store.commit(Unit(tuple(writes), tuple(expects)))
        except VersionConflictError as conflict:
            if conflict.kind != KEY_KIND:
                raise
            return await self.begun(key)
        tell_started(self._views.telemetry, RUN_KIND, writes)
        self._views.on_queued(id)
        return id

    async def begun(self, key: str) -> str:
        """
        Return the operation that was begun with a key.

        Raises:
            OperationNotFoundError: none was, or it was removed.
        """
        row = await self._store.read(lambda reader: reader.record(KEY_KIND, (key,)))
        if row is None or row.value is None:
            raise OperationNotFoundError(operation_id="")
        return str(codec.decode(row.value))

    # Looking.

    async def get(self, id: str) -> BulkInfo:
        """
        Return an operation as it is now.

        Raises:
            OperationNotFoundError: there is no such operation.
        """
        info, order = await self._found(id)
        failures = await self.items(id, outcome="refused", limit=FAILURES_SHOWN)
        return BulkInfo(info, order, await self._counts(info, order), failures)

    async def list(self, after: Key | None = None, limit: int = 100) -> BulkPage:
        """
        Return operations, the newest first; without failures.

        Args:
            after: place behind which to go on.
            limit: how many at most.

        Raises:
            LimitError: `limit` is too large.
        """
        first = b"" if after is None else encode_key(after) + b"\0"
        rows = await self._page(KIND, first, prefix_end(b""), limit, None)
        items = [one for row in rows if (one := await self._listed(row)) is not None]
        return BulkPage(items, rows[-1].key if len(rows) == limit else None)

    async def _listed(self, row: RecordRow) -> BulkInfo | None:
        view = await self._views.find(row.key[1])
        if view is None:
            return None  # It was removed just now.
        info, order = RunInfo.of(row.key[1], *view), _order(row)
        return BulkInfo(info, order, await self._counts(info, order))

    async def items(
        self, id: str, *, outcome: Outcome | None = None, after: int = -1, limit: int = 100
    ) -> Sequence[tuple[int, Item]]:
        """
        Return the items of an operation with their numbers, in order.

        Args:
            id: of the operation.
            outcome: only those of which this became.
            after: number behind which to go on.
            limit: how many at most.

        Raises:
            LimitError: `limit` is too large.
        """
        first, until = encode_key(item_key(id, after + 1)), prefix_end(encode_key((id,)))
        rows = await self._page(ITEM_KIND, first, until, limit, outcome)
        return [(int(row.key[1]), _item(row)) for row in rows]

    async def _page(
        self, kind: str, first: bytes, until: bytes, limit: int, tag: str | None
    ) -> Sequence[RecordRow]:
        if not 1 <= limit <= LISTED_MAX:
            raise LimitError(what="limit", size=limit, limit=LISTED_MAX)
        return await self._views.damages.records(kind, first, until, limit, tag)

    async def _found(self, id: str) -> tuple[RunInfo, Order]:
        view = await self._views.find(id)
        if view is None or view[0].function != FUNCTION:
            raise OperationNotFoundError(operation_id=id)
        key = order_key(view[0].created, id)
        row = await self._store.read(lambda reader: reader.record(KIND, key))
        if row is None or row.value is None:
            raise OperationNotFoundError(operation_id=id)
        return RunInfo.of(id, *view), _order(row)

    async def _counts(self, info: RunInfo, order: Order) -> dict[str, int]:
        """Return how many items there are by outcome; counted only while that may change."""
        if info.status is Status.SUCCEEDED:
            return dict(await self._runs.plain_result(info))
        prefix = encode_key((info.id,))
        until, most = prefix_end(prefix), order.selected + 1

        def read(reader: Reads) -> dict[str, int]:
            return {one: reader.tally(ITEM_KIND, prefix, until, most, one)[0] for one in OVER}

        # What is over stays so; counted one after the other, what is open would not add up.
        over = await self._store.read(read)
        return {"open": order.selected - sum(over.values()), **over}

    # Working.

    async def _work(self, run: Run) -> dict[str, int]:
        """Do what was ordered; the function of all operations."""
        info, order = await self._found(run.id)
        at = 0
        while at < order.selected:
            at = await run.step(
                "batch",
                self._batch,
                run.id,
                order,
                at,
                effect="idempotent",
                retry=_PATIENCE,
                mark=lambda reached: {"at": reached, "of": order.selected},
            )
        return await self._counts(info, order)

    async def _batch(self, id: str, order: Order, at: int) -> int:
        """See to the items behind a number; return the number of the first one that is left."""
        numbers = range(at, min(at + BATCH, order.selected))
        keys = [item_key(id, number) for number in numbers]
        rows = await self._store.read(lambda reader: reader.records_at(ITEM_KIND, keys))
        for number, row in zip(numbers, rows, strict=True):
            if row is None or row.value is None or _item(row).outcome != "open":
                continue
            try:
                await self._see_to(id, order, row)
            except (NotReadyError, ClosedError):
                return number  # The runtime is on its way out: the next one goes on here.
        return numbers.stop

    async def _see_to(self, id: str, order: Order, row: RecordRow) -> None:
        """Do what is ordered to one run, and keep what became of it, in one unit."""
        open_item = _item(row)
        became = await self._new_id(order, open_item.run_id)
        done = msgspec.structs.replace(open_item, outcome="done", became=became)
        expects = (AtVersion(ITEM_KIND, row.key, row.version),)
        note = Note(
            actor=order.by,
            action=f"run_{order.action}",
            at=self._views.wall(),
            target=open_item.run_id,
            reason=order.reason,
            request=id,
        )
        rider = Rider((_written(row.key, done), self._requests.written(note)), expects)
        over = done
        try:
            with riding(rider):
                if became:
                    await self._runs.fork(open_item.run_id, new_id=became)
                else:
                    await self._acts[order.action](order, open_item.run_id)
        except TakenError:
            return
        except (NotReadyError, ClosedError):
            raise
        except _REFUSALS as error:
            over = _refused(open_item, error)
        if not rider.rode:  # Nothing changed: it was so already, or it was refused.
            try:
                await self._store.commit(Unit((_written(row.key, over),), expects))
            except ConflictError:
                return  # Somebody else saw to it.

    async def _new_id(self, order: Order, run_id: str) -> str:
        """Return the id of the run that a retry makes; nothing if none is made."""
        found = await self._views.find(run_id) if order.action == "retry" else None
        if found is None or found[0].status is not Status.FAILED:
            return ""
        return self._store.world.ids.incarnation().hex()

    async def _cancel(self, order: Order, run_id: str) -> None:
        try:
            await self._runs.cancel(run_id, mode=order.mode, reason=order.reason, by=order.by)
        except RunStateError:
            view: RunView = (await self._views.get(run_id))[0]
            if view.status is not Status.CANCELLED:
                raise


def _written(key: Key, item: Item) -> PutRecord:
    return PutRecord(ITEM_KIND, key, msgspec.msgpack.encode(item), item.outcome)


def _item(row: RecordRow) -> Item:
    return codec.decode_as(row.value or b"", Item, "item")


def _order(row: RecordRow) -> Order:
    return codec.decode_as(row.value or b"", Order, "order")


def _refused(item: Item, error: HoldfastError) -> Item:
    """Return what becomes of an item whose run refused; why, as far as that is not internal."""
    if isinstance(error, RunNotFoundError):
        return msgspec.structs.replace(item, outcome="gone")
    reason = str(error) if error.status < 500 else ""
    return msgspec.structs.replace(item, outcome="refused", code=error.code, reason=reason)
