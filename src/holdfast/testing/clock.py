"""A clock that a test sets by hand, so that nothing has to wait."""

from holdfast.core.clock import StoreTime

__all__ = ["ManualClock"]


class ManualClock:
    """
    Wall time, store time and monotonic time, each moved on its own.

    Attributes:
        wall_time: seconds since 1970 UTC; may be set to anything.
        store_seconds: seconds by which leases are judged.
        domain: store-time domain; another one means that the machine was booted since.
        monotonic_seconds: seconds for waits inside the process.
    """

    def __init__(self, wall_time: float = 1_700_000_000.0) -> None:
        """Begin at a wall time, with store and monotonic time at 1,000 seconds."""
        self.wall_time = wall_time
        self.store_seconds = 1_000.0
        self.domain = "boot:manual"
        self.monotonic_seconds = 1_000.0

    def wall(self) -> float:
        """Return the wall time that was set."""
        return self.wall_time

    def store_time(self) -> StoreTime:
        """Return the store time that was set."""
        return StoreTime(self.domain, self.store_seconds)

    def monotonic(self) -> float:
        """Return the monotonic time that was set."""
        return self.monotonic_seconds

    def advance(self, seconds: float) -> None:
        """Let all three times pass, as they do when nobody touches a clock."""
        self.wall_time += seconds
        self.store_seconds += seconds
        self.monotonic_seconds += seconds
