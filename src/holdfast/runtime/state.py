"""
Declaring state: a class whose fields say how durable they are.

    @state(version=1)
    class Totals:
        files: int = 0                                   # durable unless said otherwise
        seen: int = field(default=0, tier=BUFFERED)      # written every flush interval
        busy: bool = field(default=False, tier=EPHEMERAL)

The class becomes a dataclass. Its fields need defaults: a session that was never saved begins
with them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast, dataclass_transform

from holdfast.core import codec
from holdfast.core.errors import DecodeError, InvalidValueError
from holdfast.core.tier import DURABLE, Tier

T = TypeVar("T")
_SHAPE: Final = "__holdfast_shape__"
_TIER: Final = "holdfast.tier"


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """
    What is stored of a state class.

    Attributes:
        name: name of the class, part of the record kind.
        version: version of the class.
        tiers: tier of each field.
    """

    name: str
    version: int
    tiers: dict[str, Tier]

    def fields(self, tier: Tier) -> list[str]:
        """Return the names of the fields of a tier."""
        return [name for name, found in self.tiers.items() if found is tier]


def field(
    *,
    default: Any = dataclasses.MISSING,
    default_factory: Any = dataclasses.MISSING,
    tier: Tier = DURABLE,
) -> Any:
    """
    Declare a field of a state class.

    Args:
        default: value of a session that was never saved.
        default_factory: called for that value, for lists and dicts.
        tier: how durable the field is.
    """
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata={_TIER: tier})
    return dataclasses.field(default=default, metadata={_TIER: tier})


@dataclass_transform(field_specifiers=(field,))
def state(*, version: int) -> Callable[[type[T]], type[T]]:
    """
    Make a class storable as the state of sessions.

    Args:
        version: counts up with every change of the fields; a newer stored version is refused.

    Raises:
        InvalidValueError: a field has no default.
    """

    def declare(plain: type[T]) -> type[T]:
        made: Any = dataclasses.dataclass(plain)
        tiers: dict[str, Tier] = {}
        for found in dataclasses.fields(made):
            if found.default is found.default_factory is dataclasses.MISSING:
                raise InvalidValueError(
                    what=f"{plain.__name__}.{found.name}", reason="a field needs a default"
                )
            tiers[found.name] = found.metadata.get(_TIER, DURABLE)
        setattr(made, _SHAPE, Shape(plain.__name__, version, tiers))
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


def encode_fields(value: object, names: list[str]) -> dict[str, bytes]:
    """
    Return the encoded fields of a state object.

    Raises:
        EncodeError: a field cannot be stored exactly; names it.
    """
    kind = type(value).__name__
    return {name: codec.encode(getattr(value, name), f"{kind}.{name}") for name in names}


def restore_fields(value: object, stored: dict[str, Any], shape: Shape) -> None:
    """
    Set the stored fields of a state object; fields that were never saved keep their default.

    Raises:
        DecodeError: they were stored by a newer version of the class.
    """
    version = stored.pop(VERSION_FIELD, shape.version)
    if version > shape.version:
        raise DecodeError(
            what=shape.name, reason=f"stored as version {version}, this is {shape.version}"
        )
    for name, item in stored.items():
        if name in shape.tiers:
            setattr(value, name, item)


# Not a valid field name, so it cannot collide with one.
VERSION_FIELD: Final = "@version"
