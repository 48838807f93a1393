"""Runtimes in processes of their own, seen from a test; see `tests.runtime.holder`."""

import json
import signal
import subprocess
import sys
from types import TracebackType
from typing import IO, Any, cast


class RefusedError(Exception):
    """The process answered with the code of an error."""


class Process:
    """One process with the store open; leaving its block kills it if it is there still."""

    def __init__(self, url: str, **options: Any) -> None:
        """Start it; `point` and `nth` name a failpoint at which it kills itself."""
        program = [sys.executable, "-m", "tests.runtime.holder", url, json.dumps(options)]
        self.child = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.is_ready = self._read() == "ready"

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Let it do something and return what it answers."""
        self.tell(name, **arguments)
        return self.hear()

    def tell(self, name: str, /, **arguments: Any) -> None:
        """Say what to do, without waiting for the answer."""
        stdin = cast(IO[str], self.child.stdin)
        stdin.write(json.dumps([name, arguments]) + "\n")
        stdin.flush()

    def hear(self) -> Any:
        """Wait for the answer to what it was told."""
        answer = self._read()
        if answer is None:
            raise EOFError(f"the process ended with {self.child.wait()}")
        if "error" in answer:
            raise RefusedError(answer["error"])
        return answer["value"]

    def kill(self) -> None:
        """Kill it as nothing can hinder, and wait until it is gone."""
        self.child.kill()
        self.child.wait()

    def freeze(self) -> None:
        """Stop it where it is."""
        self.child.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.child.send_signal(signal.SIGCONT)

    def close(self) -> int:
        """Let it end in good order; return how it ended."""
        cast(IO[str], self.child.stdin).close()
        return self.child.wait(60)

    def __enter__(self) -> "Process":
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it in good order, or at once if something went wrong."""
        if kind is None and self.child.poll() is None:
            self.close()
        self.child.kill()
        self.child.wait()
        for pipe in (self.child.stdin, self.child.stdout):
            cast(IO[str], pipe).close()

    def _read(self) -> Any:
        line = cast(IO[str], self.child.stdout).readline()
        return json.loads(line) if line else None
