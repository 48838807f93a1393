"""
Leases: the right to act, and why a stale owner cannot do harm.

Authority. A lease names a key and is held by one *incarnation* (one opening of a store) under
one *generation*. Every grant raises the generation by one; it is never lowered and never used
again, also not after a release. `(key, generation, incarnation)` is the fencing token.

        GrantLease                    RenewLease (same generation)
  free ------------> held(g+1) ----------------------------------> held(g+1), later end
   ^                   |   |
   |   ReleaseLease    |   | end reached on the store's clock
   +-------------------+   v
   ^                    expired(g+1) -- GrantLease by anyone --> held(g+2)
   held(g+1) -- GrantLease with over = g+1: its holder was proven dead --> held(g+2)

Trust. The end of a lease only says when somebody else *may* take over; it never makes a write
correct. Correct is what passes `check_fence` inside the writing transaction: the generation
and the incarnation match and the end is not reached. So clocks that jump delay a takeover or
hasten it, and the loser's writes are refused either way.

Death. A grant may name the generation of a holder that was proven dead (its process is gone:
see `store.owner`) and takes the lease before its end. The name makes this a compare-and-set: of
many who found the same corpse one is granted, the others meet the next generation and are
refused. A proof that was wrong does no harm to what is stored, because the owner that was
thought dead is fenced from then on like any other that was overtaken.

Time. Ends are store time: a domain and seconds in it. Another domain (the machine was booted
since) means that the holder's process is gone, so the lease is expired.

Incarnation. A cloned directory or a restored backup carries the same generations, but every
opening draws its own incarnation, so tokens of two copies never are equal.

Invariants: generation is monotonic per key; at most one (generation, incarnation) passes
`check_fence` for a key at any time; an expired lease is never renewed, only granted anew.
"""

from holdfast.core.clock import StoreTime
from holdfast.core.errors import (
    InvalidValueError,
    LeaseExpiredError,
    LeaseHeldError,
    StaleGenerationError,
)
from holdfast.core.unit import Fence, GrantLease, LeaseRow, ReleaseLease, RenewLease

TTL_MAX = 30 * 24 * 3600.0


def expired(row: LeaseRow, now: StoreTime) -> bool:
    """Return whether the end of a lease is reached."""
    return row.domain != now.domain or row.expires_at <= now.seconds


def check_fence(row: LeaseRow | None, fence: Fence, now: StoreTime) -> LeaseRow:
    """
    Return the lease if the bearer of a fencing token still owns it.

    Raises:
        StaleGenerationError: another generation or incarnation owns it, or nobody does.
        LeaseExpiredError: it is the owner's, but its end is reached.
    """
    owned = _owned(row, fence.key, fence.generation, fence.incarnation)
    if expired(owned, now):
        raise LeaseExpiredError(key=fence.key, generation=fence.generation)
    return owned


def granted(
    row: LeaseRow | None, write: GrantLease, incarnation: bytes, now: StoreTime
) -> LeaseRow:
    """
    Return the lease after a grant.

    Raises:
        LeaseHeldError: somebody holds it, its end is not reached, and it is not the generation
            whose holder was proven dead.
        InvalidValueError: the time to live is not within (0, `TTL_MAX`] seconds.
    """
    end = _end(write.ttl, now)
    held = row is not None and row.incarnation and not expired(row, now)
    if row is not None and held and row.generation != write.over:
        raise LeaseHeldError(
            key=write.key,
            holder=row.holder,
            generation=row.generation,
            remaining=row.expires_at - now.seconds,
        )
    generation = 1 if row is None else row.generation + 1
    return LeaseRow(write.key, generation, incarnation, write.holder, now.domain, end)


def renewed(
    row: LeaseRow | None, write: RenewLease, incarnation: bytes, now: StoreTime
) -> LeaseRow:
    """
    Return the lease with a later end.

    Raises:
        StaleGenerationError: it is not the caller's.
        LeaseExpiredError: its end was reached; it has to be granted anew.
    """
    owned = check_fence(row, Fence(write.key, write.generation, incarnation), now)
    end = _end(write.ttl, now)
    return LeaseRow(write.key, write.generation, incarnation, owned.holder, now.domain, end)


def released(row: LeaseRow | None, write: ReleaseLease, incarnation: bytes) -> LeaseRow:
    """
    Return the lease with no holder; an expired one may still be given back by its owner.

    Raises:
        StaleGenerationError: it is not the caller's.
    """
    _owned(row, write.key, write.generation, incarnation)
    return LeaseRow(write.key, write.generation, b"", "", "", 0.0)


def _owned(row: LeaseRow | None, key: str, generation: int, incarnation: bytes) -> LeaseRow:
    if row is None or row.generation != generation or row.incarnation != incarnation:
        actual = 0 if row is None else row.generation
        raise StaleGenerationError(key=key, generation=generation, actual=actual)
    return row


def _end(ttl: float, now: StoreTime) -> float:
    if not 0 < ttl <= TTL_MAX:
        raise InvalidValueError(what="ttl", reason=f"is {ttl} s, must be within (0, {TTL_MAX:g}]")
    return now.seconds + ttl
