"""
Every order of the SQL of several instances, on real SQLite.

That a walk convicts mistakes of locking and caching is shown in `test_planted`.
"""

import pytest

from holdfast.testing.orders.schedules import explore

pytestmark = pytest.mark.lab

# The others are longer; `python -m tests.lab` walks them.
SHORT = ("append", "record", "counter", "fence", "close", "trim", "read")


@pytest.mark.parametrize("name", SHORT)
def test_every_order_of_two_instances_is_as_good_as_one_after_the_other(name: str) -> None:
    """X5, F14, F15. All orders; answers, reads and content equal a serial order's."""
    walk = explore(name)
    print(f"{name}: {walk}")
    assert walk.complete
    assert not walk.violations, "\n".join(walk.failures)
    # "Sometimes": the walk was worth it.
    assert walk.schedules >= 60
    assert walk.contended or name == "read"
    assert walk.outcomes > 1 or name in {"counter", "read"}


def test_an_order_is_replayed_by_its_choices() -> None:
    assert explore("record", only=[0, 1, 0, 1]).steps == explore("record", only=[0, 1, 0, 1]).steps


def test_refusals_that_are_left_out_change_nothing() -> None:
    """The reduction is sound on the scenario that is small enough to walk without it."""
    few, all_of_them = explore("record"), explore("record", refusals=True)
    assert few.complete and all_of_them.complete
    assert few.schedules < all_of_them.schedules
    assert few.outcomes == all_of_them.outcomes
    assert not all_of_them.violations
