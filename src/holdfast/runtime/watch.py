"""
Waking followers when another process has written.

Our own commits wake followers at once. Another process on the same store is noticed here: the
driver waits for a hint (a changed data version, a notification) and looks for itself now and
then, so that a lost hint costs a second, not an event.

Not all that is new has a name: a closed stream has no event, and of very many streams only some
are named. So everybody is told to look as soon as it is quiet, and at the latest after `WAIT`:
another process that commits steadily holds up nobody.
"""

import asyncio
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
        self._owed_since: float | None = None
        self.on_streams: Callable[[Sequence[str]], None] = lambda _: None

    async def tick(self) -> None:
        """Wait for a change and tell of it; a look at all is owed with each, and paid later."""
        if self._store.closed:
            return
        changes = await self._store.wait_foreign(WAIT)
        self.on_streams(changes.streams)
        now = asyncio.get_running_loop().time()
        if (changes.foreign or changes.streams) and self._owed_since is None:
            self._owed_since = now
        if self._owed_since is None:
            return
        if not changes.streams or now - self._owed_since >= WAIT:
            self._owed_since = None
            self._store.wakes.wake_all()
