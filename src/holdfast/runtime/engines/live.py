"""
A working memory that is loaded, and what was done to it that is not durable yet.

A request has two halves. The engine's half runs at once, under the turn, without any wait: the
caller's function works on the memory, and what it did becomes the next event of the journal.
The store's half writes what has gathered as one unit: one at a time per memory, each expecting
the journal where the one before left it. So requests that come while a write is under way share
the next one, and the order of the engine is the order of the journal.

    what fails                      what becomes of the memory
    the caller's function, a rule   dropped; loaded anew from what was done before this request
    the write                       dropped with everything that was done on top of it

Nobody repairs a memory: it is what the journal says, or it is gone.

Invariants: a durable request is answered after its commit, with everything it stood on; a
memory that was dropped is never written from again, except for what was done before that; who
only looked is answered when what he saw is durable.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any, Final

import msgspec

from holdfast.core.engine import (
    ANSWERS,
    BEGUN,
    DECIDED,
    REBASED,
    REQUESTED,
    Answered,
    Begun,
    Rebased,
    Request,
    audit_of,
    event_of,
    seed_of,
)
from holdfast.core.errors import (
    HoldfastError,
    InvalidValueError,
    SequenceConflictError,
    UnexpectedError,
    VersionConflictError,
)
from holdfast.core.event import Event
from holdfast.core.refusal import EngineBehindError
from holdfast.core.tier import DURABLE, Tier
from holdfast.core.unit import Append, AtSequence, PutRecord, Unit, Write
from holdfast.runtime.engines.copy import Copy
from holdfast.runtime.engines.engine import Memory
from holdfast.runtime.engines.load import beginning
from holdfast.runtime.engines.place import Place
from holdfast.runtime.engines.turn import a_turn
from holdfast.runtime.service import breathe, carry_on

GROUP: Final = 1_000
"""Requests that are written in one unit at most."""
GROUP_BYTES: Final = 4 * 1024 * 1024
# They are in the store; here only for who looked there just before.
_ANSWERS: Final = 10_000


class Answer(msgspec.Struct, frozen=True):
    """
    What a request came to.

    Attributes:
        value: what the caller's function returned, in plain values.
        sequence: of the request in the journal.
        fired: how many rules fired.
        facts: digest of what is in the memory afterwards, hexadecimal.
        tier: `DURABLE` if it survives a crash, `BUFFERED` if a flush has to come first.
        repeated: it had been done before under this id, and was not done again.
    """

    value: Any
    sequence: int
    fired: int
    facts: str
    tier: Tier
    repeated: bool = False


class _Pending(msgspec.Struct, frozen=True):
    """One thing to be written, and who waits for it."""

    events: tuple[Event, ...]
    writes: tuple[Write, ...]
    answer: Answer | None
    future: "asyncio.Future[Answer | None]"

    @property
    def size_bytes(self) -> int:
        return sum(len(event.payload) for event in self.events)


class Live:
    """
    A working memory that is loaded.

    Attributes:
        place: which one.
        memory: it.
        sequence: of the last event that was done to it.
        durable: of the last event that is in the store.
        requests: that were done to it since it began.
        base: of the snapshot it stands on; 0 if on none.
        tail: requests since then.
        used_at: monotonic time of the last request.
        based_at: monotonic time at which it came to stand on its snapshot.
        gone: it is not to be used any more.
        lost: events that could not be written.
        making: held by who makes a snapshot.
        following: requests since he began, for him; None if nobody makes one.
    """

    def __init__(self, place: Place, copy: Copy, tier: Tier) -> None:
        """Take what was loaded."""
        self.place = place
        self.memory: Memory = copy.memory
        self.sequence = self.durable = copy.sequence
        self.requests = copy.requests
        self.base = copy.base
        self.tail = copy.tail
        self.used_at = self.based_at = place.store.world.clock.monotonic()
        self.gone = False
        self.lost = 0
        self.making = asyncio.Lock()
        self.following: list[tuple[int, Request]] | None = None
        self._tier = tier
        self._outbox: list[_Pending] = []
        self._writing: asyncio.Future[None] | None = None
        self._failure: HoldfastError | None = None
        self._under_id: dict[str, asyncio.Future[Answer | None]] = {}
        self.answered: dict[str, Answer] = {}

    # The engine's half.

    def perform(
        self, work: Callable[..., Any], args: tuple[Any, ...], id: str
    ) -> "asyncio.Future[Answer | None]":
        """
        Do a request and return when and how it is answered.

        Raises:
            EvaluationError: a rule or a function that it calls failed.
            Exception: what the caller's function raised; in either case nothing was done.
        """
        if id and (again := self._again(id)) is not None:
            return again
        self.used_at = self.place.store.world.clock.monotonic()
        try:
            with a_turn():
                value, request = self._done(work, args, id)
            answer = Answer(value, self.sequence, request.fired, request.facts.hex(), self._tier)
            if not request.operations:
                return self._looked(answer)
            if not self.sequence:
                self._begin()
            written = self._written_of(request, value)
        except BaseException:
            self.gone = not self._is_untouched()
            raise
        return self._enqueue(
            msgspec.structs.replace(answer, sequence=self.sequence + 1), request, *written
        )

    def _is_untouched(self) -> bool:
        """Tell whether a request that raised had done nothing yet."""
        try:
            with a_turn():
                return not self.memory.end().operations
        except HoldfastError:
            return False

    def _again(self, id: str) -> "asyncio.Future[Answer | None] | None":
        if id in self._under_id:
            return self._under_id[id]
        return _ready(self.answered[id]) if id in self.answered else None

    def _done(
        self, work: Callable[..., Any], args: tuple[Any, ...], id: str
    ) -> tuple[Any, Request]:
        memory, clock = self.memory, self.place.store.world.clock
        memory.begin(seed_of(self.place.stream, self.requests), clock.store_time(), clock.wall())
        value = work(memory.hands, *args)
        if inspect.isawaitable(value):
            raise InvalidValueError(
                what=getattr(work, "__qualname__", "work"),
                reason="waits; what works on an engine must not, do that before and after",
            )
        request = memory.end()
        return memory.plain(value), msgspec.structs.replace(request, id=id) if id else request

    def _begin(self) -> None:
        """Write down by which rules it begins; the first thing in its journal."""
        begun = event_of(BEGUN, Begun(self.place.engine.fingerprint))
        self._put((begun,), beginning(self.place, 1), None)
        self.tail = 0

    @property
    def _path(self) -> tuple[str, ...]:
        return (self.place.name, *self.place.key)

    def _looked(self, answer: Answer) -> "asyncio.Future[Answer | None]":
        """Answer who only looked: when what he saw is durable."""
        if self._tier is DURABLE and (self._outbox or self._writing):
            return self._put((), (), answer)
        return _ready(answer)

    def _written_of(self, request: Request, value: Any) -> tuple[Event, tuple[Write, ...]]:
        """Return what a request adds to the journal, and what is written with it."""
        sequence = self.sequence + 1
        audit = Event.of(
            DECIDED,
            {
                "key": list(self.place.key),
                "sequence": sequence,
                "id": request.id,
                "answer": value,
                "fired": request.fired,
                "trace": request.trace,
                "facts": request.facts,
            },
        )
        writes: tuple[Write, ...] = (Append(audit_of(self.place.name), (audit,)),)
        if request.id:
            said = Answered(sequence, value, request.fired, request.facts)
            key = (*self._path, request.id)
            writes += (PutRecord(ANSWERS, key, msgspec.msgpack.encode(said)),)
        return event_of(REQUESTED, request), writes

    def _enqueue(
        self, answer: Answer, request: Request, event: Event, writes: tuple[Write, ...]
    ) -> "asyncio.Future[Answer | None]":
        self.tail += 1
        self.requests += 1
        if self.following is not None:
            self.following.append((answer.sequence, request))
        future = self._put((event,), writes, answer)
        if request.id:
            self._remember(request.id, answer, future)
        return future if self._tier is DURABLE else _ready(answer)

    def _remember(self, id: str, answer: Answer, future: "asyncio.Future[Answer | None]") -> None:
        self._under_id[id] = future

        def done(ended: "asyncio.Future[Answer | None]") -> None:
            self._under_id.pop(id, None)
            if not ended.cancelled() and ended.exception() is None:
                self.answered[id] = msgspec.structs.replace(answer, repeated=True)
                if len(self.answered) > _ANSWERS:
                    del self.answered[next(iter(self.answered))]

        future.add_done_callback(done)

    def swap(self, copy: Copy, writes: tuple[Write, ...]) -> "asyncio.Future[Any]":
        """Go on from a copy that was restored from a snapshot; say so in the journal."""
        self.memory, self.base, self.tail = copy.memory, copy.base, copy.tail
        self.based_at = self.place.store.world.clock.monotonic()
        self.following = None
        return self._put((event_of(REBASED, Rebased(copy.base)),), writes, None)

    # The store's half.

    @property
    def unsaved(self) -> int:
        """How many events are not durable yet."""
        return self.sequence - self.durable

    def _put(
        self, events: tuple[Event, ...], writes: tuple[Write, ...], answer: Answer | None
    ) -> "asyncio.Future[Answer | None]":
        future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self._outbox.append(_Pending(events, writes, answer, future))
        self.sequence += len(events)
        if self._tier is DURABLE or len(self._outbox) >= GROUP:
            self._write_on()
        return future

    def _write_on(self) -> None:
        if self._writing is None and self._outbox:
            self._writing = carry_on(self._write_all(), self._written)

    def _written(self) -> None:
        self._writing = None
        if self._tier is DURABLE:
            self._write_on()  # What came after the last look.

    async def settled(self) -> None:
        """
        Wait until everything that was done up to now is in the store, or has failed.

        Raises:
            HoldfastError: it failed.
        """
        until = self.sequence
        while self.durable < until and self._failure is None:
            self._write_on()
            await breathe()
            if self._writing is not None:
                await asyncio.wait([self._writing])
        if self._failure is not None:
            raise self._failure.fresh()

    async def _write_all(self) -> None:
        while self._outbox:
            group = self._group()
            try:
                if any(pending.events for pending in group):
                    await self.place.store.commit(self._unit(group))
            except Exception as error:
                if not isinstance(error, HoldfastError):
                    error = UnexpectedError(reason=type(error).__name__)
                self._fail(error, group)
                return
            self.durable += sum(len(pending.events) for pending in group)
            for pending in group:
                if not pending.future.done():
                    pending.future.set_result(pending.answer)

    def _group(self) -> list[_Pending]:
        """Take what goes into one unit."""
        size = count = 0
        for pending in self._outbox[:GROUP]:
            size += pending.size_bytes
            if count and size > GROUP_BYTES:
                break
            count += 1
        group, self._outbox = self._outbox[:count], self._outbox[count:]
        return group

    def _unit(self, group: list[_Pending]) -> Unit:
        stream = self.place.stream
        events = tuple([event for pending in group for event in pending.events])
        rest = [write for pending in group for write in pending.writes]
        return Unit((Append(stream, events), *rest), (AtSequence(stream, self.durable),))

    def _fail(self, error: HoldfastError, group: list[_Pending]) -> None:
        """Everything that stood on this is gone, and so is the memory."""
        self.gone = True
        if isinstance(error, SequenceConflictError | VersionConflictError):
            error = EngineBehindError(memory=self.place.words)
        self._failure = error
        failed, self._outbox = [*group, *self._outbox], []
        self.lost = sum(len(pending.events) for pending in failed)
        for pending in failed:
            if not pending.future.done():
                pending.future.set_exception(error.fresh())
                pending.future.exception()  # Read once: nobody may wait for it any more.

    def close(self) -> None:
        """Release the memory; it is not used again."""
        self.gone = True
        with a_turn():
            self.memory.close()


def _ready(answer: Answer) -> "asyncio.Future[Answer | None]":
    future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
    future.set_result(answer)
    return future
