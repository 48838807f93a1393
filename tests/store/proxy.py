"""A server's socket in front of a server's socket: it can swallow the answer to a COMMIT."""

import socket
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlencode


class Proxy:
    """
    Passes bytes between clients and PostgreSQL.

    Attributes:
        url: the address through the proxy.
    """

    def __init__(self, url: str) -> None:
        """Listen in a folder of its own, in front of the socket that `url` names."""
        address, _, query = url.partition("?")
        fields = dict(parse_qsl(query))
        name = f".s.PGSQL.{fields['port']}"
        self._server = str(Path(fields["host"], name))
        self._folder = tempfile.TemporaryDirectory(prefix="hf-")
        self.url = f"{address}?{urlencode(fields | {'host': self._folder.name})}"
        self._cutting = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(Path(self._folder.name, name)))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets: list[socket.socket] = []
        self._threads[0].start()

    def cut_after_commit(self) -> None:
        """Pass the next COMMIT on, wait for its answer, and cut that connection instead."""
        self._cutting.set()

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Cut what is left and end."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for one in self._sockets:
            _shut(one)
        for thread in self._threads:
            thread.join()
        for one in (*self._sockets, self._listener):
            one.close()
        self._folder.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._sockets += [client, server]
            cut = threading.Event()
            for source, target, outward in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pump, args=(source, target, outward, cut))
                thread.start()
                self._threads.append(thread)

    def _pump(
        self, source: socket.socket, target: socket.socket, outward: bool, cut: threading.Event
    ) -> None:
        try:
            while data := source.recv(65_536):
                if outward and self._cutting.is_set() and b"COMMIT" in data:
                    self._cutting.clear()
                    cut.set()
                elif not outward and cut.is_set():
                    break
                target.sendall(data)
        except OSError:
            pass
        _shut(source)
        _shut(target)


def _shut(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
