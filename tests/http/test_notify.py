"""Word to systemd, heard at a real socket."""

import os
import signal
import socket
from pathlib import Path

import pytest

from holdfast.core.exits import Exit
from holdfast.http.notify import Notifier
from tests.http.jobs import HELD_BY
from tests.http.serving import Served
from tests.http.test_serve import SLOW, fifo_in, fill, let_go


class Supervisor:
    """What systemd is to a service: a socket, and what was said there."""

    def __init__(self, address: str) -> None:
        """Listen."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(30)
        self.heard: list[str] = []

    def until(self, *words: str) -> None:
        """Wait until something was said."""
        while not any(all(word in line for word in words) for line in self.heard):
            self.heard += self._socket.recv(65_536).decode().splitlines()

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_systemd_is_told_how_far_it_is(tmp_path: Path, kind: str) -> None:
    """
    Section 3. STATUS with progress and EXTEND_TIMEOUT_USEC while it comes back; READY only
    afterwards; then WATCHDOG; STOPPING when it leaves.
    """
    url = f"sqlite:///{tmp_path / 'store.db'}"
    fill(url)
    fifo = fifo_in(tmp_path)
    address = str(tmp_path / "notify") if kind == "path" else f"@holdfast-{os.getpid()}"
    supervisor = Supervisor(address)
    environment = {HELD_BY: str(fifo), "NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"}
    try:
        with Served(url, tmp_path, *SLOW, **environment) as served:
            supervisor.until("STATUS=restoring", "engines")
            supervisor.until("EXTEND_TIMEOUT_USEC=")
            assert not {"READY=1", "WATCHDOG=1"} & set(supervisor.heard)
            let_go(fifo)
            supervisor.until("READY=1")
            supervisor.until("STATUS=ready")
            supervisor.until("WATCHDOG=1")
            served.tell(signal.SIGTERM)
            supervisor.until("STOPPING=1")
            assert served.end() == Exit.DONE
            assert supervisor.heard.count("READY=1") == 1
    finally:
        supervisor.close()


def test_where_nobody_listens_nothing_happens(tmp_path: Path) -> None:
    """Section 3. Without a socket, and with one that is gone, it goes on."""
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "none")}):
        notifier = Notifier(environment)
        notifier.send(READY=1, STATUS="two\nlines")
        notifier.close()
        notifier.send(READY=1)
