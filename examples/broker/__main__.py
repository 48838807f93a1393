"""
Serve: `python -m examples.broker STORE PORT [--die PLACE NTH] [--hold N]`.

`--die` and `--hold` are for the lab: it kills itself when it comes to a failpoint for the NTH
time; it stops with N sessions restored until its standard input ends.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from itertools import count

import uvicorn

from examples.broker.app import Broker, application
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World


def main() -> None:
    """Serve until told to end."""
    parser = argparse.ArgumentParser(prog="python -m examples.broker", description=__doc__)
    parser.add_argument("store")
    parser.add_argument("port", type=int)
    parser.add_argument("--die", nargs=2, metavar=("PLACE", "NTH"))
    parser.add_argument("--hold", type=int, metavar="N")
    asked = parser.parse_args()
    # Listens from here on, so that nobody is refused a connection while the store comes back.
    listening = socket.create_server(("127.0.0.1", asked.port))

    def stop() -> None:
        server.should_exit = True

    async def step(done: int) -> None:
        if done == asked.hold:
            await asyncio.to_thread(sys.stdin.read)

    world = World(failpoints=deadly(*asked.die) if asked.die else Failpoints())
    app = application(Broker(asked.store, stop, step, world=world))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    server.run(sockets=[listening])


def deadly(place: str, nth: str) -> Failpoints:
    """Return failpoints of which one kills this process when it is reached for the n-th time."""
    failpoints = Failpoints()
    failpoints.arm(place, _nth(int(nth)))
    return failpoints


def _nth(nth: int) -> Callable[[], None]:
    reached = count(1)

    def reach() -> None:
        if next(reached) == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    return reach


if __name__ == "__main__":
    main()
