"""
Queues: how many runs of a name run at once, and how many begin in a time.

A queued run has its place by priority, then by the time it was queued. What a queue lets run is
kept as slots; a slot is taken in the unit that dispatches a run and given back in the unit in
which its owner lets go of it. Whoever takes one expects the queue as it was read, so that of
several runtimes that dispatch at once none takes one slot too many.

Invariant: over all runtimes, never more runs of a queue are running than it lets run, and never
more began within a time than it lets begin.
"""

from typing import Final, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.errors import InvalidValueError
from holdfast.core.key import check_word, encode_key, prefix_end
from holdfast.core.unit import AtVersion, Expectation, MendRecord, PutRecord, RecordRow, Unit, Write
from holdfast.runtime.listing import TolerantReader, first_parts
from holdfast.runtime.runs.view import QUEUED_KIND, SLOT_KIND, Views

KIND: Final = "holdfast.queue"
SLOTS_MAX: Final = 10_000
QUEUES_MAX: Final = 1_000


class Queue(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What a queue lets run.

    Attributes:
        name: how it is called.
        concurrency: how many at once; None for any number.
        rate: how many begin within `per` seconds; None for any number.
        per: seconds.
        begun: when the last ones began.
    """

    name: str
    concurrency: int | None = None
    rate: int | None = None
    per: float = 1.0
    begun: list[float] = []

    def room(self, taken: int, now: float) -> int:
        """Return how many may begin, given how many run."""
        free = SLOTS_MAX if self.concurrency is None else max(0, self.concurrency - taken)
        if self.rate is not None:
            recent = sum(now - self.per < at <= now for at in self.begun)
            free = min(free, max(0, self.rate - recent))
        return free

    def one_more(self, now: float) -> "Queue":
        """Return the queue after one more began."""
        if self.rate is None:
            return self
        recent = [at for at in self.begun if now - self.per < at <= now]
        return msgspec.structs.replace(self, begun=[*recent, now])

    def put(self) -> PutRecord:
        """Return the write of this queue."""
        return PutRecord(KIND, (self.name,), msgspec.msgpack.encode(self))


class Share(NamedTuple):
    """What belongs to the unit that dispatches a run of a queue."""

    writes: tuple[Write, ...] = ()
    expects: tuple[Expectation, ...] = ()


class Queues:
    """The queues in one store."""

    def __init__(self, views: Views) -> None:
        """Take the views of the runs."""
        self._views = views

    async def limit(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        rate: int | None = None,
        per: float = 1.0,
    ) -> Queue:
        """
        Say what a queue lets run, from now on and in every runtime.

        Args:
            name: of the queue; runs are put into it with `start(..., queue=name)`.
            concurrency: how many run at once; those that wait for something do not count.
            rate: how many begin, or go on, within `per` seconds.
            per: seconds.

        Raises:
            InvalidValueError: a number is not positive.
        """
        check_word("queue", name)
        for what, number in (("concurrency", concurrency), ("rate", rate), ("per", per)):
            if number is not None and not number > 0:
                raise InvalidValueError(what=what, reason=f"is {number}, must be more than 0")
        queue = Queue(name, concurrency, rate, per)
        await self._views.store.commit(Unit((queue.put(),)))
        self._views.on_wait()
        return queue

    async def list(self) -> list[Queue]:
        """Return the queues that have limits."""
        rows = await self._views.damages.records(KIND, b"", prefix_end(b""), QUEUES_MAX, None)
        return [read_queue(row) for row in rows]

    async def share(self, name: str, run_id: str) -> Share | None:
        """Return what a run of a queue needs to be dispatched; None if it may not be now."""
        if not name:
            return Share()
        begin = encode_key((name,))
        row, slots = await self._views.store.read(
            lambda reader: (
                reader.record(KIND, (name,)),
                reader.listed(SLOT_KIND, begin, prefix_end(begin), SLOTS_MAX),
            )
        )
        if row is None or row.value is None:
            return Share()
        now = self._views.wall()
        for kept in slots:
            if kept.row.key == (name, run_id):  # Its owner died; the slot is still its own.
                mend = MendRecord(SLOT_KIND, kept.row.key, codec.encode(now))
                return Share() if kept.intact else Share((mend,))
        queue = read_queue(row)
        if not queue.room(len(slots), now):
            return None
        slot = PutRecord(SLOT_KIND, (name, run_id), codec.encode(now))
        return Share((queue.one_more(now).put(), slot), (AtVersion(KIND, (name,), row.version),))


def read_queue(row: RecordRow) -> Queue:
    """
    Return a stored queue.

    Raises:
        DecodeError: it was written by something else.
    """
    return codec.decode_as(row.value or b"", Queue, "queue")


def first_queued(reader: TolerantReader, room: int, now: float) -> list[RecordRow]:
    """Return the places of runs that may begin: of each queue its first ones, up to its room."""
    found: list[RecordRow] = []
    for name in first_parts(reader, QUEUED_KIND, QUEUES_MAX):
        if len(found) >= room:
            break
        begin = encode_key((name,))
        free = min(room - len(found), _free(reader, name, now))
        if free > 0:
            found += reader.records(QUEUED_KIND, begin, prefix_end(begin), free, None)
    return found


def _free(lists: TolerantReader, name: str, now: float) -> int:
    """Return how many runs of a queue may begin: none, if what it lets run cannot be read."""
    with lists.apart(KIND, (name,)):
        row = lists.reader.record(KIND, (name,))
        if row is None or row.value is None:
            return SLOTS_MAX
        begin = encode_key((name,))
        # A damaged slot counts: whoever took it may still run.
        taken, _, _ = lists.reader.tally(SLOT_KIND, begin, prefix_end(begin), SLOTS_MAX, None)
        return read_queue(row).room(taken, now)
    return 0
