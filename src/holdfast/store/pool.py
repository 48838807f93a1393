"""
A few connections lent to readers, one at a time each.

Connections are made when they are first needed and used again, last one first. One that broke
is closed and not lent again.

Invariant: at most `size` connections are lent to readers at any moment; a reader beyond that
waits. Who is lent one at once does not count.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """A connection as far as a pool cares."""

    @property
    def broken(self) -> bool:
        """Whether it can still be used."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


C = TypeVar("C", bound=Closable)


class Pool(Generic[C]):
    """Lends connections."""

    def __init__(self, connect: Callable[[], C], size: int) -> None:
        """Take how a connection is made, and how many there may be."""
        self._connect = connect
        self._free: list[C] = []
        # Places for readers; a semaphore does the same in Python, at the cost of a small query.
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(size):
            self._room.put(None)
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def lend(self) -> Generator[C]:
        """Lend a connection for the length of a block."""
        self._room.get()
        try:
            with self.lend_at_once() as connection:
                yield connection
        finally:
            self._room.put(None)

    @contextmanager
    def lend_at_once(self) -> Generator[C]:
        """Lend a connection to who must not wait for readers: one that is free, or one more."""
        connection = self._take() or self._connect()
        try:
            yield connection
        finally:
            self._take_back(connection)

    def close(self) -> None:
        """Close what is not lent now, and what is lent when it comes back."""
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def _take(self) -> C | None:
        """Return a free connection that can still be used, if there is one."""
        while True:
            with self._lock:
                if not self._free:
                    return None
                connection = self._free.pop()
            if not connection.broken:
                return connection
            connection.close()

    def _take_back(self, connection: C) -> None:
        with self._lock:
            if not self._closed and not connection.broken:
                self._free.append(connection)
                return
        connection.close()
