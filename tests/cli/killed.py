"""A process that dies with work in flight: `python -m tests.cli.killed STORE`."""

import asyncio
import os
import signal
import sys

import holdfast
from holdfast import state


@state(version=1)
class Chat:
    """A conversation."""

    turns: int = 0


async def main() -> None:
    """Change a session, begin work, and die."""
    async with holdfast.open(sys.argv[1]) as rt, rt.session(Chat, "user/42") as session:
        async with session.edit() as chat:
            chat.turns += 1
        async with rt.ledger.begin("user/42", ttl=30):
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(main())
