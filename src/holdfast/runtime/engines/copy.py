"""
A copy of a working memory, on its way to where the memory is: restored, then brought up to date.

Nothing here knows a store: a copy takes parts of a snapshot and requests of a journal, in slices
of the turn, and says what does not fit.

Invariants: a copy whose request came out otherwise is closed; a rebased copy is byte for byte
what its capture says.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import msgspec

from holdfast.core import codec
from holdfast.core.engine import Request, seed_of
from holdfast.core.errors import DecodeError
from holdfast.core.refusal import NotCapturedError, NotRestoredError
from holdfast.runtime.engines.engine import Memory
from holdfast.runtime.engines.place import Place
from holdfast.runtime.engines.turn import a_slice, in_slices

VERSION: Final = 1
"""Of the snapshots written here."""

Progress = Callable[[int], None]
Numbered = tuple[int, Request]
"""A request with its sequence."""


def untold(_count: int) -> None:
    """Take no note of progress."""


class Head(msgspec.Struct, frozen=True):
    """The first part of a stored snapshot."""

    version: int
    fingerprint: str
    parts: int
    requests: int


class Copy(msgspec.Struct):
    """
    A memory, and how far it is.

    Attributes:
        memory: it.
        sequence: of the last event of its journal that it includes.
        requests: that were done to it since it began.
        base: sequence of the snapshot it was restored from; 0 if it was from none.
        tail: requests since then.
    """

    memory: Memory
    sequence: int = 0
    requests: int = 0
    base: int = 0
    tail: int = 0


def fresh(place: Place) -> Copy:
    """Return a copy to which nothing was done."""
    with a_slice():
        return Copy(place.engine.fresh())


def redo(
    place: Place, copy: Copy, requests: Iterable[Numbered], progress: Progress = untold
) -> None:
    """
    Do requests again that the copy does not include; it is closed if they do not fit.

    Raises:
        NotRestoredError: something else came of one.
    """
    try:
        steps = (_redo_one(place, copy, *each) for each in requests if each[0] > copy.sequence)
        for _ in in_slices(place.store.world.clock, steps, place.pause, place.held):
            progress(1)
    except BaseException:
        copy.memory.close()
        raise


def _redo_one(place: Place, copy: Copy, sequence: int, request: Request) -> bool:
    again = copy.memory.redo(request, seed_of(place.stream, copy.requests))
    if not again.agrees(request):
        raise NotRestoredError(
            reason=f"request {sequence} came out otherwise: {again.fired} rules fired, not "
            f"{request.fired}, facts {again.facts.hex()[:8]}, not {request.facts.hex()[:8]}"
        )
    copy.sequence = sequence
    copy.requests += 1
    copy.tail += 1
    return True


def rebase(place: Place, copy: Copy) -> bytes:
    """
    Replace the memory of a copy by one restored from its own capture; return the snapshot.

    Raises:
        NotCapturedError: it cannot be captured, or another memory came of it.
    """
    try:
        parts = captured(place, copy.memory)
        other = restored(place, parts)
        again = captured(place, other)
    except NotRestoredError as error:
        raise NotCapturedError(reason=error.reason) from error
    if again != parts:
        other.close()
        raise NotCapturedError(reason=f"restoring it gave another one: {_differing(parts, again)}")
    copy.memory.close()
    copy.memory, copy.base, copy.tail = other, copy.sequence, 0
    return packed(place, parts, copy.requests)


def _differing(parts: list[bytes], again: list[bytes]) -> str:
    pairs = enumerate(zip(parts, again, strict=False))
    number = next((at for at, (one, other) in pairs if one != other), len(again))
    return f"part {number} of {len(parts)} differs"


def captured(place: Place, memory: Memory) -> list[bytes]:
    """Return the parts of a state."""
    steps = in_slices(place.store.world.clock, memory.capture(), place.pause, place.held)
    return [part for part in steps if part]


def restored(
    place: Place, parts: Sequence[bytes], pieces: int = 0, progress: Progress = untold
) -> Memory:
    """
    Return a memory that took these parts.

    Args:
        place: which one.
        parts: of a state.
        pieces: as how much progress they count.
        progress: is told.

    Raises:
        NotRestoredError: they are not of this engine.
    """
    memory = fresh(place).memory
    try:
        steps = memory.restore(_told(parts, pieces, progress))
        for _ in in_slices(place.store.world.clock, steps, place.pause, place.held):
            pass
    except BaseException:
        memory.close()
        raise
    return memory


def _told(parts: Sequence[bytes], pieces: int, progress: Progress) -> Iterator[bytes]:
    """Give parts, and tell when they were taken."""
    told = 0
    for number, part in enumerate(parts, 1):
        yield part
        if more := pieces * number // len(parts) - told:
            progress(more)
            told += more


def packed(place: Place, parts: Sequence[bytes], requests: int) -> bytes:
    """Return the parts of a state as the bytes of a snapshot."""
    head = Head(VERSION, place.engine.fingerprint, len(parts), requests)
    return b"".join(
        len(part).to_bytes(4, "big") + part for part in (msgspec.msgpack.encode(head), *parts)
    )


def unpacked(place: Place, data: bytes) -> tuple[list[bytes], int]:
    """
    Return the parts of a snapshot, and how many requests it includes.

    Raises:
        DecodeError, NotRestoredError: it is none, of another version, or of other rules.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        parts.append(data[at + 4 : end])
        at = end
    if not parts or at != len(data):
        raise DecodeError(what="snapshot", reason="its parts do not fill it")
    head = codec.decode_as(parts[0], Head, "snapshot")
    if head.version != VERSION or head.parts != len(parts) - 1:
        raise NotRestoredError(reason=f"snapshot of version {head.version}, this reads {VERSION}")
    if head.fingerprint != place.engine.fingerprint:
        raise NotRestoredError(reason=f"snapshot of rules {head.fingerprint}")
    return parts[1:], head.requests
