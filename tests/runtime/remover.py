"""
Removes every run that ended, and kills itself at a failpoint; run by the tests.

    python -m tests.runtime.remover URL POINT
"""

import asyncio
import os
import signal
import sys

import holdfast
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World


async def main(url: str, point: str) -> None:
    """Open the store, and die while the first removal is committed."""
    failpoints = Failpoints()
    async with holdfast.open(url, world=World(failpoints=failpoints)) as rt:
        failpoints.arm(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
        await rt.runs.retain(newest=0)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
