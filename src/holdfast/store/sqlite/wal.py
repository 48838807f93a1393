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
from functools import cached_property
from typing import BinaryIO, NamedTuple

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
_MAGIC_LITTLE = 0x377F0682
_MASK = 0xFFFFFFFF
# Words summed from zero stay below 2**64 for so many: the sums grow as Fibonacci numbers do.
_BLOCK = 32
# Read and summed at once.
_CHUNK_BYTES = 256 * 1024


def _fibonacci(number: int) -> int:
    before, found = 1, 0
    for _ in range(number):
        before, found = found, before + found
    return found


# By what the two sums before a block count in those after it: the first by the first two, the
# second by the last two.
_COUNT = tuple(_fibonacci(number) for number in (_BLOCK - 1, _BLOCK, _BLOCK + 1))


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
    """
    Frames that were read together.

    A page is cut into blocks of words. The blocks of all pages are summed at once, each from zero,
    as the lanes of one number, when the first of the sums is asked for.
    """

    def __init__(self, data: bytes, page_size: int, order: str) -> None:
        step = FRAME_HEADER_BYTES + page_size
        starts = range(0, len(data) - step + 1, step)
        self.heads = [data[start : start + FRAME_HEADER_BYTES] for start in starts]
        self._bodies = [data[start + FRAME_HEADER_BYTES : start + step] for start in starts]
        self._blocks = page_size // (4 * _BLOCK)
        self._order = order

    def sums(self, number: int) -> Iterator[tuple[int, int]]:
        """Give both sums of each block of a page."""
        mine = slice(number * self._blocks, (number + 1) * self._blocks)
        first, second = self._sums
        return zip(first[mine], second[mine], strict=True)

    @cached_property
    def _sums(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return _block_sums(b"".join(self._bodies), self._order)


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
    """Return whether the checksum goes on here; sums before a block count in those after it."""
    first, second = _checksum(frame.chunk.heads[frame.number][:8], order, check)
    before, same, after = _COUNT  # Local, because this loop is what a long log costs.
    for even, odd in frame.chunk.sums(frame.number):
        first, second = (
            before * first + same * second + even & _MASK,
            same * first + after * second + odd & _MASK,
        )
    return (first, second) == frame.check


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


def _block_sums(data: bytes, order: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return both sums of each block, begun at zero."""
    wide = bytearray(2 * len(data))
    for byte in range(4):
        place = byte if order == "<" else 3 - byte
        wide[place if sys.byteorder == "little" else 7 - place :: 8] = data[byte::4]
    words = array("Q", wide)
    first = second = 0
    for place in range(0, _BLOCK, 2):
        first += int.from_bytes(words[place::_BLOCK].tobytes(), sys.byteorder) + second
        second += int.from_bytes(words[place + 1 :: _BLOCK].tobytes(), sys.byteorder) + first
    count = len(words) // _BLOCK
    form = f"={count}Q"
    return (
        struct.unpack(form, first.to_bytes(8 * count, sys.byteorder)),
        struct.unpack(form, second.to_bytes(8 * count, sys.byteorder)),
    )


def _sane(page_size: int) -> bool:
    return 512 <= page_size <= 65536 and page_size & (page_size - 1) == 0
