"""`holdfast serve` in a process of its own, seen from a test."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import httpx

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0


class Served:
    """
    One server; leaving its block kills it if it is there still.

    Attributes:
        folder: of store and token.
        heard: lines of its log so far.
    """

    def __init__(self, url: str, folder: Path, *words: str, **environment: str) -> None:
        """Start it, and wait until it listens."""
        self.folder = folder
        self.heard: list[str] = []
        self.token_file = folder / "token"
        program = [sys.executable, "-m", "holdfast", "serve", "--store", url, "--port", "0"]
        program += ["--token-file", str(self.token_file), *words]
        self.child = subprocess.Popen(
            program, cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        said = self.line_with("listening on ")
        self.url = said.split()[2].rstrip(",")

    @property
    def token(self) -> str:
        """The token of its administrator."""
        return self.token_file.read_text().strip()

    def client(self, **headers: str) -> httpx.Client:
        """Return a client with its token."""
        sent = {"Authorization": f"Bearer {self.token}", **headers}
        return httpx.Client(base_url=self.url, headers=sent, timeout=PATIENCE)

    def line_with(self, words: str) -> str:
        """Wait until it says something."""
        for line in self._lines():
            self.heard.append(line)
            if words in line:
                return line
        raise EOFError(f"it never said {words!r}: {self.heard}")

    def wait_ready(self) -> None:
        """Wait until it is ready."""
        self.line_with("event=serving")

    def tell(self, signal_: signal.Signals = signal.SIGTERM) -> None:
        """Send it a signal."""
        self.child.send_signal(signal_)

    def end(self) -> int:
        """Wait until it has ended; return how."""
        self.heard += self._lines()
        return self.child.wait(PATIENCE)

    def stop(self) -> int:
        """Let it end in good order."""
        self.tell()
        return self.end()

    def kill(self) -> None:
        """Kill it as nothing can hinder."""
        self.child.kill()
        self.child.wait()

    def _lines(self) -> Iterator[str]:
        return iter(cast(IO[str], self.child.stderr))

    def __enter__(self) -> "Served":
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave nothing behind."""
        self.child.kill()
        self.child.wait()
        cast(IO[str], self.child.stderr).close()


def started(client: httpx.Client, function: str, **body: Any) -> str:
    """Start a run; return its id."""
    made = client.post("/v1/runs", json={"function": f"tests.http.jobs.{function}", **body})
    made.raise_for_status()
    return str(made.json()["id"])
