"""
Identifiers: random where they must be unique, derived where they must be found again.

A *unit id* is 16 bytes: the number of the last transaction its maker had seen (6 bytes), then
10 random bytes. The unit can only be in a later transaction, so a search for its outcome has
a lower bound, and *absent* can be told from *forgotten* without trusting any clock.
"""

import secrets
from collections.abc import Callable
from functools import lru_cache
from hashlib import blake2b

RandomBytes = Callable[[int], bytes]

UNIT_ID_BYTES = 16
_NUMBER_BYTES = 6
_RANDOM_BYTES = UNIT_ID_BYTES - _NUMBER_BYTES
_RANDOM_MASK = (1 << 8 * _RANDOM_BYTES) - 1
# More than a batch names.
_DERIVED_MAX = 4_096


class Ids:
    """Draws identifiers from a source of random bytes (a seeded one in simulations)."""

    def __init__(self, random_bytes: RandomBytes = secrets.token_bytes) -> None:
        """Take the source of randomness."""
        self._random = random_bytes

    def unit(self, last_number: int) -> bytes:
        """Return a fresh unit id, made after transaction `last_number` was seen."""
        return self.units(last_number, 1)[0]

    def units(self, last_number: int, count: int) -> list[bytes]:
        """Return fresh unit ids: one draw, counted on; asking the system for each is slow."""
        drawn = int.from_bytes(self._random(_RANDOM_BYTES), "big")
        number = last_number.to_bytes(_NUMBER_BYTES, "big")
        return [
            number + ((drawn + index) & _RANDOM_MASK).to_bytes(_RANDOM_BYTES, "big")
            for index in range(count)
        ]

    def incarnation(self) -> bytes:
        """Return a fresh incarnation id of 16 bytes."""
        return self._random(16)


def unit_lower_bound(unit_id: bytes) -> int:
    """Return the transaction number after which the unit was made."""
    return int.from_bytes(unit_id[:_NUMBER_BYTES], "big")


@lru_cache(_DERIVED_MAX)
def derived_id(space: bytes, *parts: bytes) -> bytes:
    """
    Return 16 bytes by which a row is found, from values of any length.

    The full value is stored beside it and compared on every load, so this is an index, never
    proof of identity. A batch asks for each when it loads and again when it writes.
    """
    named = [space]
    for part in parts:
        named += (len(part).to_bytes(8, "big"), part)
    return blake2b(b"".join(named), digest_size=16).digest()
