"""
A process that orders an operation and is killed at a commit behind that; run by the tests.

    python -m tests.http.bulk_killed URL NUMBER

`NUMBER` is the commit at which it ends, counted from the order on.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import holdfast
from holdfast import Run
from holdfast.core.bulk import Order
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World

RUNS = 3


async def fails(run: Run) -> None:
    """Fail."""
    raise ValueError("no paper")


def killing(number: int) -> Callable[[], None]:
    """Return what ends this process when it is called for the so-many-th time."""
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return count


async def main(url: str, number: int) -> None:
    """Leave runs that failed, order that they are retried, and wait for the end."""
    failpoints = Failpoints()
    async with holdfast.open(url, functions=[fails], world=World(failpoints=failpoints)) as rt:
        ids = [f"{number}-{one}" for one in range(RUNS)]
        for id in ids:
            await rt.runs.start(fails, run_id=id)
            await rt.runs.ended(id)
        failpoints.arm("commit.committed", killing(number))
        await rt.bulk.begin(Order(action="retry"), ids)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
