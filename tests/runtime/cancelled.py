"""
A run that is being cancelled when its process dies; run by the tests.

    python -m tests.runtime.cancelled URL
"""

import asyncio
import os
import signal
import sys

import holdfast
from holdfast import Run

RUN_ID = "left"


async def work(run: Run) -> None:
    """Do a step, and one that is never over."""
    await run.step("first", lambda: None)
    await run.step("last", asyncio.Event().wait)


async def die(url: str) -> None:
    """Cancel a run that is executed here, and be killed before it can end."""
    async with holdfast.open(url, functions=[work]) as rt:
        run = await rt.runs.start(work, run_id=RUN_ID)
        async for event in run.follow():
            if event.type == "step.succeeded":
                break
        await rt.runs.cancel(RUN_ID, mode="after_step")
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(die(sys.argv[1]))
