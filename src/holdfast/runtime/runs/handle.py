"""A run in the hands of whoever started or found it."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from holdfast.core.event import RecordedEvent
from holdfast.core.run import RunView
from holdfast.runtime.runs.fork import forks_of
from holdfast.runtime.runs.view import Views

if TYPE_CHECKING:
    from holdfast.runtime.runs.runs import Runs


class RunInfo(RunView, frozen=True, kw_only=True, omit_defaults=True):
    """
    A run as it is now.

    Attributes:
        id: its id.
        revision: number of the last change of what is shown of it; 0 if that is not known.
    """

    id: str
    revision: int = 0

    @staticmethod
    def of(run_id: str, view: RunView, revision: int = 0) -> "RunInfo":
        """Return a view together with its id."""
        return RunInfo(**msgspec.structs.asdict(view), id=run_id, revision=revision)


class RunHandle:
    """
    A run in the hands of whoever started or found it.

    Attributes:
        id: its id.
    """

    def __init__(self, runs: "Runs", views: Views, run_id: str) -> None:
        """Take the run's id."""
        self.id = run_id
        self._runs = runs
        self._views = views

    async def view(self) -> RunInfo:
        """Return the run as it is now."""
        return await self._runs.get(self.id)

    async def ended(self) -> RunInfo:
        """Wait until the run ended, however, and return it."""
        return await self._runs.ended(self.id)

    async def result(self) -> Any:
        """
        Wait until the run ended and return its result.

        Raises:
            RunFailedError: it failed.
            RunCancelledError: it was cancelled.
        """
        return await self._runs.result(self.id)

    async def forks(self) -> Sequence[str]:
        """Return the ids of the runs that were forked from it, by a retry too."""
        return await forks_of(self._views, self.id)

    def follow(self, after: int = 0) -> AsyncIterator[RecordedEvent]:
        """Yield the events of its journal behind `after`; ends when the run ended."""
        return self._runs.history(self.id).follow(after)
