"""A client that is stopped costs a batch of memory for a while, and nobody else anything."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.http.reader import Reader, with_client
from tests.http.server import TOKEN
from tests.http.service import Service

DEFAULT = 30.0
"""After so many seconds a reader that takes nothing is cut, if nobody sets another time."""
SLACK = 10.0
EVENTS = 600
SIZE = 60_000
STOPPED = 4
BATCH = 2 * 1024 * 1024
"""What one reader may hold: a page, encoded, and what the server did not get rid of."""


def sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    return sum(_links_to(one).startswith("socket:") for one in Path(f"/proc/{pid}/fd").iterdir())


def _links_to(descriptor: Path) -> str:
    """Return what a descriptor is of, nothing if it was closed since it was listed."""
    with suppress(FileNotFoundError):
        return descriptor.readlink().name
    return ""


@pytest.mark.parametrize("timeout", [6.0, None])
def test_a_stopped_client_is_cut_and_others_are_not_held_up(
    timeout: float | None, tmp_path: Path
) -> None:
    """Section 8, test 4. Not before its time, soon after; it sees a broken connection, no end."""
    settings: dict[str, Any] = {} if timeout is None else {"write_timeout": timeout}
    due = timeout or DEFAULT
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with Service(url, **settings) as service, ExitStack() as ended:
        run_id = service.begin("large", EVENTS, SIZE, run_id="large")
        assert service.ended(run_id)["status"] == "succeeded"
        path = f"/v1/runs/{run_id}/events"
        idle = _settled(service.pid)
        Reader(service.base, path, with_client).join()
        _wait(lambda: sockets(service.pid) <= idle, 30)
        pid, before = service.pid, service.memory()
        program = [sys.executable, "-m", "tests.http.sleeper", str(service.port), path, TOKEN]
        sleepers = [
            subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(STOPPED)
        ]
        for one in sleepers:
            ended.callback(_end, one)
            assert one.stdout is not None and one.stdout.readline() == "reading\n"
            one.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        assert sockets(pid) == idle + STOPPED
        seen = Reader(service.base, path, with_client).join()
        assert len(seen) > EVENTS
        held = service.memory() - before
        _wait(lambda: sockets(pid) <= idle, 60)
        took = time.monotonic() - stopped
        assert sockets(pid) == idle, "a stopped client was not cut"
        assert due * 0.9 <= took < due + SLACK, f"cut after {took} s"
        assert held < STOPPED * BATCH + 16 * BATCH, f"{held} bytes for {STOPPED} stopped clients"
        sys.stdout.write(f"cut after {took:.1f} s, {held / STOPPED / 1e6:.1f} MB each\n")
        for one in sleepers:
            one.send_signal(signal.SIGCONT)
            assert one.communicate("go on\n", timeout=60)[0] == "cut\n"


def _end(child: "subprocess.Popen[str]") -> None:
    """Leave nothing behind, however the test went."""
    child.kill()
    if child.stdin is not None and not child.stdin.closed:
        child.communicate()


def _settled(pid: int) -> int:
    """Return how many sockets a process has open once nobody comes or goes."""
    seen = [-1]
    while len(seen) < 21 or len(set(seen[-20:])) > 1:
        seen.append(sockets(pid))
        time.sleep(0.05)
    return seen[-1]


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.02)
