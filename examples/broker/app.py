"""
The broker: a Starlette application that decides by rules, with its memory in Holdfast.

    POST /v1/request             decide {session, id, sources}; repeated, it is answered as before
    GET  /v1/sessions            how the working memory of each session is kept
    GET  /v1/sessions/{session}  what a session has seen
    GET  /healthz                that it lives; always 200
    GET  /readyz                 200 once every session is back, 503 with how far it is before

Each session is a working memory of its own. A request is answered when it is in the store, with
the tier by which it is kept; its answer can be had again until three more snapshots of the
session were made. The socket listens before anything is restored; until all sessions are back,
whatever touches one is answered 503. An error is a code, without a word of the request.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import holdfast
from examples.broker.policy import NAME, decide, engine, exposure
from holdfast import DURABLE, HoldfastError, Runtime
from holdfast.core.engine import KIND
from holdfast.runtime.engines.attached import AttachedEngine
from holdfast.runtime.engines.live import Answer
from holdfast.runtime.engines.snapshot import Cadence

CADENCE: Final = Cadence(requests=10)
TIER: Final = DURABLE
PAGE: Final = 1_000
Word = Annotated[str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[ -~]*$")]


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """
    A request.

    Attributes:
        session: whose exposure counts.
        id: under which it is done once only, drawn by the client.
        sources: what is to be read.
    """

    session: Word
    id: Word
    sources: Annotated[list[Word], msgspec.Meta(min_length=1, max_length=50)]


class Coming(NamedTuple):
    """
    How far a broker has come that is not ready.

    Attributes:
        phase: of the runtime; `restoring` also while sessions come back.
        reason: why it is not ready.
        progress: things done and to do, by part.
    """

    phase: str
    reason: str
    progress: dict[str, tuple[int, int]]


class Broker:
    """The broker; it listens first, comes back, and serves when it has every session."""

    rt: Runtime

    def __init__(
        self,
        url: str,
        stop: Callable[[], None],
        step: Callable[[int], Awaitable[None]] | None = None,
        **options: Any,
    ) -> None:
        """
        Take what it needs.

        Args:
            url: the store.
            stop: ends this process in good order.
            step: awaited before a session is restored, with how many are; for tests.
            options: for `holdfast.open`.
        """
        self.stop = stop
        self._opening = holdfast.open(url, wait_ready=False, **options)
        self._step = step
        self._policy: AttachedEngine | None = None
        self._failure = ""
        self._sessions = (0, 0)

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        """Come back beside the listening socket; close the store behind the last request."""
        async with self._opening as self.rt:
            coming = asyncio.create_task(self._come_back())
            yield
            coming.cancel()
            with suppress(asyncio.CancelledError):
                await coming

    async def _come_back(self) -> None:
        try:
            await self.rt.ready()
            policy = await self.rt.engines.attach(NAME, engine(), tier=TIER, cadence=CADENCE)
            await self._restore(policy)
        except HoldfastError as error:
            self._failure = error.code
        else:
            self._policy = policy

    async def _restore(self, policy: AttachedEngine) -> None:
        """Load every session, so that none is restored while somebody waits for an answer."""
        # In one process they fit; a broker of very many would restore those used last.
        known = await self.rt.records.list(KIND, prefix=(NAME,), limit=PAGE)
        for done, record in enumerate(known):
            self._sessions = (done, len(known))
            if self._step is not None:
                await self._step(done)
            await policy.load(record.key[1:])

    def coming(self) -> Coming | None:
        """Return how far it has come, or None if it serves."""
        health = self.rt.health()
        progress = {**health.progress, "sessions": self._sessions}
        if not health.ready:
            closed = [gate.reason for gate in health.gates if gate.needed and not gate.ok]
            reason = health.reason or "; ".join(closed) or f"the store is {health.phase}"
            return Coming(health.phase, reason, progress)
        if self._failure:
            return Coming("failed", self._failure, progress)
        if self._policy is None:
            return Coming("restoring", "sessions are coming back", progress)
        return None

    def policy(self) -> AttachedEngine:
        """
        Return the engine with all sessions.

        Raises:
            ComingError: it is not ready.
        """
        coming = self.coming()
        if coming is not None or self._policy is None:
            raise ComingError(coming)
        return self._policy

    async def request(self, request: Request) -> Response:
        """Decide a request."""
        policy = self.policy()
        asked = msgspec.json.decode(await request.body(), type=Asked)
        work = (decide, asked.id, asked.sources)
        answer = await policy.request(*work, key=asked.session, id=asked.id)
        return shown(answered(asked.session, asked.id, answer))

    async def sessions(self, request: Request) -> Response:
        """Say how each session is kept."""
        return shown({memory.key[0]: memory for memory in self.policy().memories()})

    async def session(self, request: Request) -> Response:
        """Show what a session has seen."""
        policy, session = self.policy(), request.path_params["session"]
        if await self.rt.records.find(KIND, (NAME, session)) is None:
            return refusal("session_not_found", 404)
        answer = await policy.request(exposure, key=session)
        return shown({**answer.value, "facts": answer.facts, "tier": answer.tier})

    async def healthz(self, request: Request) -> Response:
        """Say that it lives, and how."""
        health = self.rt.health()
        return shown({"phase": health.phase, "degraded": health.degraded})

    async def readyz(self, request: Request) -> Response:
        """Say whether it serves, or how far it has come."""
        coming = self.coming()
        return shown({"phase": "ready"}) if coming is None else shown(coming._asdict(), 503)

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answer an error by its code; end if nothing can be changed any more."""
        match error:
            case ComingError():
                more = {} if error.coming is None else error.coming._asdict()
                return refusal("not_ready", 503, **more)
            case msgspec.ValidationError() | msgspec.DecodeError():
                return refusal("invalid_request", 422)
            case HTTPException():
                return refusal("http", error.status_code)
            case HoldfastError():
                if self.rt.health().phase == "failed":
                    self.stop()
                return refusal(error.code, error.status)
            case _:
                return refusal("internal", 500)


class ComingError(Exception):
    """The broker is not ready yet, or not any more."""

    def __init__(self, coming: Coming | None) -> None:
        """Take how far it has come."""
        super().__init__("not ready")
        self.coming = coming


def answered(session: str, id: str, answer: Answer) -> dict[str, Any]:
    """Return what a client is told of a request that was decided."""
    return {
        "session": session,
        "id": id,
        **answer.value,
        "facts": answer.facts,
        "tier": answer.tier,
        "sequence": answer.sequence,
        "repeated": answer.repeated,
    }


def refusal(code: str, status: int, **more: object) -> Response:
    """Return why there is no decision."""
    return shown({"code": code, **more}, status)


def shown(value: object, status: int = 200) -> Response:
    """Return a value as JSON."""
    return JSONResponse(msgspec.to_builtins(value), status)


def application(broker: Broker) -> Starlette:
    """Make the application around a broker."""
    routes = [
        Route("/v1/request", broker.request, methods=["POST"]),
        Route("/v1/sessions", broker.sessions),
        Route("/v1/sessions/{session}", broker.session),
        Route("/healthz", broker.healthz),
        Route("/readyz", broker.readyz),
    ]
    refused = (ComingError, msgspec.MsgspecError, HTTPException, HoldfastError, Exception)
    return Starlette(
        routes=routes,
        exception_handlers=dict.fromkeys(refused, broker.refuse),
        lifespan=broker.lifespan,
    )
