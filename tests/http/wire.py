"""A request to the application without a network, so that nothing depends on time."""

import asyncio
import json
from types import TracebackType
from typing import Any

from tests.http.server import TOKEN

PATIENCE = 20.0


class Wire:
    """
    One request and what is answered to it, part by part.

    Attributes:
        status: of the answer.
        headers: of the answer.
        text: what came so far.
        largest: bytes of the largest part.
    """

    def __init__(self, app: Any, path: str, accept: str = "text/event-stream", **more: str) -> None:
        """Take the application and what is asked for; it begins on entering."""
        target, _, query = path.partition("?")
        headers = {
            "host": "localhost",
            "authorization": f"Bearer {TOKEN}",
            "accept": accept,
            **{name.replace("_", "-"): value for name, value in more.items()},
        }
        self._app = app
        self._scope = {
            "type": "http",
            "method": "GET",
            "path": target,
            "raw_path": target.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        self._came = asyncio.Event()
        self._left = asyncio.Event()
        self._asked = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.text = ""
        self.largest = 0

    async def receive(self) -> dict[str, Any]:
        """Give the server the request, and later that the reader left."""
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        """Take a part of the answer."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.largest = max(self.largest, len(message.get("body", b"")))
            self.text += message.get("body", b"").decode()
        self._came.set()

    async def until(self, part: str, count: int = 1) -> str:
        """Wait until so much came; return everything that did."""
        async with asyncio.timeout(PATIENCE):
            while self.text.count(part) < count:
                self._came.clear()
                await self._came.wait()
        return self.text

    async def end(self) -> str:
        """Wait until the answer is over."""
        async with asyncio.timeout(PATIENCE):
            await self._task
        return self.text

    def frames(self) -> list[dict[str, Any]]:
        """Return what came, frame by frame: `id`, `event`, `data`, `retry`."""
        found: list[dict[str, Any]] = []
        for block in self.text.split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            if "data" in fields:
                fields["data"] = json.loads(fields["data"])
            found.append(fields)
        return found

    def ids(self) -> list[str]:
        """Return the ids of stored events."""
        return [one["id"] for one in self.frames() if "id" in one.get("data", {})]

    def named(self, event: str) -> list[dict[str, Any]]:
        """Return the frames of a name."""
        return [one for one in self.frames() if one.get("event") == event]

    async def __aenter__(self) -> "Wire":
        """Begin."""
        self._task = asyncio.create_task(self._app(self._scope, self.receive, self.send))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave."""
        self._left.set()
        await self._task
