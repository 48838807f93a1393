"""
The gateway: a Starlette application with its memory in Holdfast.

    POST /v1/chat          one turn; sent again under the same id, it is answered from memory
    GET  /healthz          how the gateway is, also while it comes back
    GET  /readyz           200 once it has everything back, 503 with the reason before
    GET  /sessions         keys of all conversations
    GET  /sessions/{key}   what is remembered of one
    GET  /interrupted      turns that a crash interrupted, as each rescue reported them

A turn is in the ledger before the model hears of it. The answer, and that the turn ended, are
one commit; only then is the client told. So a turn is either in the transcript or interrupted.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import holdfast
from examples.gateway.chat import Asked, Chat, Turn
from holdfast import HoldfastError, Runtime


class Gateway:
    """The gateway; it listens first, comes back, and serves when it has everything."""

    rt: Runtime
    model: httpx.AsyncClient

    def __init__(self, url: str, model: str, stop: Callable[[], None], **options: Any) -> None:
        """
        Take what it needs.

        Args:
            url: the store.
            model: address of the model.
            stop: ends this process in good order.
            options: for `holdfast.open`.
        """
        self.stop = stop
        self._opening = holdfast.open(url, wait_ready=False, **options)
        self._model = httpx.AsyncClient(base_url=model, timeout=60)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        """Open the store beside the listening socket; close it when the last turn is done."""
        async with self._model as self.model, self._opening as self.rt:
            yield

    async def chat(self, request: Request) -> Response:
        """Take one turn."""
        asked = Asked.of(request.headers, await request.json())
        session = await self.rt.sessions.reach(Chat, asked.names or [asked.fingerprint])
        await session.attach([asked.fingerprint])
        key = session.key[0]
        async with self.rt.ledger.begin(key, kind="turn", note=asked.turn) as entry:
            await session.refresh()  # Another gateway may have had this conversation.
            turn = session.value.find(asked.turn)
            if turn is not None:
                return answered(key, turn, replayed=True)
            latch = await self.rt.latches.find("model", asked.model)
            if latch is not None:
                return refusal("breaker_open", 503, reason=latch.reason)
            said = await self.ask(asked, key, entry.generation)
            if said is None:
                await self.rt.latches.set("model", asked.model, "it failed", ttl=3600)
                return refusal("model_failed", 502)
            turn = Turn(asked.turn, entry.generation, asked.text, said["answer"], said["cost"])
            async with session.edit(entry.settlement("answered")) as chat:
                chat.add(turn, said)
            return answered(key, turn, replayed=False)

    async def ask(self, asked: Asked, key: str, generation: int) -> dict[str, Any] | None:
        """Return what the model says, or None if it fails."""
        body = {"turn": asked.turn, "session": key, "generation": generation}
        body |= {"model": asked.model, "text": asked.text}
        came = await self.model.post("", json=body)
        return came.json() if came.status_code == 200 else None

    async def healthz(self, request: Request) -> Response:
        """Say how it is."""
        return shown(self.rt.health())

    async def readyz(self, request: Request) -> Response:
        """Say whether it serves."""
        health = self.rt.health()
        return shown({"phase": health.phase}, 200 if health.ready else 503)

    async def sessions(self, request: Request) -> Response:
        """List the conversations."""
        return shown([found.key[0] for found in await self.rt.sessions.list(Chat)])

    async def session(self, request: Request) -> Response:
        """Show one conversation."""
        async with self.rt.session(Chat, request.path_params["key"]) as session:
            return shown(session.value)

    async def interrupted(self, request: Request) -> Response:
        """List what the rescues reported."""
        reports = await self.rt.history("holdfast/rescues").read()
        found = [report.data["entries"] for report in reports]
        return shown([["/".join(key), number] for part in found for key, number, _ in part])

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Say what Holdfast refuses, and end if nothing can be changed any more."""
        assert isinstance(error, HoldfastError)
        if self.rt.health().phase == "failed":
            self.stop()
            return refusal(error.code, 503, reason="this gateway was overtaken and stops")
        return refusal(error.code, error.status, reason=str(error))


def answered(key: str, turn: Turn, *, replayed: bool) -> Response:
    """Return a turn that is durable."""
    return shown({"session": key, "replayed": replayed, **msgspec.to_builtins(turn)})


def refusal(code: str, status: int, **more: object) -> Response:
    """Return why there is no turn."""
    return shown({"code": code, **more}, status)


def shown(value: object, status: int = 200) -> Response:
    """Return a value as JSON."""
    return JSONResponse(msgspec.to_builtins(value), status)


def application(gateway: Gateway) -> Starlette:
    """Make the application around a gateway."""
    routes = [
        Route("/v1/chat", gateway.chat, methods=["POST"]),
        Route("/healthz", gateway.healthz),
        Route("/readyz", gateway.readyz),
        Route("/sessions", gateway.sessions),
        Route("/sessions/{key}", gateway.session),
        Route("/interrupted", gateway.interrupted),
    ]
    return Starlette(
        routes=routes,
        exception_handlers={HoldfastError: gateway.refuse},
        lifespan=gateway.lifespan,
    )
