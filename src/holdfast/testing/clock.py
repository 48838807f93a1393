"""A clock that a test sets by hand, so that nothing has to wait."""

from typing import Final

from holdfast.core.clock import StoreTime

__all__ = ["ManualClock"]

_WALL_AT_FIRST: Final = 1_700_000_000.0
_SECONDS_AT_FIRST: Final = 1_000.0


class ManualClock:
    """
    Wall time, store time and monotonic time, moved together or each on its own.

    Attributes:
        wall_time: seconds since 1970 UTC; may be set to anything.
        store_seconds: seconds by which leases are judged.
        domain: store-time domain; another one means that the machine was booted since.
        monotonic_seconds: seconds for waits inside the process.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        """Stand so many seconds behind the beginning, the same moment in every run."""
        self.domain = "boot:manual"
        self.set(seconds)

    def wall(self) -> float:
        """Return the wall time that was set."""
        return self.wall_time

    def store_time(self) -> StoreTime:
        """Return the store time that was set."""
        return StoreTime(self.domain, self.store_seconds)

    def monotonic(self) -> float:
        """Return the monotonic time that was set."""
        return self.monotonic_seconds

    def set(self, seconds: float) -> None:
        """Set all three times to so many seconds behind the beginning."""
        self.wall_time = _WALL_AT_FIRST + seconds
        self.store_seconds = _SECONDS_AT_FIRST + seconds
        self.monotonic_seconds = _SECONDS_AT_FIRST + seconds

    def advance(self, seconds: float) -> None:
        """Let all three times pass, as they do when nobody touches a clock."""
        self.wall_time += seconds
        self.store_seconds += seconds
        self.monotonic_seconds += seconds
