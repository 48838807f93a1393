"""A program that is served: functions whose steps wait, and an engine whose restore waits."""

import asyncio
import os
from pathlib import Path
from typing import Any

from holdfast.core.engine import Request
from tests.runtime.tally import Tally, TallyEngine

HELD_BY = "HELD_BY"
"""Names a FIFO in the environment: what is held goes on when somebody wrote into it."""


def held() -> None:
    """Wait until somebody writes into the FIFO."""
    if path := os.environ.get(HELD_BY):
        Path(path).read_text()


class HeldTally(Tally):
    """A memory that waits in the middle of what brings it back."""

    def redo(self, request: Request, seed: int) -> Request:
        """Do it again, when it may."""
        self.engine.wait()
        return super().redo(request, seed)

    def restore(self, part: bytes) -> None:
        """Take a counter, when it may."""
        self.engine.wait()
        super().restore(part)


class HeldEngine(TallyEngine):
    """An engine whose restore takes its time."""

    waits = True

    def fresh(self) -> Tally:
        """Return an empty memory."""
        return HeldTally(self)

    def wait(self) -> None:
        """Wait once."""
        if self.waits:
            self.waits = False
            held()


async def echo(run: Any, text: str = "") -> str:
    """Return what it was given."""
    return text


async def waiting(run: Any) -> str:
    """Take one step that ends when it may, and one after it."""
    await run.step("first", _held)
    await run.step("second", _done)
    return "done"


async def hanging(run: Any) -> str:
    """Take a step that never ends."""
    await run.step("first", _never)
    return "done"


async def _held() -> str:
    await asyncio.to_thread(held)
    return "held"


async def _never() -> None:
    await asyncio.Event().wait()


async def _done() -> str:
    return "done"


functions = [echo, waiting, hanging]
slow = {"echo": echo, "counters": HeldEngine()}
