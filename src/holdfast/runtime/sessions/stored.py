"""
Sessions as they are stored: for who looks at them without knowing their classes.

Invariant: nothing here loads a session, so nothing of it is brought up to date, and nothing
that a program holds in memory and did not write yet is shown.
"""

from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.deadline import remaining
from holdfast.core.errors import InvalidValueError, LimitError, RecordNotFoundError
from holdfast.core.key import Key, encode_key, prefix_end
from holdfast.core.unit import RecordRow
from holdfast.runtime.damage import Damages
from holdfast.runtime.sessions.image import ACTIVE, ARCHIVED, HEAD, Head
from holdfast.runtime.sessions.state import kind_of
from holdfast.store.store import Store

LISTED_MAX: Final = 10_000


class StoredSession(msgspec.Struct, frozen=True, kw_only=True):
    """
    A session as it is stored.

    Attributes:
        kind: name of its class.
        key: its key.
        version: version of the class it is stored as.
        created_at: wall time when it was made.
        identities: by what it can be found.
        archived: it was put aside.
        remaining: seconds until it ends; None if it does not.
        slots: names of its parts.
    """

    kind: str
    key: Key
    version: int
    created_at: float
    identities: tuple[str, ...]
    archived: bool
    remaining: float | None
    slots: tuple[str, ...]


class StoredSessions:
    """The sessions of all classes."""

    def __init__(self, store: Store, damages: Damages) -> None:
        """Take the store, and where damage is noted."""
        self._store = store
        self._damages = damages

    async def list(
        self,
        *,
        kind: str | None = None,
        archived: bool | None = None,
        after: Key | None = None,
        limit: int = 100,
    ) -> "list[StoredSession]":
        """
        Return sessions by class and key.

        Args:
            kind: only those of a class, by its name.
            archived: only those that were put aside, or only the others; None for all.
            after: class and key behind which to go on.
            limit: how many at most.
        """
        if not 1 <= limit <= LISTED_MAX:
            raise LimitError(what="limit", size=limit, limit=LISTED_MAX)
        begin = b"" if kind is None else encode_key((kind,))
        first = begin if after is None else max(begin, encode_key(after) + b"\0")
        tag = None if archived is None else (ARCHIVED if archived else ACTIVE)
        rows = await self._damages.records(HEAD, first, prefix_end(begin), limit, tag)
        return [self._of(row) for row in rows]

    async def get(self, name: Key) -> tuple[StoredSession, dict[str, dict[str, Any]]]:
        """
        Return a session, and its fields by the slot they are kept in.

        Args:
            name: its class and its key.

        Raises:
            RecordNotFoundError: there is no such session.
        """
        if len(name) < 2:
            raise InvalidValueError(what="session", reason="is named by its class and its key")
        row = await self._store.read(lambda reader: reader.record(HEAD, name))
        if row is None or row.value is None:
            raise RecordNotFoundError(kind="session", key=name)
        session = self._of(row)
        fields: dict[str, dict[str, Any]] = {}
        for slot in session.slots:
            kind = kind_of(session.kind, slot)
            kept = await self._store.read(
                lambda reader, kind=kind: reader.record(kind, session.key)  # type: ignore[misc]
            )
            if kept is not None and kept.value is not None:
                plain = codec.decode(kept.value, kind)
                # What begins with a sign is bookkeeping of the slot itself.
                fields[slot] = {name: plain[name] for name in plain if name[:1] != "@"}
        return session, fields

    def _of(self, row: RecordRow) -> StoredSession:
        head = codec.decode_as(row.value or b"\xc0", Head, "session head")
        left = None
        if head.deadline is not None:
            clock = self._store.world.clock
            left = remaining(head.deadline, clock.store_time(), clock.wall())
        return StoredSession(
            kind=row.key[0],
            key=row.key[1:],
            version=head.version,
            created_at=head.created_at,
            identities=head.identities,
            archived=row.tag == ARCHIVED,
            remaining=left,
            slots=head.slots,
        )
