"""
Differences of plain values: as a patch (RFC 6902), or as a tree for people.

Pure and without a claim to be the shortest: maps are compared key by key, lists place by place,
so that what is said about a place is about that place.

Invariant: the patch, applied to the first value, gives the second one.
"""

from collections.abc import Iterator
from typing import Any, Final, Literal, TypeGuard

import msgspec

NOTHING: Final = object()


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    One operation of a patch.

    Attributes:
        op: what is done.
        path: to which place, as a JSON pointer.
        value: what stands there then; not with `remove`.
    """

    op: Literal["add", "remove", "replace"]
    path: str
    value: Any = msgspec.UNSET


def differences(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Yield what turns one plain value into another."""
    if _is_map(before) and _is_map(after):
        yield from _maps(before, after, path)
    elif _is_list(before) and _is_list(after):
        yield from _lists(before, after, path)
    elif not same(before, after):
        yield Change("replace", path, after)


def tree(before: Any, after: Any) -> dict[str, Any]:
    """
    Return the differences as nested maps.

    A place that differs is `{"from": ..., "to": ...}`, without the side that is not there.
    """
    if same(before, after):
        return {}
    if _is_map(before) and _is_map(after):
        keys = dict.fromkeys((*before, *after))
        pairs = {key: (before.get(key, NOTHING), after.get(key, NOTHING)) for key in keys}
    elif _is_list(before) and _is_list(after):
        longest = max(len(before), len(after))
        pairs = {str(n): (_at(before, n), _at(after, n)) for n in range(longest)}
    else:
        sides = {"from": before, "to": after}
        return {side: value for side, value in sides.items() if value is not NOTHING}
    return {key: tree(*pair) for key, pair in pairs.items() if not same(*pair)}


def pointed(value: Any, pointer: str) -> Any:
    """
    Return what a JSON pointer (RFC 6901) leads to; `NOTHING` if it leads nowhere.

    Args:
        value: plain value.
        pointer: empty for all of it, else beginning with a slash.
    """
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if _is_map(value):
            value = value.get(name, NOTHING)
        elif _is_list(value) and name.isascii() and name.isdigit():
            value = _at(value, int(name))
        else:
            return NOTHING
    return value


def same(one: Any, two: Any) -> bool:
    """Return whether two plain values are equal; 1, 1.0 and true are not."""
    if _is_map(one) and _is_map(two):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if _is_list(one) and _is_list(two):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and bool(one == two)


def _maps(before: dict[str, Any], after: dict[str, Any], path: str) -> Iterator[Change]:
    for key, value in before.items():
        place = f"{path}/{_escaped(key)}"
        if key in after:
            yield from differences(value, after[key], place)
        else:
            yield Change("remove", place)
    for key, value in after.items():
        if key not in before:
            yield Change("add", f"{path}/{_escaped(key)}", value)


def _lists(before: list[Any], after: list[Any], path: str) -> Iterator[Change]:
    common = min(len(before), len(after))
    for n in range(common):
        yield from differences(before[n], after[n], f"{path}/{n}")
    # From behind, so that the places before keep their numbers.
    for n in range(len(before) - 1, common - 1, -1):
        yield Change("remove", f"{path}/{n}")
    for n in range(common, len(after)):
        yield Change("add", f"{path}/{n}", after[n])


def _escaped(key: str) -> str:
    return str(key).replace("~", "~0").replace("/", "~1")


def _is_map(value: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: Any) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _at(values: list[Any], n: int) -> Any:
    return values[n] if n < len(values) else NOTHING
