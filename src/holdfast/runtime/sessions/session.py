"""
Sessions: long-lived keyed state, changed inside a visible block.

`edit()` hands out a draft. When the block leaves, its durable fields are committed in one unit,
together with whatever else the caller wants to be true at the same moment; then the draft
becomes the session's value. A block that raises changes nothing. Buffered fields are encoded
there and then, and only marked; the flusher sends their bytes.

    edit    |--- editing ---------------| waits for a write under way, then
                                        |-- writing --|  commits, takes over
    flush                    |-- writing --|

Two locks, because a block may stay open for as long as a model needs to answer: `editing` lets
one block at a time change the state, `writing` lets one unit at a time be under way. A flush
needs only the second, so nobody who edits can hold it up.

Invariants: nobody sees a durable change before it is durable; the durable fields of one edit
are stored all or none; a buffered change made while a flush is under way stays dirty; what was
begun to be written is taken over also if the caller is cancelled, so that what is known here
never falls behind what is stored.
"""

import asyncio
import copy
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar

from holdfast.core.errors import DamagedError, InvalidValueError, VersionConflictError
from holdfast.core.key import Key
from holdfast.core.redaction import Redactor
from holdfast.core.refusal import SessionArchivedError, SessionClosedError
from holdfast.core.tier import BUFFERED, DURABLE
from holdfast.core.unit import Append, Committed, Expectation, RecordRow, Unit, Write, together
from holdfast.runtime.history import History
from holdfast.runtime.names import commit_keeping
from holdfast.runtime.service import carry_on
from holdfast.runtime.sessions.image import HEAD, Head, Image, Portion, known_values
from holdfast.runtime.sessions.state import (
    Shape,
    end_watch,
    plain_fields,
    shape_of,
    stream_of,
    watch_assignments,
)
from holdfast.store.store import Store

T = TypeVar("T")
Also = Write | Expectation | Unit
TRIES_MAX = 20
log = logging.getLogger("holdfast")


class Surroundings(NamedTuple):
    """
    What a session asks of its runtime.

    Attributes:
        store: where it is kept.
        image: returns what is known to be stored of a session.
        history: returns a stream by name.
        mark: called with a session whose buffered fields changed.
        redaction: what is not stored as it is.
        used: makes room in memory for a session, before it is loaded.
        counted: called with what happened (`damaged`, `merged`, `expired`, `closed`) and how
            often.
    """

    store: Store
    image: Callable[[Shape, Key], Image]
    history: Callable[[str], History]
    mark: Callable[["Session[Any]"], None]
    redaction: Redactor
    used: Callable[["Session[Any]"], Awaitable[None]]
    counted: Callable[[str, int], None]


class Session(Generic[T]):
    """
    One session of a runtime; open it with `async with`.

    Attributes:
        key: its key.
        value: the state; read it, but change it only inside `edit()`.
        committed: what the store answered to the last edit that wrote something.
    """

    def __init__(self, around: Surroundings, kind: type[T], key: Key) -> None:
        """Take the class of the state and the session's key."""
        self._around = around
        self._store = around.store
        self._shape: Shape = shape_of(kind)
        self._image = around.image(self._shape, key)
        self._editing = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._loaded = False
        self._wanted: tuple[str, ...] = ()
        self._defaults: dict[str, bytes] = {}
        self._now: dict[str, bytes] = {}
        self._touched: set[str] = set()
        self._unsaved: set[str] = set()
        self.key = key
        self.value: T = self._shape.fresh()
        self.committed: Committed | None = None

    @property
    def name(self) -> Key:
        """Name of the class and key: what the session is told by among all."""
        return self._image.name

    @property
    def head(self) -> Head | None:
        """What is stored of it as a whole; None if it was never saved."""
        return self._image.head

    @property
    def saved(self) -> frozenset[str]:
        """Names of the fields that were ever saved, be it as zero or as null."""
        return frozenset(self._image.stored)

    @property
    def dirty(self) -> bool:
        """Whether buffered fields differ from what is stored."""
        return bool(self._unsaved)

    @property
    def history(self) -> History:
        """
        The stream of its changes.

        Raises:
            InvalidValueError: its class was not declared with `history=True`.
        """
        if not self._shape.history:
            raise InvalidValueError(what=self._shape.name, reason="is declared without history")
        return self._around.history(stream_of(self._shape.name, self.key))

    def wants(self, identities: Iterable[str]) -> None:
        """Attach these identities when the session is entered."""
        self._wanted = tuple(dict.fromkeys((*self._wanted, *identities)))

    async def load(self) -> None:
        """
        Read what is stored; a second call does nothing.

        Raises:
            DecodeError: it was stored by a newer version of the class.
        """
        if not self._loaded or self._image.left() == 0:
            await self._around.used(self)
            async with self._writing:
                if not self._loaded or self._image.left() == 0:
                    await self._load()

    async def _load(self) -> None:
        damaged = await self._image.load()
        if damaged:
            self._around.counted("damaged", damaged)
        if self._image.left() == 0:
            self._around.counted("expired", 1)
            await self._remove()
        self._defaults = self._shape.encode(self._shape.fresh(), self._around.redaction)
        self._take(known_values(self._shape, self._image.stored))
        self._loaded = True

    def _take(self, value: T) -> None:
        """Make this the value, with nothing unsaved."""
        self.value = value
        self._now = self._shape.encode(value, self._around.redaction)
        self._touched.clear()
        self._unsaved.clear()

    async def __aenter__(self) -> Self:
        """Load the session, and attach the identities it was asked for with."""
        await self.load()
        if self._wanted:
            await self.attach(self._wanted)
            self._wanted = ()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave it to the flusher, which writes what is buffered."""

    async def attach(self, identities: Iterable[str]) -> None:
        """
        Let the session be found by these identities too; durable when this returns.

        Raises:
            SessionClosedError: another runtime closed it.
        """
        await self.load()
        await carry_on(self._attach(tuple(identities)))

    async def claim(self, identities: Iterable[str], expects: tuple[Expectation, ...]) -> None:
        """
        Attach identities if the index is as it was read.

        Raises:
            VersionConflictError: somebody else attached one of them in between.
        """
        await self.load()
        await carry_on(self._attach(tuple(identities), Unit((), expects)))

    async def _attach(self, identities: tuple[str, ...], *also: Unit) -> None:
        async with self._writing:
            await self._insist(lambda: self._image.attaching(identities), also)

    async def move(self, tag: str) -> None:
        """Put the session aside or take it up again, what is buffered written first."""
        await self.load()
        await self.flush()
        await carry_on(self._move(tag))

    async def _move(self, tag: str) -> None:
        async with self._writing:
            await self._insist(lambda: self._image.moving(tag))

    async def remove(self) -> None:
        """Remove all that is stored of the session; it begins anew."""
        await self.load()
        await carry_on(self._close())

    async def _close(self) -> None:
        async with self._writing:
            await self._remove()
            self._unsaved.clear()
            self._start_anew()

    async def _remove(self) -> None:
        for left in reversed(range(TRIES_MAX)):
            portion = await self._image.closing()
            if not portion.writes:
                return
            try:
                await self._store.commit(Unit(portion.writes, portion.expects))
            except VersionConflictError:
                if not left:
                    raise
                await self._image.load()
                continue
            self._image = self._around.image(self._shape, self.key)
            return

    @asynccontextmanager
    async def edit(self, *also: Also) -> AsyncGenerator[T]:
        """
        Change the state inside a block; the durable fields are committed when it leaves.

        Args:
            also: writes, expectations or whole units to commit in the same unit.

        Raises:
            EncodeError: a field cannot be stored exactly; nothing was written.
            InvalidValueError: a counter went down; nothing was written.
            VersionConflictError: another runtime changed the session; nothing was written, and
                the session holds what is stored now.
            SessionClosedError, SessionArchivedError: it cannot be changed any more.
            OutcomeUnknownError: the commit failed.
        """
        await self._editing.acquire()
        handed_over = False
        try:
            await self.load()
            if self._image.archived:
                raise SessionArchivedError(kind=self._shape.name, key=self.key)
            base, before = self.value, dict(self._now)
            draft = copy.deepcopy(base)
            touched = watch_assignments(draft)
            try:
                yield draft
            finally:
                end_watch(draft)
            self._store.check_admitted()  # What is buffered would not be written any more.
            self._shape.derive(draft)
            now = self._shape.encode(draft, self._around.redaction)
            self._check_counters(base, draft)
            edited = _Edited(base, draft, before, now, touched)
            handed_over = True
            finishing = carry_on(self._finish(edited, also), self._editing.release)
        finally:
            if not handed_over:
                self._editing.release()
        await finishing

    def _check_counters(self, base: T, draft: T) -> None:
        for name in self._shape.counters:
            if getattr(draft, name) < getattr(base, name):
                raise InvalidValueError(
                    what=f"{self._shape.name}.{name}", reason="is a counter and cannot go down"
                )

    async def _finish(self, edited: "_Edited[T]", also: tuple[Also, ...]) -> None:
        """Commit the durable part of an edit, then let its draft be the value."""
        async with self._writing:
            if edited.base is not self.value:
                self._follow(edited)
            stored = self._image.stored
            touched = {name for name in edited.touched | self._touched if name not in stored}
            changed = {
                name
                for name in self._shape.fields(DURABLE)
                if edited.now.get(name) != self._clean(name) or name in touched
            } & edited.now.keys()
            if changed or also:
                await self._commit(changed, edited.now, also)
            self.value, self._now = edited.draft, edited.now
            self._touched |= touched - self._image.stored.keys()
            self._find_unsaved()
        if self._unsaved:
            self._around.mark(self)

    async def _commit(
        self, changed: set[str], now: dict[str, bytes], also: tuple[Also, ...]
    ) -> None:
        try:
            portion = await self._insist(lambda: self._portion(now, changed), also)
        except (VersionConflictError, DamagedError) as error:
            if not await self._absorb(durable=True):
                raise SessionClosedError(kind=self._shape.name, key=self.key) from error
            raise
        except SessionClosedError:
            self._start_anew()
            raise
        self._touched -= portion.fields.keys()

    async def _insist(self, make: Callable[[], Portion], also: tuple[Also, ...] = ()) -> Portion:
        """Commit a portion; again, if all that came in between is another head."""
        more, left = together(*also), TRIES_MAX
        while True:
            portion = make()
            writes = (*portion.writes, *more.writes)
            if not writes and not more.expects:
                return portion
            # An edit of nothing durable does not make the session, but it is still fenced.
            expects = (*portion.expects, *more.expects) if portion.writes else more.expects
            try:
                committed = await commit_keeping(self._store, Unit(writes, expects, more.id))
            except VersionConflictError as conflict:
                left -= 1
                ours = (conflict.kind, conflict.key) == (HEAD, self._image.name)
                if not left or not ours or not await self._image.same():
                    raise
                continue
            self._image.note(portion, committed.records)
            self.committed = committed
            return portion

    def _portion(self, now: dict[str, bytes], names: set[str]) -> Portion:
        """Return what writes some fields, with an event where changes are kept."""
        if not names:
            return Portion({}, (), ())
        portion = self._image.unit(now, names)
        if self._shape.history:
            said = {"changed": plain_fields({name: now[name] for name in sorted(names)})}
            event = Append(self.history.name, (self.history.event("changed", said),))
            portion = portion._replace(writes=(*portion.writes, event))
        return portion

    def _start_anew(self) -> None:
        """Forget a session that another runtime closed."""
        if self._unsaved:
            self._around.counted("closed", len(self._unsaved))
        self._loaded = False
        self._image = self._around.image(self._shape, self.key)
        self._take(self._shape.fresh())

    def _clean(self, name: str) -> bytes:
        found = self._image.stored.get(name)
        return self._defaults[name] if found is None else found

    def _find_unsaved(self) -> None:
        self._unsaved = {
            name
            for name in self._shape.fields(BUFFERED)
            if name in self._now and (self._now[name] != self._clean(name) or name in self._touched)
        }

    def _follow(self, edited: "_Edited[T]") -> None:
        """Bring a draft behind what a flush found of another runtime while it was open."""
        for name in self._shape.fields(BUFFERED):
            there = getattr(self.value, name)
            if name in self._shape.counters:
                grown = getattr(edited.draft, name) - getattr(edited.base, name)
                setattr(edited.draft, name, there + grown)
            elif edited.now[name] == edited.before[name]:
                setattr(edited.draft, name, copy.deepcopy(there))
        self._shape.derive(edited.draft)
        edited.now.update(self._shape.encode(edited.draft, self._around.redaction))

    # Flushing.

    async def flush(self) -> None:
        """
        Write the buffered fields, if they changed, in one atomic write.

        What another runtime wrote in between is kept: counters add up, of other fields those
        that were not changed here follow.
        """
        await carry_on(self._flush())

    async def _flush(self) -> None:
        async with self._writing:
            for left in reversed(range(TRIES_MAX)):
                portion = self.begin_flush()
                if portion is None:
                    return
                try:
                    committed = await self._store.commit(Unit(portion.writes, portion.expects))
                except (VersionConflictError, DamagedError):
                    if not left:
                        raise
                    await self._absorb(durable=not self._editing.locked())
                    continue
                self.end_flush(portion, committed.records)
                return

    def begin_flush(self) -> Portion | None:
        """Return what there is to flush; whoever calls holds `writing`."""
        if not self._loaded or not self._unsaved:
            return None
        return self._portion(self._now, self._unsaved)

    def end_flush(self, portion: Portion, rows: Iterable[RecordRow]) -> None:
        """Take over a flush that was committed; what changed since stays dirty."""
        self._image.note(portion, rows)
        self._touched -= portion.fields.keys()
        self._find_unsaved()

    @property
    def writing(self) -> asyncio.Lock:
        """Held by whoever has a write of this session under way."""
        return self._writing

    async def refresh(self) -> None:
        """
        Take over what other runtimes wrote since; what was changed here and not written stays.

        While an `edit()` is open its durable fields stay too, so that it meets the conflict.
        """
        await self.load()
        await carry_on(self._refresh())

    async def _refresh(self) -> None:
        async with self._writing:
            await self._catch_up(durable=not self._editing.locked())

    async def _absorb(self, *, durable: bool) -> bool:
        """Take over what another runtime wrote since, after a conflict."""
        same = await self._catch_up(durable=durable)
        if same:
            self._around.counted("merged", 1)
        return same

    async def _catch_up(self, *, durable: bool) -> bool:
        """Take over what is stored, under what was changed here; False if that is a new session."""
        before = {name: self._clean(name) for name in self._shape.fields(BUFFERED)}
        if not await self._image.look_again(durable=durable):
            self._start_anew()
            return False
        value, exact = copy.copy(self.value), self._shape.exact
        # What cannot be read any more is still known here, and is written anew.
        kept = self._image.unreadable()
        self._touched |= kept
        for name, old in before.items():
            new = self._clean(name)
            if name in kept:
                continue
            if name in self._shape.counters:
                grown = getattr(value, name) - exact[name].decode(old)
                setattr(value, name, exact[name].decode(new) + grown)
            elif self._now[name] == old != new:
                setattr(value, name, exact[name].decode(new))
        for name in set(self._shape.fields(DURABLE)) - kept if durable else ():
            setattr(value, name, exact[name].decode(self._clean(name)))
        self.value = self._shape.derive(value)
        self._now = self._shape.encode(value, self._around.redaction)
        self._find_unsaved()
        return True


class _Edited(NamedTuple, Generic[T]):
    """An edit whose block has left: value and bytes at its beginning and at its end."""

    base: T
    draft: T
    before: dict[str, bytes]
    now: dict[str, bytes]
    touched: set[str]
