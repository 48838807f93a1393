"""How a client asks: paths by name, plain answers, listings page after page."""

from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

from holdfast.client.connection import Connection

Plain = dict[str, Any]


def path_of(*parts: str) -> str:
    """Return the path of something by its names, which may hold anything."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


async def plain(
    connection: Connection, method: str, path: str, body: Any = None, key: str | None = None
) -> Plain:
    """Ask, and return the object that is answered; an empty one if nothing is."""
    return dict(await connection.plain(method, path, body=body, key=key) or {})


async def pages(
    connection: Connection, path: str, filters: Mapping[str, Any]
) -> AsyncIterator[Plain]:
    """Yield the items of a listing, page after page."""
    cursor: str | None = None
    while True:
        page = await connection.plain("GET", path, params={**filters, "cursor": cursor})
        for one in page["items"]:
            yield one
        cursor = page.get("next_cursor")
        if cursor is None:
            return
