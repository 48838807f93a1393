"""What a field may hold: it comes back equal and of the same type, or it is refused at once."""

import asyncio
import dataclasses
import enum
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from types import GenericAlias
from typing import Any, Literal
from uuid import UUID

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

import holdfast
from holdfast import field, state
from holdfast.core.errors import EncodeError, InvalidValueError, LimitError
from holdfast.runtime.exact import Exact


class Colour(enum.Enum):
    """A choice."""

    RED = "red"


@dataclasses.dataclass
class Point:
    """A dataclass of the user's."""

    x: int = 0
    tags: tuple[str, ...] = ()


@dataclasses.dataclass
class Place(Point):
    """A dataclass with more than its base."""

    name: str = ""


class Part(msgspec.Struct):
    """A Struct of the user's."""

    size: float = 0.0


class Model(pydantic.BaseModel):
    """A model of the user's."""

    name: str = ""
    at: datetime | None = None


class Other:
    """A class nobody knows."""


GOOD: list[tuple[Any, Any]] = [
    (int, 2**63 - 1),
    (float, 0.1),
    (float, math.inf),
    (float, math.nan),
    (str | None, None),
    (int | float, 1),
    (int | float, 1.0),
    (bytes, b"\0\xff"),
    (list[str], ["a", ""]),
    (dict[str, list[int]], {"a": [1]}),
    (dict[int, str], {1: "a"}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], ()),
    (set[str], {"b", "a"}),
    (frozenset[int], frozenset({1})),
    (Colour, Colour.RED),
    (Literal["a", "b"], "b"),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
    (datetime, datetime(2026, 1, 2)),
    (date, date(2026, 1, 2)),
    (timedelta, timedelta(seconds=1.5)),
    (Decimal, Decimal("1.10")),
    (UUID, UUID(int=7)),
    (Point, Point(1, ("a",))),
    (list[Part], [Part(1.5)]),
    (Model, Model(name="a", at=datetime(2026, 1, 2, tzinfo=UTC))),
    (Model | None, None),
    (Any, {"a": [1, None, 2.5]}),
]
BAD: list[tuple[Any, Any]] = [
    (int, "1"),
    (int, True),
    (int, 2**64),
    (int, 1.0),
    (float, 2**53 + 1),
    (str, b"a"),
    (str, "\ud800"),
    (list[str], [1]),
    (list[str], ("a",)),
    (list[float], [1]),
    (list[int], [True]),
    (dict[str, int], {1: 1}),
    (tuple[int, ...], [1]),
    (set[float], {1}),
    (Any, (1,)),
    (Any, {1, 2}),
    (Any, Point()),
    (list[Any], [datetime(2026, 1, 2)]),
    (tuple[Any, ...], ((1,),)),
    (Point, Place(1, (), "a")),
    (Point, Other()),
    (Colour, "red"),
    (Part, Part(1)),
    (Model, Model.model_construct(name=3)),
    (list[Point], [Point("1")]),  # type: ignore[arg-type]
]


def same(one: Any, two: Any) -> bool:
    """Compare also what does not equal itself."""
    return type(one) is type(two) and (one == two or one != one)


def shown(value: object) -> str:
    """Return how a case is named: the same in every process that collects the tests."""
    if isinstance(value, type | GenericAlias):
        return repr(value)
    return type(value).__name__


@pytest.mark.parametrize(("declared", "value"), GOOD, ids=shown)
def test_what_is_accepted_comes_back_equal(declared: Any, value: Any) -> None:
    """C4, R8."""
    exact = Exact(declared, "T.f")
    assert same(exact.decode(exact.encode(value)), value)


@pytest.mark.parametrize(("declared", "value"), BAD, ids=shown)
def test_what_would_not_come_back_equal_is_refused_by_name(declared: Any, value: Any) -> None:
    """C4, R8. The error names the field and shows nothing of its content."""
    with pytest.raises(EncodeError) as refusal:
        Exact(declared, "T.f").encode(value)
    assert str(refusal.value).startswith("T.f")


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.tuples(st.integers())
    | st.sets(st.integers()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)
DECLARED: list[Any] = [
    Any,
    int | None,
    float,
    list[Any],
    list[float],
    dict[str, Any],
    dict[str, int | float],
    list[tuple[int, ...]],
    set[int] | None,
]


@given(st.sampled_from(DECLARED), plain)
def test_a_value_comes_back_the_same_or_is_refused(declared: Any, value: Any) -> None:
    """C4, R8. For any value under any annotation; what is read back is stored as the same bytes."""
    exact = Exact(declared, "T.f")
    try:
        encoded = exact.encode(value)
    except (EncodeError, LimitError):
        return
    found = exact.decode(encoded)
    assert repr(found) == repr(value) or (isinstance(value, set) and found == value)
    assert exact.encode(found) == encoded


def test_a_set_is_stored_in_one_order() -> None:
    """L5. So that a set that was built in another order is not written again."""
    exact = Exact(set[int], "T.f")
    assert exact.encode({0, 8, 2**30}) == exact.encode({2**30, 8, 0})


def test_a_type_of_the_users_is_registered_once() -> None:
    """C4. With a function to plain values and one back."""

    def to_plain(value: Fraction) -> list[int]:
        return [value.numerator, value.denominator]

    def back(value: list[int]) -> Fraction:
        return Fraction(*value)

    with pytest.raises(EncodeError):
        Exact(Fraction | None, "T.f").encode(Fraction(1, 3))
    holdfast.register(Fraction, to_plain, back)
    holdfast.register(Fraction, to_plain, back)
    exact = Exact(list[Fraction], "T.f")
    assert exact.decode(exact.encode([Fraction(1, 3)])) == [Fraction(1, 3)]
    other: Callable[[Any], Fraction] = Fraction
    with pytest.raises(InvalidValueError):
        holdfast.register(Fraction, str, other)


@state(version=1)
class Typed:
    """A state of rich types."""

    at: datetime | None = None
    point: Point = field(default_factory=Point)
    models: list[Model] = field(default_factory=list)
    ratio: float = 0.0


def test_a_session_holds_rich_types(store_url: str) -> None:
    """C4. They are found again equal; a whole number in a float is a float from then on."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            async with rt.session(Typed, "a") as session, session.edit() as draft:
                draft.at = datetime(2026, 1, 2, tzinfo=UTC)
                draft.point.tags = ("x", "y")
                draft.models.append(Model(name="m"))
                draft.ratio = 2
            kept = session.value
            assert type(kept.ratio) is float
            await rt.sessions.evict(Typed, "a")
            del session
            async with rt.session(Typed, "a") as session:
                assert session.value == kept and session.value is not kept
                with pytest.raises(EncodeError, match=r"^Typed\.point"):
                    async with session.edit() as draft:
                        draft.point = Place()
                assert session.value == kept

    asyncio.run(run())


@state(version=1)
class Lost:
    """A state with an annotation that leads nowhere."""

    what: "Missing" = None  # type: ignore[name-defined] # noqa: F821


@state(version=1)
class Impossible:
    """A state with a union that cannot be told apart."""

    what: set[int] | list[int] = field(default_factory=list)


def test_an_annotation_that_cannot_be_stored_is_named(store_url: str) -> None:
    """C4. At the first use of the class, not at the first value."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            with pytest.raises(InvalidValueError, match="Missing"):
                await rt.session(Lost, "a").load()
            with pytest.raises(InvalidValueError, match=r"Impossible\.what"):
                await rt.session(Impossible, "a").load()

    asyncio.run(run())
