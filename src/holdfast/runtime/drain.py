"""
The way out: begin nothing new, let work under way end, write what is buffered, say goodbye.

    refusing    nothing new begins; work under way may still change state
    waiting     work under way ends, up to the deadline
    flushing    nobody may change state any more; buffered fields are written
    leaving     the members of the boot say goodbye, last of all

Invariants: what is unfinished at the deadline is left exactly as it is, so that the next
recovery finds it; whatever fails or is cancelled on the way, the store is released (by the
runtime) and nothing is reported as written that is not.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol

import msgspec

from holdfast.core.recovery import Phase
from holdfast.runtime.boot import Boot
from holdfast.runtime.health import Life
from holdfast.runtime.service import Piece, each, first_of
from holdfast.runtime.sessions.flush import Flusher
from holdfast.store.store import Store

log = logging.getLogger("holdfast")
DEADLINE: Final = 30.0
# What changes while a flush is under way is written by the next one; not for ever.
FLUSHES_MAX: Final = 10


class Work(Protocol):
    """A noun with work under way that a drain lets end, such as the ledger."""

    def refuse(self) -> None:
        """Begin nothing new from now on."""
        ...

    def running(self) -> Sequence[str]:
        """Return names of what is under way."""
        ...

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        ...


class Drained(msgspec.Struct, frozen=True):
    """
    What a drain came to.

    Attributes:
        unfinished: names of what was still under way at the deadline.
    """

    unfinished: tuple[str, ...]


class Drain:
    """
    Takes one runtime down.

    Attributes:
        work: what is let end.
        endings: what writes before the buffered fields are, such as engines.
    """

    def __init__(self, store: Store, life: Life, boot: Boot, flusher: Flusher) -> None:
        """Take what is written and who leaves."""
        self._store = store
        self._life = life
        self._boot = boot
        self._flusher = flusher
        self.work: list[Work] = []
        self.endings: list[Piece] = []

    async def run(self, deadline: float, hurry: asyncio.Event | None = None) -> Drained:
        """
        Go all the way; the caller releases the store afterwards.

        Args:
            deadline: seconds to wait for work under way.
            hurry: once it is set, nothing is waited for any more.

        Raises:
            HoldfastError: buffered fields could not be written.
        """
        self._life.move(Phase.DRAINING)
        self._enter("refusing")
        for work in self.work:
            work.refuse()
        self._enter("waiting")
        await self._wait(deadline, hurry or asyncio.Event())
        unfinished = self._running()
        try:
            self._enter("flushing")
            await self._flush()
        finally:
            self._enter("leaving")
            self._store.shut(self._life.refusal)
            if self._writable:
                await self._boot.leave()
        return Drained(unfinished)

    @property
    def _writable(self) -> bool:
        return self._store.poisoned is None and not self._store.options.read_only

    def _enter(self, stage: str) -> None:
        """Begin a stage, and say so with what is still under way."""
        self._life.stage = stage
        log.info("event=drain phase=%s remaining=%d", stage, len(self._running()))

    def _running(self) -> tuple[str, ...]:
        return tuple(name for work in self.work for name in work.running())

    async def _wait(self, deadline: float, hurry: asyncio.Event) -> None:
        if deadline <= 0 or hurry.is_set():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await first_of(self._idle, hurry.wait)

    async def _idle(self) -> None:
        for work in self.work:
            await work.idle()

    async def _flush(self) -> None:
        await self._flusher.stop()
        if self._writable:
            await each([*self.endings, self._write_buffered])

    async def _write_buffered(self) -> None:
        for _ in range(FLUSHES_MAX):
            if not (await self._flusher.flush()).left:
                return
