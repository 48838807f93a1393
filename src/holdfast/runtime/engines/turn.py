"""
Whose turn it is to work on an engine: one thread at a time, requests before upkeep.

Rule engines draw from one random generator per process (CLIPS calls `rand` of the C library for
every activation), so two memories at work side by side would change each other's order. One
turn for all of them keeps every memory repeatable, and costs little: a request is microseconds,
and it runs under the interpreter's lock anyway. Nobody waits for I/O while he has the turn.

Upkeep (restoring, snapshots) takes the turn in slices, and at most one slice is between a
request and its turn: of three locks, `_next` is the place at the head of the queue, and upkeep
queues for it behind `_upkeep`.
"""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from holdfast.core.clock import Clock

T = TypeVar("T")
SLICE: Final = 0.005
"""Seconds for which upkeep holds up requests at a stretch, about."""

# Of the process, like the generator they protect.
_turn = threading.Lock()
_next = threading.Lock()
_upkeep = threading.Lock()


@contextmanager
def a_turn() -> Generator[None, None, None]:
    """Have the turn for a request."""
    with _next:
        _turn.acquire()
    try:
        yield
    finally:
        _turn.release()


@contextmanager
def a_slice() -> Generator[None, None, None]:
    """Have the turn for a slice of upkeep."""
    with _upkeep, a_turn():
        yield


def in_slices(clock: Clock, steps: Iterator[T], seconds: float) -> Iterator[T]:
    """Take steps one after the other, as many in a turn as fit into so many seconds."""
    while True:
        done: list[T] = []
        ended = False
        with a_slice():
            until = clock.monotonic() + seconds
            while not ended and (not done or clock.monotonic() < until):
                try:
                    done.append(next(steps))
                except StopIteration:
                    ended = True
        yield from done
        if ended:
            return


def quietly(close: Callable[[], None]) -> None:
    """Release a memory in a turn of its own."""
    with a_slice():
        close()
