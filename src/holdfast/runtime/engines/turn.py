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
from contextlib import AbstractContextManager, contextmanager
from typing import Final, TypeVar

from holdfast.core.clock import Clock

T = TypeVar("T")
SLICE: Final = 0.005
"""Seconds for which upkeep holds up requests at a stretch, about."""

# Of the process, like the generator they protect.
_turn = threading.Lock()
_next = threading.Lock()
_upkeep = threading.Lock()


class _Turn:
    """The turn for a request; a class, since every request takes it."""

    def __enter__(self) -> None:
        with _next:
            _turn.acquire()

    def __exit__(self, *_error: object) -> None:
        _turn.release()


_the_turn = _Turn()


def a_turn() -> AbstractContextManager[None]:
    """Have the turn for a request."""
    return _the_turn


@contextmanager
def a_slice() -> Generator[None, None, None]:
    """Have the turn for a slice of upkeep."""
    with _upkeep, a_turn():
        yield


def in_slices(
    clock: Clock, steps: Iterator[T], seconds: float, held: Callable[[float], None]
) -> Iterator[T]:
    """
    Take steps one after the other, as many in a turn as fit into so many seconds.

    Args:
        clock: by which they are measured.
        steps: what is done.
        seconds: for a turn, about.
        held: is told how long each turn was.
    """
    while True:
        done: list[T] = []
        ended = False
        with a_slice():
            began = clock.monotonic()
            while not ended and (not done or clock.monotonic() < began + seconds):
                try:
                    done.append(next(steps))
                except StopIteration:
                    ended = True
            held(clock.monotonic() - began)
        yield from done
        if ended:
            return
