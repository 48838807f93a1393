"""A gateway in a process of its own, to be killed, frozen and woken."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]


class Process:
    """
    One gateway, over all its lives; it keeps its address.

    Attributes:
        url: where it listens.
        log: file with everything it said.
    """

    def __init__(
        self, store: str, model: str, log: Path, *, flush_interval: float, lease_ttl: float = 30.0
    ) -> None:
        """Take the store, the model's address and how it is to run; nothing runs yet."""
        self._kept = _reserved()
        port = self._kept.getsockname()[1]
        waits = [str(flush_interval), str(lease_ttl)]
        self._command = [sys.executable, "-m", "examples.gateway", store, model, str(port), *waits]
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{port}"
        self.log = log

    def start(self) -> None:
        """Begin a life."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it with SIGKILL and wait until it is gone."""
        self._send(signal.SIGKILL)
        self._running().wait()

    def freeze(self) -> None:
        """Stop it where it is; the other end of its connections notices nothing."""
        self._send(signal.SIGSTOP)
        _, status = os.waitpid(self._running().pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), "it ended instead"

    def wake(self) -> None:
        """Let it go on as if nothing had happened."""
        self._send(signal.SIGCONT)

    def stop(self) -> None:
        """End it in good order."""
        self._send(signal.SIGTERM)
        self.ended(-signal.SIGTERM)

    def ended(self, code: int = 0) -> None:
        """Wait for its end, and see that it was a good one."""
        assert self._running().wait(30) == code, self.log.read_text()

    def __enter__(self) -> Self:
        """Begin its first life."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it, however it is."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        self._kept.close()

    def _send(self, number: signal.Signals) -> None:
        self._running().send_signal(number)

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process


def _reserved() -> socket.socket:
    """Return a socket that keeps a port for us between two lives; it does not listen."""
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    return kept
