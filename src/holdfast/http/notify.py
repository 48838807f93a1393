"""
Word to systemd: what it does, when it is ready, that it lives, that it goes (`Type=notify`).

A datagram to a socket that stands in the environment; where it does not, nothing is said.

    STATUS=                what a probe would answer, in the same words
    EXTEND_TIMEOUT_USEC=   while a recovery progresses; one that hangs is ended by systemd
    READY=1                once, when `/startupz` would pass
    WATCHDOG=1             from the loop that serves, and only while the store takes commits
    STOPPING=1             when it begins to leave

Invariants: READY is never said before the recovery is durable; a loop that does not turn, or a
store that takes nothing, sends no WATCHDOG.
"""

import logging
import socket
from collections.abc import Callable, Mapping
from typing import Final

from holdfast.core.recovery import Phase
from holdfast.http.readiness import Readiness, readiness
from holdfast.http.site import Site
from holdfast.runtime.service import Service

log = logging.getLogger("holdfast")
TICK: Final = 0.5
EXTENSION_US: Final = 15_000_000
_MICROSECONDS: Final = 1_000_000


class Notifier:
    """Sends word to whoever supervises this process."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Take where to, from the environment; nowhere if it does not say."""
        address = environment.get("NOTIFY_SOCKET", "")
        # A name with @ lies outside the file system.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def send(self, **said: str | int) -> None:
        """Say things by name; what cannot be said is left out, it is only word."""
        if self._socket is None or not said:
            return
        lines = "\n".join(
            f"{name}={str(value).replace(chr(10), ' ')}" for name, value in said.items()
        )
        try:
            self._socket.sendto(lines.encode(), self._address)
        except OSError as error:
            log.debug("event=notify_failed reason=%s", error.strerror)

    def close(self) -> None:
        """Say nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Reporter(Service):
    """Looks how the service is, says so, and notices when its store has stopped."""

    def __init__(
        self, site: Site, environment: Mapping[str, str], stopped: Callable[[], None]
    ) -> None:
        """Take what is looked at, and who is told that it stopped."""
        watchdog = environment.get("WATCHDOG_USEC", "")
        beats = int(watchdog) / _MICROSECONDS / 3 if watchdog.isdigit() else TICK
        super().__init__("reporter", max(0.05, min(TICK, beats)))
        self._site = site
        self._notifier = Notifier(environment)
        self._watchdog = bool(watchdog)
        self._stopped = stopped
        self._said = ""
        self._progress: object = None
        self._is_ready = False

    def start(self) -> None:
        """Begin, with a first word at once."""
        self.nudge()
        super().start()

    async def tick(self) -> None:
        """Look, and say what is new."""
        found = readiness(self._site, {}, whole=True)
        said: dict[str, str | int] = {}
        status = status_of(found)
        if status != self._said:
            self._said = said["STATUS"] = status
        moved = (found.status, found.progress)
        if not self._is_ready and moved != self._progress:
            self._progress = moved
            said["EXTEND_TIMEOUT_USEC"] = EXTENSION_US
        if not self._is_ready and found.started:
            self._is_ready = True
            said["READY"] = 1
        if self._watchdog and found.fresh:
            said["WATCHDOG"] = 1
        self._notifier.send(**said)
        if found.status == Phase.FAILED.value and self._is_ready:
            self._stopped()

    async def leave(self) -> None:
        """Say that it goes."""
        await self.stop()
        self._notifier.close()

    def stopping(self) -> None:
        """Say that it begins to leave."""
        self._notifier.send(STOPPING=1, STATUS="draining")


def status_of(found: Readiness) -> str:
    """Return in a line how it is, as the probes say it."""
    if found.ready:
        return "ready"
    done = ", ".join(f"{name} {done}/{all}" for name, (done, all) in found.progress.items() if all)
    return f"{found.status}: {done or found.reason}"
