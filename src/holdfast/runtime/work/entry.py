"""
Work in flight in a user's hands: mark progress, mark effects, settle.

An `Entry` is what `rt.ledger.begin` and `rt.ledger.claim` hand out. Every change of it is one
unit: the record, and beside it the same in the log of the runtime, so that either can be rebuilt
from the other. Every such unit expects the fence under which the work began and the version of
the record as it was left here last.

Invariants: an entry that was begun anew or taken over changes nothing any more; a settlement
that could not be written stays owed, and the entry stays this runtime's, until it is written or
the store stopped; the first settlement counts.
"""

import asyncio
from asyncio import CancelledError
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from holdfast.core import codec
from holdfast.core.errors import (
    DamagedError,
    FenceError,
    HoldfastError,
    StoreError,
    VersionConflictError,
)
from holdfast.core.event import Event
from holdfast.core.key import Key, encode_key
from holdfast.core.ledger import (
    DONE,
    FAILED,
    EntryRow,
    EntryState,
    Owned,
    Sign,
    decode_row,
    encode_logged,
    encode_row,
    settled,
)
from holdfast.core.redaction import Redactor
from holdfast.core.refusal import EffectUncertainError, EntrySupersededError
from holdfast.core.unit import (
    Append,
    AtVersion,
    Committed,
    DeleteRecord,
    Expectation,
    Fence,
    MendRecord,
    PutRecord,
    Unit,
    Write,
)
from holdfast.runtime.presence import Presence
from holdfast.store.store import Store

KIND: Final = "holdfast.ledger"
STOP_KIND: Final = "holdfast.ledger.stop"


class Unsure(NamedTuple):
    """
    Work that was being begun when whoever asked for it was cancelled.

    Attributes:
        unit_id: of the unit that begins it.
        row: what it is if it was begun.
        joint: something else was written with it.
    """

    unit_id: bytes
    key: Key
    row: EntryRow
    fence: Fence
    joint: bool


class Book:
    """
    What the entries of one runtime share.

    Attributes:
        open: the entries in flight, by key.
        owed: entries whose settlement could not be written yet.
        unsure: work of which nobody waited to hear whether it was begun.
        leaving: this runtime says goodbye; only what is owed is still written.
        log: stream of what this runtime did, once there is an event in it.
        logged: sequence of the last event in it.
        trimmed: sequence before which it was trimmed.
    """

    def __init__(self, store: Store, presence: Presence, redaction: Redactor) -> None:
        """Take the store, and the presence whose lease is the right to own entries."""
        self.store = store
        self.presence = presence
        self.redaction = redaction
        self.telemetry = store.world.telemetry
        self.open: dict[Key, Entry] = {}
        self.owed: dict[Key, Entry] = {}
        self.unsure: list[Unsure] = []
        self.leaving = False
        self.log = ""
        self.logged = 0
        self.trimmed = 1
        self._idle = asyncio.Event()
        self._idle.set()
        presence.busy = lambda: bool(self.open)

    def commit(self, unit: Unit) -> Coroutine[None, None, Committed]:
        """Commit a unit; with the goodbye it passes while everybody else may not."""
        return self.store.commit_early(unit) if self.leaving else self.store.commit(unit)

    def now(self) -> Sign:
        """Return the present moment."""
        return sign_of(self.store)

    def owned(self) -> Owned:
        """Return this runtime as an owner."""
        presence, opened = self.presence, self.store.opened
        epoch = 0 if opened is None else opened.epoch
        return Owned(presence.incarnation, epoch, presence.holder, presence.log)

    def checked(self, value: object, what: str) -> Any:
        """
        Return a value as it may be stored.

        Raises:
            EncodeError: it cannot be stored exactly.
        """
        plain = self.redaction(value)
        codec.encode(plain, what)
        return plain

    def add(self, entry: "Entry") -> None:
        """Take an entry as in flight."""
        self.open[entry.key] = entry
        self._idle.clear()
        if self.telemetry.listens:
            self.telemetry.tell("entry.begun", {"kind": entry.row.terms.kind})

    def judged(self, row: EntryRow) -> None:
        """Take note that an entry was settled here."""
        if self.telemetry.listens:
            verdict = FAILED if row.outcome == FAILED else DONE
            labels = {"kind": row.terms.kind, "verdict": verdict}
            self.telemetry.tell("entry.judged", labels, {"count": 1})

    def drop(self, entry: "Entry") -> None:
        """Take an entry as no longer in flight here; a second time does nothing."""
        if not entry.in_flight:
            return
        entry.in_flight = False
        if self.open.get(entry.key) is entry:
            del self.open[entry.key]
        if self.owed.get(entry.key) is entry:
            del self.owed[entry.key]
        if entry.row.terms.ttl is not None:
            self.presence.release(entry.row.terms.ttl)
        if not self.open:
            self._idle.set()

    def note(self, stream: str, sequence: int) -> None:
        """Take note of an event in the log; a runtime that entered anew has another log."""
        if stream != self.log:
            self.log, self.logged, self.trimmed = stream, 0, 1
        self.logged = max(self.logged, sequence)

    async def idle(self) -> None:
        """Wait until nothing is in flight."""
        await self._idle.wait()

    def change(self, key: Key, row: EntryRow, version: int, fence: Fence, *also: Write) -> Unit:
        """Return the unit that brings an entry from a version to what it is now."""
        expects: tuple[Expectation, ...] = (fence, AtVersion(KIND, key, version))
        return Unit((written(key, row), self.event(key, row), *also), expects)

    def mending(self, key: Key, row: EntryRow, fence: Fence, *also: Write) -> Unit:
        """Return the unit that does the same to an entry whose record is damaged."""
        put = written(key, row)
        mend = MendRecord(put.kind, put.key, put.value, put.tag)
        return Unit((mend, self.event(key, row), *also), (fence,))

    def event(self, key: Key, row: EntryRow) -> Append:
        """Return what the log says of a change."""
        event = Event(f"entry.{row.state.value}", encode_logged(key, row))
        return Append(self.presence.log, (event,))


class Entry:
    """
    A piece of work that this runtime began or claimed.

    Use it as `async with`: leaving the block settles it with `done`, or with `failed` if the
    block raised (a cancellation included), unless it was settled inside.

    Attributes:
        key: what it is work on.
        stopped: why somebody asked for it to be stopped, or None.
        in_flight: it was not settled, begun anew, or taken over, as far as is known here.
    """

    def __init__(self, book: Book, key: Key, row: EntryRow, fence: Fence) -> None:
        """Take the row as it was committed; `accept` says at which version."""
        self.key = key
        self.stopped: str | None = None
        self.in_flight = True
        self._book = book
        self._row = row
        self._fence = fence
        self._version = 0
        self._logged = 0
        self._owes: object = DONE
        self._lock = asyncio.Lock()

    @property
    def row(self) -> EntryRow:
        """What is stored of it."""
        return self._row

    @property
    def generation(self) -> int:
        """Number of this begin or claim; grows with each, never reused."""
        return self._row.generation

    @property
    def attempt(self) -> int:
        """How often this work was handed out, this time included."""
        return self._row.attempt

    @property
    def logged(self) -> int:
        """Sequence of its last event in the log of this runtime."""
        return self._logged

    @property
    def fence(self) -> Fence:
        """The token to put into every unit that only the owner of this work may commit."""
        return self._fence

    @property
    def expects(self) -> tuple[Expectation, ...]:
        """What holds as long as this work is this runtime's and was not begun anew."""
        return (self._fence, AtVersion(KIND, self.key, self._version))

    async def renew(self, note: object = None) -> None:
        """
        Mark progress durably; looks whether somebody asked for a stop.

        Args:
            note: replaces the note, unless it is None.

        Raises:
            FenceError: this runtime was overtaken, or the work was begun anew; stop working.
        """
        checked = self._book.checked(note, "note")
        async with self._lock:
            kept = self._row.note if note is None else checked
            active = self._row.changed(EntryState.RUNNING, active=self._book.now(), note=kept)
            await self._commit(active)
        await self.look()

    def effect(self, name: str, *, again: bool = False) -> "Effect":
        """
        Return a mark around something done to the outside; enter it before doing it.

        Args:
            name: of the effect, within this work.
            again: do it although an attempt that crashed may have done it.
        """
        return Effect(self, name, again=again)

    def settlement(self, outcome: object = DONE) -> Unit:
        """
        Return the unit that settles this, to be committed together with something else.

        Raises:
            EncodeError: the outcome cannot be stored exactly.
        """
        return self._book.change(
            self.key,
            self._settled(outcome),
            self._version,
            self._fence,
            DeleteRecord(STOP_KIND, self.key),
        )

    def note_settled(self, committed: Committed) -> None:
        """Take note that the unit of `settlement`, together with others, was committed."""
        for record in committed.records:
            if (record.kind, record.key) == (KIND, self.key) and record.value is not None:
                self.accept(decode_row(record.value), committed)
        self._book.judged(self._row)
        self._book.drop(self)

    async def settle(self, outcome: object = DONE) -> None:
        """
        Say what it came to; when this returns, it is durably over.

        Raises:
            EntrySupersededError: it was begun anew, or taken over.
            FenceError: this runtime was overtaken; what it did since is not known to anybody.
            StoreError: it could not be written; it is tried again until it is.
        """
        row = self._settled(outcome)
        self._owes = outcome
        async with self._lock:
            if self._row.state is EntryState.SETTLED:
                return
            try:
                await self._commit(row, DeleteRecord(STOP_KIND, self.key))
            except (StoreError, CancelledError):
                self._book.owed[self.key] = self
                raise
        self._book.judged(self._row)
        self._book.drop(self)
        self._book.store.world.failpoints.reach("ledger.settled")

    async def pay(self) -> None:
        """Settle what could not be settled before; if somebody else has it now, it is not owed."""
        try:
            await self.settle(self._owes)
        except FenceError:
            self._book.owed.pop(self.key, None)

    async def abandon(self, version: int, *, joint: bool) -> None:
        """
        Let go of what was begun for nobody, if it is still as it was begun.

        Args:
            version: of its record.
            joint: something else was written with it, so it goes on; otherwise it failed.
        """
        self._version = version
        after = self._row.changed(EntryState.RESUMABLE) if joint else self._settled(FAILED)
        with suppress(FenceError):
            await self._commit(after, DeleteRecord(STOP_KIND, self.key))

    async def look(self) -> None:
        """Look whether somebody asked for a stop, or settled this together with other writes."""
        key = self.key
        stop, found = await self._book.store.read(
            lambda reader: (reader.record(STOP_KIND, key), reader.record(KIND, key))
        )
        if stop is not None and stop.value is not None:
            asked = codec.decode(stop.value, STOP_KIND)
            if asked["generation"] == self.generation:
                self.stopped = str(asked["reason"])
        if found is not None and found.value is not None:
            row = decode_row(found.value)
            if (row.generation, row.state) == (self.generation, EntryState.SETTLED):
                self._row = row
                self._book.drop(self)

    def accept(self, row: EntryRow, committed: Committed) -> None:
        """Take note of what was committed of this entry."""
        self._row = row
        for record in committed.records:
            if (record.kind, record.key) == (KIND, self.key):
                self._version = record.version
        for stream, event in committed.events:
            if stream == self._book.presence.log:
                self._logged = event.sequence
                self._book.note(stream, event.sequence)

    async def mark(self, name: str, done: list[Any] | None) -> None:
        """Mark an effect as begun, or as done with its result."""
        checked: list[Any] | None = self._book.checked(done, f"effect {name}")
        async with self._lock:
            effects = {**self._row.effects, name: checked}
            row = self._row.changed(EntryState.RUNNING, effects=effects, active=self._book.now())
            await self._commit(row)

    async def __aenter__(self) -> Self:
        """Return it."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Settle it, unless that was done; an error of the block goes on to the caller."""
        if error is None:
            await self.settle(DONE)
            return
        try:
            await self.settle(FAILED)
        except HoldfastError as second:
            error.add_note(f"ledger entry not settled: {second}")

    def _settled(self, outcome: object) -> EntryRow:
        if self._row.state is EntryState.SETTLED:
            return self._row
        return settled(self._row, self._book.checked(outcome, "outcome"))

    async def _commit(self, row: EntryRow, *also: Write) -> None:
        try:
            try:
                change = self._book.change(self.key, row, self._version, self._fence, *also)
                committed = await self._book.commit(change)
            except DamagedError:
                mending = self._book.mending(self.key, row, self._fence, *also)
                committed = await self._book.commit(mending)
        except VersionConflictError as conflict:
            await self._look_again(row, conflict)
            return
        except FenceError as error:
            await self._book.presence.overtaken(error)
            raise
        self.accept(row, committed)

    async def _look_again(self, row: EntryRow, conflict: VersionConflictError) -> None:
        """Somebody else changed the record: it is over, or this was settled with other writes."""
        await self.look()
        if self._row.state is EntryState.SETTLED and row.state is EntryState.SETTLED:
            return
        self._book.drop(self)
        found = await self._book.store.read(lambda reader: reader.record(KIND, self.key))
        actual = 0
        if found is not None and found.value is not None:
            actual = decode_row(found.value).generation
        raise EntrySupersededError(
            key=str(self.key), generation=self.generation, actual=actual
        ) from conflict


class Effect:
    """
    Something done to the outside, marked before and after; use it as `async with`.

    Example:
        async with entry.effect("mail") as mail:
            if not mail.done:
                mail.result = await send(letter, idempotency_key=mail.key)

    Attributes:
        done: an attempt before this one did it; do not do it again.
        result: what it came to; kept with the mark, given back when it is done already.
    """

    def __init__(self, entry: Entry, name: str, *, again: bool) -> None:
        """Take the entry it belongs to."""
        self._entry = entry
        self._name = name
        self._again = again
        self.done = False
        self.result: Any = None

    @property
    def key(self) -> str:
        """A key that is the same in every attempt at this work, and for no other effect."""
        entry = self._entry
        return codec.digest(encode_key(entry.key), entry.row.first, self._name).hex()

    async def __aenter__(self) -> Self:
        """
        Mark that it begins; when this returns, the mark is durable.

        Raises:
            EffectUncertainError: it was begun before and may have happened.
            FenceError: this runtime was overtaken; do not do it.
        """
        effects = self._entry.row.effects
        before = effects.get(self._name)
        if before is not None:
            self.done, self.result = True, before[0]
        elif self._name in effects and not self._again:
            raise EffectUncertainError(key=self._entry.key, effect=self._name)
        else:
            await self._entry.mark(self._name, None)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Mark that it is done; if the block raised, that stays uncertain."""
        if error is None and not self.done:
            await self._entry.mark(self._name, [self.result])
            self.done = True


def written(key: Key, row: EntryRow) -> PutRecord:
    """Return the write of a row, tagged by its owner while it runs, else by its state."""
    running = row.state is EntryState.RUNNING
    tag = row.owner.incarnation if running else row.state.value
    return PutRecord(KIND, key, encode_row(row), tag)


def sign_of(store: Store) -> Sign:
    """Return the present moment by the clock of a store's world."""
    clock = store.world.clock
    now = clock.store_time()
    return Sign(clock.wall(), now.domain, now.seconds)
