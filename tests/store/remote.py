"""
A process that does with a store what its parent says, line by line; and the parent's side of it.

With `hold`, every commit stops after its rows are written and before COMMIT: the process says
`written` and goes on with the next line it gets.
"""

import asyncio
import subprocess
import sys
from types import TracebackType
from typing import Self

import holdfast
from holdfast.core.world import World


class Remote:
    """The parent's side: a process with the store open."""

    def __init__(self, url: str, *options: str) -> None:
        """Start the process and wait until it has opened the store."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.remote", url, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.hear("ready")

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process; it is killed if the test failed."""
        if kind is not None:
            self._process.kill()
        self._process.communicate()
        if kind is None:
            assert self._process.returncode == 0

    def say(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def hear(self, word: str) -> list[int]:
        """Wait for a line that begins with a word and return its numbers."""
        assert self._process.stdout is not None
        words = self._process.stdout.readline().split()
        assert words[:1] == [word], words
        return [int(number) for number in words[1:]]


def hold() -> None:
    """Stop here until the parent says otherwise."""
    tell("written")
    sys.stdin.readline()


def tell(*words: object) -> None:
    """Say a line to the parent."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def obey(url: str, options: list[str]) -> None:
    """Do what the parent says until it closes the pipe."""
    world = World()
    async with holdfast.open(url, world=world, busy_wait=60.0) as rt:
        if "hold" in options:
            world.failpoints.arm("commit.written", hold)
        tell("ready")
        while words := (await asyncio.to_thread(sys.stdin.readline)).split():
            history = rt.history(words[1])
            if words[0] == "append":
                events = [history.event("t", words) for _ in range(int(words[2]))]
                tell("acked", *(event.position for event in await history.append_all(events)))
            else:
                await history.close()
                tell("closed")


if __name__ == "__main__":
    asyncio.run(obey(sys.argv[1], sys.argv[2:]))
