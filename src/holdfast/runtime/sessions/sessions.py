"""
All sessions of a runtime: found, listed, put aside, ended, and kept in memory within bounds.

One object stands for a session as long as anybody holds it. The runtime itself holds the last
`sessions_in_memory` that were used, and those that are not written yet; what falls out is
written first, and read again when it is asked for.

Invariant: there is at most one `Session` object for a class and key at a time, so two parts of
a program never edit two copies.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from uuid import UUID
from weakref import WeakValueDictionary

import msgspec

from holdfast.core import codec
from holdfast.core.errors import (
    DamagedError,
    HoldfastError,
    InvalidValueError,
    VersionConflictError,
)
from holdfast.core.key import Key, as_key, encode_key, prefix_end
from holdfast.core.redaction import Redactor
from holdfast.core.refusal import AmbiguousIdentityError
from holdfast.core.unit import RecordRow
from holdfast.runtime.damage import Damages
from holdfast.runtime.history import History
from holdfast.runtime.listing import every
from holdfast.runtime.sessions.flush import Flusher
from holdfast.runtime.sessions.identity import Found, Identities, Look, look
from holdfast.runtime.sessions.image import ACTIVE, ARCHIVED, HEAD, Head, Image
from holdfast.runtime.sessions.session import TRIES_MAX, Session, Surroundings
from holdfast.runtime.sessions.state import Shape, shape_of
from holdfast.runtime.sessions.stored import StoredSessions
from holdfast.store.store import Store

T = TypeVar("T")
LEDGER: Final = "holdfast.ledger"
COUNTED: Final = ("damaged", "merged", "expired", "closed", "evicted")
log = logging.getLogger("holdfast")


class SessionInfo(msgspec.Struct, frozen=True):
    """
    What a listing tells of a session.

    Attributes:
        key: its key.
        created_at: wall time when it was made.
        version: version of the class it is stored as.
        identities: by what it can be found.
        archived: it was put aside.
    """

    key: Key
    created_at: float
    version: int
    identities: tuple[str, ...]
    archived: bool


class Sessions:
    """
    The sessions of a store.

    Attributes:
        counts: how often something happened that should be seldom: `damaged` records that
            began anew, writes `merged` with those of another runtime, sessions that `expired`
            or were `closed` elsewhere with changes unwritten, and those `evicted` from memory.
        stored: the sessions of all classes as they are stored, for who does not know the class.
    """

    def __init__(
        self,
        store: Store,
        flusher: Flusher,
        damages: Damages,
        history: Callable[[str], History],
        limit: int,
        redaction: Redactor,
    ) -> None:
        """Take the store, who flushes, and how many sessions are held in memory."""
        self._store = store
        self._damages = damages
        self._limit = limit
        self._all: WeakValueDictionary[Key, Session[Any]] = WeakValueDictionary()
        self._shapes: dict[str, Shape] = {}
        self._held: OrderedDict[Key, Session[Any]] = OrderedDict()
        self.stored = StoredSessions(store, damages)
        self.counts: dict[str, int] = dict.fromkeys(COUNTED, 0)
        self._around = Surroundings(
            store,
            partial(Image, store, damages),
            history,
            flusher.mark,
            redaction,
            self._make_room,
            self._count,
        )

    def session(self, kind: type[T], key: str | Key, identities: Sequence[str] = ()) -> Session[T]:
        """
        Return the session of a state class with this key; one object per key and runtime.

        Args:
            kind: the class, declared with `@state`.
            key: a string, or a tuple of strings.
            identities: by what it can be found too; attached when it is entered.

        Raises:
            InvalidValueError: the class is not declared with `@state`, or another class of its
                name is in use.
        """
        path = as_key(key)
        encode_key(path)
        shape = shape_of(kind)
        if self._shapes.setdefault(shape.name, shape) is not shape:
            raise InvalidValueError(what=shape.name, reason="is the name of another class in use")
        name = (shape.name, *path)
        session = self._all.get(name)
        if session is None:
            session = self._all[name] = Session(self._around, kind, path)
        if name in self._held:
            self._held.move_to_end(name)
        if identities:
            session.wants(identities)
        return session

    def known(self, name: str) -> type[object]:
        """
        Return the class of this name that this runtime has in use.

        Raises:
            InvalidValueError: it has none.
        """
        shape = self._shapes.get(name)
        if shape is None:
            raise InvalidValueError(what=f"class {name!r}", reason="is not in use in this runtime")
        return shape.made

    async def find(
        self, kind: type[object], identities: Sequence[str], *, within: float | None = None
    ) -> Found:
        """
        Return what identities lead to, the strongest first; the first that is known decides.

        Args:
            kind: class of the sessions.
            identities: in the order of their strength.
            within: only sessions that changed in so many seconds.

        Raises:
            NotReadyError: the index may not be whole yet.
        """
        self._store.check_admitted()
        return (await self._look(shape_of(kind), identities, within)).found

    async def reach(
        self,
        kind: type[T],
        identities: Sequence[str],
        *,
        key: str | Key | None = None,
        within: float | None = None,
    ) -> Session[T]:
        """
        Return the session these identities lead to, or make it; loaded, and durable.

        Identities that lead to no session yet are attached to it. Of many who reach for the
        same identity at once, in one process or several, one makes the session.

        Args:
            kind: class of the session.
            identities: in the order of their strength.
            key: key of the session if it has to be made; drawn if left out.
            within: only sessions that changed in so many seconds count.

        Raises:
            AmbiguousIdentityError: several sessions have the identity that decides.
        """
        shape = shape_of(kind)
        drawn = as_key(key) if key is not None else (str(UUID(bytes=self._drawn(), version=4)),)
        left = TRIES_MAX
        while True:
            seen = await self._look(shape, identities, within)
            if len(seen.found.candidates) > 1:
                raise AmbiguousIdentityError(kind=shape.name, candidates=seen.found.candidates)
            session = self.session(kind, seen.found.key or drawn)
            if seen.found.key and not seen.free:
                await session.load()
                return session
            try:
                await session.claim(seen.free, seen.expects)
            except VersionConflictError:
                left -= 1
                if not left:
                    raise
            else:
                return session

    async def list(
        self,
        kind: type[object],
        *,
        archived: bool = False,
        after: str | Key | None = None,
        limit: int = 100,
    ) -> "list[SessionInfo]":
        """
        Return sessions of a class in key order.

        Args:
            kind: the class.
            archived: those that were put aside, instead of the others.
            after: key behind which to go on.
            limit: how many at most.
        """
        name = shape_of(kind).name
        begin = encode_key((name,))
        first = begin if after is None else encode_key((name, *as_key(after))) + b"\0"
        tag = ARCHIVED if archived else ACTIVE
        rows = await self._damages.records(HEAD, first, prefix_end(begin), limit, tag)
        return [_info(row) for row in rows]

    async def close(self, kind: type[object], key: str | Key) -> None:
        """End a session: its state and its identities are removed, in one unit."""
        await self.session(kind, key).remove()

    async def archive(self, kind: type[object], key: str | Key) -> None:
        """Put a session aside: it can be read and listed, but not found or changed."""
        await self.session(kind, key).move(ARCHIVED)

    async def restore(self, kind: type[object], key: str | Key) -> None:
        """Take an archived session up again."""
        await self.session(kind, key).move(ACTIVE)

    async def evict(self, kind: type[object], key: str | Key) -> None:
        """
        Let go of a session in memory, what is buffered written first.

        Raises:
            HoldfastError: it could not be written, and stays.
        """
        session = self._held.get((shape_of(kind).name, *as_key(key)))
        if session is not None:
            await self._let_go(session)

    async def recently_active(self, kind: type[object], *, within: float = 120.0) -> Sequence[Key]:
        """
        Return the sessions that changed lately: a guess at what a crash interrupted.

        For programs that never used the ledger for some sessions. What the ledger knows
        exactly, under the same key, is left out.

        Args:
            kind: class of the sessions.
            within: seconds, by the wall clock.
        """
        shape = shape_of(kind)
        since = self._store.world.clock.wall() - within
        found: set[Key] = set()
        async for listed in every(self._store, HEAD, encode_key((shape.name,))):
            if listed.intact and listed.row.written_at >= since:
                found.add(listed.row.key[1:])
        for slot in shape.slots:
            async for listed in every(self._store, slot.kind):
                if listed.intact and listed.row.written_at >= since:
                    found.add(listed.row.key)
        known = [key for key in found if await self._in_ledger(key)]
        return sorted(found.difference(known))

    async def _in_ledger(self, key: Key) -> bool:
        row = await self._store.read(lambda reader: reader.record(LEDGER, key))
        return row is not None and row.value is not None

    async def _look(self, shape: Shape, identities: Sequence[str], within: float | None) -> Look:
        world = self._store.world
        try:
            return await self._store.read(
                lambda reader: look(reader, world, shape, identities, within)
            )
        except DamagedError as damage:
            await self._damages.note(damage)
            self._count("damaged", 1)
        await Identities(self._store, serving=True).rebuild(lambda _: None)
        return await self._store.read(lambda reader: look(reader, world, shape, identities, within))

    def _drawn(self) -> bytes:
        return self._store.world.ids.incarnation()

    async def _make_room(self, session: Session[Any]) -> None:
        """Hold one more session; let go of those that were not used for longest."""
        self._held[session.name] = session
        self._held.move_to_end(session.name)
        for _ in range(len(self._held) - self._limit):
            # Out of the list before anything is waited for: who comes next takes the next one.
            _, oldest = self._held.popitem(last=False)
            try:
                await self._let_go(oldest)
            except HoldfastError as error:
                log.warning("event=session_not_evicted reason=%s", error.code)

    async def _let_go(self, session: Session[Any]) -> None:
        self._held.pop(session.name, None)
        try:
            await session.flush()
        except HoldfastError:
            self._held[session.name] = session
            raise
        self.counts["evicted"] += 1

    def _count(self, what: str, number: int) -> None:
        self.counts[what] += number
        log.warning("event=session_%s number=%d", what, number)


def _info(row: RecordRow) -> SessionInfo:
    head = codec.decode_as(row.value or b"\xc0", Head, "session head")
    return SessionInfo(
        row.key[1:], head.created_at, head.version, head.identities, row.tag == ARCHIVED
    )
