"""A part of the boot that a test holds where it wants it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import holdfast
from holdfast.core.recovery import Phase, Step
from holdfast.runtime.boot import Planning, Progress
from holdfast.store.port import Reads
from holdfast.store.store import Store

STEPS = 10


class SlowPart:
    """Counts to ten, one commit each; waits in the middle until it is let go, or fails there."""

    name = "slow"
    phase = Phase.RESTORING

    def __init__(self, store: Store, failure: Exception | None = None) -> None:
        """Take what it fails with, if it is to fail."""
        self._store = store
        self._failure = failure
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    def look(self, reader: Reads) -> Planning:
        """See nothing."""
        return self._plan

    async def _plan(self) -> Sequence[Step]:
        """Return one step for all."""
        return [Step(self.name, "count", count=STEPS)]

    async def execute(self, steps: Sequence[Step], progress: Progress) -> dict[str, Any]:
        """Count."""
        for number in range(STEPS):
            if number == STEPS // 2:
                self.reached.set()
                await self.go_on.wait()
                if self._failure is not None:
                    raise self._failure
            write = holdfast.PutRecord("slow", (str(number),), b"\x01")
            await self._store.commit_early(holdfast.Unit((write,)))
            progress(1)
        return {"counted": STEPS}


def slowed(rt: holdfast.Runtime, failure: Exception | None = None) -> SlowPart:
    """Give a runtime whose boot has not begun yet (`wait_ready=False`) such a part."""
    part = SlowPart(rt._store, failure)  # pyright: ignore[reportPrivateUsage]
    rt._boot.parts.append(part)  # pyright: ignore[reportPrivateUsage]
    return part
