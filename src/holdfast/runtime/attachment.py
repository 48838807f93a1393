"""
A reader attached to a log: read a page, wait until there may be more, read again.

There is no switch from history to live. A reader asks to be woken, then looks; what it was woken
for it finds by looking again. So nothing falls into a gap, nothing comes twice, and a slow reader
holds one page and nobody up.

Invariant: a commit after the look of `read` ends the next `wait`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, NamedTuple, Self

from holdfast.core.event import RecordedEvent
from holdfast.store.wake import Wakes

PAGE_EVENTS: Final = 1_000
PAGE_EVENTS_MAX: Final = 10_000


class Page(NamedTuple):
    """
    What one look at a log found.

    Attributes:
        events: in order; fewer than asked for only at the end.
        reached: sequence or position behind which to go on.
        first: of the first event still there.
        last: of the last event there is.
        ended: the log is closed and `reached` is its end.
    """

    events: list[RecordedEvent]
    reached: int
    first: int
    last: int
    ended: bool


Look = Callable[[int, int], Awaitable[Page]]
"""Reads so many events behind a place."""


class Attachment:
    """A reader of one stream, or of the feed; use it as `with log.attach() as reader`."""

    def __init__(self, wakes: Wakes, name: str, look: Look) -> None:
        """Take who wakes, for which stream, and how it is read."""
        self._wakes = wakes
        self._name = name
        self._look = look
        self._waiter: asyncio.Future[None] | None = None

    async def read(self, after: int, limit: int = PAGE_EVENTS) -> Page:
        """
        Return the page behind `after`.

        Raises:
            TooOldError: retention removed events behind `after`.
            DamagedError: the next event is damaged.
        """
        self._forget()
        self._waiter = self._wakes.register(self._name)
        return await self._look(after, limit)

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until there may be more than the last page showed; False if time ran out."""
        if self._waiter is None:
            return True
        if timeout is None:
            try:
                await self._waiter
            except asyncio.CancelledError:
                self._forget()  # It is of no use any more: whoever waits again looks first.
                raise
            return True
        done, _ = await asyncio.wait((self._waiter,), timeout=timeout)
        return bool(done)

    def nudge(self) -> None:
        """End the wait that is under way, or the next one, although there is nothing new."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __enter__(self) -> Self:
        """Begin to read."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for nothing any more."""
        self._forget()

    def _forget(self) -> None:
        if self._waiter is not None:
            self._wakes.forget(self._name, self._waiter)
            self._waiter = None
