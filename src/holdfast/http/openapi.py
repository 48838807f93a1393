"""
The OpenAPI document: the table of operations, in the words of OpenAPI 3.1.

Nothing is written twice: paths, parameters, bodies, answers and problems come from the same values
by which requests are routed and read.
"""

import inspect
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, Final

import msgspec
from starlette.responses import Response

from holdfast.core.denial import (
    CrossSiteError,
    CursorError,
    DiskLowError,
    ForbiddenError,
    HeadersTooLargeError,
    HostRefusedError,
    InvalidRequestError,
    KeyBusyError,
    KeyReusedError,
    MalformedError,
    MediaTypeError,
    SlowRequestError,
    TooManyError,
    UnauthorizedError,
    UrlTooLongError,
)
from holdfast.core.errors import (
    HoldfastError,
    LimitError,
    OutcomeUnknownError,
    PoisonedError,
    StoreFullError,
    UnexpectedError,
)
from holdfast.core.refusal import NotReadyError
from holdfast.http.answers import HEADERS
from holdfast.http.example import EXAMPLES, Example
from holdfast.http.operation import Operation
from holdfast.http.problem import MEDIA_TYPE, Problem, title_of

_REFS: Final = "#/components/schemas/{name}"
_EVERY: Final = (
    HeadersTooLargeError,
    HostRefusedError,
    InvalidRequestError,
    TooManyError,
    CrossSiteError,
    UnexpectedError,
    UrlTooLongError,
)
_SIGNED: Final = (UnauthorizedError, ForbiddenError)
_BODIED: Final = (MalformedError, MediaTypeError, LimitError, SlowRequestError)
_ONCE: Final = (KeyReusedError, KeyBusyError)
_COMMITTED: Final = (StoreFullError, OutcomeUnknownError, PoisonedError)
_KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same request with the same key is done once, and answered the same.",
    # Visible ASCII: what a header can carry.
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}


def document(operations: Sequence[Operation], root: str = "") -> dict[str, Any]:
    """
    Return the document of a table of operations.

    Args:
        operations: the table.
        root: path under which the service is mounted.
    """
    shapes: list[Any] = [
        shape
        for one in operations
        for shape in (one.body, one.answer, *_parameter_types(one))
        if shape is not None
    ]
    _, components = msgspec.json.schema_components([*shapes, Problem], ref_template=_REFS)
    paths: dict[str, Any] = {}
    for one in operations:
        paths.setdefault(one.address, {})[one.method.lower()] = _operation(one)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Holdfast",
            "version": version("holdfast"),
            "description": inspect.cleandoc(_ABOUT),
        },
        "servers": [{"url": root or "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_ABOUT: Final = """
    What long-lived processes know, kept across crashes: runs, events, questions, artifacts,
    sessions. Times are RFC 3339 in UTC, durations are seconds, ids are opaque. Fields of a
    request that are not named here are refused; fields of an answer that are not named here
    may come with a later version and are to be ignored.
    """


def _operation(one: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": one.name,
        "summary": one.summary,
        "description": inspect.getdoc(one.handler) or one.summary,
        "tags": [one.tag or "other"],
        "parameters": [*_in_path(one), *_in_query(one), *([_KEY] if one.changes else [])],
        "responses": {**_success(one), **_problems(one)},
    }
    if one.right is None:
        found["security"] = []
    else:
        found["x-right"] = one.right.value
    if one.raw:
        found["requestBody"] = {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string"}}},
        }
    elif one.upload:
        content = {media_type: {"schema": {"type": "string"}} for media_type in one.upload}
        found["requestBody"] = {"required": True, "content": content}
    elif one.body is not None:
        shape: dict[str, Any] = {"schema": _ref(one.body)}
        if (body := _example(one).body) is not None:
            shape["example"] = body
        texts = {text: {"schema": {"type": "string"}} for text in one.text[0]}
        bodies = {"application/json": shape, **texts}
        found["requestBody"] = {"required": True, "content": bodies}
    return found


def _example(one: Operation) -> Example:
    return EXAMPLES.get(one.name, Example())


def _in_path(one: Operation) -> Iterable[dict[str, Any]]:
    for name, kind in one.parameters:
        schema: dict[str, Any] = {"type": "string", "minLength": 1}
        if kind == "int":
            schema = {"type": "integer", "minimum": 0}
        found: dict[str, Any] = {"name": name, "in": "path", "required": True, "schema": schema}
        if (value := _example(one).params.get(name)) is not None:
            found["example"] = int(value) if kind == "int" else value
        yield found


def _in_query(one: Operation) -> Iterable[dict[str, Any]]:
    fields = msgspec.structs.fields(one.query)
    schemas, _ = msgspec.json.schema_components(_parameter_types(one), ref_template=_REFS)
    for field, schema in zip(fields, schemas, strict=True):
        found: dict[str, Any] = {
            "name": field.encode_name,
            "in": "query",
            "required": field.required,
            "schema": _without_null(dict(schema)),
        }
        if (value := _example(one).query.get(field.encode_name)) is not None:
            found["example"] = value
        yield found


def _parameter_types(one: Operation) -> Iterable[Any]:
    return (field.type for field in msgspec.structs.fields(one.query))


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter: one that is not given is absent, never null."""
    rest = [one for one in schema.get("anyOf", []) if one != {"type": "null"}]
    return dict(rest[0]) if len(rest) == 1 else schema


def _success(one: Operation) -> dict[str, Any]:
    content = {}
    for media_type in one.media_types:
        content[media_type] = {"schema": _schema_as(one, media_type)}
    found: dict[str, Any] = {"description": one.summary}
    if one.status not in (204, 304):
        found["content"] = content
    return {str(status): found for status in (one.status, *one.also)}


def _schema_as(one: Operation, media_type: str) -> Any:
    """Return the schema of an answer: its shape as JSON, anything as other JSON, or text."""
    if media_type == "application/json" and one.answer is not None:
        return _ref(one.answer)
    return {} if media_type.endswith(("/json", "+json")) else {"type": "string"}


def _problems(one: Operation) -> dict[str, Any]:
    kinds: list[type[HoldfastError]] = [*_EVERY, *one.errors]
    if one.right is not None:
        kinds += _SIGNED
    if not one.early:
        kinds.append(NotReadyError)
    if one.body is not None or one.raw or one.upload:
        kinds += _BODIED
    if one.method != "GET":
        kinds.append(MediaTypeError)
    if one.changes:
        kinds += (*_ONCE, *_COMMITTED)
    if one.begins:
        kinds.append(DiskLowError)
    if {"cursor", "after"} & {field.name for field in msgspec.structs.fields(one.query)}:
        kinds.append(CursorError)
    by_status: dict[str, list[str]] = {}
    for kind in kinds:
        by_status.setdefault(str(kind.status), []).append(f"`{kind.code}`: {title_of(kind)}")
    return {
        status: {
            "description": "; ".join(sorted(set(words))),
            "content": {MEDIA_TYPE: {"schema": _ref(Problem)}},
        }
        for status, words in by_status.items()
    }


def _ref(shape: Any) -> Any:
    (schema,), _ = msgspec.json.schema_components([shape], ref_template=_REFS)
    return schema


def answer_document(operations: Sequence[Operation], root: str) -> Response:
    """Return the answer that is the document."""
    return Response(
        msgspec.json.encode(document(operations, root)),
        headers=HEADERS,
        media_type="application/json",
    )
