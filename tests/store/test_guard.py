"""
What is refused before an SQLite store is opened, and what is left as it was found (F11, F12,
F13, F6, F21, X6, X12).

Every case starts from files as a `kill -9` leaves them: a main file, a log that holds what came
after the last checkpoint, and the mark beside them.
"""

import hashlib
import os
from pathlib import Path
from random import Random
from typing import Any

import pytest

import holdfast
from holdfast.core.errors import HoldfastError, StoreRefusedError
from holdfast.store.sqlite.wal import FRAME_HEADER_BYTES, HEADER_BYTES
from holdfast.testing.disk.acts import read_image
from holdfast.testing.disk.damage import IN_PLACE, WHOLE_FILE, Damage, Kind, clone, draw
from holdfast.testing.disk.images import Scratch, write_image
from tests.store.conftest import Tell
from tests.store.sample import EVENTS, NOTES, OTHER, contents, fill, opened, refusal, run, url_of

DAMAGES = int(os.environ.get("HOLDFAST_DAMAGES", "300"))
MAIN, LOG = "store.db", "store.db-wal"
MARK = "store.db-holdfast/mark"
FRAME = FRAME_HEADER_BYTES + 4096
Image = dict[str, bytes]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, Image, dict[str, Any]]:
    """A store as an earlier kill would have left it, as a later one would, and its contents."""
    folder = tmp_path_factory.mktemp("killed")
    url = url_of(folder / MAIN)

    async def work(rt: holdfast.Runtime) -> tuple[Image, dict[str, Any]]:
        await fill(rt)
        earlier = read_image(folder)
        for number in range(40):
            await rt.history("more").append("grown", {"n": number, "pad": "x" * 500})
        return earlier, await contents(rt)

    async def later(rt: holdfast.Runtime) -> Image:
        for number in range(5):
            await rt.history("last").append("said", {"n": number})
        return read_image(folder)

    earlier, _ = run(url, work)
    killed = run(url, later)
    assert earlier[LOG]
    assert killed[LOG]
    assert killed[MAIN] != earlier[MAIN]
    with Scratch() as scratch:
        found = run(url_of(scratch.lay(killed) / MAIN), contents)
    return earlier, killed, found


@pytest.fixture
def earlier(images: tuple[Image, Image, dict[str, Any]]) -> Image:
    """The older copy."""
    return images[0]


@pytest.fixture
def killed(images: tuple[Image, Image, dict[str, Any]]) -> Image:
    """The files as they should be."""
    return images[1]


def hashes(folder: Path) -> dict[str, str]:
    """Return a hash of each file that is not the guard's own lock; an empty log counts as none."""
    return {
        name: hashlib.sha256(content).hexdigest()
        for name, content in read_image(folder).items()
        if content and not name.endswith(("/gate", "/life")) and "/kept" not in name
    }


def assert_refused(image: Image, folder: Path, reason: str) -> None:
    """Open an image: refused with a reason, files as they were, an untouched copy kept."""
    write_image(image, folder)
    before = hashes(folder)
    for number in (1, 2):
        error = refusal(url_of(folder / MAIN))
        assert isinstance(error, StoreRefusedError), error
        assert reason in error.reason
        assert hashes(folder) == before
        kept = folder / "store.db-holdfast" / "kept" / f"refused-{number:04d}"
        assert str(kept) in error.report
        copies = {path.name: path.read_bytes() for path in kept.iterdir()}
        # SQLite makes an empty log where there is none; that is all that may be there in addition.
        found = {name: content for name, content in copies.items() if content}
        whole = {name: image.get(name, b"") for name in (MAIN, LOG, MARK)}
        assert found == {name.rpartition("/")[2]: whole[name] for name in whole if whole[name]}


def test_an_undamaged_store_opens_with_everything(
    images: tuple[Image, Image, dict[str, Any]], tmp_path: Path
) -> None:
    """F12. Nothing is refused that a kill leaves, and nothing is noted."""
    write_image(images[1], tmp_path / "s")
    with opened(url_of(tmp_path / "s" / MAIN)) as driver:
        assert list(driver.verify()) == []
    assert run(url_of(tmp_path / "s" / MAIN), contents) == images[2]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (Damage(Kind.EMPTY, MAIN), "the main file is empty, but its log holds"),
        (Damage(Kind.REMOVE, MAIN), "the main file is missing, but its log holds"),
        (Damage(Kind.CUT, MAIN, 4096), "the main file was cut"),
        (Damage(Kind.CUT, MAIN, 40_000), "the main file was cut"),
        (Damage(Kind.ZERO, MAIN), "does not begin as an SQLite database"),
        (Damage(Kind.GARBAGE, MAIN), "does not begin as an SQLite database"),
        (Damage(Kind.REMOVE, LOG), "its log was lost"),
        (Damage(Kind.EMPTY, LOG), "its log was lost"),
        (Damage(Kind.CUT, LOG, HEADER_BYTES + FRAME), "its log was lost"),
        (Damage(Kind.ZERO, LOG), "its log was lost"),
        (Damage(Kind.FLIP, LOG, HEADER_BYTES + 200), "the log is damaged at frame 1"),
        (Damage(Kind.SWAP, LOG), "it is an older copy, or its log was lost"),
    ],
    ids=lambda value: f"{value.kind}-{value.name}" if isinstance(value, Damage) else "",
)
def test_a_damaged_store_is_refused_and_never_begins_afresh(
    damage: Damage, reason: str, killed: Image, earlier: Image, tmp_path: Path
) -> None:
    """F11, F12. Refused with a report; the files keep every byte; a copy is kept aside."""
    assert_refused(damage.applied(killed, earlier), tmp_path / "s", reason)


def test_a_store_that_was_closed_and_then_lost_its_main_file_is_refused(
    killed: Image, tmp_path: Path
) -> None:
    """F12. No log is left to warn; the mark does."""
    for number, damage in enumerate((Damage(Kind.REMOVE, MAIN), Damage(Kind.EMPTY, MAIN))):
        image = {name: data for name, data in killed.items() if name != LOG}
        folder = tmp_path / str(number)
        assert_refused(damage.applied(image), folder, "but its mark says there was a store")


def test_an_older_copy_is_refused(killed: Image, earlier: Image, tmp_path: Path) -> None:
    """F12. Main file and log of an older copy, whole and undamaged, beside today's mark."""
    older = killed | {MAIN: earlier[MAIN], LOG: earlier[LOG]}
    assert_refused(older, tmp_path / "s", "it is an older copy")


def test_an_older_main_file_under_a_newer_log_is_refused(tmp_path: Path) -> None:
    """F12. The log ends where it should, but the pages below it are of an earlier day: one
    record that was changed once, and nothing of it is in the log."""
    folder = tmp_path / "s"
    folder.mkdir()
    url = url_of(folder / MAIN)

    async def change(rt: holdfast.Runtime) -> Image:
        before = read_image(folder)
        await rt.records.put("note", ("k", "0"), "changed")
        return before

    async def later(rt: holdfast.Runtime) -> Image:
        await rt.leases.grant("something else", 60.0)
        return read_image(folder)

    run(url, fill)
    earlier = run(url, change)
    killed = run(url, later)
    assert_refused(killed | {MAIN: earlier[MAIN]}, tmp_path / "t", "is older than the log")


def test_another_stores_files_are_refused(killed: Image, tmp_path: Path) -> None:
    """F12. The mark beside it is not its own."""
    run(url_of(tmp_path / "other.db"), fill)
    other = killed | {MAIN: (tmp_path / "other.db").read_bytes()}
    del other[LOG]
    assert_refused(other, tmp_path / "s", "the mark beside it belongs to another store")


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    """F12. A database with an application id that is not ours."""
    import apsw

    with apsw.Connection(str(tmp_path / MAIN)) as db:
        db.execute("PRAGMA application_id = 99; CREATE TABLE t (x)")
    db.close()
    error = refusal(url_of(tmp_path / MAIN))
    assert isinstance(error, StoreRefusedError)
    assert "belongs to another program" in error.reason


def test_a_missing_sidecar_is_noted(killed: Image, tmp_path: Path) -> None:
    """F12. Without the mark nothing can be compared; the opening says so and goes on."""
    write_image({MAIN: killed[MAIN], LOG: killed[LOG]}, tmp_path / "s")
    url = url_of(tmp_path / "s" / MAIN)

    async def notes(rt: holdfast.Runtime) -> tuple[str, ...]:
        assert len(await rt.history(NOTES).read()) == EVENTS
        return rt.opened.notes

    assert "no high-water mark" in run(url, notes)[0]
    assert run(url, notes) == ()


def test_no_damage_of_main_file_log_or_mark_loses_anything_unnoticed(
    images: tuple[Image, Image, dict[str, Any]], seed: Random, tell: Tell
) -> None:
    """F11, F12. Random single damages of a killed store: refused, found, or all is there."""
    earlier, killed, whole = images
    noticed = 0
    with Scratch() as scratch:
        for number in range(DAMAGES):
            kinds = (*IN_PLACE, Kind.FLIP, *WHOLE_FILE)
            damage = draw(seed, killed, kinds, [(MAIN, LOG, LOG, MARK)[number % 4]])
            url = url_of(scratch.lay(damage.applied(killed, earlier)) / MAIN)
            try:
                with opened(url) as driver:
                    findings = list(driver.verify())
                found = run(url, contents)
            except HoldfastError:
                noticed += 1
                continue
            noticed += bool(findings)
            assert findings or found == whole, damage
    tell(f"{DAMAGES} damages of main file, log and mark: {noticed} noticed, others harmless")
    assert noticed > DAMAGES // 4


# The mark.


def test_one_swallowed_flush_is_noticed(tmp_path: Path) -> None:
    """F6. The last acknowledged commit is gone from the log; the mark remembers it."""
    folder = tmp_path / "s"
    folder.mkdir()
    url = url_of(folder / MAIN)

    async def work(rt: holdfast.Runtime) -> tuple[Image, int]:
        await rt.history(OTHER).append("said", 1)
        size = (folder / LOG).stat().st_size
        await rt.history(OTHER).append("said", 2)
        return read_image(folder), size

    image, size = run(url, work, strict=True)
    (tmp_path / "t").mkdir()
    assert_refused(
        Damage(Kind.CUT, LOG, size).applied(image), tmp_path / "t" / "u", "its log was lost"
    )


@pytest.mark.parametrize(("strict", "syncs"), [(True, 3), (False, 0)])
def test_the_strict_profile_syncs_the_mark_with_each_commit(
    strict: bool, syncs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F6. So that it survives a power cut that takes a swallowed flush with it."""
    synced: list[str] = []
    sync = os.fdatasync

    def noting(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    async def work(rt: holdfast.Runtime) -> None:
        monkeypatch.setattr(os, "fdatasync", noting)
        for number in range(3):
            await rt.history(OTHER).append("said", number)
        monkeypatch.setattr(os, "fdatasync", sync)

    run(url_of(tmp_path / MAIN), work, strict=strict)
    assert synced == [str(tmp_path / MARK)] * syncs


# Restored and cloned.


def test_a_store_replaced_under_a_running_process_is_fenced_at_the_first_write(
    tmp_path: Path,
) -> None:
    """F13. The backup's file takes the place of the live one; nothing more is written."""
    folder = tmp_path / "s"
    folder.mkdir()
    url = url_of(folder / MAIN)
    run(url, fill)
    backup = (folder / MAIN).read_bytes()

    async def work(rt: holdfast.Runtime) -> None:
        await rt.history(OTHER).append("said", "before")
        (folder / "restored").write_bytes(backup)
        (folder / "restored").replace(folder / MAIN)
        for _ in range(2):
            with pytest.raises(HoldfastError) as error:
                await rt.history(OTHER).append("said", "after")
            assert error.value.code == "incarnation_fenced"
        error_of_another = refusal(url)
        assert isinstance(error_of_another, StoreRefusedError)
        assert "was replaced while another process" in error_of_another.reason

    run(url, work)
    assert (folder / MAIN).read_bytes() == backup


def test_a_backup_written_into_the_live_file_fences_who_had_it_open(tmp_path: Path) -> None:
    """F13. Restored by SQLite's own means: the file stays, its incarnations change."""
    import apsw

    url = url_of(tmp_path / MAIN)
    run(url, fill)
    (tmp_path / "backup.db").write_bytes((tmp_path / MAIN).read_bytes())

    async def work(rt: holdfast.Runtime) -> None:
        await rt.history(OTHER).append("said", "before")
        with apsw.Connection(str(tmp_path / "backup.db")) as source:
            live = apsw.Connection(str(tmp_path / MAIN))
            with live.backup("main", source, "main") as backup:
                backup.step()
            live.close()
        source.close()
        with pytest.raises(HoldfastError) as error:
            await rt.history(OTHER).append("said", "after")
        assert error.value.code == "incarnation_fenced"

    run(url, work)


def test_two_live_copies_never_share_a_token(tmp_path: Path) -> None:
    """F13. A cloned directory: both open, both grant the same key and generation."""
    (tmp_path / "one").mkdir()
    one = url_of(tmp_path / "one" / MAIN)

    async def grant(rt: holdfast.Runtime) -> Any:
        return (await rt.leases.grant("printer", 60.0)).token

    async def both(rt: holdfast.Runtime) -> tuple[Any, Any]:
        clone(tmp_path / "one", tmp_path / "two")
        async with holdfast.open(url_of(tmp_path / "two" / MAIN)) as other:
            assert other.opened.store_id == rt.opened.store_id
            assert other.opened.incarnation != rt.opened.incarnation
            return await grant(rt), await grant(other)

    run(one, fill)
    first, second = run(one, both)
    assert (first.key, first.generation) == (second.key, second.generation)
    assert first != second
