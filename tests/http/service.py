"""The service as tests hold it: started, killed, frozen, started again on the same port."""

import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tests.http.server import TOKEN

BEARER = {"Authorization": f"Bearer {TOKEN}"}
PATIENCE = 60.0
PORTS = range(12_000, 32_000)
"""Below those that connections get: a server that is killed finds its port free again."""


def free_port() -> int:
    """Return a port that nobody uses, and that the system gives to nobody of its own accord."""
    while True:
        with socket.socket() as found, suppress(OSError):
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(("127.0.0.1", secrets.choice(PORTS)))
            return int(found.getsockname()[1])


def until(holds: Callable[[], bool], what: str) -> None:
    """Ask again and again until something holds, which no event tells of."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.01)


class Service:
    """
    One service on one store and one port, in lives that follow each other.

    Attributes:
        base: its address.
        lives: how often it was started.
    """

    def __init__(self, url: str, port: int = 0, **settings: Any) -> None:
        """Take the store; it is started on entering."""
        self.url = url
        self.port = port or free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.lives = 0
        self._settings = settings
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        """Begin a life; returns when it is ready, or at once."""
        program = [sys.executable, "-m", "tests.http.server", self.url, str(self.port)]
        self.child = subprocess.Popen([*program, json.dumps(self._settings)])
        self.lives += 1
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until it takes work."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                if httpx.get(f"{self.base}/readyz", timeout=5).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            if self.child is not None and self.child.poll() is not None:
                raise AssertionError(f"the service ended with {self.child.returncode}")
            time.sleep(0.02)
        raise AssertionError("the service did not become ready")

    def kill(self) -> None:
        """End it as nothing can hinder."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()

    def term(self) -> int:
        """Ask it to end; return how it did."""
        assert self.child is not None
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(PATIENCE)

    @property
    def pid(self) -> int:
        """Of the process that lives."""
        assert self.child is not None
        return self.child.pid

    def memory(self) -> int:
        """Return its resident size in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        line = next(one for one in status if one.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        """Ask for a change."""
        return httpx.post(
            self.base + path, json=body, headers={**BEARER, **headers}, timeout=PATIENCE
        )

    def put(self, path: str, data: bytes, **headers: str) -> httpx.Response:
        """Send bytes."""
        sent = {**BEARER, "Content-Type": "application/octet-stream", **headers}
        return httpx.put(self.base + path, content=data, headers=sent, timeout=PATIENCE)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Look."""
        return httpx.get(self.base + path, headers={**BEARER, **headers}, timeout=PATIENCE)

    def begin(self, function: str, *args: Any, run_id: str) -> str:
        """Start a run; return its id."""
        name = f"tests.http.functions.{function}"
        asked = {"function": name, "args": list(args), "run_id": run_id}
        answer = self.post("/v1/runs", asked)
        assert answer.status_code == 201, answer.text
        return run_id

    def ended(self, run_id: str) -> dict[str, Any]:
        """Wait until a run ended."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            found = self.get(f"/v1/runs/{run_id}?wait=terminal&timeout=10").json()
            if found["status"] in ("succeeded", "failed", "cancelled"):
                return dict(found)
        raise AssertionError(f"{run_id} did not end")

    def journal(self, run_id: str) -> list[dict[str, Any]]:
        """Return all events of a run, page by page."""
        found: list[dict[str, Any]] = []
        cursor = "earliest"
        while True:
            page = self.get(f"/v1/runs/{run_id}/events?after={cursor}&limit=1000").json()
            if not page["items"]:
                return found
            found += page["items"]
            cursor = page["cursor"]

    def __enter__(self) -> "Service":
        """Start it."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End it."""
        self.kill()
