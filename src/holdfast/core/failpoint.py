"""
Named places around every durable step, where a test may stop, kill or fail the process.

`reach` does nothing unless a test armed the point. The names are a list so that the house test
can check that each is exercised. There is no global: failpoints travel in the `World` that is
handed to a store when it is opened.
"""

from collections.abc import Callable
from typing import Final

POINTS: Final = (
    "boot.locked",
    "boot.guarded",
    "boot.connected",
    "boot.checkpointed",
    "boot.migrated",
    "boot.entered",
    "migrate.begun",
    "migrate.statement",
    "migrate.recorded",
    "migrate.committed",
    "commit.taken",
    "commit.begun",
    "commit.loaded",
    "commit.decided",
    "commit.written",
    "commit.committed",
    "commit.marked",
    "commit.answered",
    "file.written",
    "file.synced",
    "file.renamed",
    "file.folder_synced",
    "presence.entered",
    "ledger.begun",
    "ledger.settled",
    "rescue.taken",
    "rescue.entry",
    "rescue.ended",
    "run.dispatched",
    "run.step_started",
    "run.step_recorded",
    "run.ended",
    "engine.performed",
    "engine.captured",
    "engine.rebased",
    "engine.restored",
    "backup.copied",
    "backup.sealed",
    "restore.filled",
    "restore.placed",
    "close.checkpointed",
    "close.released",
)


class Failpoints:
    """The points of one world; unarmed they cost one dictionary test."""

    def __init__(self) -> None:
        """Start with nothing armed."""
        self._armed: dict[str, Callable[[], None]] = {}

    def arm(self, point: str, action: Callable[[], None]) -> None:
        """
        Call `action` each time `point` is reached; it may raise or kill the process.

        Raises:
            KeyError: there is no such point.
        """
        if point not in POINTS:
            raise KeyError(point)
        self._armed[point] = action

    def reach(self, point: str) -> None:
        """Run what is armed here; called by the product at each durable step."""
        if self._armed and (action := self._armed.get(point)):
            action()
