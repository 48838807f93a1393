"""Word to systemd, heard at a real socket."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

import holdfast
from holdfast.core.errors import OutcomeUnknownError
from holdfast.core.exits import Exit
from holdfast.core.world import World
from holdfast.http.notify import TICK, Notifier, Reporter
from holdfast.http.site import Settings, Site
from holdfast.testing.disk.disk import Call, Disk, Fault
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


def test_what_is_said_of_one_thing_is_never_taken_for_another(tmp_path: Path) -> None:
    """Section 3, X12. A reason with lines in it stays a reason, whatever they say."""
    supervisor = Supervisor(str(tmp_path / "notify"))
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    notifier.send(STATUS="failed: two\nREADY=1")
    supervisor.until("two")
    assert supervisor.heard == ["STATUS=failed: two READY=1"]
    notifier.close()
    supervisor.close()


def test_the_watchdog_hears_twice_at_least_before_its_time_is_over(tmp_path: Path) -> None:
    """Section 3. However short it is; where nobody watches it is looked twice a second."""

    async def run() -> None:
        async with holdfast.open(f"sqlite:///{tmp_path / 'store.db'}") as rt:
            site = Site(rt, Settings())
            for milliseconds in (300, 1_000, 60_000):
                watched = {"WATCHDOG_USEC": str(milliseconds * 1_000)}
                interval = Reporter(site, watched, lambda: None).interval
                assert interval * 1_000 <= milliseconds / 2
            assert Reporter(site, {}, lambda: None).interval == TICK

    asyncio.run(run())


def test_a_store_that_stopped_is_no_life_and_ends_the_service(tmp_path: Path) -> None:
    """Section 3, F8. READY once; after a failed sync no WATCHDOG, and whoever serves is told."""
    address, stops = str(tmp_path / "notify"), list[str]()
    supervisor = Supervisor(address)
    place = tmp_path / "place"  # A socket is nothing that a disk keeps.
    place.mkdir()

    async def run(disk: Disk) -> None:
        opening = holdfast.open(
            f"sqlite:///{place / 'store.db'}", world=World(vfs=disk.vfs, files=disk.files)
        )
        async with opening as rt:
            watched = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"}
            reporter = Reporter(Site(rt, Settings()), watched, lambda: stops.append("stopped"))
            await reporter.tick()
            await reporter.tick()
            supervisor.until("WATCHDOG=1")
            assert not stops
            disk.fail(1, Fault.EIO, on=frozenset({Call.SYNC}), lasting=True)
            with pytest.raises(OutcomeUnknownError):
                await rt.history("notes").append("note", {"text": "lost"})
            before = list(supervisor.heard)
            await reporter.tick()
            supervisor.until("STATUS=failed")
            late = supervisor.heard[len(before) :]
            assert "WATCHDOG=1" not in late[late.index(_line(late, "STATUS=failed")) :]
            assert stops == ["stopped"]
            assert supervisor.heard.count("READY=1") == 1
            await reporter.leave()

    try:
        with Disk(place) as disk:
            asyncio.run(run(disk))
    finally:
        supervisor.close()


def _line(lines: list[str], begin: str) -> str:
    return next(line for line in lines if line.startswith(begin))


def test_where_nobody_listens_nothing_happens(tmp_path: Path) -> None:
    """Section 3. Without a socket, and with one that is gone, it goes on."""
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "none")}):
        notifier = Notifier(environment)
        notifier.send(READY=1, STATUS="two\nlines")
        notifier.close()
        notifier.send(READY=1)
