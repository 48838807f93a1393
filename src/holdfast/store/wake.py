"""
Waking readers when there may be something new. A wake-up carries no data: the reader looks at
the log, so nothing is ever shown before it is durable, and a lost or doubled wake-up costs a
look, never an event.

Invariant: a reader that registers before it looks is woken by every commit after that look.
"""

import asyncio
import threading
from collections.abc import Iterable
from typing import Final

ANY: Final = "\0any stream"
Loop = asyncio.AbstractEventLoop
Waiter = asyncio.Future[None]


class Wakes:
    """
    Who waits for which stream, over all event loops.

    Attributes:
        count: how often somebody was woken; two reads at the same count may be one.
    """

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._lock = threading.Lock()
        self._waiters: dict[str, dict[Waiter, Loop]] = {}
        self.count = 0

    def register(self, stream: str) -> Waiter:
        """Return a future that is done once `stream` may have changed; `ANY` stands for all."""
        loop = asyncio.get_running_loop()
        waiter: Waiter = loop.create_future()
        with self._lock:
            self._waiters.setdefault(stream, {})[waiter] = loop
        return waiter

    def forget(self, stream: str, waiter: Waiter) -> None:
        """Drop a waiter that is not needed any more."""
        with self._lock:
            waiters = self._waiters.get(stream)
            if waiters is not None:
                waiters.pop(waiter, None)
                if not waiters:
                    del self._waiters[stream]

    def wake(self, streams: Iterable[str]) -> None:
        """Wake who waits for one of these streams, or for any."""
        self.count += 1
        if not self._waiters:
            return
        with self._lock:
            # In the order given, not that of a set, so that a simulation can be replayed.
            found = [self._waiters.pop(name, {}) for name in (*streams, ANY)]
        self._finish(found)

    def wake_all(self) -> None:
        """Wake everybody; each looks for itself."""
        self.count += 1
        with self._lock:
            found, self._waiters = list(self._waiters.values()), {}
        self._finish(found)

    def _finish(self, found: Iterable[dict[Waiter, Loop]]) -> None:
        by_loop: dict[Loop, list[Waiter]] = {}
        for waiters in found:
            for waiter, loop in waiters.items():
                by_loop.setdefault(loop, []).append(waiter)
        for loop, woken in by_loop.items():
            try:
                loop.call_soon_threadsafe(_finish, woken)
            except RuntimeError:
                continue  # The loop was closed, and its readers with it.


def _finish(waiters: Iterable[Waiter]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
