"""
Requests: what somebody asked for from outside, done once under a key, and written down.

A client that heard no answer asks again. So that this does nothing twice, the key with which it
asks is stored in the same transaction as what the request did, together with the note of who did
it. The answer is added behind; when a crash comes between, the client that asks again gets the
present state of what it changed.

    asked ---> key + effect + note (one unit) ---> answer kept
                 |
                 +-- crash here: asked again, the key is known, the effect is not repeated

Invariants: of all requests with one key one has an effect; a key that comes with other content is
refused; notes are a stream, so each is chained to the one before it.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.denial import KeyBusyError, KeyReusedError
from holdfast.core.errors import LimitError, VersionConflictError
from holdfast.core.event import Event
from holdfast.core.key import Key, prefix_end
from holdfast.core.redaction import Redactor
from holdfast.core.unit import Append, AtVersion, DeleteRecord, PutRecord, RecordRow, Unit, Write
from holdfast.runtime.damage import Damages
from holdfast.runtime.history import History
from holdfast.store.rider import Rider, TakenError, riding
from holdfast.store.store import Store

KIND: Final = "holdfast.request"
AUDIT: Final = "holdfast/requests"
KEPT_FOR: Final = 2 * 86_400.0
KEY_CHARACTERS_MAX: Final = 255
_DAY: Final = 86_400
_DROPPED_MAX: Final = 1_000


class Answer(NamedTuple):
    """
    What a request was answered with.

    Attributes:
        status: HTTP status.
        body: as it was sent.
        headers: those that belong to the content, such as `Location`.
    """

    status: int
    body: bytes
    headers: dict[str, str]


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Who did what.

    Attributes:
        actor: name of whoever asked.
        address: where from.
        action: what was asked for, such as `run_cancel`.
        target: what it was asked of.
        reason: why, in the actor's words.
        request: id of the request, as it is in the logs.
        at: wall time in seconds.
    """

    actor: str
    action: str
    at: float
    target: str = ""
    address: str = ""
    reason: str = ""
    request: str = ""


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    fingerprint: bytes
    at: float
    status: int = 0
    body: bytes = b""
    headers: dict[str, str] = {}

    @property
    def answer(self) -> Answer | None:
        return Answer(self.status, self.body, self.headers) if self.status else None


class Requests:
    """What was asked for from outside."""

    def __init__(
        self,
        store: Store,
        damages: Damages,
        redaction: Redactor,
        history: Callable[[str], History],
    ) -> None:
        """Take the store, where damage is noted, and what is to be left out of notes."""
        self._store = store
        self._damages = damages
        self._redaction = redaction
        self._history = history
        self._busy: set[Key] = set()
        self._dropped_on = 0

    @property
    def audit(self) -> History:
        """The notes, one event for each request that changed something."""
        return self._history(AUDIT)

    def check(self) -> None:
        """
        Return if state may be changed now.

        Raises:
            NotReadyError: it may not; says why.
            PoisonedError, FenceError, ClosedError: it will not any more.
        """
        self._store.check_admitted()
        self._store.check_writable()

    async def noted(self, note: Note, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do what a request asks for; the note is stored in the transaction of its effect."""
        with riding(Rider((self.written(note),))):
            return await work()

    async def once(
        self,
        key: Key,
        fingerprint: bytes,
        note: Note,
        work: Callable[[], Awaitable[Answer]],
        again: Callable[[], Awaitable[Answer]],
    ) -> tuple[Answer, bool]:
        """
        Do what a request asks for, once for all requests with its key.

        Args:
            key: who asks, for what kind of thing, and the key of the client.
            fingerprint: of the content; the same key has to come with the same.
            note: who did what.
            work: does it; its first unit carries the key.
            again: answers for a request whose answer a crash took, by how things are now.

        Returns:
            The answer, and whether it is that of an earlier request.

        Raises:
            KeyReusedError: the key came with other content before.
            KeyBusyError: a request with this key is being worked on.
        """
        if any(len(part) > KEY_CHARACTERS_MAX for part in key):
            raise LimitError(
                what="idempotency key in characters",
                size=max(map(len, key)),
                limit=KEY_CHARACTERS_MAX,
            )
        if key in self._busy:
            raise KeyBusyError(key=key[-1])
        self._busy.add(key)
        try:
            known = await self._known(key, fingerprint)
            if known is None:
                try:
                    return await self._first(key, fingerprint, note, work), False
                except TakenError:
                    known = await self._known(key, fingerprint)
            answer = None if known is None else known.answer
            return (answer or await again()), True
        finally:
            self._busy.discard(key)

    async def _first(
        self, key: Key, fingerprint: bytes, note: Note, work: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Do it, with the key in the same unit; then keep the answer beside the key."""
        kept = _Kept(fingerprint, self._store.world.clock.wall())
        rider = Rider((self._put(key, kept), self.written(note)), (AtVersion(KIND, key, 0),))
        with riding(rider):
            answer = await work()
        after = msgspec.structs.replace(
            kept, status=answer.status, body=answer.body, headers=answer.headers
        )
        # Nothing changed, such as a cancellation of what is cancelled: the answer alone is kept.
        expected = 1 if rider.rode else 0
        with suppress(VersionConflictError):  # Another runtime answered it without an effect, too.
            await self._store.commit(
                Unit((self._put(key, after),), (AtVersion(KIND, key, expected),))
            )
        await self._drop_old()
        return answer

    async def _known(self, key: Key, fingerprint: bytes) -> _Kept | None:
        row = await self._store.read(lambda reader: reader.record(KIND, key))
        if row is None or row.value is None:
            return None
        kept = codec.decode_as(row.value, _Kept, "request")
        if kept.fingerprint != fingerprint:
            raise KeyReusedError(key=key[-1])
        return kept

    def _put(self, key: Key, kept: _Kept) -> PutRecord:
        return PutRecord(KIND, key, msgspec.msgpack.encode(kept), _day_tag(kept.at))

    def written(self, note: Note) -> Write:
        """Return the write of a note, for whoever does something in another's name."""
        said = self._redaction(msgspec.to_builtins(note))
        return Append(AUDIT, (Event.of(note.action, said),))

    async def _drop_old(self) -> None:
        """Forget keys that nobody comes back with; looked at once a day, by who is at work then."""
        wall = self._store.world.clock.wall()
        today = int(wall // _DAY)
        if self._dropped_on == today:
            return
        self._dropped_on = today
        rows: list[RecordRow] = []
        for day in range(today - 30, today - int(KEPT_FOR // _DAY)):
            tag = _day_tag(day * _DAY)
            rows += await self._damages.records(KIND, b"", prefix_end(b""), _DROPPED_MAX, tag)
        if rows:
            await self._store.commit(
                Unit(tuple([DeleteRecord(KIND, row.key) for row in rows[:_DROPPED_MAX]]))
            )


def _day_tag(wall: float) -> str:
    return f"day-{int(wall // _DAY)}"
