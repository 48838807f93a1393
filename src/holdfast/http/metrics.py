"""
What the service tells of itself: requests, refusals, and the route that Prometheus scrapes.

A request is told by the path of its operation, never by the path it came with, so that no id is a
label. What a refusal was is told by the error, in one place, whoever raised it.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from holdfast.core.denial import (
    CrossSiteError,
    ForbiddenError,
    HostRefusedError,
    TooManyError,
    UnauthorizedError,
)
from holdfast.core.errors import HoldfastError, LimitError, MissingExtraError
from holdfast.http.answers import HEADERS
from holdfast.http.call import Call
from holdfast.http.operation import Operation
from holdfast.http.site import Site

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


async def metrics(call: Call) -> Response:
    """Return the metrics of the runtime in the format of Prometheus."""
    from holdfast.adapters.prometheus import CONTENT_TYPE, exposition

    return Response(await exposition(call.rt), headers=HEADERS, media_type=CONTENT_TYPE)


def tell_answered(
    site: Site,
    request: Request,
    route: str,
    status: int,
    seconds: float,
    refused: HoldfastError | None,
) -> None:
    """Tell whoever measures how a request was answered, and why not as it was asked."""
    try:
        telemetry = site.runtime(request.scope).telemetry
    except HoldfastError:
        return  # The runtime is not there yet; nobody could be told.
    if not telemetry.listens:
        return
    method = request.method if request.method in _METHODS else "other"
    labels = {"route": route, "method": method, "code": str(status)}
    telemetry.tell("http.answered", labels, {"seconds": seconds})
    match refused:
        case UnauthorizedError() | ForbiddenError():
            telemetry.tell("auth.failed", {"reason": refused.code})
        case HostRefusedError() | CrossSiteError():
            telemetry.tell("request.rejected", {"rule": refused.code})
        case TooManyError():
            telemetry.tell("limit.hit", {"limit": refused.what})
        case LimitError():
            telemetry.tell("limit.hit", {"limit": "size"})
        case _:
            return


def tell_replayed(call: Call) -> None:
    """Tell whoever measures that a request was answered as before."""
    call.rt.telemetry.tell("http.replayed")


METRICS: Final = Operation(
    method="GET",
    path="/metrics",
    name="metrics",
    summary="Metrics for Prometheus",
    handler=metrics,
    early=True,
    errors=(MissingExtraError,),
    media_types=("text/plain",),
    tag="health",
)
