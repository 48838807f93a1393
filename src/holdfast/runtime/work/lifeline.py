"""
The lifeline: what the ledger needs between starts.

Invariant: one thing that fails, at every look if need be, holds up no other one.
"""

from holdfast.core.unit import Committed, Unit
from holdfast.runtime.service import Piece, Service, each
from holdfast.runtime.work.ledger import Ledger
from holdfast.runtime.work.rescue import Rescue
from holdfast.store.store import Store


class Lifeline(Service):
    """Looks after the ledger between starts: what is owed, stops, the log, runtimes that died."""

    def __init__(self, ledger: Ledger, rescue: Rescue, store: Store, interval: float) -> None:
        """Take the ledger it looks after and the seconds between two looks."""
        super().__init__("ledger", interval)
        self._ledger = ledger
        self._rescue = rescue
        self._store = store

    def entering(self) -> Unit:
        """Nothing is written for it."""
        return Unit(())

    def entered(self, committed: Committed) -> None:
        """Begin to look."""
        self.start()

    async def leave(self) -> None:
        """End looking; write what is owed, so that the goodbye leaves nothing."""
        await self.stop()
        self._ledger.book.leaving = True
        await self._ledger.clear()

    async def tick(self) -> None:
        """Look once; what fails is raised when everything else was looked after."""
        work: list[Piece] = [self._ledger.clear]
        work += [entry.look for entry in self._ledger.book.open.values()]
        work += [self._trim, self._rescue.sweep]
        await each(work)

    async def _trim(self) -> None:
        trimming = self._ledger.trimming()
        if trimming is not None:
            await self._store.commit_early(trimming)
