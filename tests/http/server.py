"""
The service in a process of its own, which the tests kill; run by them.

    python -m tests.http.server URL PORT [SETTINGS]

The socket listens before the store is open. `SETTINGS` are those of `holdfast.http.Settings`, as
JSON, with `options` for `holdfast.open`. Beside it is `/page.html`, a page of the same origin on
which a browser runs what it is told.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import holdfast.http
from holdfast.core.world import World
from holdfast.http import Settings
from holdfast.testing.disk.disk import Call, Disk, Fault
from tests.http.delays import armed, delayed
from tests.http.functions import FUNCTIONS

TOKEN = "for-tests-only"
PAGE = "<!doctype html><title>events</title><p>Events are collected here.</p>"


class Cookie:
    """Takes the token from a cookie of the test, for a browser that can send no header."""

    def __init__(self, app: Any) -> None:
        """Take the application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Add the header, and pass it on."""
        if scope["type"] == "http" and Request(scope).cookies.get("test") == TOKEN:
            bearer = (b"authorization", f"Bearer {TOKEN}".encode())
            scope = {**scope, "headers": [*scope["headers"], bearer]}
        await self._app(scope, receive, send)


class Paged:
    """Serves the page beside the service."""

    def __init__(self, app: Any) -> None:
        """Take the application."""
        self._app = Cookie(app)
        self._page = Route("/page.html", self.page)

    async def page(self, _: Request) -> HTMLResponse:
        """Return the page, and the cookie with it."""
        response = HTMLResponse(PAGE)
        response.set_cookie("test", TOKEN, httponly=True, samesite="strict")
        return response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the page, or what the service does."""
        if scope["type"] == "http" and scope["path"] == "/page.html":
            await self._page.handle(scope, receive, send)
            return
        await self._app(scope, receive, send)


def world_of(url: str, said: dict[str, Any]) -> World:
    """Return a world whose commits take a while or kill, or whose disk breaks at SIGUSR1."""
    if delay := said.pop("commit_delay", 0.0):
        return World(failpoints=delayed(delay))
    if dies := said.pop("dies", None):
        return World(failpoints=armed(*dies))
    if said.pop("breakable", False):
        disk = Disk(Path(url.removeprefix("sqlite:///")).parent)
        syncs = frozenset({Call.SYNC})

        def broken(*_: object) -> None:
            disk.fail(1, Fault.EIO, on=syncs, lasting=True)

        signal.signal(signal.SIGUSR1, broken)
        return World(vfs=disk.vfs, files=disk.files)
    return World()


def main(url: str, port: int, said: dict[str, Any]) -> None:
    """Serve until somebody ends it."""
    options = said.pop("options", {})
    world = world_of(url, said)
    settings = Settings(token=TOKEN, **said)
    app = Paged(holdfast.http.app(url, settings, functions=FUNCTIONS, world=world, **options))
    config = uvicorn.Config(app, port=port, log_level="warning", access_log=False)
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]) if len(sys.argv) > 3 else {})
