"""
Which events are ours: who watches for the commits of others leaves these out.

A position is noted when its commit is over. One that is committed and not noted yet counts as
somebody else's, which costs a look too many; the other way round nobody would be woken.

Invariant: what is taken up to a position is not kept; the writer adds at one end, the watch takes
from the other.
"""

from collections import deque
from collections.abc import Iterable


class OwnEvents:
    """Positions of the events that this opening committed, until the watch has come by them."""

    def __init__(self) -> None:
        """Begin with none."""
        self._positions: deque[int] = deque()

    def note(self, positions: Iterable[int]) -> None:
        """Add what a batch committed; positions grow from batch to batch."""
        self._positions.extend(positions)

    def take(self, until: int) -> list[int]:
        """Return those up to a position, and forget them."""
        taken: list[int] = []
        while self._positions and self._positions[0] <= until:
            taken.append(self._positions.popleft())
        return taken
