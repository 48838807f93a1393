"""
Telling a torn tail from damage in an SQLite write-ahead log, before SQLite opens it.

SQLite stops reading at the first frame that does not verify and silently forgets the rest.
After a power cut that is right: the tail was never acknowledged. After a flipped bit it is
not. The two can be told apart without any cost while running, because with synchronous=FULL
a transaction is written only after the one before it was synced. So:

    if a frame does not verify, and *behind* it there is a commit frame that continues the
    checksum of its predecessor, and whose successor continues its own and belongs to another
    transaction, then everything up to that commit frame was synced once, and the frame that
    does not verify was damaged later.

A commit frame may be repeated to fill the sector (psow=0); such a repetition belongs to the
same transaction and proves nothing. A damaged header proves nothing either: what lies behind
may be frames of an earlier, fully checkpointed log. These cases are left to the mark.

File format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

import struct
import sys
from array import array
from collections.abc import Iterator
from functools import cache, cached_property
from typing import BinaryIO, NamedTuple

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
_MAGIC_LITTLE = 0x377F0682
_MASK = 0xFFFFFFFF
_OURS = "<" if sys.byteorder == "little" else ">"
# Pairs of words summed from zero stay below 2**64 for so many: the sums grow as Fibonacci numbers.
_BLOCK_PAIRS = 16
# Read and summed at once.
_CHUNK_BYTES = 256 * 1024
_LANE_BYTES = 8


class _Growth(NamedTuple):
    """
    By what the two sums before some words count in those after them.

    The first sum becomes `before * first + same * second`, the second
    `same * first + after * second`, each with what the words themselves add up to from zero.
    """

    before: int
    same: int
    after: int


@cache
def _growth(pairs: int) -> _Growth:
    """Return the growth over so many pairs of words."""
    before, same = 1, 0
    for _ in range(2 * pairs):
        before, same = same, before + same & _MASK
    return _Growth(before, same, before + same & _MASK)


class WalVerdict(NamedTuple):
    """
    What a log holds.

    Attributes:
        frames: frames that verify, counted from the start.
        page_size: bytes of a page.
        size_pages: pages of the database after the last commit that verifies; 0 without one.
        pages: pages that the frames up to that commit hold; all others are in the main file.
        damaged_frame: number (from 1) of the first frame that does not verify although it was
            synced once; None if there is no such proof.
        proven_by: number of the commit frame that proves it.
    """

    frames: int
    page_size: int = 0
    size_pages: int = 0
    pages: frozenset[int] = frozenset()
    damaged_frame: int | None = None
    proven_by: int | None = None


class _Chunk:
    """Frames that were read together; their pages are summed at once, when one is asked for."""

    def __init__(self, data: bytes, page_size: int, order: str) -> None:
        step = FRAME_HEADER_BYTES + page_size
        starts = range(0, len(data) - step + 1, step)
        self.heads = [data[start : start + FRAME_HEADER_BYTES] for start in starts]
        self._bodies = [data[start + FRAME_HEADER_BYTES : start + step] for start in starts]
        self._order = order
        self.growth = _growth(page_size // _LANE_BYTES)

    @cached_property
    def sums(self) -> list[tuple[int, int]]:
        """Both sums of each page, begun at zero."""
        words = array("I", b"".join(self._bodies))
        if self._order != _OURS:
            words.byteswap()
        return _page_sums(array("Q", words.tobytes()), len(self._bodies))


class _Frame(NamedTuple):
    page: int
    commit: int
    salts: tuple[int, int]
    check: tuple[int, int]
    chunk: _Chunk
    number: int


def examine(wal: BinaryIO) -> WalVerdict:
    """Walk a log and say how far it verifies, and whether what follows proves damage."""
    header = wal.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES:
        return WalVerdict(0)
    magic, _, page_size, _, salt1, salt2, check1, check2 = struct.unpack(">8I", header)
    order = "<" if magic == _MAGIC_LITTLE else ">"
    if magic & ~1 != _MAGIC_LITTLE or not _sane(page_size):
        return WalVerdict(0)
    if _checksum(header[:24], order, (0, 0)) != (check1, check2):
        return WalVerdict(0)
    return _walk(wal, page_size, (salt1, salt2), (check1, check2), order)


def _walk(
    wal: BinaryIO, page_size: int, salts: tuple[int, int], check: tuple[int, int], order: str
) -> WalVerdict:
    good, size_pages = 0, 0
    pages: set[int] = set()
    uncommitted: set[int] = set()
    frames = _frames(wal, page_size, order)
    frame = next(frames, None)
    while frame and frame.salts == salts and _follows(frame, check, order):
        good += 1
        check = frame.check
        uncommitted.add(frame.page)
        if frame.commit:
            size_pages = frame.commit
            pages |= uncommitted
            uncommitted.clear()
        frame = next(frames, None)
    intact = WalVerdict(good, page_size, size_pages, frozenset(pages))
    number, before = good + 1, None
    while frame:
        following = next(frames, None)
        if before and following and _proves(before, frame, following, salts, order):
            return intact._replace(damaged_frame=good + 1, proven_by=number)
        before, frame, number = frame, following, number + 1
    return intact


def _proves(
    before: _Frame, frame: _Frame, following: _Frame, salts: tuple[int, int], order: str
) -> bool:
    if not frame.commit or frame.salts != salts or following.salts != salts:
        return False
    if following.commit and following.page == frame.page:
        return False
    # A torn header may join the commit of an older frame with the checksum of a newer one, so
    # the commit frame has to verify itself.
    return _follows(frame, before.check, order) and _follows(following, frame.check, order)


def _follows(frame: _Frame, check: tuple[int, int], order: str) -> bool:
    """Return whether the checksum goes on here; sums before a page count in those after it."""
    first, second = _checksum(frame.chunk.heads[frame.number][:8], order, check)
    even, odd = frame.chunk.sums[frame.number]
    before, same, after = frame.chunk.growth
    return frame.check == (
        before * first + same * second + even & _MASK,
        same * first + after * second + odd & _MASK,
    )


def _frames(wal: BinaryIO, page_size: int, order: str) -> Iterator[_Frame]:
    """Read frames to the last whole one."""
    step = FRAME_HEADER_BYTES + page_size
    together = max(1, _CHUNK_BYTES // step) * step
    while data := wal.read(together):
        chunk = _Chunk(data, page_size, order)
        for number, head in enumerate(chunk.heads):
            page, commit, salt1, salt2, check1, check2 = struct.unpack(">6I", head)
            yield _Frame(page, commit, (salt1, salt2), (check1, check2), chunk, number)


def _checksum(data: bytes, order: str, check: tuple[int, int]) -> tuple[int, int]:
    """Return the checksum of SQLite's log: each word is added to the sum of the two before."""
    first, second = check
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = (first + even + second) & _MASK
        second = (second + odd + first) & _MASK
    return first, second


def _page_sums(pairs: "array[int]", pages: int) -> list[tuple[int, int]]:
    """
    Return both sums of each page, begun at zero.

    Numbers of any length add up many lanes at once: first those of all blocks of all pages, pair
    by pair, then those of all pages, block by block.
    """
    first = second = 0
    every = _lanes(len(pairs) // _BLOCK_PAIRS)
    for place in range(_BLOCK_PAIRS):
        both = _number(pairs[place::_BLOCK_PAIRS])
        first += (both & every if _OURS == "<" else both >> 32 & every) + second
        second += (both >> 32 & every if _OURS == "<" else both & every) + first
    blocks = len(pairs) // _BLOCK_PAIRS // pages
    firsts, seconds = _parts(first & every, pages * blocks), _parts(second & every, pages * blocks)
    before, same, after = _growth(_BLOCK_PAIRS)
    every = _lanes(pages)
    first = second = 0
    for place in range(blocks):
        first, second = (
            before * first + same * second + _number(firsts[place::blocks]) & every,
            same * first + after * second + _number(seconds[place::blocks]) & every,
        )
    return list(zip(_parts(first, pages), _parts(second, pages), strict=True))


@cache
def _lanes(count: int) -> int:
    """Return what keeps the lower half of so many lanes."""
    return _number(array("Q", [_MASK]) * count)


def _number(lanes: "array[int]") -> int:
    return int.from_bytes(lanes.tobytes(), sys.byteorder)


def _parts(number: int, count: int) -> "array[int]":
    return array("Q", number.to_bytes(count * _LANE_BYTES, sys.byteorder))


def _sane(page_size: int) -> bool:
    return 512 <= page_size <= 65536 and page_size & (page_size - 1) == 0
