"""Sessions of a service: long-lived keyed state, as it is stored there."""

from collections.abc import AsyncIterator
from typing import Any, BinaryIO

from holdfast.client import transfer
from holdfast.client.connection import Connection
from holdfast.client.plain import Plain, pages, path_of, plain


class Sessions:
    """Sessions."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self._connection = connection

    async def list(self, **filters: Any) -> AsyncIterator[Plain]:
        """Yield sessions, page after page."""
        async for one in pages(self._connection, "/v1/sessions", filters):
            yield one

    async def get(self, session_id: str) -> Plain:
        """Return a session."""
        return await plain(self._connection, "GET", path_of("sessions", session_id))

    async def runs(self, session_id: str, **filters: Any) -> AsyncIterator[Plain]:
        """Yield the runs that belong to a session, page after page; filters as for all runs."""
        async for one in pages(self._connection, path_of("sessions", session_id, "runs"), filters):
            yield one

    async def export(self, session_id: str, file: BinaryIO) -> None:
        """Write what is stored of a session into a file that is open for writing, whole."""
        await transfer.fetch(self._connection, f"{path_of('sessions', session_id)}/export", file)
