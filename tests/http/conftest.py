"""A service on a store of each kind, and a client that has a token."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx

import holdfast
import holdfast.http
from holdfast import Runtime
from holdfast.http import Settings

TOKEN = "a token of a test"


class Served(NamedTuple):
    """
    A service under test.

    Attributes:
        rt: the runtime behind it.
        client: asks it, as an administrator.
    """

    rt: Runtime
    client: httpx.AsyncClient

    async def get(self, path: str, **query: Any) -> Any:
        """Return what is answered, which has to be 200."""
        answer = await self.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any = None, status: int = 202, **headers: str) -> Any:
        """Return what is answered to a body, which has to be of this status."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.client.post(path, json=body or {}, headers=named)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def refused(self, method: str, path: str, status: int, **asked: Any) -> Any:
        """Return the problem that is answered, which has to be of this status."""
        answer = await self.client.request(method, path, **asked)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.json()

    async def until(self, run_id: str, status: str) -> Any:
        """Wait until a run is somewhere, and return it."""
        while (found := await self.rt.runs.get(run_id)).status != status:
            assert not found.is_terminal, found.status
            seen = {"If-None-Match": f'"{found.revision}"'}
            await self.client.get(f"/v1/runs/{run_id}?wait=change&timeout=5", headers=seen)
        return await self.get(f"/v1/runs/{run_id}")


@asynccontextmanager
async def serving(url: str, *functions: Any, **options: Any) -> AsyncGenerator[Served]:
    """Open a store and serve it to a client."""
    async with holdfast.open(url, functions=functions, **options) as rt, client_of(rt) as client:
        yield Served(rt, client)


def client_of(rt: Runtime, token: str | None = TOKEN) -> httpx.AsyncClient:
    """Return a client of the service on a runtime."""
    application = holdfast.http.app(rt, Settings(token=TOKEN))
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(application),
        base_url="http://localhost",
        headers={} if token is None else {"Authorization": f"Bearer {token}"},
    )


def served(
    url: str, work: Callable[[Served], Awaitable[Any]], *functions: Any, **options: Any
) -> Any:
    """Do something with a service."""

    async def run() -> Any:
        async with serving(url, *functions, **options) as site, asyncio.timeout(30):
            return await work(site)

    return asyncio.run(run())
