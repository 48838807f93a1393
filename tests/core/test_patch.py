"""Differences of plain values: a patch that leads from one to the other, and a tree."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.patch import NOTHING, Change, differences, pointed, same, tree

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(0, 1) | st.text("a/~0", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab/~", max_size=2), inner),
    max_leaves=8,
)


def applied(value: Any, changes: list[Change]) -> Any:
    """Apply a patch as RFC 6902 says."""
    for change in changes:
        if not change.path:
            value = change.value
            continue
        above, _, last = change.path.rpartition("/")
        place = pointed(value, above)
        key: Any = last.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list):
            key = int(key)
        if change.op == "remove":
            del place[key]
        elif change.op == "add" and isinstance(place, list):
            place.insert(key, change.value)
        else:
            place[key] = change.value
    return value


def copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: copied(one) for key, one in value.items()}
    return [copied(one) for one in value] if isinstance(value, list) else value


@given(VALUES, VALUES)
def test_a_patch_turns_one_value_into_the_other(before: Any, after: Any) -> None:
    """Invariant of `core.patch`: applied to the first, it gives the second."""
    changes = list(differences(before, after))
    assert same(applied(copied(before), changes), after)
    assert bool(changes) == (not same(before, after))


@given(VALUES, VALUES)
def test_a_tree_says_where_two_values_differ(before: Any, after: Any) -> None:
    """Nothing is said of what is equal."""
    assert bool(tree(before, after)) == (not same(before, after))


def test_a_tree_has_both_sides_of_each_difference() -> None:
    """One that is not there has no side."""
    before, after = {"a": 1, "b": [1, 2], "c": 0}, {"a": 2, "b": [1], "d": 0}
    assert tree(before, after) == {
        "a": {"from": 1, "to": 2},
        "b": {"1": {"from": 2}},
        "c": {"from": 0},
        "d": {"to": 0},
    }


def test_a_pointer_leads_to_a_part_or_to_nothing() -> None:
    """RFC 6901: `~1` is a slash, `~0` a tilde."""
    value = {"a/b": {"~": [1, 2]}}
    assert pointed(value, "/a~1b/~0/1") == 2
    assert pointed(value, "") == value
    assert pointed(value, "/a~1b/x") is NOTHING
    assert pointed(value, "/a~1b/~0/2") is NOTHING
