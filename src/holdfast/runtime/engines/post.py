"""
The way of requests into the store: memories that have something to write share a unit.

    memory A  -- letters -->  |
    memory B  -- letters -->  |  one unit of all who wait at the moment  -->  store
    memory C  -- letters -->  |

A unit costs the same whatever is in it, so a hundred sessions that were asked in one turn of the
loop pay for one. Their fates stay apart: if the store refuses what they have together, nothing of
it was written, and each is written alone.

Invariants: of one memory at most one unit is under way, and it expects the journal where the one
before left it; a sender is told once of all it gave, that it is durable or why it is not.
"""

import asyncio
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from holdfast.core.errors import HoldfastError, StoreError, UnexpectedError
from holdfast.core.event import Event
from holdfast.core.unit import Append, AtSequence, Unit, Write
from holdfast.runtime.service import carry_on
from holdfast.store.store import Store

UNIT_BYTES: Final = 4 * 1024 * 1024
"""Of what is written together, unless one memory alone has more."""


class Letters(msgspec.Struct, frozen=True, gc=False):
    """
    What one memory has to write.

    Attributes:
        stream: its journal.
        after: sequence at which its journal has to be.
        audit: stream of what was decided.
        events: for the journal.
        decided: for the audit.
        writes: whatever else goes with them.
        size_bytes: of all of it, about.
    """

    stream: str
    after: int
    audit: str
    events: list[Event]
    decided: list[Event]
    writes: list[Write]
    size_bytes: int


class Sender(Protocol):
    """A memory that has something to write."""

    def letters(self) -> Letters:
        """Give what goes into the next unit; not asked again before it was told."""
        ...

    def written(self) -> None:
        """Take note that it is durable."""
        ...

    def refused(self, error: HoldfastError) -> None:
        """Take note that it is not."""
        ...


class Post:
    """Writes for the memories of a runtime."""

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self._store = store
        self._waiting: list[Sender] = []
        self._sending: asyncio.Future[None] | None = None

    def send(self, sender: Sender) -> "asyncio.Future[None]":
        """Write what a memory has, with what others have now; done when it was told."""
        self._waiting.append(sender)
        if self._sending is None:
            self._sending = carry_on(self._send())
        return self._sending

    async def _send(self) -> None:
        waiting, self._waiting, self._sending = self._waiting, [], None
        some: list[tuple[Sender, Letters]] = []
        size = 0
        for sender in waiting:
            letters = sender.letters()
            if some and size + letters.size_bytes > UNIT_BYTES:
                await self._write(some)
                some, size = [], 0
            some.append((sender, letters))
            size += letters.size_bytes
        await self._write(some)

    async def _write(self, some: list[tuple[Sender, Letters]]) -> None:
        try:
            unit = _unit([letters for _, letters in some])
            if unit.writes:
                await self._store.commit(unit)
        except Exception as error:
            await self._failed(some, error)
            return
        for sender, _ in some:
            sender.written()

    async def _failed(self, some: list[tuple[Sender, Letters]], error: Exception) -> None:
        """Tell who is at fault: all, if it is the store; otherwise each is tried alone."""
        if not isinstance(error, HoldfastError):
            error = UnexpectedError(reason=type(error).__name__)
        if len(some) > 1 and not isinstance(error, StoreError):
            for one in some:
                await self._write([one])
            return
        for sender, _ in some:
            sender.refused(error)


def _unit(some: Iterable[Letters]) -> Unit:
    """Return a unit of what memories have; audits of one stream are appended at once."""
    writes: list[Write] = []
    expects: list[AtSequence] = []
    audits: dict[str, list[Event]] = {}
    for each in some:
        if each.events:
            expects.append(AtSequence(each.stream, each.after))
            writes.append(Append(each.stream, tuple(each.events)))
        if each.decided:
            audits.setdefault(each.audit, []).extend(each.decided)
        writes += each.writes
    writes += [Append(stream, tuple(events)) for stream, events in audits.items()]
    return Unit(tuple(writes), tuple(expects))
