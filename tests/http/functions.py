"""Functions that make a journal grow, ask people, and leave files behind."""

import asyncio
from typing import Any

from holdfast import Run


async def count(run: Run, events: int, pause: float = 0.0) -> int:
    """Emit so many events, with a pause after each."""
    for number in range(1, events + 1):
        await run.emit("counted", {"number": number})
        if pause:
            await run.step("pause", asyncio.sleep, pause)
    return events


async def large(run: Run, events: int, size: int) -> int:
    """Emit events of a size."""
    for number in range(1, events + 1):
        await run.emit("filled", {"number": number, "text": "x" * size})
    return events


async def open_ended(run: Run) -> Any:
    """Wait for a word; until then its journal has no end."""
    return await run.signal("word")


async def asks(run: Run, timeout: float | None = None) -> Any:
    """Ask somebody, and return what they said."""
    return await run.ask("Which one?", timeout=timeout, default="nobody said")


FUNCTIONS = [count, large, open_ended, asks]
