"""
The application: the table of operations, turned into routes.

Every request goes one way: the host is checked, then where the request comes from, then who
asks, then query and body; then the operation runs; whatever is raised becomes a problem. What
changes something is noted in the audit and, under an idempotency key, done once.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import Receive, Scope, Send

from holdfast.core.denial import MethodNotAllowedError, RouteNotFoundError
from holdfast.core.errors import HoldfastError, UnexpectedError
from holdfast.core.recovery import Phase
from holdfast.core.refusal import NotReadyError
from holdfast.http import (
    access,
    artifacts,
    bulk,
    checkpoints,
    control,
    events,
    forks,
    guard,
    health,
    inflight,
    pipelines,
    plant,
    questions,
    runs,
    service,
    sessions,
    tokens,
    transfers,
)
from holdfast.http.address import Segments, released
from holdfast.http.answers import HEADERS, answer
from holdfast.http.call import Call
from holdfast.http.events import form_of
from holdfast.http.frames import SSE
from holdfast.http.metrics import METRICS, tell_answered, tell_replayed
from holdfast.http.openapi import answer_document
from holdfast.http.operation import Handler, Operation
from holdfast.http.problem import answer_problem
from holdfast.http.readiness import STARTED
from holdfast.http.site import STATE, Settings, Site, Source
from holdfast.http.stream import come_again
from holdfast.runtime.health import totals
from holdfast.runtime.opening import open as open_runtime
from holdfast.runtime.requests import Answer, Note

log = logging.getLogger("holdfast")
OPERATIONS: Final[tuple[Operation, ...]] = (
    *health.OPERATIONS,
    *tokens.OPERATIONS,
    *runs.OPERATIONS,
    *control.OPERATIONS,
    *bulk.OPERATIONS,
    *forks.OPERATIONS,
    *questions.OPERATIONS,
    *checkpoints.OPERATIONS,
    *artifacts.OPERATIONS,
    *sessions.OPERATIONS,
    *transfers.OPERATIONS,
    *inflight.OPERATIONS,
    *plant.OPERATIONS,
    *service.OPERATIONS,
    *events.OPERATIONS,
    METRICS,
    *pipelines.OPERATIONS,
)


async def openapi(call: Call) -> Response:
    """Return the OpenAPI document of this service."""
    return answer_document((*OPERATIONS, DOCUMENT), call.root)


DOCUMENT: Final = Operation(
    method="GET",
    path="/v1/openapi.json",
    name="openapi",
    summary="This document",
    handler=openapi,
    right=None,
    early=True,
    tag="service",
)
PHASE: Final = "Holdfast-Phase"
"""Header that says in which phase an answer was given, while that is neither ready nor draining."""
_REPLAYED: Final = {"Idempotency-Replayed": "true"}
_KEPT_HEADERS: Final = ("location", "etag")


def lifespan(
    url: str, **options: Any
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]:
    """
    Return a lifespan that opens a store beside an application: it listens while it comes back.

    Args:
        url: of the store; see `holdfast.open`.
        options: for `holdfast.open`.
    """

    @asynccontextmanager
    async def span(_: Any) -> AsyncGenerator[dict[str, Any]]:
        chosen: dict[str, Any] = {"wait_ready": False, **options}
        async with open_runtime(url, **chosen) as rt:
            yield {STATE: rt}

    return span


def app(source: Source | str = None, settings: Settings | None = None, **options: Any) -> Starlette:
    """
    Return the service as an ASGI application, to be mounted under any path or served by itself.

    Args:
        source: the runtime, something that returns it, or the URL of a store to open; None
            takes the one that `lifespan` put into the state of the application around it.
        settings: tokens, limits and hosts.
        options: for `holdfast.open`, with a URL.
    """
    url = source if isinstance(source, str) else None
    site = Site(None if isinstance(source, str) else source, settings or Settings())
    made = Starlette(
        routes=_routes(site),
        middleware=[Middleware(Segments)],
        lifespan=None if url is None else lifespan(url, **options),
    )
    made.state.site = site
    return made


def _routes(site: Site) -> list[BaseRoute]:
    """Return one route per path; what has none is a problem too, not a page."""
    by_path: dict[str, dict[str, Operation]] = {}
    for one in (*OPERATIONS, DOCUMENT):
        if one is METRICS and site.settings.metrics_public:
            one = msgspec.structs.replace(one, right=None)
        by_path.setdefault(one.path, {})[one.method] = one
    paths = [Route(path, Endpoint(site, by_path[path])) for path in by_path]
    return [*paths, Everything(site)]


class Endpoint:
    """One path, as an ASGI application."""

    def __init__(self, site: Site, operations: dict[str, Operation]) -> None:
        """Take the operations by method."""
        self._site = site
        self._operations = operations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive, send)
        send = guard.guarded(self._site, request, send)
        id = secrets.token_hex(8)
        root = str(scope.get("root_path", "")).rstrip("/")
        clock, refused = asyncio.get_running_loop().time, None
        began = clock()
        try:
            response = await self._answer(request, id)
        except HoldfastError as error:
            if error.status >= 500 and not isinstance(error, NotReadyError):
                log.warning("event=request_failed request=%s error=%r", id, error.code)
            refused = error
            response = (
                come_again()
                if isinstance(error, NotReadyError) and self._follows(request)
                else answer_problem(error, root, id)
            )
        except Exception as error:
            # The message may quote what is stored: its type and place have to do.
            log.exception("event=request_fault request=%s", id)
            response = answer_problem(UnexpectedError(reason=type(error).__name__), root, id)
        response.headers.setdefault("X-Request-Id", id)
        self._mark(scope, response)
        path = next(iter(self._operations.values())).path
        seconds = clock() - began
        tell_answered(self._site, request, path, response.status_code, seconds, refused)
        await response(scope, receive, send)

    def _follows(self, request: Request) -> bool:
        """Return whether somebody asks for server-sent events who can have them here."""
        one = self._operations.get(request.method)
        return one is not None and SSE in one.media_types and form_of(request) == SSE

    def _mark(self, scope: Scope, response: Response) -> None:
        """Say on every answer that what is read is not recovered yet, or will not be any more."""
        with suppress(NotReadyError):
            phase = self._site.runtime(scope).phase
            if phase.value not in STARTED:
                response.headers[PHASE] = phase.value

    async def _answer(self, request: Request, id: str) -> Response:
        guard.check_host(self._site, request)
        guard.check_size(request)
        allowed = tuple(sorted(self._operations))
        if (found := guard.preflight(self._site, request, allowed)) is not None:
            return found
        operation = self._operations.get(request.method)
        if operation is None and request.method == "HEAD":
            operation = self._operations.get("GET")
        if operation is None:
            raise MethodNotAllowedError(method=request.method, allowed=allowed)
        guard.check_origin(self._site, request)
        guard.check_media(request, operation)
        who = await access.identify(self._site, request, operation)
        with access.admitted(self._site, who):
            return await self._admitted(request, operation, who, id)

    async def _admitted(
        self, request: Request, operation: Operation, who: access.Principal, id: str
    ) -> Response:
        call = Call(self._site, request, operation, who, id)
        if not operation.early:
            check_started(call)
        if operation.changes:
            # Before the body is read: of what cannot be done, nothing is taken in.
            call.rt.requests.check()
        if operation.begins:
            call.rt.room.check()
        try:
            await call.load()
            if not operation.changes:
                return await run(operation.handler, call)
            return await _change(call)
        finally:
            call.close()


class Everything(BaseRoute):
    """What no path matches."""

    def __init__(self, site: Site) -> None:
        """Take the site."""
        self._site = site

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Take every request that is left."""
        return (Match.FULL, {}) if scope["type"] == "http" else (Match.NONE, {})

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer that there is nothing."""
        request = Request(scope)
        send = guard.guarded(self._site, request, send)
        root = str(scope.get("root_path", "")).rstrip("/")
        error: HoldfastError = RouteNotFoundError()
        try:
            guard.check_host(self._site, request)
            guard.check_size(request)
            guard.check_origin(self._site, request)
        except HoldfastError as refused:
            error = refused
        response = answer_problem(error, root, "")
        tell_answered(self._site, request, "other", response.status_code, 0.0, error)
        await response(scope, receive, send)


def check_started(call: Call) -> None:
    """
    Return if this can be asked for now.

    What reads durable state alone is answered as soon as the store is open, and goes on where
    nothing may be written any more; the answer says in which phase it was given.

    Raises:
        NotReadyError: it is not restored yet, or it failed.
    """
    health = call.rt.health()
    if health.phase.value in STARTED or (call.operation.stored and health.reads):
        return
    done, total = totals(health.progress)
    failed = health.phase is Phase.FAILED
    reason = "it has to be started anew" if failed else "/readyz says how far it is"
    raise NotReadyError(phase=health.phase.value, done=done, total=total, reason=reason)


async def run(handler: Handler, call: Call) -> Response:
    """Return what a handler answers, as a response."""
    found = await handler(call)
    if isinstance(found, Response):
        return found
    return answer(found, call.operation.status)


async def _change(call: Call) -> Response:
    """Run what changes something: noted, and once for all requests with its key."""
    operation, rt = call.operation, call.rt
    client = call.request.client
    note = Note(
        actor=call.who.name,
        action=operation.name,
        at=call.clock.wall(),
        target=await _target(call),
        address=client.host if client else "",
        reason=str(getattr(call.loaded, "reason", "") or ""),
        request=call.id,
    )
    key = call.header("idempotency-key")

    async def work() -> Answer:
        return _kept(await run(operation.handler, call))

    async def again() -> Answer:
        return _kept(await run(operation.again or operation.handler, call))

    if key is None:
        return _sent(await rt.requests.noted(note, work))
    scope = (call.who.name, operation.name, key)
    found, replayed = await rt.requests.once(scope, _fingerprint(call), note, work, again)
    if replayed:
        tell_replayed(call)
    return _sent(found, _REPLAYED if replayed else {})


async def _target(call: Call) -> str:
    """Return what a change is of."""
    if call.operation.target is not None:
        return await call.operation.target(call)
    return "/".join(released(str(one)) for one in call.request.path_params.values())


def _fingerprint(call: Call) -> bytes:
    """Return a hash of what is asked for; equal values have equal ones, whatever their order."""
    canonical = msgspec.json.encode(call.loaded, order="deterministic")
    if call.operation.raw:
        canonical = hashlib.sha256(call.raw).digest()
    elif call.operation.upload:
        canonical = call.parcel.digest
    asked = (call.request.method, call.request.url.path, call.request.url.query)
    return hashlib.sha256(repr(asked).encode() + canonical).digest()


def _kept(response: Response) -> Answer:
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    return Answer(response.status_code, bytes(response.body), headers)


def _sent(kept: Answer, more: dict[str, str] | None = None) -> Response:
    return Response(
        kept.body,
        kept.status,
        headers={**HEADERS, **kept.headers, **(more or {})},
        media_type="application/json" if kept.body else None,
    )
