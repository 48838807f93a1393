"""
Values of CLIPS on their way into a journal and back, exactly or not at all.

    an integer, a float, a string    themselves; floats keep every bit
    a symbol, an instance name       ["s", name], ["n", name]
    a multifield                     ["m", [...]]
    a fact's address                 ["f", index]
    a string that is no UTF-8        bytes; a symbol ["s", bytes]

What has no such form is refused by its kind: an external address means something in one process
alone, and a string that holds a NUL would be cut there by CLIPS.

The engine is read through its own functions, never through clipspy's fact objects: they keep
what was retracted for ever, and reading some kinds of values with them ends the process.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol, cast

import msgspec
from clips import InstanceName, Symbol
from clips._clips import ffi, lib
from clips.common import CLIPSType, environment_builder

from holdfast.core.deadline import Deadline
from holdfast.core.errors import EncodeError

INT_MIN: Final = -(2**63)
INT_MAX: Final = 2**63 - 1
_FLOAT: Final = int(CLIPSType.FLOAT)
_INTEGER: Final = int(CLIPSType.INTEGER)
_SYMBOL: Final = int(CLIPSType.SYMBOL)
_STRING: Final = int(CLIPSType.STRING)
_MULTIFIELD: Final = int(CLIPSType.MULTIFIELD)
_FACT: Final = int(CLIPSType.FACT_ADDRESS)
_INSTANCE_NAME: Final = int(CLIPSType.INSTANCE_NAME)
_VOID: Final = int(CLIPSType.VOID)
_NULL: Final = ffi.NULL
_get_slot: Final = lib.GetFactSlot
_put_slot: Final = lib.FBPutSlot
_create_string: Final = lib.CreateString
_create_integer: Final = lib.CreateInteger
_create_symbol: Final = lib.CreateSymbol
_create_float: Final = lib.CreateFloat
_begin_multifield: Final = lib.MBReset
_append: Final = lib.MBAppend
_end_multifield: Final = lib.MBCreate
_string: Final = ffi.string
_KINDS: Final = {
    int(CLIPSType.EXTERNAL_ADDRESS): "an external address",
    int(CLIPSType.INSTANCE_ADDRESS): "an instance address",
}


class FactAddress(msgspec.Struct, frozen=True):
    """A fact as a value; it is named by its index."""

    index: int


class Kept(Protocol):
    """Values that are decoded when somebody looks."""

    def decoded(self) -> dict[str, Any]:
        """Return them by slot."""
        ...


class Fact:
    """
    A fact as it was when it was read.

    Attributes:
        index: by which it can be retracted or modified.
        template: its name.
        deadline: when it is retracted by itself; None if it stays.
    """

    __slots__ = ("_values", "deadline", "index", "template")

    def __init__(
        self,
        index: int,
        template: str,
        values: "dict[str, Any] | Kept",
        deadline: Deadline | None = None,
    ) -> None:
        """Make one for a migration; `values` is as the attribute."""
        self.index = index
        self.template = template
        self.deadline = deadline
        self._values = values

    @property
    def values(self) -> dict[str, Any]:
        """By slot; those of an ordered fact are a tuple under the empty name."""
        values = self._values
        if not isinstance(values, dict):
            values = self._values = values.decoded()
        return values

    def __getitem__(self, slot: str | int) -> Any:
        """Return the value of a slot; of an ordered fact, the value at a place."""
        return self.values[""][slot] if isinstance(slot, int) else self.values[slot]

    def __eq__(self, other: object) -> bool:
        """Two facts are equal if index, template, values and deadline are."""
        return isinstance(other, Fact) and self._all() == other._all()

    def __hash__(self) -> int:
        """Return the same for equal ones."""
        return hash((self.index, self.template))

    def __repr__(self) -> str:
        """Return it as it would be made."""
        return f"Fact({self.index}, {self.template!r}, {self.values!r})"

    def _all(self) -> tuple[Any, ...]:
        return (self.index, self.template, self.values, self.deadline)


def encoded(value: Any, where: str = "value") -> Any:
    """
    Return a Python value as the plain one that is kept.

    Raises:
        EncodeError: CLIPS has no such value, or would change it.
    """
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    if kind is str:
        return _text(value, where)
    if kind is Symbol:
        return ["s", _text(str.__str__(value), where)]
    if kind is int and INT_MIN <= value <= INT_MAX:
        return value
    return _encoded_rarer(value, where)


def _encoded_rarer(value: Any, where: str) -> Any:
    match value:
        case bool():
            return ["s", "TRUE" if value else "FALSE"]
        case None:
            return ["s", "nil"]
        case int():
            if not INT_MIN <= value <= INT_MAX:
                raise EncodeError(path=where, reason="is an integer of more than 64 bits")
            return int(value)
        case float():
            return float(value)
        case InstanceName():
            return ["n", _text(str.__str__(value), where)]
        case str():
            return _text(str.__str__(value), where)
        case bytes():
            if b"\0" in value:
                raise EncodeError(path=where, reason="holds a NUL, at which CLIPS would cut it")
            return value
        case list() | tuple():
            items = enumerate(cast(list[Any], value))
            return ["m", [_member(item, f"{where}[{at}]") for at, item in items]]
        case FactAddress() | Fact():
            return ["f", value.index]
        case _:
            raise EncodeError(path=where, reason=f"is a {type(value).__name__}, which CLIPS lacks")


def encoded_slots(slots: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return the values of slots as the plain ones that are kept.

    Raises:
        EncodeError: CLIPS has no such value, or would change it.
    """
    kept: dict[str, Any] = {}
    for slot, value in slots.items():
        kind = type(value)  # pyright: ignore[reportUnknownVariableType]
        # What there is most of, without another call.
        if (kind is int and INT_MIN <= value <= INT_MAX) or (
            kind is str and value.isascii() and "\0" not in value
        ):
            kept[slot] = value
        else:
            kept[slot] = encoded(value, f"slot {slot}")
    return kept


def _member(value: Any, where: str) -> Any:
    if isinstance(value, list | tuple):
        raise EncodeError(path=where, reason="is a list in a list, which CLIPS has not")
    return encoded(value, where)


def _text(text: str, where: str) -> str:
    if text.isascii() and "\0" not in text:
        return text
    if "\0" in text:
        raise EncodeError(path=where, reason="holds a NUL, at which CLIPS would cut it")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise EncodeError(path=where, reason="holds a lone surrogate") from error
    return text


def decoded(kept: Any) -> Any:
    """Return the Python value of one that is kept."""
    if isinstance(kept, list):
        return _untagged(kept[0], kept[1])  # pyright: ignore[reportUnknownArgumentType]
    return kept


def _untagged(kind: str, content: Any) -> Any:
    match kind:
        case "s":
            return content if isinstance(content, bytes) else Symbol(content)
        case "n":
            return content if isinstance(content, bytes) else InstanceName(content)
        case "m":
            return tuple([decoded(item) for item in content])
        case "f":
            return FactAddress(content)
        case _:
            raise EncodeError(path="value", reason=f"is of the unknown kind {kind!r}")


def is_exact(kept: Any) -> bool:
    """Tell whether a value comes out of the engine as it was put in: all but bytes, surely."""
    kind = type(kept)  # pyright: ignore[reportUnknownVariableType]
    if kind is not list:
        return kind is not bytes  # They come out as text if they are UTF-8 after all.
    return all(map(is_exact, kept[1])) if kept[0] == "m" else type(kept[1]) is not bytes


# Out of the engine.


def read_slots(
    fact: Any, slots: Sequence[bytes | None], box: Any, where: tuple[int, str]
) -> list[Any]:
    """
    Return the values of slots as they are kept; `None` is the one slot of an ordered fact.

    Raises:
        EncodeError: one has no form outside this process; `where` is named: index and template.
    """
    values: list[Any] = []
    for slot in slots:
        _get_slot(fact, _NULL if slot is None else slot, box)
        kind = box.header.type
        # What there is most of, without another call.
        if kind == _SYMBOL:
            values.append(["s", _lexeme(box)])
        elif kind == _INTEGER:
            values.append(int(box.integerValue.contents))
        elif kind == _STRING:
            values.append(_lexeme(box))
        else:
            values.append(read(box, where))
    return values


def read(value: Any, where: str | tuple[int, str]) -> Any:
    """
    Return a value of the engine as it is kept.

    Raises:
        EncodeError: it has no form outside this process.
    """
    kind = value.header.type
    if kind == _SYMBOL:
        return ["s", _lexeme(value)]
    if kind == _STRING:
        return _lexeme(value)
    if kind == _INTEGER:
        return int(value.integerValue.contents)
    if kind == _FLOAT:
        return float(value.floatValue.contents)
    if kind == _MULTIFIELD:
        field = value.multifieldValue
        contents = field.contents
        return ["m", [read(contents + at, where) for at in range(field.length)]]
    if kind == _FACT:
        return ["f", lib.FactIndex(value.factValue)]
    if kind == _INSTANCE_NAME:
        return ["n", _lexeme(value)]
    if kind == _VOID:
        return None
    path = where if isinstance(where, str) else "fact {} ({})".format(*where)
    raise EncodeError(path=path, reason=f"is {_KINDS.get(kind, 'of an unknown kind')}")


def _lexeme(value: Any) -> str | bytes:
    raw: bytes = _string(value.lexemeValue.contents)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


# Into the engine.


class SlotRefusedError(Exception):
    """A slot does not take its value."""

    def __init__(self, slot: bytes, code: int) -> None:
        """Say which one, and the engine's reason."""
        super().__init__(slot, code)
        self.slot = slot.decode()
        self.code = code


def put_slots(
    env: Any,
    builder: Any,
    slots: Iterable[tuple[bytes, Any]],
    address: Any,
    box: Any,
) -> bool:
    """
    Put values, as they are kept, into slots of a fact that is being built.

    Returns:
        Whether all of them are of the kinds there is most of.

    Raises:
        SlotRefusedError: one does not take its value.
    """
    common = True
    for slot, kept in slots:
        kind = type(kept)  # pyright: ignore[reportUnknownVariableType]
        # What there is most of, without another call.
        if kind is str:
            box.value = _create_string(env, kept.encode())
        elif kind is int:
            box.value = _create_integer(env, kept)
        elif kind is list and kept[0] == "s" and type(kept[1]) is str:
            box.value = _create_symbol(env, kept[1].encode())
        elif kind is float:
            box.value = _create_float(env, kept)
        else:
            write(env, kept, address, box)
            common = False
        if code := _put_slot(builder, slot, box):
            raise SlotRefusedError(slot, code)
    return common


def write(env: Any, kept: Any, address: Any, box: Any) -> Any:
    """
    Put a value that is kept into a box, and return the box.

    Args:
        env: the engine.
        kept: the value.
        address: gives the address of a fact by its index.
        box: a `CLIPSValue *`.
    """
    kind = type(kept)  # pyright: ignore[reportUnknownVariableType]
    if kind is list:
        if kept[0] == "m":
            box.value = _multifield(env, kept[1], address, box)
        else:
            box.value = _tagged(env, kept[0], kept[1], address)
    elif kind is str:
        box.value = _create_string(env, kept.encode())
    elif kind is int:
        box.value = _create_integer(env, kept)
    elif kind is float:
        box.value = _create_float(env, kept)
    else:
        box.value = lib.CreateString(env, kept)
    return box


def _tagged(env: Any, kind: str, content: Any, address: Any) -> Any:
    match kind:
        case "s":
            return lib.CreateSymbol(env, _raw(content))
        case "n":
            return lib.CreateInstanceName(env, _raw(content))
        case "f":
            return address(content)
        case _:
            raise EncodeError(path="value", reason=f"is of the unknown kind {kind!r}")


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


def _multifield(env: Any, items: list[Any], address: Any, box: Any) -> Any:
    """Return a multifield; each of its values is copied out of the box before the next."""
    if not items:
        return lib.EmptyMultifield(env)
    builder = environment_builder(env, "multifield")
    _begin_multifield(builder)
    for item in items:
        kind = type(item)  # pyright: ignore[reportUnknownVariableType]
        if kind is list and item[0] == "s" and type(item[1]) is str:
            box.value = _create_symbol(env, item[1].encode())
        else:
            write(env, item, address, box)
        _append(builder, box)
    return _end_multifield(builder)
