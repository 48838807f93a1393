"""
A proxy in front of PostgreSQL that cuts a connection exactly when COMMIT passes.

    with Proxy(server.url) as proxy:
        proxy.arm(Cut.BEFORE)              # the server never gets the COMMIT
        ... commit through proxy.url ...

Promises: an armed accident happens to the next COMMIT and to no other; both ends of that
connection are closed before anybody can notice; all other connections go on. Only COMMIT
counts, whatever protocol the client speaks.
"""

import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlencode, urlsplit

__all__ = ["Cut", "Proxy"]

_COMMIT = b"COMMIT\0"
_CHUNK = 65_536


class Cut(StrEnum):
    """When the connection is cut, seen from the COMMIT."""

    BEFORE = "before"  # the server does not get it, and rolls back when it sees the end
    AFTER = "after"  # the server has answered; the client does not get the answer
    FORWARDED = "forwarded"  # the server has it in its socket; nobody waits for the answer


def _nothing() -> None:
    """Do nothing."""


class Proxy:
    """
    Passes bytes between clients and one server.

    Attributes:
        url: the address through the proxy.
    """

    def __init__(self, url: str) -> None:
        """Listen on a socket of its own, in front of the Unix socket that `url` names."""
        parts = urlsplit(url)
        fields = dict(parse_qsl(parts.query))
        name = f".s.PGSQL.{fields['port']}"
        self._server = str(Path(fields["host"], name))
        self._folder = tempfile.TemporaryDirectory(prefix="hf-")
        fields["host"] = self._folder.name
        self.url = f"postgresql://{parts.path}?{urlencode(fields, safe='/')}"
        self._armed: tuple[Cut, Callable[[], None]] | None = None
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(Path(self._folder.name, name)))
        self._listener.listen()
        self._start(self._accept)

    def __enter__(self) -> Self:
        """Return the proxy itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every connection and stop listening."""
        self.close()

    def arm(self, cut: Cut, meanwhile: Callable[[], None] = _nothing) -> None:
        """
        Arrange an accident for the next COMMIT.

        Args:
            cut: when the connection is cut.
            meanwhile: called when the COMMIT is here, before it is passed on or dropped.
        """
        with self._lock:
            self._armed = cut, meanwhile

    def close(self) -> None:
        """End every connection and stop listening."""
        with self._lock:
            _shut(self._listener, *self._sockets)
        for thread in self._threads:
            thread.join()
        self._folder.cleanup()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="holdfast-proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with self._listener:
            while True:
                try:
                    client, _ = self._listener.accept()
                except OSError:
                    return
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._server)
                except OSError:
                    # The server is down: the client sees its connection closed.
                    client.close()
                    server.close()
                    continue
                with self._lock:
                    self._sockets += [client, server]
                self._start(lambda client=client, server=server: self._ask(client, server))  # type: ignore[misc]

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        """Pass on what the client says; a thread of its own passes on the answers."""
        cutting = threading.Event()
        answers = threading.Thread(target=_answer, args=(server, client, cutting), daemon=True)
        answers.start()
        with client, server:
            with suppress(OSError):
                while data := client.recv(_CHUNK):
                    accident = self._accident(data)
                    if accident is not None:
                        cut, meanwhile = accident
                        cutting.set()
                        meanwhile()
                        if cut is not Cut.BEFORE:
                            server.sendall(data)
                        if cut is Cut.AFTER:
                            answers.join()
                        break
                    server.sendall(data)
            _shut(client, server)
            answers.join()

    def _accident(self, data: bytes) -> tuple[Cut, Callable[[], None]] | None:
        if _COMMIT not in data:
            return None
        with self._lock:
            armed, self._armed = self._armed, None
        return armed


def _answer(server: socket.socket, client: socket.socket, cutting: threading.Event) -> None:
    """Pass on what the server says; once the connection is being cut, end at its next word."""
    with suppress(OSError):
        while data := server.recv(_CHUNK):
            if cutting.is_set():
                return
            client.sendall(data)
    _shut(client, server)


def _shut(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
