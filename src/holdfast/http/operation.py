"""
Operations: what the service offers, as a table.

The table drives everything that would otherwise be said twice: the routes, the right that is
needed, how query and body are read, the OpenAPI document, labels of metrics, names in the audit.
"""

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.errors import HoldfastError

if TYPE_CHECKING:
    from holdfast.http.call import Call

Handler = Callable[["Call"], Awaitable["Response | msgspec.Struct"]]
JSON: Final = "application/json"
_PARAMETER: Final = re.compile(r"{(\w+)(?::(\w+))?}")


class Query(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters behind the question mark; none here."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """
    Something the service does.

    Attributes:
        method, path: how it is asked for; a parameter stands in braces.
        name: by which programs and the audit call it.
        summary: a line for people.
        right: what the caller has to be allowed.
        handler: does it.
        query: shape of the parameters.
        body: shape of the body; None if there is none.
        text: media types of a body that is the text of one field, and that field.
        raw: the body is bytes; a handler finds them in `call.raw`.
        upload: media types of a body that is large; a handler finds it in `call.parcel`.
        target: returns what a change is of, for the audit; the parameters of the path if not given.
        answer: shape of the answer; None if it is no JSON.
        status: of the answer if it is no error.
        also: other statuses with the same answer.
        early: it is answered before the runtime is ready.
        stored: it reads what is durable and needs no recovery: answered once the store is open.
        begins: it begins something that takes room; refused where little of that is left.
        changes: it changes something: an idempotency key is taken and a note is written.
        again: answers with how things are, for a request whose answer was lost.
        errors: it may meet, besides those of every operation.
        tag: group in the document.
    """

    method: str
    path: str
    name: str
    summary: str
    handler: Handler
    right: Right | None = Right.READ
    query: type[Query] = Query
    body: Any = None
    text: tuple[tuple[str, ...], str] = ((), "")
    raw: bool = False
    upload: tuple[str, ...] = ()
    target: Callable[["Call"], Awaitable[str]] | None = None
    answer: Any = None
    status: int = 200
    also: tuple[int, ...] = ()
    early: bool = False
    stored: bool = False
    begins: bool = False
    changes: bool = False
    again: Handler | None = None
    errors: tuple[type[HoldfastError], ...] = ()
    tag: str = ""
    media_types: tuple[str, ...] = (JSON,)

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """Names of the parameters in the path, each with the kind it is bound to, if any."""
        return tuple(_PARAMETER.findall(self.path))

    @property
    def address(self) -> str:
        """The path without the kinds of its parameters."""
        return _PARAMETER.sub(r"{\1}", self.path)

    @property
    def takes(self) -> tuple[str, ...]:
        """Media types of a body that is not just bytes."""
        return self.upload or (*self.text[0], JSON)


def media_type_of(header: str | None) -> str:
    """Return what a Content-Type says, without its parameters."""
    return (header or "").partition(";")[0].strip().lower()[:100]
