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
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import msgspec

from holdfast.core.recovery import Phase
from holdfast.runtime.boot import Boot
from holdfast.runtime.health import Life
from holdfast.runtime.sessions.flush import Flusher
from holdfast.store.store import Store

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
        self.endings: list[Callable[[], Awaitable[None]]] = []

    async def run(self, deadline: float) -> Drained:
        """
        Go all the way; the caller releases the store afterwards.

        Args:
            deadline: seconds to wait for work under way.

        Raises:
            HoldfastError: buffered fields could not be written.
        """
        self._life.move(Phase.DRAINING)
        self._life.stage = "refusing"
        for work in self.work:
            work.refuse()
        self._life.stage = "waiting"
        await self._wait(deadline)
        unfinished = tuple(name for work in self.work for name in work.running())
        try:
            self._life.stage = "flushing"
            await self._flush()
        finally:
            self._life.stage = "leaving"
            self._store.shut(self._life.refusal)
            if self._writable:
                await self._boot.leave()
        return Drained(unfinished)

    @property
    def _writable(self) -> bool:
        return self._store.poisoned is None and not self._store.options.read_only

    async def _wait(self, deadline: float) -> None:
        if deadline > 0 and any(work.running() for work in self.work):
            try:
                async with asyncio.timeout(deadline):
                    for work in self.work:
                        await work.idle()
            except TimeoutError:
                return

    async def _flush(self) -> None:
        await self._flusher.stop()
        if self._writable:
            for ending in self.endings:
                await ending()
            for _ in range(FLUSHES_MAX):
                if not (await self._flusher.flush()).left:
                    return
