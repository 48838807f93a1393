"""
What is checked of a request before anybody looks at who asks.

Loopback is no wall: any page in a browser on the same machine can send requests there, and a
name that is rebound to 127.0.0.1 makes them same-origin. So every request has to name a host
that is served here, whatever its method and path; and what changes something must not come from
another site.
"""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from holdfast.core.denial import (
    CrossSiteError,
    HeadersTooLargeError,
    HostRefusedError,
    MediaTypeError,
    UrlTooLongError,
)
from holdfast.http.operation import Operation, media_type_of
from holdfast.http.site import Site

HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers of every answer that does not set them itself."""
URL_MAX: Final = 8_192
HEADERS_MAX: Final = 100
_ASKED_FOR: Final = "authorization, content-type, idempotency-key, if-match, last-event-id"
_SHOWN: Final = "etag, location, retry-after, idempotency-replayed, x-request-id"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_OURS: Final = frozenset({"same-origin", "none"})


def check_host(site: Site, request: Request) -> None:
    """
    Return if the host that a request names is served here.

    Raises:
        HostRefusedError: it is not.
    """
    host = request.headers.get("host", "")
    name = (host if host.endswith("]") else host.rpartition(":")[0] or host).lower()
    allowed = site.settings.hosts
    if "*" in allowed or name in _LOOPBACK or name in {one.lower() for one in allowed}:
        return
    raise HostRefusedError(host=host[:200])


def check_origin(site: Site, request: Request) -> None:
    """
    Return if a browser does not send this on behalf of another site.

    Raises:
        CrossSiteError: it does.
    """
    fetch_site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if origin is not None and origin in site.settings.origins:
        return
    if fetch_site is not None and fetch_site not in _OURS:
        if request.method in _SAFE and request.headers.get("sec-fetch-mode") == "navigate":
            return
        raise CrossSiteError(reason=f"a page of another site sends this ({fetch_site})")
    if fetch_site is not None or origin is None:
        return
    if origin.partition("://")[2].lower() != request.headers.get("host", "").lower():
        raise CrossSiteError(reason="its Origin is not the host it is sent to")


def check_size(request: Request) -> None:
    """
    Return if address and headers are no larger than anybody needs.

    Raises:
        UrlTooLongError, HeadersTooLargeError: they are.
    """
    size = len(request.scope.get("raw_path") or b"") + len(request.scope["query_string"])
    if size > URL_MAX:
        raise UrlTooLongError(size=size, limit=URL_MAX)
    if len(request.scope["headers"]) > HEADERS_MAX:
        raise HeadersTooLargeError(size=len(request.scope["headers"]), limit=HEADERS_MAX)


def check_media(request: Request, operation: Operation) -> None:
    """
    Return if a body that comes with a change can come from no form.

    Raises:
        MediaTypeError: it is something else than JSON where JSON is taken.
    """
    if request.method in _SAFE or operation.raw:
        return
    found = request.headers.get("content-type", "" if operation.upload else None)
    if found is not None and media_type_of(found) not in operation.takes:
        raise MediaTypeError(found=media_type_of(found), needed=" or ".join(operation.takes))


def preflight(site: Site, request: Request, methods: tuple[str, ...]) -> Response | None:
    """Return the answer to a browser that asks for another origin; None if nobody allowed it."""
    origin = request.headers.get("origin")
    asks = "access-control-request-method" in request.headers
    if request.method != "OPTIONS" or not asks or origin not in site.settings.origins:
        return None
    return Response(
        None,
        204,
        headers={
            "Access-Control-Allow-Methods": ", ".join(methods),
            "Access-Control-Allow-Headers": _ASKED_FOR,
            "Access-Control-Max-Age": "600",
        },
    )


def guarded(site: Site, request: Request, send: Send) -> Send:
    """Return what sends an answer with the headers that every answer has."""
    more = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
    more.append((b"cache-control", b"no-store"))
    origin = request.headers.get("origin")
    if site.settings.origins:
        more.append((b"vary", b"Origin"))
    if origin is not None and origin in site.settings.origins:
        more.append((b"access-control-allow-origin", origin.encode("latin-1")))
        more.append((b"access-control-expose-headers", _SHOWN.encode()))

    async def sending(message: Any) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            added = [one for one in more if one[0] not in there]
            message = {**message, "headers": [*message["headers"], *added]}
        await send(message)

    return sending
