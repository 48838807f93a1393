"""
The server: uvicorn, with our own signals and limits, and problems instead of plain words.

Invariants: a connection on which no whole request comes is closed after a while; what is not
HTTP is answered with a problem that repeats nothing of it.
"""

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from holdfast.core.denial import MalformedError
from holdfast.http.guard import HEADERS
from holdfast.http.problem import answer_problem

HEAD_BYTES_MAX: Final = 64 * 1024
HEAD_SECONDS_MAX: Final = 20.0
IDLE_SECONDS_MAX: Final = 75
GOODBYE_SECONDS_MAX: Final = 5


class Protocol(H11Protocol):
    """One connection."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, with so much time for the first request."""
        super().connection_made(transport)
        self._patience = self.loop.call_later(HEAD_SECONDS_MAX, self._lose_patience)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._patience is not None:
            self._patience.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP."""
        del msg  # It says less than the problem.
        problem = answer_problem(MalformedError(what="the request", reason="is not HTTP"), "", "")
        head = [f"HTTP/1.1 {problem.status_code} Bad Request", "connection: close"]
        sent = {**HEADERS, **dict(problem.headers)}
        head += [f"{name}: {value}" for name, value in sent.items()]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + bytes(problem.body))
        self.transport.close()

    def _lose_patience(self) -> None:
        # With a request under way it is the application that has patience, or has not.
        if self.cycle is None:  # pyright: ignore[reportUnnecessaryComparison]
            self.transport.close()


class Server(uvicorn.Server):
    """One server, which leaves signals to whoever runs it."""

    def __init__(self, served: ASGIApp) -> None:
        """Take what is served."""
        options: dict[str, Any] = {
            "http": Protocol,
            "ws": "none",
            "lifespan": "off",
            "log_config": None,
            "log_level": "warning",
            "access_log": False,
            "server_header": False,
            "proxy_headers": False,
            "h11_max_incomplete_event_size": HEAD_BYTES_MAX,
            "timeout_keep_alive": IDLE_SECONDS_MAX,
            "timeout_graceful_shutdown": GOODBYE_SECONDS_MAX,
        }
        super().__init__(uvicorn.Config(served, **options))

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Take no signals."""
        yield

    async def run_on(self, listening: socket.socket) -> None:
        """Serve on a socket that listens already, until `should_exit` is set."""
        await self.serve([listening])
