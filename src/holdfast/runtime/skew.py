"""
Skew: whether the wall clock can be believed.

Nothing rests on it: order is by number, leases and timers end by store time, so that a wall clock
which jumps loses and extends nothing. But people read it, and schedules and what waits over a boot
go by it; so it is said when it is off, and nothing is refused because of it.

Wall time is compared with the time since boot, which nobody can set and which goes on while a
machine sleeps: how far one is ahead of the other stays as it is until somebody sets the clock. What
it has to be is said by the store's own clock, which comes with every commit; where a store has
none, it is what it was at the start.

Invariants: a look asks the clocks of this machine and nobody else. Where the store has a clock, the
wall clock is off exactly as long as the two differ; elsewhere it is believed again once it is back,
or has kept its pace for `STEADY` seconds: then somebody has set it right, or means it so.
"""

import logging
from typing import Final, NamedTuple

from holdfast.core.clock import Offset, offset
from holdfast.store.store import Store

STEADY: Final = 600.0
log = logging.getLogger("holdfast")


class Moved(NamedTuple):
    """
    A clock that is off.

    Attributes:
        by: seconds; below 0 if it is behind.
        at: store time at which that was seen.
        words: what is said of it.
    """

    by: float
    at: float
    words: str


class Skew:
    """How far the wall clock is off, as far as anybody can tell."""

    def __init__(self, store: Store) -> None:
        """Take the store; the clock of this machine is believed as it is now."""
        self._driver = store.driver
        self._clock = store.world.clock
        self._max = store.options.clock_skew_max
        self._own = self._now()
        self._moved: Moved | None = None

    def trouble(self) -> str:
        """Look, and return why the wall clock should not be believed; empty if it may."""
        if not self._max:
            return ""
        vouched, at = self._driver.vouched, self._clock.store_time().seconds
        by = (vouched or self._own).gap(offset(self._clock))
        if abs(by) <= self._max:
            self._moved = None
            return ""
        moved = self._moved
        if moved is None or abs(by - moved.by) > self._max:
            moved = self._moved = Moved(by, at, _words(by, stored=vouched is not None))
            log.warning("event=wall_clock_off seconds=%.1f", by)
        elif vouched is None and at - moved.at >= STEADY:
            self._own, self._moved = self._now(), None
            return ""
        return moved.words

    def _now(self) -> Offset:
        seconds = offset(self._clock)
        return Offset(seconds, seconds)


def _words(by: float, *, stored: bool) -> str:
    if stored:
        side = "ahead of" if by > 0 else "behind"
        return f"the wall clock is {abs(by):.1f} s {side} the clock of the store"
    side = "forward" if by > 0 else "back"
    return f"the wall clock was set {side} by {abs(by):.1f} s"
