"""
Waking followers when another process has written.

Our own commits wake followers at once. Another process on the same store is noticed here: the
driver waits for a hint (a changed data version, a notification) and looks for itself now and
then, so that a lost hint costs a second, not an event.
"""

from collections.abc import Callable, Sequence

from holdfast.runtime.service import Service
from holdfast.store.store import Store

WAIT = 1.0


class Watch(Service):
    """
    Asks the store for commits of other openings.

    Attributes:
        on_streams: called with the streams that others appended to.
    """

    def __init__(self, store: Store) -> None:
        """Take the store."""
        super().__init__("watch", 0.0)
        self._store = store
        self._foreign = False
        self.on_streams: Callable[[Sequence[str]], None] = lambda _: None

    async def tick(self) -> None:
        """Wait for a change; what has no event (a closed stream) is found by a look at all."""
        if self._store.closed:
            return
        changes = await self._store.wait_foreign(WAIT)
        self.on_streams(changes.streams)
        if not changes.streams and (changes.foreign or self._foreign):
            self._store.wakes.wake_all()
        self._foreign = changes.foreign
