"""
Problems: errors as a client sees them (RFC 9457), made from the catalogue of `core.errors`.

One class, one code, one status, one page: the same value drives exceptions, exit codes and
answers. Nothing is told here that the error does not carry as a field.
"""

import logging
import math
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from starlette.responses import Response

from holdfast.core.denial import InvalidRequestError, MethodNotAllowedError, TooManyError
from holdfast.core.errors import HoldfastError, NotFoundError
from holdfast.core.refusal import NotReadyError
from holdfast.http.answers import moment

log = logging.getLogger("holdfast")
MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER: Final = 1.0
_RETRYABLE: Final = frozenset({429, 503})
# Fields that say where a store is, or what its database answered: not for callers.
_KEPT_BACK: Final = frozenset({"store", "report", "setting", "found", "needed"})


class Fault(msgspec.Struct, frozen=True):
    """
    One field that is not acceptable.

    Attributes:
        pointer: which, as a JSON pointer.
        message: what is wrong with it.
    """

    pointer: str
    message: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    An error as it is sent.

    Attributes:
        type: address of the page that explains it.
        title: the same for all errors of this type.
        status: of the answer.
        code: short and stable.
        detail: what happened this time.
        instance: id of the request, as it is in the logs.
        retryable: the same request may succeed later.
        retry_after: seconds to wait before.
        errors: which fields are not acceptable.
        context: fields of the error.
    """

    type: str
    title: str
    status: int
    code: str
    detail: str
    instance: str = ""
    retryable: bool = False
    retry_after: float | None = None
    errors: list[Fault] = []
    context: dict[str, Any] = {}


def title_of(kind: type[HoldfastError]) -> str:
    """Return what all errors of a class have in common, in words."""
    return (kind.__doc__ or kind.code).strip().partition("\n")[0].rstrip(".")


def problem_of(error: HoldfastError, root: str, request_id: str) -> Problem:
    """Return an error as it is sent."""
    waits = error.retry_after if isinstance(error, TooManyError) else RETRY_AFTER
    retryable = error.status in _RETRYABLE
    faults = [Fault(*one) for one in error.errors] if isinstance(error, InvalidRequestError) else []
    return Problem(
        type=f"{root}/v1/problems/{error.code}",
        title=title_of(type(error)),
        status=error.status,
        code=error.code,
        detail=_detail(error),
        instance=f"urn:request:{request_id}" if request_id else "",
        retryable=retryable,
        retry_after=waits if retryable else None,
        errors=faults,
        context=dict(_context(error)),
    )


def answer_problem(error: HoldfastError, root: str, request_id: str) -> Response:
    """Return the answer that says so."""
    problem = problem_of(error, root, request_id)
    headers = {"Cache-Control": "no-store"}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after)))
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="holdfast"'
    if isinstance(error, MethodNotAllowedError):
        headers["Allow"] = ", ".join(error.allowed)
    return Response(
        msgspec.json.encode(problem), problem.status, headers=headers, media_type=MEDIA_TYPE
    )


def _detail(error: HoldfastError) -> str:
    """Return what happened, without what only those may know who run the server."""
    if error.status >= 500 and not isinstance(error, NotReadyError):
        return title_of(type(error))
    return str(error)


def _context(error: HoldfastError) -> Iterator[tuple[str, Any]]:
    if error.status >= 500 and not isinstance(error, NotReadyError | NotFoundError):
        return
    for name, value in error.fields().items():
        if name not in _KEPT_BACK and name != "errors":
            yield (
                name,
                moment(value) if name.endswith("_at") and isinstance(value, float) else value,
            )
