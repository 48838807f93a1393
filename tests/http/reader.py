"""
Readers of a stream that come again by themselves until it ends, each in a thread of a test.

One follows lines of JSON with the client of the package, the others are foreign: they know of
server-sent events what the standard says, and nothing of Holdfast.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import aclosing

import httpx
import httpx_sse
import sseclient

import holdfast.client
from tests.http.server import TOKEN
from tests.http.service import BEARER

PATIENCE = 90.0
RETRY = 0.05


class Reader:
    """
    A reader in a thread.

    Attributes:
        ids: of all events, as they came.
        connections: how often it connected.
        error: what it ended with, if not well.
    """

    def __init__(self, base: str, path: str, read: "Read", after: str = "") -> None:
        """Begin to read."""
        self.base = base
        self.path = path
        self.ids: list[str] = []
        self.connections = 0
        self.cursor = after
        self.error: BaseException | None = None
        self._read = read
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def took(self, id: str) -> None:
        """Note an event."""
        self.ids.append(id)
        self.cursor = id

    @property
    def alive(self) -> bool:
        """Whether it reads still."""
        return self._thread.is_alive()

    def join(self) -> list[str]:
        """Wait until the stream ended; return all ids."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), f"still reading, has {len(self.ids)}"
        if self.error is not None:
            raise self.error
        return self.ids

    def _run(self) -> None:
        try:
            self._read(self)
        except BaseException as error:
            self.error = error


Read = Callable[[Reader], None]


def with_client(reader: Reader) -> None:
    """Follow with the client of the package."""

    async def follow() -> None:
        run_id = reader.path.split("/")[3]
        options = holdfast.client.Options(patience=PATIENCE)
        async with holdfast.client.connect(reader.base, token=TOKEN, options=options) as service:
            follower = service.events.follower(run_id, after=reader.cursor or "earliest")
            async with aclosing(follower.events()) as events:
                async for event in events:
                    reader.took(event.id)
            reader.connections = follower.connections

    asyncio.run(follow())


def with_httpx_sse(reader: Reader) -> None:
    """Follow with httpx-sse."""
    with httpx.Client(timeout=PATIENCE, headers=BEARER) as client:
        while _again(reader, lambda: _httpx_sse(reader, client)):
            time.sleep(RETRY)


def with_sseclient(reader: Reader) -> None:
    """Follow with sseclient-py."""
    with httpx.Client(timeout=PATIENCE, headers=BEARER) as client:
        while _again(reader, lambda: _sseclient(reader, client)):
            time.sleep(RETRY)


def _httpx_sse(reader: Reader, client: httpx.Client) -> bool:
    with httpx_sse.connect_sse(
        client, "GET", reader.base + reader.path, headers=_headers(reader)
    ) as source:
        if not _is_on(reader, source.response):
            return False
        for event in source.iter_sse():
            _take(reader, event.id, event.event)
    return True


def _sseclient(reader: Reader, client: httpx.Client) -> bool:
    headers = {**_headers(reader), "Accept": "text/event-stream"}
    with client.stream("GET", reader.base + reader.path, headers=headers) as response:
        if not _is_on(reader, response):
            return False
        for event in sseclient.SSEClient(response.iter_bytes()).events():  # type: ignore[arg-type]
            _take(reader, event.id or "", event.event)
    return True


def _take(reader: Reader, id: str, name: str) -> None:
    if id and not name.startswith("stream."):
        reader.took(id)


def _headers(reader: Reader) -> dict[str, str]:
    return {"Last-Event-ID": reader.cursor} if reader.cursor else {}


def _is_on(reader: Reader, response: httpx.Response) -> bool:
    """Return whether there is more; 204 says that a browser is to stop."""
    if response.status_code == 503:
        raise httpx.ReadError("not ready")
    assert response.status_code in (200, 204), response.status_code
    reader.connections += 1
    return response.status_code == 200


def _again(reader: Reader, connect: Callable[[], bool]) -> bool:
    """Connect once; return whether to do so again."""
    try:
        return connect()
    except httpx.TransportError:
        return True


READS: dict[str, Read] = {
    "client": with_client,
    "httpx-sse": with_httpx_sse,
    "sseclient": with_sseclient,
}
