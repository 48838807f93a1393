"""
Declaring state: a class whose fields say how durable they are.

    @state(version=2, upcast={1: rename_title})
    class Chat:
        title: str = ""                                     # durable unless said otherwise
        seen: int = field(default=0, tier=BUFFERED, kind="counter")
        warmth: float = field(default=0.0, tier=BUFFERED, group="calibration")
        busy: bool = field(default=False, tier=EPHEMERAL)
        words: int = field(derived=lambda chat: len(chat.title.split()))

The class becomes a dataclass. Its fields need defaults: a session that was never saved begins
with them. What is stored of a session lies in *slots*: one record for each tier, and one for
each named group of fields, which is written and restored whole.

Invariant: a field is stored in exactly one slot; ephemeral and derived fields are in none.
"""

import dataclasses
import re
import typing
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final, Literal, TypeVar, cast, dataclass_transform, overload

from holdfast.core import codec
from holdfast.core.errors import DecodeError, InvalidValueError
from holdfast.core.key import Key
from holdfast.core.redaction import Redactor
from holdfast.core.tier import DURABLE, EPHEMERAL, Tier
from holdfast.runtime.exact import Exact

T = TypeVar("T")
Fields = dict[str, Any]
Upcast = Callable[[Fields], Fields]
_SHAPE: Final = "__holdfast_shape__"
_FIELD: Final = "holdfast.field"
_GROUP: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Not valid field names, so they cannot collide with one.
VERSION_FIELD: Final = "@version"
_ASSIGNED: Final = "@assigned"


@dataclasses.dataclass(frozen=True, slots=True)
class _Declared:
    tier: Tier = DURABLE
    group: str | None = None
    counter: bool = False
    derived: Callable[[Any], Any] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """
    One record of a session.

    Attributes:
        name: tier, and behind a dot the group if it has one.
        kind: kind of the record.
        tier: how durable its fields are.
        grouped: it is written and restored whole.
        fields: names of its fields.
    """

    name: str
    kind: str
    tier: Tier
    grouped: bool
    fields: tuple[str, ...]


class Shape:
    """
    What is stored of a state class.

    Attributes:
        name: name of the class, part of the record kinds.
        version: version of the class.
        ttl: seconds after its last change when a session ends; None for never.
        history: whether every change is also appended to a stream.
        slots: the records of a session.
        slot_of: names of the slots by the kind of their records.
        tiers: tier of each field that is not derived.
        counters: fields that never go down.
    """

    def __init__(
        self, made: type[Any], version: int, upcast: Mapping[int, Upcast], ttl: float | None
    ) -> None:
        """Take the class as a dataclass, its version and the functions to it."""
        self.name = made.__name__
        self.version = version
        self.ttl = ttl
        self.history = False
        self.made = made
        self._upcast = dict(upcast)
        declared = {one.name: _declared(self.name, one) for one in dataclasses.fields(made)}
        self._derived = {name: one.derived for name, one in declared.items() if one.derived}
        self.tiers = {name: one.tier for name, one in declared.items() if not one.derived}
        self._by_tier = {
            tier: tuple(name for name, found in self.tiers.items() if found is tier)
            for tier in Tier
        }
        self.counters = frozenset(name for name, one in declared.items() if one.counter)
        self.slots = self._slots(declared)
        self.slot_of = {slot.kind: slot.name for slot in self.slots}

    def _slots(self, declared: dict[str, _Declared]) -> tuple[Slot, ...]:
        found: dict[tuple[Tier, str | None], list[str]] = {}
        for name, tier in self.tiers.items():
            if tier is not EPHEMERAL:
                found.setdefault((tier, declared[name].group), []).append(name)
        slots: list[Slot] = []
        for (tier, group), names in found.items():
            name = tier.value if group is None else f"{tier.value}.{group}"
            slots.append(Slot(name, self.kind(name), tier, group is not None, tuple(names)))
        return tuple(slots)

    def kind(self, slot: str) -> str:
        """Return the record kind of a slot."""
        return kind_of(self.name, slot)

    def fields(self, tier: Tier) -> tuple[str, ...]:
        """Return the names of the fields of a tier."""
        return self._by_tier[tier]

    @cached_property
    def exact(self) -> dict[str, Exact]:
        """
        How each stored field is stored.

        Raises:
            InvalidValueError: an annotation names what is not there, or cannot be stored.
        """
        try:
            hints = typing.get_type_hints(self.made)
        except NameError as error:
            raise InvalidValueError(
                what=self.name, reason=f"an annotation names {error.name!r}, which is not there"
            ) from error
        stored = [name for name, tier in self.tiers.items() if tier is not EPHEMERAL]
        return {name: Exact(hints[name], f"{self.name}.{name}") for name in stored}

    def fresh(self) -> Any:
        """Return the state of a session that was never saved."""
        return self.made()

    def derive(self, value: Any) -> Any:
        """Set the derived fields of a state object, and return it."""
        for name, derived in self._derived.items():
            setattr(value, name, derived(value))
        return value

    def encode(self, value: object, redaction: Redactor) -> dict[str, bytes]:
        """
        Return the encoded stored fields of a state object, redacted.

        Raises:
            EncodeError: a field cannot be stored exactly; names it.
        """
        encoded: dict[str, bytes] = {}
        for name, exact in self.exact.items():
            item = getattr(value, name)
            settled = exact.settled(item)
            if settled is not item:
                setattr(value, name, settled)
            encoded[name] = exact.encode(redaction.field(name, settled))
        return encoded

    def upcast(self, fields: Fields, version: int) -> Fields:
        """
        Return stored plain values as this version of the class has them.

        Raises:
            DecodeError: they were stored by a newer version, or a function is missing.
        """
        if version > self.version:
            raise DecodeError(
                what=self.name, reason=f"stored as version {version}, this is {self.version}"
            )
        for number in range(version, self.version):
            if number not in self._upcast:
                raise DecodeError(
                    what=self.name, reason=f"stored as version {number}, which has no upcast"
                )
            fields = self._upcast[number](fields)
        return fields


@overload
def field(*, derived: Callable[[Any], Any], init: Literal[False] = False) -> Any: ...


@overload
def field(
    *,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
    tier: Tier = DURABLE,
    group: str | None = None,
    kind: Literal["value", "counter"] = "value",
) -> Any: ...


def field(
    *,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
    tier: Tier = DURABLE,
    group: str | None = None,
    kind: Literal["value", "counter"] = "value",
    derived: Callable[[Any], Any] | None = None,
    init: Literal[False] = False,
) -> Any:
    """
    Declare a field of a state class.

    Args:
        default: value of a session that was never saved.
        default_factory: called for that value, for lists and dicts.
        tier: how durable the field is.
        group: fields of one group (and tier) are written and restored whole.
        kind: a `counter` never goes down, and the increments of two runtimes add up.
        derived: called with the state after each change; the field is not stored.
        init: tells type checkers that a derived field is not given to the constructor.
    """
    declared = _Declared(tier, group, kind == "counter", derived)
    if derived is not None:
        return dataclasses.field(default=None, init=init, metadata={_FIELD: declared})
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata={_FIELD: declared})
    return dataclasses.field(default=default, metadata={_FIELD: declared})


@dataclass_transform(field_specifiers=(field,))
def state(
    *,
    version: int,
    upcast: Mapping[int, Upcast] | None = None,
    history: bool = False,
    ttl: float | None = None,
) -> Callable[[type[T]], type[T]]:
    """
    Make a class storable as the state of sessions.

    Args:
        version: counts up with every change of the fields; a newer stored version is refused.
        upcast: per older version a function from its fields, as plain values, to the next's.
        history: also append every change to a stream of the session.
        ttl: seconds after its last change when a session ends.

    Raises:
        InvalidValueError: a field has no default, or is declared as what it cannot be.
    """
    if ttl is not None and not ttl > 0:
        raise InvalidValueError(what="ttl", reason=f"is {ttl} s, must be more than 0")

    def declare(plain: type[T]) -> type[T]:
        _derive_at_first(plain)
        made: Any = dataclasses.dataclass(plain)
        shape = Shape(made, version, upcast or {}, ttl)
        shape.history = history
        setattr(made, _SHAPE, shape)
        _note_assignments(made)
        return cast(type[T], made)

    return declare


def shape_of(kind: type[object]) -> Shape:
    """
    Return what is stored of a class.

    Raises:
        InvalidValueError: it was not declared with `@state`.
    """
    shape = kind.__dict__.get(_SHAPE)
    if not isinstance(shape, Shape):
        raise InvalidValueError(what=kind.__name__, reason="is not declared with @state")
    return shape


def watch_assignments(value: object) -> set[str]:
    """Return a set that will hold the names of the fields assigned to from now on."""
    assigned: set[str] = set()
    value.__dict__[_ASSIGNED] = assigned
    return assigned


def end_watch(value: object) -> None:
    """Note assignments no longer."""
    value.__dict__.pop(_ASSIGNED, None)


def plain_fields(encoded: Mapping[str, bytes]) -> Fields:
    """Return encoded fields as the plain values that upcasts and histories see."""
    return {name: codec.decode(part, name) for name, part in encoded.items()}


def kind_of(shape: str, slot: str) -> str:
    """Return the record kind of a slot, by the name of the class."""
    return f"session.{shape}.{slot}"


def stream_of(shape: str, key: Key) -> str:
    """Return the name of the stream of a session's changes; no two sessions share one."""
    parts = (part.replace("%", "%25").replace("/", "%2F") for part in key)
    return "/".join(("holdfast/session", shape, *parts))


def _derive_at_first(plain: Any) -> None:
    """Set the derived fields also of an object that the program makes itself."""
    before = getattr(plain, "__post_init__", None)

    def finish(self: Any) -> None:
        if before is not None:
            before(self)
        shape_of(cast(Any, type(self))).derive(self)

    plain.__post_init__ = finish


def _note_assignments(made: Any) -> None:
    """Tell a field that was set to what it is by default from one that was never set."""
    before = made.__setattr__

    def assign(self: Any, name: str, value: object) -> None:
        assigned = self.__dict__.get(_ASSIGNED)
        if assigned is not None:
            assigned.add(name)
        before(self, name, value)

    made.__setattr__ = assign


def _declared(owner: str, found: "dataclasses.Field[Any]") -> _Declared:
    what = f"{owner}.{found.name}"
    declared = cast(_Declared, found.metadata.get(_FIELD, _Declared()))
    if found.default is found.default_factory is dataclasses.MISSING:
        raise InvalidValueError(what=what, reason="a field needs a default")
    if declared.group is not None and not _GROUP.fullmatch(declared.group):
        raise InvalidValueError(what=what, reason="a group is named by letters, digits and _")
    if declared.counter and type(found.default) not in (int, float):
        raise InvalidValueError(what=what, reason="a counter needs a number as its default")
    if declared.tier is EPHEMERAL and declared.group is not None:
        raise InvalidValueError(what=what, reason="an ephemeral field is in no group")
    return declared
