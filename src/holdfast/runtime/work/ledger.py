"""
The ledger: which work is in flight, and what was when a runtime died.

    async with rt.ledger.begin("user-42", ttl=30) as entry:    # durable before the work begins
        ...
        await entry.settle("replied")                          # refused if it was begun anew

Work of a runtime that died is found at the next start, or by its living neighbours, and listed
under one state each (`core.ledger.verdict`). A clean end leaves nothing.

Invariants: nothing is handed out before its entry is durable, its attempt counted; one entry is
handed out by exactly one of any number of racing processes; settled entries stay as a small
record, so no generation of a key is ever used twice.
"""

from asyncio import CancelledError
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.errors import (
    DamagedError,
    LeaseExpiredError,
    LimitError,
    OutcomeForgottenError,
    StaleGenerationError,
    VersionConflictError,
)
from holdfast.core.key import Key, as_key, encode_key
from holdfast.core.ledger import (
    CRASHED,
    REPORT,
    EntryRow,
    EntryState,
    Policy,
    Terms,
    begun,
    claimed,
    decode_row,
    resolved,
    stopped,
)
from holdfast.core.redaction import Redactor
from holdfast.core.refusal import EntryHeldError, EntryNotFoundError, EntryStateError, NotReadyError
from holdfast.core.unit import (
    AtVersion,
    CloseStream,
    DeleteRecord,
    PutRecord,
    RecordRow,
    RenewLease,
    TrimStream,
    Unit,
    Write,
)
from holdfast.runtime.damage import Damages
from holdfast.runtime.names import commit_keeping
from holdfast.runtime.presence import Presence
from holdfast.runtime.service import Piece, each
from holdfast.runtime.work.entry import KIND, STOP_KIND, Book, Entry, Unsure, written
from holdfast.runtime.work.info import LISTED_MAX, EntryInfo, entries
from holdfast.store.store import Store

PAGE: Final = 1_000
_TRIM_BEHIND: Final = 256


class Beginning:
    """What `begin` returns; `await` it, or enter it with `async with`, to get the entry."""

    def __init__(self, ledger: "Ledger", key: Key, terms: Terms, note: object) -> None:
        """Take what begins."""
        self._ledger = ledger
        self._asked = (key, terms, note)
        self._entry: Entry | None = None

    def __await__(self) -> Generator[Any, None, Entry]:
        """Begin; the entry is durable when this returns."""
        return self._ledger.start(*self._asked).__await__()

    async def __aenter__(self) -> Entry:
        """Begin; the entry is durable when this returns."""
        self._entry = await self
        return self._entry

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Settle the entry, unless that was done."""
        if self._entry is not None:
            await self._entry.__aexit__(kind, error, trace)


class Ledger:
    """The work in flight on a store; while `paused` says why, nothing begins."""

    def __init__(
        self, store: Store, presence: Presence, damages: Damages, redaction: Redactor
    ) -> None:
        """Take the store, and the presence whose lease is the right to own work."""
        self._store = store
        self._damages = damages
        self._presence = presence
        self._refused = False
        self.paused: Callable[[], str] = lambda: ""
        self._book = Book(store, presence, redaction)
        presence.closing = self._closing

    def begin(
        self,
        key: str | Key,
        *,
        ttl: float | None = None,
        kind: str = "work",
        policy: Policy = REPORT,
        attempts: int = 3,
        fresh_for: float = 3600.0,
        note: object = None,
    ) -> Beginning:
        """
        Begin a piece of work; older work of this runtime on the same key is superseded.

        Args:
            key: what it is work on, a string or a tuple of strings.
            ttl: seconds of silence of this whole runtime until others may take the work over.
                Work of any length needs no renewal: the heartbeat keeps pace.
            kind: family of the work, by which it can be claimed.
            policy: what becomes of it if this runtime dies.
            attempts: crashes after which it is quarantined.
            fresh_for: seconds of silence after which it does not go on by itself.
            note: plain value for people and for whoever goes on.

        Raises:
            EntryHeldError: another runtime works on it; says who, and since when.
            EntryQuarantinedError: it crashed too often; resolve it first.
            StoreError: it could not be written; do not begin.
        """
        path = as_key(key)
        encode_key(path)
        return Beginning(self, path, Terms(kind, policy, attempts, fresh_for, ttl), note)

    async def start(
        self, key: Key, terms: Terms, note: object = None, also: Unit | None = None
    ) -> Entry:
        """
        Begin with terms as one value; `begin` is the usual way.

        Args:
            key: what it is work on.
            terms: what is said of it.
            note: plain value for people and for whoever goes on.
            also: what is to be true at the same moment; if its expectations do not hold, nothing
                begins.
        """
        checked = self._book.checked(note, "note")

        def decide(found: EntryRow | None) -> EntryRow:
            row = begun(key, found, terms, self._book.owned(), self._book.now())
            return msgspec.structs.replace(row, note=checked)

        return await self._hand_out(key, decide, terms.ttl, also)

    async def claim(self, key: str | Key, also: Unit | None = None) -> Entry:
        """
        Go on with work whose runtime died; the attempt is counted when this returns.

        Of any number of runtimes that try, exactly one gets it.

        Args:
            key: what it is work on.
            also: what is to be true at the same moment; if its expectations do not hold, nothing
                is claimed.

        Raises:
            EntryHeldError: somebody was faster.
            EntryStateError: it is not to go on.
            EntryNotFoundError: there is no such work.
        """
        self._store.check_admitted()
        path = as_key(key)

        def decide(found: EntryRow | None) -> EntryRow:
            if found is None:
                raise EntryNotFoundError(key=path)
            return claimed(path, found, self._book.owned(), self._book.now())

        found = await self._row(path)
        return await self._hand_out(path, decide, found.terms.ttl if found else None, also)

    async def resumable(self, kind: str | None = None) -> AsyncIterator[Entry]:
        """Claim, one after the other, all work that may go on, and yield what was got."""
        after: Key | None = None
        while page := await self.list(EntryState.RESUMABLE, after=after, limit=PAGE):
            after = page[-1].key
            for info in page:
                if kind in (None, info.terms.kind):
                    try:
                        entry = await self.claim(info.key)
                    except (EntryHeldError, EntryStateError, EntryNotFoundError):
                        continue
                    yield entry

    async def stop(self, key: str | Key, reason: str, *, by: str = "") -> None:
        """
        Ask for work to be stopped; once this returned, it never goes on by itself.

        Work in flight hears of it (`entry.stopped`) and may still settle.

        Raises:
            EntryNotFoundError: there is no such work.
            EntryStateError: it ended already.
        """
        self._store.check_admitted()
        path = as_key(key)
        reason, by = self._book.redaction.text(reason), self._book.redaction.text(by)
        while True:
            record, row = await self._known(path)
            expects = (AtVersion(KIND, path, record.version),)
            if row.state is EntryState.RUNNING:
                value = {"generation": row.generation, "reason": reason, "by": by}
                value |= {"at": self._book.now().wall}
                write = PutRecord(STOP_KIND, path, codec.encode(value))
            else:
                write = written(path, stopped(path, row, by, reason))
            try:
                await self._store.commit(Unit((write,), expects))
            except VersionConflictError:
                continue
            mine = self._book.open.get(path)
            if mine is not None and mine.generation == row.generation:
                mine.stopped = reason
            return

    async def resolve(
        self, key: str | Key, outcome: object, *, by: str = "", reason: str = ""
    ) -> EntryInfo:
        """
        Decide about work whose runtime died: settle it, or let it go on.

        Args:
            key: what it is work on.
            outcome: `"resume"` to let it go on with all its attempts, else what it came to.
            by: who decides.
            reason: why.

        Raises:
            EntryNotFoundError: there is no such work.
            EntryStateError: it is in flight, it ended, or it was stopped and cannot go on.
        """
        self._store.check_admitted()
        path = as_key(key)
        checked = self._book.checked(outcome, "outcome")
        reason, by = self._book.redaction.text(reason), self._book.redaction.text(by)
        while True:
            record, row = await self._known(path)
            after = resolved(path, row, checked, by, reason)
            try:
                await self._store.commit(
                    Unit((written(path, after),), (AtVersion(KIND, path, record.version),))
                )
            except VersionConflictError:
                continue
            return EntryInfo.of(path, after)

    async def find(self, key: str | Key) -> EntryInfo | None:
        """
        Return what is known of work on a key, or None.

        Raises:
            DamagedError: its record does not match its digest.
        """
        path = as_key(key)
        row = await self._row(path)
        return None if row is None else EntryInfo.of(path, row)

    async def list(
        self,
        state: EntryState | str | None = None,
        *,
        kind: str | None = None,
        after: str | Key | None = None,
        limit: int = 100,
    ) -> list[EntryInfo]:
        """
        Return entries in key order.

        Args:
            state: only those in this state.
            kind: only those of this kind.
            after: key behind which to go on.
            limit: how many at most.
        """
        if not 1 <= limit <= LISTED_MAX:
            raise LimitError(what="limit", size=limit, limit=LISTED_MAX)
        first = b"" if after is None else encode_key(as_key(after)) + b"\0"
        wanted = None if state is None else EntryState(state)
        return await self._damages.around(lambda lists: entries(lists, wanted, kind, first, limit))

    async def interrupted(self) -> Sequence[EntryInfo]:
        """Return all work whose runtime died and that nobody settled or took up again."""
        found: list[EntryInfo] = []
        for state in CRASHED:
            after: Key | None = None
            while page := await self.list(state, after=after, limit=PAGE):
                found += page
                after = page[-1].key
        return sorted(found, key=lambda info: encode_key(info.key))

    # What the runtime asks of it.

    @property
    def book(self) -> Book:
        """The entries of this runtime, for whoever looks after them."""
        return self._book

    def refuse(self) -> None:
        """Begin and claim nothing from now on."""
        self._refused = True

    def running(self) -> Sequence[str]:
        """Return what this runtime has in flight."""
        return ["/".join(key) for key in self._book.open]

    async def idle(self) -> None:
        """Wait until this runtime has nothing in flight."""
        for entry in list(self._book.open.values()):
            with suppress(DamagedError):  # Whoever looks at all of them between starts says it.
                await entry.look()
        await self._book.idle()

    async def clear(self) -> None:
        """Settle what is owed, and what was begun for somebody who was cancelled meanwhile."""
        work: list[Piece] = [partial(self._let_go, begun) for begun in self._book.unsure]
        work += [entry.pay for entry in self._book.owed.values()]
        await each(work)

    async def _let_go(self, begun: Unsure) -> None:
        """Abandon work that was begun for nobody, unless somebody changed it since."""
        if await self._may_have_begun(begun):
            record, found = await self._found(begun.key)
            if found == begun.row:
                entry = Entry(self._book, begun.key, begun.row, begun.fence)
                await entry.abandon(_version(record), joint=begun.joint)
        self._book.unsure.remove(begun)

    async def _may_have_begun(self, begun: Unsure) -> bool:
        try:
            return await self._store.committed(begun.unit_id)
        except OutcomeForgottenError:
            return True  # The record tells: owner, generation and moment are in it.

    def trimming(self) -> Unit | None:
        """Return the unit that drops what nobody needs of the log, once that is worth it."""
        book = self._book
        needed = [entry.logged for entry in book.open.values()]
        before = min(needed, default=book.logged + 1)
        if before - book.trimmed < _TRIM_BEHIND:
            return None
        book.trimmed = before
        return Unit((TrimStream(book.log, before),))

    def _closing(self) -> tuple[Write, ...]:
        """Return the writes that end the log when this runtime says goodbye."""
        book = self._book
        if not book.logged:
            return ()
        return (TrimStream(book.log, book.logged + 1), CloseStream(book.log))

    # How an entry is handed out.

    async def _hand_out(
        self, key: Key, decide: "Decide", ttl: float | None, also: Unit | None = None
    ) -> Entry:
        if self._refused:
            raise NotReadyError(phase="draining", reason="nothing new begins")
        if paused := self.paused():
            raise NotReadyError(phase="paused", reason=paused)
        try:
            entry = await self._try(key, decide, ttl, also)
        except (LeaseExpiredError, StaleGenerationError) as error:
            if error.key != self._presence.fence.key:
                raise
            # This runtime was silent for too long. With nothing in flight it enters anew.
            await self._presence.overtaken(error)
            self._check_fence()
            entry = await self._try(key, decide, ttl, also)
        self._store.world.failpoints.reach("ledger.begun")
        return entry

    async def _try(self, key: Key, decide: "Decide", ttl: float | None, also: Unit | None) -> Entry:
        self._check_fence()
        renewal = None if ttl is None else self._presence.promise(ttl)
        try:
            while True:
                record, found = await self._found(key)
                row = decide(found)
                fence = self._presence.fence
                unit = self._book.change(
                    key, row, _version(record), fence, DeleteRecord(STOP_KIND, key)
                )
                unit = _together(unit, renewal, also, self._store.unit_id())
                try:
                    committed = await commit_keeping(self._store, unit)
                except VersionConflictError as conflict:
                    if (conflict.kind, conflict.key) != (KIND, key):
                        raise
                    continue
                except CancelledError:
                    self._book.unsure.append(Unsure(unit.id, key, row, fence, also is not None))
                    raise
                break
        except BaseException:
            if ttl is not None:
                self._presence.release(ttl)
            raise
        entry = Entry(self._book, key, row, fence)
        entry.accept(row, committed)
        former = self._book.open.get(key)
        self._book.add(entry)
        if former is not None:
            self._book.drop(former)
        return entry

    def _check_fence(self) -> None:
        if self._presence.fenced is not None:
            raise self._presence.fenced.fresh()

    # Reading.

    async def _found(self, key: Key) -> tuple[RecordRow | None, EntryRow | None]:
        record = await self._store.read(lambda reader: reader.record(KIND, key))
        if record is None or record.value is None:
            return None, None
        return record, decode_row(record.value)

    async def _row(self, key: Key) -> EntryRow | None:
        return (await self._found(key))[1]

    async def _known(self, key: Key) -> tuple[RecordRow, EntryRow]:
        record, row = await self._found(key)
        if record is None or row is None:
            raise EntryNotFoundError(key=key)
        return record, row


Decide = Callable[[EntryRow | None], EntryRow]
"""Says from what is known of a key what it becomes; raises if it may not."""


def _together(unit: Unit, renewal: RenewLease | None, also: Unit | None, id: bytes) -> Unit:
    writes, expects = unit.writes, unit.expects
    if renewal is not None:
        writes = (*writes, renewal)
    if also is not None:
        writes, expects = (*writes, *also.writes), (*expects, *also.expects)
    return Unit(writes, expects, id)


def _version(record: RecordRow | None) -> int:
    return 0 if record is None else record.version
