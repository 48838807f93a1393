"""
Torn tail or damage: what a walk over SQLite's write-ahead log can tell (F11).

The logs are written by SQLite itself, with small pages so that every byte can be tried: many
transactions, padding to the sector (psow=0), rollbacks after a spill, restarts after a
checkpoint. One is rewritten in the other byte order.
"""

import io
import struct
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from random import Random

import apsw
import pytest

from holdfast.store.sqlite.wal import FRAME_HEADER_BYTES, HEADER_BYTES, examine

PAGE = 512
FRAME = FRAME_HEADER_BYTES + PAGE


class Log:
    """A database whose log is looked at after each transaction."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.db = apsw.Connection(f"file:{path}?psow=0", flags=apsw.SQLITE_OPEN_URI | 6)
        self.db.execute(f"PRAGMA page_size = {PAGE}; PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0")
        self.db.execute("PRAGMA cache_size = 4; PRAGMA cache_spill = 2")
        self.db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x)")
        self.ends: list[int] = []

    def write(self, number: int, size: int) -> None:
        """Commit one row and remember where the log of this transaction ends."""
        self.db.execute("INSERT INTO t VALUES (?, randomblob(?))", (number, size))
        self.ends.append(examine(io.BytesIO(self.read())).frames)

    def roll_back(self, rows: int) -> None:
        """Write so much that it spills into the log, then take it back."""
        self.db.execute("BEGIN")
        for number in range(rows):
            self.db.execute("INSERT INTO t VALUES (?, randomblob(300))", (1_000_000 + number,))
        self.db.execute("ROLLBACK")

    def read(self) -> bytes:
        """Return the log."""
        return self.path.with_name(self.path.name + "-wal").read_bytes()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log of six transactions, the last ones behind a rollback that spilled."""
    log = Log(tmp_path / "a.db")
    for number, size in enumerate((20, 700, 20)):
        log.write(number, size)
    log.roll_back(40)
    for number, size in enumerate((20, 900, 20), 10):
        log.write(number, size)
    yield log
    log.db.close()


def verdict(content: bytes) -> tuple[int, int | None]:
    """Return how many frames verify, and which is proven to be damaged."""
    found = examine(io.BytesIO(content))
    return found.frames, found.damaged_frame


def frames(content: bytes) -> list[tuple[int, int]]:
    """Return page and commit mark of each frame."""
    count = (len(content) - HEADER_BYTES) // FRAME
    return [struct.unpack_from(">2I", content, HEADER_BYTES + n * FRAME) for n in range(count)]


def test_a_log_as_it_was_written_is_all_good(log: Log) -> None:
    """F11. Padding and what a rollback left behind raise no alarm."""
    content = log.read()
    found = frames(content)
    assert any(one == two and one[1] for one, two in pairwise(found))
    assert len(found) > log.ends[-1], "the rollback left nothing behind the last transaction"
    assert verdict(content) == (log.ends[-1], None)
    whole = examine(io.BytesIO(content))
    assert whole.size_pages == log.db.pragma("page_count")
    assert whole.pages == {page for page, _ in found[: log.ends[-1]]}


@pytest.mark.parametrize("transactions", [2, 6])
def test_a_log_cut_off_at_any_byte_is_a_torn_tail(log: Log, transactions: int) -> None:
    """F11. No cut is taken for damage: it may be what a power cut left."""
    content = log.read()[: HEADER_BYTES + log.ends[transactions - 1] * FRAME]
    # Every byte of the shorter log; of the longer one a coarser choice, to save time.
    for end in range(0, len(content), 1 if transactions == 2 else 61):
        frames_there = max(0, end - HEADER_BYTES) // FRAME
        assert verdict(content[:end]) == (frames_there, None), end


def test_a_torn_last_transaction_is_never_taken_for_damage(log: Log, seed: Random) -> None:
    """F11. Its sectors in any mixture of old, new, zero and garbage: it was never synced."""
    content = log.read()
    start = HEADER_BYTES + log.ends[-2] * FRAME
    end = HEADER_BYTES + log.ends[-1] * FRAME
    for _ in range(400):
        torn = bytearray(content)
        for at in range(start, end, 512):
            stop = min(at + 512, end)
            piece = seed.choice([content[at:stop], bytes(stop - at), seed.randbytes(stop - at)])
            torn[at:stop] = piece
        good, damaged_frame = verdict(bytes(torn))
        assert damaged_frame is None
        assert good >= log.ends[-2]


def test_a_flipped_bit_in_a_synced_frame_is_proven(log: Log, seed: Random) -> None:
    """F11. Any bit of a frame with two later transactions behind it is damage, and is named."""
    content = log.read()
    provable = log.ends[-3] * FRAME
    for _ in range(400):
        at = seed.randrange(provable)
        damaged = bytearray(content)
        damaged[HEADER_BYTES + at] ^= 1 << seed.randrange(8)
        found = examine(io.BytesIO(bytes(damaged)))
        assert found.damaged_frame == at // FRAME + 1
        assert found.frames == at // FRAME
        assert found.proven_by is not None
        assert found.proven_by >= found.damaged_frame


def test_damage_of_the_last_transaction_or_the_header_proves_nothing(
    log: Log, seed: Random
) -> None:
    """F11. It looks like a torn tail; the high-water mark decides."""
    content = log.read()
    last = range(HEADER_BYTES + log.ends[-2] * FRAME, HEADER_BYTES + log.ends[-1] * FRAME)
    for at in (*range(HEADER_BYTES), *seed.sample(last, 200)):
        damaged = bytearray(content)
        damaged[at] ^= 1 << seed.randrange(8)
        assert verdict(bytes(damaged))[1] is None


def test_frames_of_before_a_checkpoint_prove_nothing(log: Log) -> None:
    """F11. A log that began anew has old frames behind its end, with other salts."""
    before = log.read()
    log.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
    log.write(100, 20)
    content = log.read()
    assert len(content) == len(before)
    assert verdict(content) == (log.ends[-1], None)
    assert log.ends[-1] < len(frames(before))
    for end in range(HEADER_BYTES, HEADER_BYTES + log.ends[-1] * FRAME, 64):
        torn = content[:end] + bytes(64) + content[end + 64 :]
        assert verdict(torn)[1] is None


def test_a_torn_header_with_an_old_commit_mark_proves_nothing(log: Log) -> None:
    """F11. One sector of an older log's frame, one of the transaction that was under way."""
    log.write(200, 6_000)
    content = bytearray(log.read())
    first, last = log.ends[-2], log.ends[-1]
    for frame in range(first + 2, last - 2):
        torn = bytearray(content)
        lost = HEADER_BYTES + first * FRAME
        torn[lost : lost + FRAME] = bytes(FRAME)
        header = HEADER_BYTES + frame * FRAME
        torn[header : header + 8] = struct.pack(">II", 1, 7)
        assert verdict(bytes(torn)) == (first, None)


def test_a_log_in_the_other_byte_order_is_read_as_sqlite_reads_it(
    log: Log, tmp_path: Path, seed: Random
) -> None:
    """F11. A log made on a big-endian machine."""
    little = log.read()
    big = rewritten(little, ">")
    assert big[:HEADER_BYTES] != little[:HEADER_BYTES]
    rows = log.db.execute("SELECT count(*) FROM t").get
    main = log.path.read_bytes()
    log.db.close()
    (tmp_path / "b.db").write_bytes(main)
    (tmp_path / "b.db-wal").write_bytes(big)
    with closing(apsw.Connection(str(tmp_path / "b.db"))) as db:
        assert db.execute("SELECT count(*) FROM t").get == rows
    assert verdict(big) == (log.ends[-1], None)
    damaged = bytearray(big)
    at = seed.randrange(log.ends[0] * FRAME)
    damaged[HEADER_BYTES + at] ^= 1
    assert verdict(bytes(damaged)) == (at // FRAME, at // FRAME + 1)


@pytest.mark.parametrize("content", [b"", b"short", bytes(HEADER_BYTES), b"\xff" * 4096])
def test_what_is_no_log_has_no_frames(content: bytes) -> None:
    """F11. Anything may lie there."""
    assert verdict(content) == (0, None)


def rewritten(content: bytes, order: str) -> bytes:
    """Return a log with all checksums made anew in a byte order, as far as they were right."""
    good = examine(io.BytesIO(content)).frames
    magic = 0x377F0683 if order == ">" else 0x377F0682
    head = struct.pack(">I", magic) + content[4:24]
    state = checksum(head, order, (0, 0))
    parts = [head, struct.pack(">2I", *state)]
    for number in range(good):
        at = HEADER_BYTES + number * FRAME
        frame = content[at : at + FRAME]
        state = checksum(frame[FRAME_HEADER_BYTES:], order, checksum(frame[:8], order, state))
        parts += [frame[:16], struct.pack(">2I", *state), frame[FRAME_HEADER_BYTES:]]
    return b"".join(parts)


def checksum(data: bytes, order: str, state: tuple[int, int]) -> tuple[int, int]:
    """Return SQLite's checksum as its file format describes it."""
    one, two = state
    for even, odd in struct.iter_unpack(f"{order}2I", data):
        one = (one + even + two) % 2**32
        two = (two + odd + one) % 2**32
    return one, two
