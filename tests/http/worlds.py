"""Worlds in which a test sets the clock."""

from holdfast.core.world import World
from holdfast.testing.clock import ManualClock


def world_at(clock: ManualClock) -> World:
    """Return a world that goes by a clock."""
    return World(clock=clock)
