"""
Functions that can be run: found by name, their arguments and results stored exactly.

A function is known under its module and name, or under a name it was given, with a version that
is captured when a run begins. Nothing is imported or executed because the store names it: what
is not registered is not there.

Annotations say how values are stored (`runtime.exact`); without one, a value has to be plain.

Invariant: what is handed to a function after a restart is equal to what was handed in.
"""

import inspect
import typing
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, Protocol

import msgspec

from holdfast.core import codec
from holdfast.core.denial import FunctionNotFoundError
from holdfast.core.errors import HoldfastError, InvalidValueError
from holdfast.core.journal import Failure
from holdfast.core.key import check_word
from holdfast.core.redaction import Redactor
from holdfast.core.unit import PutBlob, Write
from holdfast.runtime.exact import Exact
from holdfast.runtime.names import naming

_KNOWN_MAX: Final = 10_000
INLINE_BYTES_MAX: Final = 64 * 1024


class Form(Protocol):
    """How values of one annotation are stored."""

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a value, or refuse it."""
        ...

    def decode(self, encoded: bytes) -> Any:
        """Return the value of stored bytes."""
        ...


class Plain:
    """Values without annotation."""

    def encode(self, value: object) -> bytes:
        """Return the bytes of a plain value."""
        return codec.encode(value, "value")

    def decode(self, encoded: bytes) -> Any:
        """Return the value of stored bytes."""
        return codec.decode(encoded)


PLAIN: Final = Plain()
# By code and annotation, since functions are often made anew for every call; bounded.
_results: dict[Any, Form] = {}


def result_form(fn: Callable[..., Any]) -> Form:
    """Return how the results of a function are stored."""
    annotations = getattr(fn, "__annotations__", None)
    if not annotations or "return" not in annotations:
        return PLAIN
    # The same code may be annotated otherwise each time: a function that makes functions.
    key = (getattr(fn, "__code__", fn), annotations["return"])
    try:
        form = _results.get(key)
    except TypeError:  # An annotation that cannot be hashed.
        return form_of(_hints(fn).get("return", Any), "result")
    if form is None:
        form = form_of(_hints(fn).get("return", Any), "result")
        if len(_results) < _KNOWN_MAX:
            _results[key] = form
    return form


def form_of(annotation: Any, what: str) -> Form:
    """Return how values of an annotation are stored; plain if it says nothing storable."""
    if annotation in (Any, object, inspect.Parameter.empty):
        return PLAIN
    try:
        return Exact(annotation, what)
    except InvalidValueError:
        return PLAIN


class Function:
    """A function that can be run."""

    def __init__(self, fn: Callable[..., Any], name: str, version: str) -> None:
        """Take the function and how it is called in the store."""
        self.fn = fn
        self.name = check_word("function name", name)
        self.version = version
        self.result = result_form(fn)

    @cached_property
    def _forms(self) -> tuple[list[Form], Form]:
        """How its arguments are stored, and those behind the last one it names."""
        hints = _hints(self.fn)
        forms: list[Form] = []
        rest: Form = PLAIN
        for parameter in list(_parameters(self.fn))[1:]:
            form = form_of(hints.get(parameter.name, Any), parameter.name)
            if parameter.kind is parameter.VAR_POSITIONAL:
                rest = form
            elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                forms.append(form)
        return forms, rest

    def encode_args(self, args: tuple[Any, ...]) -> list[msgspec.Raw]:
        """
        Return arguments as they are stored.

        Raises:
            EncodeError: one of them would not come back equal.
        """
        return [msgspec.Raw(self._form(place).encode(value)) for place, value in enumerate(args)]

    def decode_args(self, args: list[msgspec.Raw]) -> list[Any]:
        """
        Return arguments as they were.

        Raises:
            DecodeError: the annotations changed, and they do not fit any more.
        """
        return [self._form(place).decode(bytes(value)) for place, value in enumerate(args)]

    def _form(self, place: int) -> Form:
        forms, rest = self._forms
        return forms[place] if place < len(forms) else rest


class Functions:
    """The functions one runtime knows."""

    def __init__(self) -> None:
        """Know none."""
        self._known: dict[str, Function] = {}

    def add(self, fn: Callable[..., Any], name: str | None = None, version: str = "") -> Function:
        """
        Know a function from now on; the same one again changes nothing.

        Raises:
            InvalidValueError: the name belongs to another function.
        """
        called = name_of(fn) if name is None else name
        before = self._known.get(called)
        if before is not None and (before.fn == fn or _same_code(before.fn, fn)):
            if name is None and not version:
                return before
            if before.fn == fn and before.version == version:
                return before
        elif before is not None:
            raise InvalidValueError(what=called, reason="is the name of another function")
        function = self._known[called] = Function(fn, called, version)
        return function

    def of(self, fn: Callable[..., Any]) -> Function:
        """Return what is known of a function, which is known from now on."""
        for function in self._known.values():
            if function.fn == fn:  # Bound methods are made anew each time, and are equal.
                return function
        return self.add(fn)

    def named(self, name: str, args: tuple[Any, ...]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """
        Return a function by its name, with plain arguments as its annotations say.

        Raises:
            FunctionNotFoundError: none of this name is registered here.
            DecodeError: an argument does not fit its annotation.
        """
        function = self._known.get(name)
        if function is None:
            raise FunctionNotFoundError(function=name, known=self.names())
        raws = [msgspec.Raw(codec.encode(value, "argument")) for value in args]
        return function.fn, tuple(function.decode_args(raws))

    def names(self) -> tuple[str, ...]:
        """Return the names of all functions."""
        return tuple(sorted(self._known))

    def find(self, name: str) -> Function | None:
        """Return a function by its name, or None."""
        return self._known.get(name)


def name_of(fn: Callable[..., Any]) -> str:
    """Return how a function is called in the store unless it is given a name."""
    name = getattr(fn, "__qualname__", type(fn).__qualname__)
    return f"{getattr(fn, '__module__', '')}.{name}"


def _same_code(one: Any, two: Any) -> bool:
    code = getattr(one, "__code__", None)
    return code is not None and code is getattr(two, "__code__", None)


def _parameters(fn: Callable[..., Any]) -> typing.Iterable[inspect.Parameter]:
    try:
        return inspect.signature(fn).parameters.values()
    except (TypeError, ValueError):
        return ()


def _hints(fn: Callable[..., Any]) -> dict[str, Any]:
    """Return annotations as types; one that names what is not there says nothing."""
    try:
        return typing.get_type_hints(fn)
    except Exception:
        return {}


def failure_of(error: BaseException, redaction: Redactor) -> Failure:
    """Return an error as it is kept; cut off behind the redaction, which needs the whole."""
    code = error.code if isinstance(error, HoldfastError) else ""
    return Failure(type(error).__name__, redaction.text(_words(error))[:10_000], code)


def _words(error: BaseException) -> str:
    """Return what an error says as text that can be stored, whatever it is."""
    try:
        words = str(error)
    except Exception:
        return ""
    return words.encode(errors="backslashreplace").decode()


def placed(run_id: str, encoded: bytes) -> tuple[bytes, bytes, tuple[Write, ...]]:
    """Return an encoded value for an event of a run: inline, or as a blob with its writes."""
    if len(encoded) <= INLINE_BYTES_MAX:
        return encoded, b"", ()
    blob = PutBlob.of(encoded)
    return b"\xc0", blob.digest, (blob, *naming(run_id, blob.digest))
