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
from typing import Any, Final, TypeAlias

import msgspec

from holdfast.core import codec
from holdfast.core.engine import (
    ANSWERS,
    BEGUN,
    DECIDED,
    REBASED,
    REQUESTED,
    Answered,
    Begun,
    Decided,
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
    VersionConflictError,
)
from holdfast.core.event import Event
from holdfast.core.refusal import EngineBehindError
from holdfast.core.tier import DURABLE, Tier
from holdfast.core.unit import PutRecord, PutSnapshot, Write
from holdfast.runtime.engines.copy import Copy
from holdfast.runtime.engines.engine import Memory
from holdfast.runtime.engines.load import beginning
from holdfast.runtime.engines.place import Place
from holdfast.runtime.engines.post import UNIT_BYTES, Letters
from holdfast.runtime.engines.turn import a_turn
from holdfast.runtime.service import breathe

GROUP: Final = 1_000
"""Requests that are written in one unit at most."""
# Types of answers that nobody could wait for, told without a look at what they can do.
_AT_ONCE: Final = frozenset({type(None), bool, int, float, str, list, tuple, dict})
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


Reply: TypeAlias = Answer | asyncio.Future[Answer | None]
"""An answer, or what is done when it is durable."""


class _Pending(msgspec.Struct, frozen=True):
    """One thing to be written, and who waits for it."""

    event: Event | None
    decided: Event | None
    writes: tuple[Write, ...]
    answer: Answer | None
    future: "asyncio.Future[Answer | None] | None"
    size_bytes: int


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
        self._stream = place.stream
        self._audit = audit_of(place.name)
        self._key = list(place.key)
        self._world = place.store.world
        self._outbox: list[_Pending] = []
        self._sent: list[_Pending] = []
        self._writing: asyncio.Future[None] | None = None
        self._failure: HoldfastError | None = None
        self._under_id: dict[str, asyncio.Future[Answer | None]] = {}
        self.answered: dict[str, Answer] = {}

    # The engine's half.

    def perform(self, work: Callable[..., Any], args: tuple[Any, ...], id: str) -> Reply:
        """
        Do a request; return its answer, or what is done when and how it is answered.

        Raises:
            EvaluationError: a rule or a function that it calls failed.
            Exception: what the caller's function raised; in either case nothing was done.
        """
        if id and (again := self._again(id)) is not None:
            return again
        self.used_at = self._world.clock.monotonic()
        try:
            with a_turn():
                value, request = self._done(work, args, id)
            self._world.failpoints.reach("engine.performed")
            if not request.operations:
                return self._looked(self._answer(value, self.sequence, request))
            if not self.sequence:
                self._begin()
            written = self._written_of(request, value)
        except BaseException:
            self.gone = not self._is_untouched()
            raise
        return self._enqueue(self._answer(value, self.sequence + 1, request), request, *written)

    def _answer(self, value: Any, sequence: int, request: Request) -> Answer:
        return Answer(value, sequence, request.fired, request.facts.hex(), self._tier)

    def _is_untouched(self) -> bool:
        """Tell whether a request that raised had done nothing yet."""
        try:
            with a_turn():
                return not self.memory.end().operations
        except HoldfastError:
            return False

    def _again(self, id: str) -> Reply | None:
        return self._under_id.get(id) or self.answered.get(id)

    def _done(
        self, work: Callable[..., Any], args: tuple[Any, ...], id: str
    ) -> tuple[Any, Request]:
        memory, clock = self.memory, self._world.clock
        memory.begin(seed_of(self._stream, self.requests), clock.store_time(), clock.wall())
        value = work(memory.hands, *self.place.redaction(args))
        if type(value) not in _AT_ONCE and inspect.isawaitable(value):
            raise InvalidValueError(
                what=getattr(work, "__qualname__", "work"),
                reason="waits; what works on an engine must not, do that before and after",
            )
        request = memory.end()
        kept = self.place.redaction(memory.plain(value))
        return kept, msgspec.structs.replace(request, id=id) if id else request

    def _begin(self) -> None:
        """Write down by which rules it begins; the first thing in its journal."""
        begun = event_of(BEGUN, Begun(self.place.engine.fingerprint))
        self._put(begun, None, beginning(self.place, 1))
        self.tail = 0

    @property
    def _path(self) -> tuple[str, ...]:
        return (self.place.name, *self.place.key)

    def _looked(self, answer: Answer) -> Reply:
        """Answer who only looked: when what he saw is durable."""
        if self._tier is not DURABLE or not (self._outbox or self._writing):
            return answer
        future = _future()
        self._put(None, None, (), answer, future)
        return future

    def _written_of(
        self, request: Request, value: Any
    ) -> tuple[Event, Event, tuple[PutRecord, ...]]:
        """Return what a request adds to journal and audit, and what is written with it."""
        sequence = self.sequence + 1
        said = msgspec.Raw(codec.encode(value, "answer"))
        decided = Decided(
            self._key, sequence, request.id, said, request.fired, request.trace, request.facts
        )
        writes: tuple[PutRecord, ...] = ()
        if request.id:
            answered = Answered(sequence, said, request.fired, request.facts)
            key = (*self._path, request.id)
            writes = (PutRecord(ANSWERS, key, msgspec.msgpack.encode(answered)),)
        return event_of(REQUESTED, request), event_of(DECIDED, decided), writes

    def _enqueue(
        self,
        answer: Answer,
        request: Request,
        event: Event,
        decided: Event,
        writes: tuple[PutRecord, ...],
    ) -> Reply:
        self.tail += 1
        self.requests += 1
        if self.following is not None:
            self.following.append((answer.sequence, request))
        waits = request.id or self._tier is DURABLE
        future = _future() if waits else None
        self._put(event, decided, writes, answer, future)
        if future is not None and request.id:
            self._remember(request.id, answer, future)
        return future if future is not None and self._tier is DURABLE else answer

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
        future = _future()
        self._put(event_of(REBASED, Rebased(copy.base)), None, writes, None, future)
        return future

    # The store's half.

    @property
    def unsaved(self) -> int:
        """How many events are not durable yet."""
        return self.sequence - self.durable

    def _put(
        self,
        event: Event | None,
        decided: Event | None,
        writes: tuple[Write, ...],
        answer: Answer | None = None,
        future: "asyncio.Future[Answer | None] | None" = None,
    ) -> None:
        size = sum(map(_weight, writes))
        if event is not None:
            self.sequence += 1
            size += len(event.payload)
        if decided is not None:
            size += len(decided.payload)
        self._outbox.append(_Pending(event, decided, writes, answer, future, size))
        if self._tier is DURABLE or len(self._outbox) >= GROUP:
            self.write_on()

    def write_on(self) -> None:
        """Begin to write what is not durable, if that has not begun."""
        if self._writing is None and self._outbox:
            self._writing = self.place.post.send(self)

    async def settled(self) -> None:
        """
        Wait until everything that was done up to now is in the store, or has failed.

        Raises:
            HoldfastError: it failed.
        """
        until = self.sequence
        while self.durable < until and self._failure is None:
            self.write_on()
            await breathe()
            if self._writing is not None:
                await asyncio.wait([self._writing])
        if self._failure is not None:
            raise self._failure.fresh()

    def letters(self) -> Letters:
        """Give what goes into one unit."""
        size = count = 0
        for pending in self._outbox[:GROUP]:
            size += pending.size_bytes
            if count and size > UNIT_BYTES:
                size -= pending.size_bytes
                break
            count += 1
        sent, self._outbox = self._outbox[:count], self._outbox[count:]
        self._sent = sent
        return Letters(
            self._stream,
            self.durable,
            self._audit,
            [each.event for each in sent if each.event is not None],
            [each.decided for each in sent if each.decided is not None],
            [write for each in sent for write in each.writes],
            size,
        )

    def written(self) -> None:
        """Answer those whose requests are durable, and go on with what came since."""
        sent, self._sent, self._writing = self._sent, [], None
        for pending in sent:
            self.durable += pending.event is not None
            if pending.future is not None and not pending.future.done():
                pending.future.set_result(pending.answer)
        if self._tier is DURABLE or len(self._outbox) >= GROUP:
            self.write_on()

    def refused(self, error: HoldfastError) -> None:
        """Let go of everything that stood on this, and of the memory."""
        self.gone = True
        if isinstance(error, SequenceConflictError | VersionConflictError):
            error = EngineBehindError(memory=self.place.words)
        self._failure = error
        failed = [*self._sent, *self._outbox]
        self._sent, self._outbox, self._writing = [], [], None
        self.lost = sum(pending.event is not None for pending in failed)
        for pending in failed:
            if pending.future is not None and not pending.future.done():
                pending.future.set_exception(error.fresh())
                pending.future.exception()  # Read once: nobody may wait for it any more.

    async def close(self) -> None:
        """Release the memory; it is not used again."""
        self.gone = True
        await self.place.aside(self.memory.close)


def _future() -> "asyncio.Future[Answer | None]":
    return asyncio.get_running_loop().create_future()


def _weight(write: Write) -> int:
    """Return about how many bytes are written beside the events."""
    match write:
        case PutSnapshot():
            return len(write.stored)
        case PutRecord():
            return len(write.value)
        case _:
            return 0
