"""
Test the crash lab itself, on plain SQLite: it must find what is wrong and accept what is right.

A workload of transactions runs on a recorded disk; each is noted when tried and when
acknowledged. Every image of every cut is recovered by SQLite on real files, and its content
must be exactly the state after transaction n, acknowledged <= n <= tried, undamaged, writable,
and the same when it is opened again. Settings that are known to lose work are planted here:
a lab that does not convict them proves nothing.
"""

import errno
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random

import apsw
import pytest

from holdfast.testing.disk.acts import (
    Act,
    Created,
    FolderSynced,
    Noted,
    Recording,
    Removed,
    Synced,
    SyncFailed,
    Truncated,
    Written,
    read_image,
)
from holdfast.testing.disk.disk import Call, Disk, Fault, Moment
from holdfast.testing.disk.images import Breadth, Scratch, cut_at, cuts, images, write_image

pytestmark = pytest.mark.lab

SEED = 20_261
NAME = "a.db"
PLAIN = Breadth(prefixes=6, sectors=4, mixtures=6)
STRICT = Breadth(prefixes=4, sectors=3, mixtures=4, garbage=3)

Content = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How SQLite is set up for a workload."""

    journal: str = "wal"
    synchronous: str = "full"
    psow: int = 0
    page_bytes: int = 1024


@dataclass
class Tally:
    """What the images of one workload showed."""

    images: int = 0
    checked: int = 0
    lost: int = 0
    damaged: int = 0
    most_lost: int = 0
    families: Counter[str] = field(default_factory=Counter[str])
    first: str = ""


def connect(folder: Path, setup: Setup, vfs: str | None = None) -> apsw.Connection:
    flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    db = apsw.Connection(f"file:{folder / NAME}?psow={setup.psow}", flags=flags, vfs=vfs)
    db.execute(f"PRAGMA page_size={setup.page_bytes}; PRAGMA synchronous={setup.synchronous}")
    db.execute("PRAGMA cache_size=6; PRAGMA wal_autocheckpoint=12")
    return db


def content_of(db: apsw.Connection) -> Content:
    if not db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'head'").fetchall():
        return ()
    rows = "SELECT 'head', n, '' FROM head UNION ALL SELECT 'event', id, body FROM event"
    return tuple(db.execute(f"{rows} UNION ALL SELECT 'state', key, value FROM state"))


def run_workload(disk: Disk, folder: Path, setup: Setup, count: int) -> dict[Content, int]:
    """Run transactions and return the content after each."""
    rng = Random(SEED)
    states: dict[Content, int] = {(): 0}
    with (
        closing(connect(folder, setup, disk.vfs)) as db,
        closing(connect(folder, setup, disk.vfs)) as reader,
    ):
        db.execute(f"PRAGMA journal_mode={setup.journal}")
        for n in range(1, count + 1):
            disk.note(("tried", n))
            db.execute("BEGIN IMMEDIATE")
            if n == 1:
                create_tables(db)
            change(db, rng, n)
            db.execute("COMMIT")
            disk.note(("acknowledged", n))
            states[content_of(db)] = n
            disturb(db, reader, rng, setup)
    return states


def create_tables(db: apsw.Connection) -> None:
    db.execute("CREATE TABLE head (n INTEGER); INSERT INTO head VALUES (0)")
    db.execute("CREATE TABLE event (id INTEGER PRIMARY KEY, body BLOB)")
    db.execute("CREATE TABLE state (key INTEGER PRIMARY KEY, value BLOB)")


def change(db: apsw.Connection, rng: Random, n: int) -> None:
    # Now and then much more than the page cache holds, so that uncommitted pages spill.
    for _ in range(12 if n % 7 == 0 else rng.randint(1, 3)):
        size = rng.choice((20, 120, 2500))
        db.execute("INSERT INTO event (body) VALUES (?)", (rng.randbytes(size),))
    db.execute("REPLACE INTO state VALUES (?, ?)", (rng.randrange(5), rng.randbytes(60)))
    if n % 4 == 0:
        db.execute("DELETE FROM event WHERE id = (SELECT min(id) + 1 FROM event)")
    db.execute("UPDATE head SET n = ?", (n,))


def disturb(db: apsw.Connection, reader: apsw.Connection, rng: Random, setup: Setup) -> None:
    """Roll something back, pin the WAL from a second connection, checkpoint."""
    if rng.random() < 0.2:
        db.execute("BEGIN IMMEDIATE; UPDATE head SET n = -1; DELETE FROM event; ROLLBACK")
    if setup.journal != "wal":
        return
    if not reader.in_transaction and rng.random() < 0.3:
        reader.execute("BEGIN; SELECT count(*) FROM event").fetchall()
    elif reader.in_transaction:
        reader.execute("ROLLBACK")
    if rng.random() < 0.3:
        kind = rng.choice(("PASSIVE", "RESTART", "TRUNCATE"))
        db.execute(f"PRAGMA wal_checkpoint({kind})").fetchall()


def recover(folder: Path, setup: Setup, states: dict[Content, int]) -> int | str:
    """Return after which transaction the image stands, or what is wrong with it."""
    try:
        with closing(connect(folder, setup)) as db:
            found = content_of(db)
            if db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return "integrity_check"
            if found not in states:
                return "no state of the workload"
            db.execute("CREATE TABLE IF NOT EXISTS event (id INTEGER PRIMARY KEY, body BLOB)")
            db.execute("INSERT INTO event (body) VALUES ('after the crash')")
            written = content_of(db)
        with closing(connect(folder, setup)) as db:
            return states[found] if content_of(db) == written else "second open differs"
    except apsw.Error as error:
        return repr(error)


def bounds(notes: tuple[object, ...]) -> tuple[int, int]:
    reached = {"acknowledged": 0, "tried": 0}
    for note in notes:
        assert isinstance(note, tuple)
        reached[note[0]] = note[1]
    return reached["acknowledged"], reached["tried"]


def survey(
    recording: Recording,
    setup: Setup,
    states: dict[Content, int],
    breadth: Breadth,
    sector_bytes: int = 512,
) -> Tally:
    """Check every image of every cut."""
    tally, known = Tally(), dict[bytes, int | str]()
    with Scratch() as scratch:
        for cut in cuts(recording, sector_bytes=sector_bytes):
            acknowledged, tried = bounds(cut.notes)
            for image in images(cut, SEED, breadth):
                tally.images += 1
                if image.digest not in known:
                    known[image.digest] = recover(scratch.lay(image.files), setup, states)
                found = known[image.digest]
                if isinstance(found, int) and acknowledged <= found <= tried:
                    continue
                tally.families[image.family] += 1
                tally.first = tally.first or f"cut {cut.at}, {image.family}: {found}"
                if isinstance(found, int) and found < acknowledged:
                    tally.lost += 1
                    tally.most_lost = max(tally.most_lost, acknowledged - found)
                else:
                    tally.damaged += 1
    tally.checked = len(known)
    return tally


@pytest.fixture
def folder() -> Iterator[Path]:
    with Scratch() as scratch:
        yield scratch.lay({})


def judge(
    folder: Path,
    setup: Setup,
    breadth: Breadth,
    *,
    count: int = 8,
    sector_bytes: int = 512,
    swallow: float = 0.0,
) -> Tally:
    with Disk(folder, swallow=swallow, seed=SEED) as disk:
        states = run_workload(disk, folder, setup, count)
    tally = survey(disk.recording, setup, states, breadth, sector_bytes)
    sys.stdout.write(f"\nseed {SEED} {setup} {breadth} sector {sector_bytes}: {tally}\n")
    return tally


@pytest.mark.parametrize(("sector_bytes", "page_bytes"), [(512, 1024), (4096, 4096)])
def test_wal_full_without_psow_keeps_all_even_with_garbage(
    folder: Path, sector_bytes: int, page_bytes: int
) -> None:
    setup = Setup(page_bytes=page_bytes)
    tally = judge(folder, setup, STRICT, sector_bytes=sector_bytes)
    assert (tally.lost, tally.damaged) == (0, 0)
    assert tally.checked > 1000


def test_delete_extra_keeps_all(folder: Path) -> None:
    tally = judge(folder, Setup(journal="delete", synchronous="extra"), PLAIN, count=6)
    assert (tally.lost, tally.damaged) == (0, 0)


def test_wal_full_with_psow_is_convicted_by_garbage_alone(folder: Path) -> None:
    tally = judge(folder, Setup(psow=1), STRICT)
    assert tally.lost > 0
    assert tally.damaged == 0
    assert all(family.startswith("garbage") for family in tally.families)


def test_wal_normal_is_convicted(folder: Path) -> None:
    tally = judge(folder, Setup(synchronous="normal"), PLAIN)
    assert tally.lost > 0


def test_delete_full_is_convicted_of_the_last_commit(folder: Path) -> None:
    tally = judge(folder, Setup(journal="delete"), PLAIN, count=6)
    assert tally.lost > 0
    assert (tally.most_lost, tally.damaged) == (1, 0)


def test_swallowed_syncs_are_convicted(folder: Path) -> None:
    tally = judge(folder, Setup(), PLAIN, count=6, swallow=0.1)
    assert tally.lost > 0


def test_power_may_fail_again_while_sqlite_recovers(folder: Path) -> None:
    setup, checked = Setup(), 0
    with Disk(folder) as disk:
        states = run_workload(disk, folder, setup, 9)
    rng = Random(SEED)
    with Scratch() as outer, Scratch() as inner:
        for cut in cuts(disk.recording):
            acknowledged, tried = bounds(cut.notes)
            for image in images(cut, SEED, STRICT):
                if rng.random() > 0.002:
                    continue
                for again in crash_in_recovery(outer.lay(image.files), setup):
                    found = recover(inner.lay(again), setup, states)
                    assert isinstance(found, int), (SEED, cut.at, image.family, found)
                    assert acknowledged <= found <= tried, (SEED, cut.at, image.family)
                    checked += 1
    sys.stdout.write(f"\nseed {SEED}: {checked} images of cuts during recovery\n")
    assert checked > 300


def crash_in_recovery(folder: Path, setup: Setup) -> Iterator[dict[str, bytes]]:
    with Disk(folder) as disk, closing(connect(folder, setup, disk.vfs)) as db:
        content_of(db)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    for cut in cuts(disk.recording):
        for image in images(cut, SEED, Breadth(prefixes=4, sectors=2, mixtures=4, garbage=1)):
            yield dict(image.files)


def test_a_seed_and_a_cut_replay_the_same_images(folder: Path) -> None:
    with Disk(folder) as disk:
        run_workload(disk, folder, Setup(), 3)
    for cut in islice(cuts(disk.recording), 0, None, 10):
        first = [image.digest for image in images(cut, SEED, STRICT)]
        again = [image.digest for image in images(cut_at(disk.recording, cut.at), SEED, STRICT)]
        assert first == again
        assert len(set(first)) == len(first)


def left_by(*acts: Act, start: dict[str, bytes] | None = None) -> list[dict[str, bytes]]:
    """Return the images after a whole recording."""
    recording = Recording(start=start or {}, acts=list(acts))
    cut = cut_at(recording, len(acts))
    return [dict(image.files) for image in images(cut, SEED, Breadth(mixtures=200))]


def test_sectors_arrive_in_any_mixture_until_the_sync() -> None:
    old, new = b"a" * 1024, b"b" * 1024
    found = left_by(Written("f", 0, new), start={"f": old})
    assert {image["f"] for image in found} == {
        first * 512 + second * 512 for first in (b"a", b"b") for second in (b"a", b"b")
    }
    assert left_by(Written("f", 0, new), Synced("f"), start={"f": old}) == [{"f": new}]


def test_a_file_may_have_grown_without_its_data() -> None:
    found = [image["f"] for image in left_by(Written("f", 0, b"abc"), start={"f": b""})]
    assert set(found) == {b"", b"abc", b"\0\0\0"}


def test_a_truncation_happens_as_a_whole_or_not_at_all() -> None:
    start = {"f": b"a" * 512 + b"b" * 512}
    found = left_by(Truncated("f", 0), Written("f", 0, b"c" * 512), start=start)
    assert {image["f"] for image in found} == {start["f"], b"", bytes(512), b"c" * 512}


def test_a_new_name_needs_the_sync_of_its_folder() -> None:
    new = (Created("f"), Written("f", 0, b"x"), Synced("f"))
    assert {} in left_by(*new)
    assert left_by(*new, FolderSynced("")) == [{"f": b"x"}]
    assert {"f": b"x"} in left_by(*new, FolderSynced(""), Removed("f"))


def test_after_a_failed_sync_the_next_one_makes_nothing_certain() -> None:
    lost = (Written("f", 0, b"b"), SyncFailed("f"), Synced("f"))
    assert {"f": b"a"} in left_by(*lost, start={"f": b"a"})
    healed = (*lost, Written("f", 0, b"b"), Synced("f"))
    assert left_by(*healed, start={"f": b"a"}) == [{"f": b"b"}]


def test_replacing_a_small_file_leaves_the_old_or_the_new(folder: Path) -> None:
    (folder / "mark").write_bytes(b"old" * 400)
    with Disk(folder) as disk:
        disk.files.replace(folder / "mark", b"new" * 400)
        disk.note("done")
    for cut in cuts(disk.recording):
        for image in images(cut, SEED, STRICT):
            allowed = {b"new" * 400} if cut.notes else {b"old" * 400, b"new" * 400}
            assert image.files["mark"] in allowed, image.family


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_failed_replacement_leaves_the_old_file_and_no_other(folder: Path, number: int) -> None:
    (folder / "mark").write_bytes(b"old")
    with Disk(folder) as disk:
        disk.fail(number, Fault.EIO)
        with pytest.raises(OSError):
            disk.files.replace(folder / "mark", b"new")
    assert read_image(folder) == {"mark": b"old" if number < 4 else b"new"}
    assert read_image(folder) in left_by(*disk.recording.acts, start={"mark": b"old"})


def test_small_files_and_folders_are_part_of_the_images(folder: Path) -> None:
    home = folder / "a.db-holdfast"
    with Disk(folder) as disk:
        assert disk.files.read(home / "mark") is None
        disk.files.make_folder(home)
        disk.files.write_at(home / "mark", 512, b"x", sync=True)
        certain = left_by(*disk.recording.acts)
        assert {"a.db-holdfast/": b""} in certain
        assert {"a.db-holdfast/": b"", "a.db-holdfast/mark": b"\0" * 512 + b"x"} in certain
        assert disk.files.read(home / "mark") == b"\0" * 512 + b"x"
        disk.files.remove(home / "mark")
        assert left_by(*disk.recording.acts) == [{"a.db-holdfast/": b""}]
        with pytest.raises(ValueError, match="outside"):
            disk.files.write_at(folder.parent / "b", 0, b"x", sync=False)


def test_an_image_is_not_written_over_other_files(folder: Path) -> None:
    write_image({"sub/": b"", "sub/f": b"x"}, folder)
    assert (folder / "sub" / "f").read_bytes() == b"x"
    with pytest.raises(FileExistsError):
        write_image({}, folder)


# When SQLite tries again within one statement, APSW reports the first error aside.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("call", "fault", "error"),
    [
        (Call.WRITE, Fault.EIO, apsw.IOError),
        (Call.WRITE, Fault.ENOSPC, apsw.FullError),
        (Call.WRITE, Fault.SHORT, apsw.FullError),
        (Call.SYNC, Fault.EIO, apsw.IOError),
        (Call.TRUNCATE, Fault.EIO, None),
        (Call.READ, Fault.EIO, apsw.IOError),
    ],
)
def test_every_single_call_can_fail_and_nothing_acknowledged_is_lost(
    folder: Path, call: Call, fault: Fault, error: type[apsw.Error] | None
) -> None:
    setup = Setup()
    with Disk(folder) as disk:
        run_workload(disk, folder, setup, 8)
    seen: set[type[Exception]] = set()
    total = disk.calls[call]
    assert total > 0
    for number in range(1, total + 1, max(1, total // 30)):
        with Scratch() as scratch:
            place = scratch.lay({})
            with Disk(place) as broken:
                broken.fail(number, fault, on=frozenset({call}), lasting=number % 2 == 0)
                try:
                    run_workload(broken, place, setup, 8)
                except apsw.Error as failed:
                    seen.add(type(failed))
            assert_keeps_acknowledged(place, broken, setup)
    assert error is None or error in seen


def assert_keeps_acknowledged(place: Path, disk: Disk, setup: Setup) -> None:
    notes = tuple(act.value for act in disk.recording.acts if isinstance(act, Noted))
    acknowledged, tried = bounds(notes)
    with closing(connect(place, setup)) as db:
        found = content_of(db)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    reached = next((row[1] for row in found if isinstance(row, tuple) and row[0] == "head"), 0)
    assert acknowledged <= reached <= tried


def test_faults_of_small_files_are_those_of_the_system(folder: Path) -> None:
    with Disk(folder) as disk:
        disk.fail(1, Fault.SHORT)
        with pytest.raises(OSError, match="space") as full:
            disk.files.write_at(folder / "f", 0, b"abcd", sync=True)
        assert full.value.errno == errno.ENOSPC
        assert (folder / "f").read_bytes() == b"ab"
        assert disk.recording.acts == [Created("f"), Written("f", 0, b"ab")]
        disk.fail(1, Fault.EIO, on=frozenset({Call.SYNC}), lasting=True)
        for _ in range(2):
            with pytest.raises(OSError):
                disk.files.write_at(folder / "f", 0, b"abcd", sync=True)
        assert disk.recording.acts[-1] == SyncFailed("f")


@pytest.mark.parametrize(
    ("moment", "left"), [(Moment.BEFORE, b""), (Moment.HALF, b"ab"), (Moment.AFTER, b"abcd")]
)
def test_the_process_can_be_killed_at_a_call(folder: Path, moment: Moment, left: bytes) -> None:
    def child() -> None:
        with Disk(folder) as disk:
            disk.kill(1, moment)
            disk.files.write_at(folder / "f", 0, b"abcd", sync=False)

    assert ended_by(child) == signal.SIGKILL
    assert (folder / "f").read_bytes() == left


@pytest.mark.parametrize("moment", list(Moment))
def test_a_killed_workload_recovers(folder: Path, moment: Moment) -> None:
    setup = Setup()
    with Disk(folder) as disk:
        states = run_workload(disk, folder, setup, 5)
    for number in range(1, disk.calls[Call.WRITE], 10):
        with Scratch() as scratch:
            place = scratch.lay({})

            def child(place: Path = place, number: int = number) -> None:
                with Disk(place) as disk:
                    disk.kill(number, moment, on=frozenset({Call.WRITE}))
                    run_workload(disk, place, setup, 5)

            assert ended_by(child) == signal.SIGKILL
            assert isinstance(recover(place, setup, states), int)


def ended_by(work: Callable[[], None]) -> int:
    """Run work in a child and return the signal that ended it, 0 if none did."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])
