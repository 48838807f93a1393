"""Serve graphs: `python -m tests.http.graph_server STORE PORT`; for tests that kill it."""

import asyncio
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from examples.graph.stages import stage
from starlette.applications import Starlette
from starlette.routing import Mount

import holdfast
from holdfast.http import Settings, app
from tests.http.conftest import TOKEN


@asynccontextmanager
async def span(_: Any) -> AsyncGenerator[dict[str, Any]]:
    """Open the store beside the listening socket; graphs go on as soon as it is ready."""
    async with holdfast.open(sys.argv[1], wait_ready=False) as rt:
        rt.graphs.handle(stage)
        yield {"holdfast": rt}


async def main() -> None:
    """Serve until told to end."""
    with socket.create_server(("127.0.0.1", int(sys.argv[2]))) as listening:
        made = Starlette(routes=[Mount("/", app(None, Settings(token=TOKEN)))], lifespan=span)
        server = uvicorn.Server(uvicorn.Config(made, log_level="error"))
        await server.serve(sockets=[listening])


if __name__ == "__main__":
    asyncio.run(main())
