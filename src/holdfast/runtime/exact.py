"""
Values of a declared type on their way to bytes and back: equal and of the same type, or refused.

A field of a state class says by its annotation what it holds. Whatever msgspec can write and
read back under that annotation may be stored, dataclasses and Struct classes included; other
types are registered with a function to plain values and one back, and pydantic models need no
registration. What is accepted was read back once before it is accepted, so that nothing is
stored that cannot be loaded.

Scalars take a short way: their type alone says that they come back equal.

Invariant: `decode(encode(value))` is equal to `value`, part by part and type by type.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DecodeError, EncodeError, InvalidValueError, LimitError

T = TypeVar("T")
_SCALARS: Final[frozenset[type]] = frozenset({str, int, float, bool, type(None), bytes})
_UNSORTED: Final = frozenset({set, frozenset})
# What one cannot tell from an annotation: what a program registered, once, at its start.
_registered: dict[type[Any], tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}


def register(kind: type[T], encode: Callable[[T], Any], decode: Callable[[Any], T]) -> None:
    """
    Let fields of state classes hold values of a type that Holdfast does not know.

    Args:
        kind: the type; its subclasses are types of their own.
        encode: returns a plain value (None, bool, int, float, str, bytes, list, dict).
        decode: returns an equal value again.

    Raises:
        InvalidValueError: the type is registered with other functions.
    """
    if _registered.setdefault(kind, (encode, decode)) != (encode, decode):
        raise InvalidValueError(what=kind.__name__, reason="is registered already")


class Exact:
    """How the values of one annotation are stored."""

    def __init__(self, declared: Any, what: str) -> None:
        """
        Take the annotation and how error messages call the field.

        Raises:
            InvalidValueError: values of this annotation cannot be read back.
        """
        self._what = what
        self._scalars = _scalars(declared)
        self._plain = _is_plain(declared)
        self._widens = float in self._scalars and int not in self._scalars
        order: Any = "deterministic" if _names(declared) & _UNSORTED else None
        self._encoder = msgspec.msgpack.Encoder(enc_hook=_encode, order=order)
        try:
            with codec.LEARNING:
                self._decoder = msgspec.msgpack.Decoder(declared, dec_hook=_decode)
        except (TypeError, NameError) as error:
            raise InvalidValueError(what=what, reason=f"cannot be stored: {error}") from error

    def settled(self, value: object) -> object:
        """Return the value as it is kept: a whole number where a float is declared is a float."""
        if self._widens and type(value) is int and float(value) == value:
            return float(value)
        return value

    def encode(self, value: object) -> bytes:
        """
        Return the bytes of a value.

        Raises:
            EncodeError: it would not come back equal; names the field, never the content.
            LimitError: it is too large.
        """
        if type(value) in self._scalars:
            return codec.encode(value, self._what)
        if self._plain:
            encoded = codec.encode(value, self._what)
            again = codec.encode(self._read_back(encoded), self._what)
            if again != encoded:
                raise self._refusal(value)
            return encoded
        encoded = self._write(value)
        found = self._read_back(encoded)
        if self._write(found) != encoded or not _same(value, found):
            raise self._refusal(value)
        return encoded

    def decode(self, encoded: bytes) -> Any:
        """
        Return the value of stored bytes.

        Raises:
            DecodeError: they hold no value of the declared type.
        """
        try:
            return self._decoder.decode(encoded)
        except Exception as error:  # A registered function may raise anything.
            raise DecodeError(what=self._what, reason="is not of the declared type") from error

    def _write(self, value: object) -> bytes:
        try:
            encoded = self._encoder.encode(value)
        except Exception as error:  # A registered function may raise anything.
            raise self._refusal(value) from error
        if len(encoded) > codec.PAYLOAD_BYTES_MAX:
            limit = codec.PAYLOAD_BYTES_MAX
            raise LimitError(what=f"{self._what} in bytes", size=len(encoded), limit=limit)
        return encoded

    def _read_back(self, encoded: bytes) -> Any:
        try:
            return self.decode(encoded)
        except DecodeError as error:
            reason = "holds a value that is not of the declared type"
            raise EncodeError(path=self._what, reason=reason) from error

    def _refusal(self, value: object) -> EncodeError:
        return EncodeError(
            path=self._what,
            reason=f"{type(value).__qualname__} would not come back equal; see holdfast.register",
        )


def _encode(value: Any) -> Any:
    """Return a value msgspec knows for one that it does not know."""
    kind = cast(Any, type(value))
    if kind in _registered:
        return _registered[kind][0](value)
    if _is_model(kind):
        return value.model_dump(mode="json")
    raise NotImplementedError(kind.__qualname__)


def _decode(kind: type[Any], value: Any) -> Any:
    if kind in _registered:
        return _registered[kind][1](value)
    if _is_model(kind):
        return cast(Any, kind).model_validate(value)
    raise NotImplementedError(kind.__qualname__)


def _is_model(kind: type[Any]) -> bool:
    """Tell a pydantic model by what it can do; pydantic itself is not needed here."""
    return hasattr(kind, "model_validate") and hasattr(kind, "model_dump")


def _names(declared: Any) -> frozenset[Any]:
    """Return every type that an annotation names, at any depth."""
    origin = typing.get_origin(declared) or declared
    found: frozenset[Any] = frozenset({origin} if isinstance(origin, type) else ())
    for part in typing.get_args(declared):
        found |= _names(part)
    return found


def _scalars(declared: Any) -> frozenset[type]:
    """Return the scalar types that an annotation allows at its top."""
    if declared in (Any, object):
        return _SCALARS
    if declared is None:
        return frozenset({type(None)})
    if declared in _SCALARS:
        return frozenset({cast(type, declared)})
    if typing.get_origin(declared) in (types.UnionType, typing.Union):
        found: frozenset[type] = frozenset()
        for part in typing.get_args(declared):
            found |= _scalars(part)
        return found
    return frozenset()


def _is_plain(declared: Any) -> bool:
    """Return whether an annotation allows plain values only, told by their types alone."""
    if declared in (Any, object, None) or declared in _SCALARS:
        return True
    origin = typing.get_origin(declared) or declared
    if origin in (list, types.UnionType, typing.Union):
        return all(map(_is_plain, typing.get_args(declared)))
    if origin is dict:
        names = typing.get_args(declared)
        return not names or (names[0] is str and _is_plain(names[1]))
    return False


def _same(one: Any, two: Any) -> bool:
    """Return whether two values are equal, part by part and type by type."""
    kind = cast(Any, type(one))
    if kind is not type(two):
        return False
    if kind is float:
        return one == two or (math.isnan(one) and math.isnan(two))
    if kind in (list, tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    if kind is dict:
        return _same_items(list(one.items()), two)
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return all(_same(getattr(one, name), getattr(two, name)) for name in names)
    if issubclass(kind, msgspec.Struct):
        return all(_same(getattr(one, n), getattr(two, n)) for n in kind.__struct_fields__)
    return bool(one == two)


def _same_items(items: list[tuple[Any, Any]], two: dict[Any, Any]) -> bool:
    kinds: dict[Any, Any] = {key: type(key) for key in two}
    return len(items) == len(two) and all(
        kinds.get(key) is type(key) and _same(value, two[key]) for key, value in items
    )
