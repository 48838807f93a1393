"""Deadlines: what clocks that jump can do to them, and what they cannot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.core.clock import StoreTime
from holdfast.core.deadline import ending_in, rebased, remaining
from holdfast.core.errors import InvalidValueError

jumps = st.floats(-1e6, 1e6)
ttls = st.floats(0.001, 1e6)
passed = st.floats(0.0, 1e6)


@given(ttls, passed, jumps)
def test_in_one_boot_the_wall_clock_is_not_asked(ttl: float, after: float, jump: float) -> None:
    """X10. Only the time since boot counts, wherever the wall clock jumps."""
    deadline = ending_in(ttl, StoreTime("a", 100.0), 5_000.0)
    left = remaining(deadline, StoreTime("a", 100.0 + after), 5_000.0 + jump)
    assert left == pytest.approx(max(0.0, ttl - after), abs=1e-6)


@given(ttls, st.lists(st.tuples(passed, jumps), max_size=6))
def test_over_boots_nothing_is_ever_gained(ttl: float, boots: list[tuple[float, float]]) -> None:
    """X10. However the clock is set between boots, never is more left than was left before."""
    deadline = ending_in(ttl, StoreTime("boot 0", 50.0), 1e9)
    wall, left = 1e9, ttl
    for number, (after, jump) in enumerate(boots, 1):
        wall += jump
        here = rebased(deadline, StoreTime(f"boot {number}", 10.0), wall)
        before, left = left, remaining(here, StoreTime(f"boot {number}", 10.0), wall)
        assert left <= before + 1e-6
        assert jump > 0 or left == pytest.approx(before, abs=1e-6)
        left = remaining(here, StoreTime(f"boot {number}", 10.0 + after), -1e9)
        deadline = rebased(here, StoreTime(f"boot {number}", 10.0 + after), wall)
        assert deadline is here, "a deadline of this boot is written anew for nothing"
        deadline = ending_in(max(left, 1e-9), StoreTime(f"boot {number}", 10.0 + after), wall)


def test_a_clock_that_jumps_after_a_boot_is_not_asked_twice() -> None:
    """X10. Once seen in a new boot, a deadline belongs to it."""
    deadline = rebased(ending_in(60.0, StoreTime("a", 0.0), 1_000.0), StoreTime("b", 7.0), 1_020.0)
    assert remaining(deadline, StoreTime("b", 7.0), 0.0) == 40.0
    assert remaining(deadline, StoreTime("b", 17.0), 9e9) == 30.0


@pytest.mark.parametrize("ttl", [0.0, -1.0, float("nan")])
def test_a_deadline_needs_time(ttl: float) -> None:
    """X10."""
    with pytest.raises(InvalidValueError):
        ending_in(ttl, StoreTime("a", 0.0), 0.0)
