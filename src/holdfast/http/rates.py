"""
Rates: how often somebody may do something, as buckets that fill with time.

Invariant: whoever holds back long enough may go on; what is remembered of strangers is bounded.
"""

from typing import Final

from holdfast.core.clock import Clock
from holdfast.core.denial import TooManyError

_NAMES_MAX: Final = 10_000


class Buckets:
    """A bucket per name: each holds a burst and fills at a rate."""

    def __init__(self, clock: Clock, rate: float, burst: float) -> None:
        """Take how many a second, and how many at once."""
        self._clock = clock
        self._rate = rate
        self._burst = burst
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str, what: str) -> None:
        """
        Take one out of a bucket.

        Raises:
            TooManyError: it is empty.
        """
        now = self._clock.monotonic()
        left, since = self._left.pop(name, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        if len(self._left) >= _NAMES_MAX:
            self._left.pop(next(iter(self._left)))
        if left < 1:
            self._left[name] = (left, now)
            raise TooManyError(what=what, limit=self._burst, retry_after=(1 - left) / self._rate)
        self._left[name] = (left - 1, now)
