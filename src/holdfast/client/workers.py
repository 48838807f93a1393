"""Workers of a service: the runtimes that have its store open."""

from typing import Any
from urllib.parse import quote

from holdfast.client.connection import Connection


class Workers:
    """Runtimes that have the store open."""

    def __init__(self, connection: Connection) -> None:
        """Take the connection."""
        self._connection = connection

    async def list(self) -> list[dict[str, Any]]:
        """Return all of them."""
        return list((await self._connection.plain("GET", "/v1/workers"))["items"])

    async def drain(self, worker_id: str, *, reason: str = "") -> dict[str, Any]:
        """Let one take no runs any more; what it executes goes on."""
        return await self._change(worker_id, "drain", reason)

    async def resume(self, worker_id: str, *, reason: str = "") -> dict[str, Any]:
        """Let one take runs again."""
        return await self._change(worker_id, "resume", reason)

    async def _change(self, worker_id: str, verb: str, reason: str) -> dict[str, Any]:
        path = f"/v1/workers/{quote(worker_id, safe='')}/{verb}"
        return dict(await self._connection.plain("POST", path, body={"reason": reason}))
