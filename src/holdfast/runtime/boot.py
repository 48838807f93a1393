"""
The boot: from an opened store to a runtime that is ready, part by part.

Each noun that has something to bring back is a `Part`. A part first says what it found (its
steps), then does it. What it does is committed in units each of which may be the last one
before a crash, so that a boot that was killed is simply begun again.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from holdfast.core.recovery import Phase, Step

Progress = Callable[[int], None]
"""Called by a part with the number of things done since its last call."""


class Part(Protocol):
    """
    One noun's share of the boot.

    Attributes:
        name: its name in plan, progress and report.
        phase: `RESTORING` (indexes, state) or `RECONCILING` (work of dead runtimes).
    """

    name: str
    phase: Phase

    async def plan(self) -> Sequence[Step]:
        """Look at what is stored and return what there is to do; changes nothing."""
        ...

    async def execute(self, steps: Sequence[Step], progress: Progress) -> dict[str, Any]:
        """
        Do it, restartably.

        Returns:
            Its section of the report: plain values that depend only on what was stored.
        """
        ...
