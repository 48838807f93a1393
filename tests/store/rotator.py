"""
Rotates the keys of a store, and kills itself when a failpoint is reached; run by the tests.

    python -m tests.store.rotator URL KEYRING POINT NTH
"""

import asyncio
import os
import signal
import sys

import holdfast
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World
from holdfast.store import reseal


async def main(url: str, keyring: str, point: str, nth: str) -> None:
    """Open the store, and die while it rotates."""
    reseal.PAGE_ROWS = 7  # type: ignore[misc]  # Many units also of few values.
    failpoints, left = Failpoints(), int(nth)

    def reached() -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    world = World(failpoints=failpoints)
    async with holdfast.open(url, keyring=keyring, busy_wait=60.0, world=world) as rt:
        failpoints.arm(point, reached)
        await rt.keys.rotate()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
