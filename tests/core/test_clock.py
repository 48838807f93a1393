"""The machine's clock: wall time for people, time since boot for leases, never mixed."""

import time

import pytest

from holdfast.core.clock import SystemClock


def test_a_wall_clock_that_is_set_moves_neither_leases_nor_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """X10, F16. Somebody sets the clock by decades; only wall time follows."""
    clock = SystemClock()
    store, monotonic = clock.store_time(), clock.monotonic()
    for wall in (0.0, 4e9):
        monkeypatch.setattr(time, "time", lambda wall=wall: wall)
        assert clock.wall() == wall
        assert clock.store_time().domain == store.domain == SystemClock().store_time().domain
        assert store.seconds <= clock.store_time().seconds < store.seconds + 60
        assert monotonic <= clock.monotonic() < monotonic + 60
