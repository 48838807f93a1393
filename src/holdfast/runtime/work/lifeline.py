"""
The lifeline: what the ledger needs between starts.

Invariant: one thing that fails holds up no other one for longer than until the next look.
"""

from holdfast.core.unit import Committed, Unit
from holdfast.runtime.service import Service
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
        """Look once."""
        await self._ledger.clear()
        for entry in list(self._ledger.book.open.values()):
            await entry.look()
        trimming = self._ledger.trimming()
        if trimming is not None:
            await self._store.commit_early(trimming)
        await self._rescue.sweep()
