"""Workers of a service: the runtimes that have its store open."""

from holdfast.client.connection import Connection
from holdfast.client.plain import Plain, path_of, plain


class Workers:
    """Runtimes that have the store open."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self._connection = connection

    async def list(self) -> list[Plain]:
        """Return all of them."""
        return list((await self._connection.plain("GET", "/v1/workers"))["items"])

    async def drain(self, worker_id: str, *, reason: str = "") -> Plain:
        """Let one take no runs any more; what it executes goes on."""
        return await self._change(worker_id, "drain", reason)

    async def resume(self, worker_id: str, *, reason: str = "") -> Plain:
        """Let one take runs again."""
        return await self._change(worker_id, "resume", reason)

    async def _change(self, worker_id: str, verb: str, reason: str) -> Plain:
        path = path_of("workers", worker_id, verb)
        return await plain(self._connection, "POST", path, {"reason": reason})
