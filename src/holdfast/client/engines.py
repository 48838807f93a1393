"""Engines of a service: working memories of foreign programs, and what is kept of them."""

from collections.abc import Sequence

from holdfast.client.connection import Connection
from holdfast.client.plain import Plain, path_of, plain


class Engines:
    """Engines; a working memory is named by its key, an engine that has one alone by none."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self._connection = connection

    async def snapshots(
        self, engine: str, key: Sequence[str] = (), *, limit: int = 100
    ) -> list[Plain]:
        """
        Return the snapshots that are kept of a working memory, the newest first.

        Raises:
            RecordNotFoundError: no such memory is kept.
        """
        path, asked = path_of("engines", engine, "snapshots"), {"key": [*key], "limit": limit}
        return list((await self._connection.plain("GET", path, params=asked))["items"])

    async def snapshot(self, engine: str, key: Sequence[str] = ()) -> Plain:
        """Make a snapshot of a working memory now."""
        path = path_of("engines", engine, "snapshot")
        return await plain(self._connection, "POST", path, {"key": [*key]})

    async def list(self) -> list[Plain]:
        """Return the engines of the runtime that answers, and what is loaded of them."""
        return list((await plain(self._connection, "GET", "/v1/engines"))["items"])
