"""
Deadlines that survive restarts and do not believe the wall clock more than they must.

A deadline remembers three things: its end in store time (a domain and seconds in it), how much
was left when that was written, and the wall time of that moment. In the same domain the end
counts, and the wall clock is not asked at all. In another domain (the machine was booted since,
or it is another machine) only the wall clock knows how long it was, so what it says is bounded:
time that ran backwards counts as none, and never is more left than was left then.

Whoever meets a deadline of another domain writes it anew (`rebased`), so that a clock that
jumps later on is not asked a second time.

Invariants: `remaining` is within 0 and what was left at the writing; in one domain it never
grows and does not depend on the wall clock.
"""

import msgspec

from holdfast.core.clock import StoreTime
from holdfast.core.errors import InvalidValueError


class Deadline(msgspec.Struct, frozen=True):
    """
    An end, as it is stored.

    Attributes:
        domain: store-time domain of `ends_at`.
        ends_at: end in seconds of that domain.
        left: seconds that were left when it was written.
        written_at: wall time of that moment.
    """

    domain: str
    ends_at: float
    left: float
    written_at: float


def ending_in(ttl: float, now: StoreTime, wall: float) -> Deadline:
    """
    Return the deadline that is `ttl` seconds away.

    Raises:
        InvalidValueError: that is not more than 0.
    """
    if not ttl > 0:
        raise InvalidValueError(what="ttl", reason=f"is {ttl} s, must be more than 0")
    return Deadline(now.domain, now.seconds + ttl, ttl, wall)


def remaining(deadline: Deadline, now: StoreTime, wall: float) -> float:
    """Return how many seconds are left, never more than were left then; 0 when it is reached."""
    if deadline.domain == now.domain:
        left = deadline.ends_at - now.seconds
    else:
        left = deadline.left - (wall - deadline.written_at)
    return min(max(left, 0.0), deadline.left)


def rebased(deadline: Deadline, now: StoreTime, wall: float) -> Deadline:
    """Return the same deadline as this domain counts it; one of this domain is unchanged."""
    if deadline.domain == now.domain:
        return deadline
    left = remaining(deadline, now, wall)
    return Deadline(now.domain, now.seconds + left, left, wall)
