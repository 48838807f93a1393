"""
Time, the only place where it is read.

Two kinds are kept apart. Wall time is for people: it is stored with events and may jump.
Store time is for leases: it belongs to a *domain* in which it never runs backwards. On one
machine that is the time since boot, with the boot id as the domain, so that a lease of an
earlier boot is expired by definition and a wall clock set back extends nothing.
"""

import time
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class StoreTime(NamedTuple):
    """A moment by which leases are judged: seconds within a domain."""

    domain: str
    seconds: float


class Offset(NamedTuple):
    """
    By how much a wall clock is ahead of a machine's store time, as far as that is known.

    Attributes:
        low, high: seconds; the truth lies between them.
    """

    low: float
    high: float

    def gap(self, seconds: float) -> float:
        """Return by how much an offset is above these bounds; below them it is negative."""
        return max(0.0, seconds - self.high) + min(0.0, seconds - self.low)


class Clock(Protocol):
    """What Holdfast asks of a clock; tests set one by hand."""

    def wall(self) -> float:
        """Return seconds since 1970 UTC, for people; may jump."""
        ...

    def store_time(self) -> StoreTime:
        """Return the moment by which leases on this machine are judged."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never run backwards, for waits inside this process."""
        ...


def offset(clock: Clock) -> float:
    """Return by how many seconds wall time is ahead of store time; constant, unless it is set."""
    return clock.wall() - clock.store_time().seconds


class SystemClock:
    """The clock of this machine."""

    def __init__(self) -> None:
        """Read the boot id once; it cannot change while this process lives."""
        self._domain = _boot_domain()

    def wall(self) -> float:
        """Return seconds since 1970 UTC."""
        return time.time()

    def store_time(self) -> StoreTime:
        """Return seconds since boot, suspended time included where the system counts it."""
        return StoreTime(self._domain, _since_boot())

    def monotonic(self) -> float:
        """Return the process-wide monotonic time in seconds."""
        return time.monotonic()


@cache
def _boot_domain() -> str:
    try:
        return "boot:" + _BOOT_ID.read_text().strip()
    except OSError:
        return "boot:unknown"


def _since_boot() -> float:
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
