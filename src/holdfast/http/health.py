"""
Probes: whether to restart it, whether it came up, whether to send it work.

`/livez` asks nothing and nobody: a loop that answers turns. The others say what the runtime says
of itself. They need no token; who comes with one is told more.
"""

from importlib.metadata import version
from typing import Any, Final

from starlette.responses import Response

from holdfast.core.denial import InvalidRequestError
from holdfast.http import access
from holdfast.http.answers import answer
from holdfast.http.call import Call
from holdfast.http.operation import Operation, Query
from holdfast.http.readiness import Condition, Readiness, readiness


class ReadyQuery(Query, frozen=True):
    """
    Which gate is asked for.

    Attributes:
        gate: `accept` for new work, `read` for looking, or the name of one; all if not given.
    """

    gate: str = ""


async def livez(_: Call) -> Response:
    """Answer as long as the loop turns."""
    return answer({"status": "alive"})


async def startupz(call: Call) -> Response:
    """Say whether it came up."""
    found = await _look(call)
    return _probed(found, ok=found.started)


async def readyz(call: Call) -> Response:
    """Say whether work may be sent; one gate of it if asked for."""
    gate = call.query(ReadyQuery).gate
    found = await _look(call)
    is_open = found.is_open(gate)
    if is_open is None and found.gates:
        raise InvalidRequestError(errors=(("/gate", "names no gate"),))
    return _probed(found, ok=bool(is_open))


async def healthz(call: Call) -> Response:
    """Say everything, in the form of health+json; answers 200 as long as it lives."""
    found = await _look(call)
    body: dict[str, Any] = {
        "status": _status_of(found),
        "output": found.reason,
        "phase": found.status,
        "progress": found.progress,
        "checks": {one.name: [_check(one)] for one in found.gates},
    }
    if await access.is_known(call.site, call.request):
        body["version"] = version("holdfast")
    response = answer(body)
    response.headers["Content-Type"] = "application/health+json"
    return response


async def _look(call: Call) -> Readiness:
    whole = await access.is_known(call.site, call.request)
    return readiness(call.site, call.request.scope, whole=whole)


def _probed(found: Readiness, *, ok: bool) -> Response:
    return answer(found, 200 if ok else 503, {} if ok else {"Retry-After": "1"})


def _status_of(found: Readiness) -> str:
    if not found.accepts:
        return "fail"
    return "pass" if all(one.ok for one in found.gates) else "warn"


def _check(one: Condition) -> dict[str, Any]:
    status = "pass" if one.ok else "fail" if one.needed else "warn"
    return {"status": status, "time": one.since, "output": one.reason}


def _probe(
    name: str,
    summary: str,
    handler: Any,
    query: type[Query] = Query,
    answer: Any = Readiness,
    media_type: str = "application/json",
) -> Operation:
    return Operation(
        method="GET",
        path=f"/{name}",
        name=name,
        summary=summary,
        handler=handler,
        query=query,
        right=None,
        early=True,
        answer=answer,
        also=(503,) if answer is Readiness else (),
        media_types=(media_type,),
        tag="health",
    )


OPERATIONS: Final = (
    _probe("livez", "Whether to restart it", livez, answer=None),
    _probe("startupz", "Whether it came up", startupz),
    _probe("readyz", "Whether to send it work", readyz, ReadyQuery),
    _probe(
        "healthz", "All there is to say", healthz, answer=None, media_type="application/health+json"
    ),
)
