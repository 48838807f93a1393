"""
Addresses: ids as segments of a path, whatever they hold.

The id of a child holds a slash, that of a question a question mark, and a program may name a run
`..`; in an address they are quoted. A server unquotes a path before it is split, and would split
such an id; so what was quoted in one segment is held together until the parameter is read.

Invariant: an id never leads to another resource than the one of its own name.
"""

from typing import Final
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Receive, Scope, Send

_HELD: Final = "\ue02f"
"""Stands, with a digit behind it, for a slash within a segment, or for itself."""


def quoted(id: str) -> str:
    """Return an id as one segment of a path."""
    return quote(id, safe="")


def released(value: str) -> str:
    """Return a parameter of a path as it was meant."""
    return value.replace(_HELD + "0", "/").replace(_HELD + "1", _HELD)


class Segments:
    """Holds slashes within segments together, around the application that routes."""

    def __init__(self, app: ASGIApp) -> None:
        """Take the application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the request, with the path split as the client wrote it."""
        if scope["type"] == "http" and b"%" in bytes(scope.get("raw_path") or b""):
            scope = {**scope, "path": _path(scope)}
        await self._app(scope, receive, send)


def _path(scope: Scope) -> str:
    path = str(scope["path"])
    raw = bytes(scope["raw_path"]).decode("latin-1").partition("?")[0]
    # Somebody around us may have changed the path, and does not know of `raw_path`.
    if unquote(raw) != path:
        return path
    return "/".join([_held(unquote(segment)) for segment in raw.split("/")])


def _held(segment: str) -> str:
    return segment.replace(_HELD, _HELD + "1").replace("/", _HELD + "0")
