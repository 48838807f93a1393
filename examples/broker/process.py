"""A broker in a process of its own, to be killed and held."""

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


class Process:
    """
    One broker, over all its lives; it keeps its address.

    Attributes:
        url: where it listens.
        log: file with everything it said.
    """

    def __init__(self, store: str, log: Path) -> None:
        """Take the store; nothing runs yet."""
        self._kept = _reserved()
        self._port = self._kept.getsockname()[1]
        self._store = store
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"http://127.0.0.1:{self._port}"
        self.log = log

    async def start(self, *options: str) -> None:
        """Begin a life."""
        program = ["-m", "examples.broker", self._store, str(self._port), *options]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *program, cwd=ROOT, stdin=PIPE, stdout=log, stderr=log
            )

    def release(self) -> None:
        """Let a broker that holds go on."""
        stdin = self._running.stdin
        assert stdin is not None
        stdin.close()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._running.returncode is not None

    async def wait(self) -> int:
        """Wait for its end, and return how it ended."""
        return await self._running.wait()

    async def kill(self) -> None:
        """End it with SIGKILL, if it has not ended, and wait until it is gone."""
        if self._running.returncode is None:
            self._running.kill()
        code = await self.wait()
        assert code == -signal.SIGKILL, self.log.read_text()

    async def stop(self) -> None:
        """End it in good order."""
        self._running.terminate()
        assert await self.wait() == -signal.SIGTERM, self.log.read_text()

    async def close(self) -> None:
        """End it, however it is."""
        self._kept.close()
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @property
    def _running(self) -> asyncio.subprocess.Process:
        assert self._process is not None, "it was not started"
        return self._process


def _reserved() -> socket.socket:
    """Return a socket that keeps a port for us between two lives; it does not listen."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    return kept
