"""
The catalogue of errors: every class by its code, for who reads problems and who writes them.

The service makes a problem of an error, the client an error of a problem; both look here, so a
program catches the same class on both sides of the wire.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache
from typing import Any

import holdfast.core.denial as denial
import holdfast.core.errors as errors
import holdfast.core.refusal as refusal
from holdfast.core.errors import HoldfastError, UnexpectedError


@cache
def catalogue() -> dict[str, type[HoldfastError]]:
    """Return every error there is by its code."""
    found: dict[str, type[HoldfastError]] = {}
    for module in (errors, refusal, denial):
        for one in vars(module).values():
            if isinstance(one, type) and issubclass(one, HoldfastError):
                found[one.code] = one
    return found


def error_of(code: str, detail: str, known: Mapping[str, Any]) -> HoldfastError:
    """
    Return an error as another process told it.

    Args:
        code: of the error; one that is not known here is an `UnexpectedError`.
        detail: its message.
        known: its fields, as far as they were told; the others are empty.
    """
    kind = catalogue().get(code, UnexpectedError)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        value = known.get(field.name, _empty(field))
        given[field.name] = _hashable(value) if isinstance(value, list) else value
    try:
        found = kind(**given)
    except (TypeError, ValueError):
        # Told by another release, whose fields are others.
        found = UnexpectedError(reason=code)
    found.args = (detail or found.args[0],)
    return found


def _empty(field: dataclasses.Field[Any]) -> Any:
    """Return what stands for a field that was not told."""
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    kind = str(getattr(field.type, "__name__", field.type))
    if "None" in kind:
        return None
    if kind.startswith("tuple"):
        return ()
    return 0 if kind in ("int", "float") else False if kind == "bool" else ""


def _hashable(value: Any) -> Any:
    """Return lists as the tuples they were before JSON."""
    return tuple(_hashable(one) for one in value) if isinstance(value, list) else value  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
