"""
Applications of others that mount the service under a path; served by uvicorn, run by the tests.

    python -m tests.http.hosts KIND URL PORT
"""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import unquote

import uvicorn

import holdfast
import holdfast.http
from holdfast.http import Settings
from tests.http.jobs import functions

TOKEN = "a token for those who mount it"
UNDER = "/x/y"


def fastapi(url: str) -> Any:
    """Return a FastAPI application; the store is opened by its lifespan."""
    from fastapi import FastAPI

    app = FastAPI(lifespan=holdfast.http.lifespan(url, functions=functions))
    app.mount(UNDER, holdfast.http.app(settings=Settings(token=TOKEN)))
    return app


def litestar(url: str) -> Any:
    """Return a Litestar application; it hands the runtime over."""
    from litestar import Litestar, asgi

    opened: list[holdfast.Runtime] = []

    @asynccontextmanager
    async def span(_: Litestar) -> AsyncGenerator[None]:
        async with holdfast.open(url, wait_ready=False, functions=functions) as rt:
            opened.append(rt)
            yield

    service = holdfast.http.app(lambda: opened[0], Settings(token=TOKEN))

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        # Litestar cuts the path and ends it with a slash; the service wants it as it came.
        whole = unquote(scope["raw_path"].decode())
        await service({**scope, "path": whole, "root_path": UNDER}, receive, send)

    handler = asgi(UNDER, is_mount=True, copy_scope=True)(mounted)
    return Litestar(route_handlers=[handler], lifespan=[span])


if __name__ == "__main__":
    made = {"fastapi": fastapi, "litestar": litestar}[sys.argv[1]](sys.argv[2])
    uvicorn.run(made, port=int(sys.argv[3]), log_level="warning")
