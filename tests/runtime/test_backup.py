"""Backups: made while others write, whole or not there, checked, and never trusted when damaged."""

import asyncio
import json
import shutil
import signal
import sqlite3
import stat
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgspec
import pytest

import holdfast
from holdfast.core.errors import (
    DamagedFileError,
    FenceError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
)
from holdfast.core.refusal import BackupNotFoundError
from holdfast.core.world import World
from holdfast.runtime import backup, restore
from holdfast.runtime.restored import KEY, KIND
from holdfast.store.files import sync_folder
from holdfast.testing.clock import ManualClock
from tests.runtime.backups import ended, fill, process

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(work)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where backups lie."""
    return tmp_path / "backups"


@pytest.fixture(params=["sqlite", "postgresql"])
def other_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a second empty store, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'other.db'}"
    return f"{request.getfixturevalue('postgres_url')}&schema=other"


async def content(url: str) -> dict[str, Any]:
    """Return all that a store holds, as far as it must be the same after a restore."""
    async with holdfast.open(url, read_only=True) as rt:
        streams = await rt.streams(limit=1_000)
        found: dict[str, Any] = {
            one.name: [(e.sequence, e.data, e.digest) for e in await rt.history(one.name).read()]
            for one in streams
        }
        found["records"] = await rt.records.list("thing")
        found["findings"] = await rt.verify()
        found["feed"] = [e.position for e in await rt.feed.read(limit=2_000)]
        return found


def test_a_store_comes_back_in_either_database(kept_url: str, other_url: str, place: Path) -> None:
    """Issue 7, X3: every row comes over with its digest; counting goes on where it was."""
    run(fill(kept_url))
    before = run(content(kept_url))
    made = run(backup.create(kept_url, place))
    assert run(backup.verify(Path(made.path))) == []
    done = run(restore.restore(Path(made.path), other_url))
    assert run(content(other_url)) == before
    assert before["findings"] == []

    async def go_on() -> tuple[int, Any, int, bool]:
        async with holdfast.open(other_url) as rt:
            event = await rt.history("s/0").append("x")
            gone = await rt.records.put("thing", "gone", 2)
            return rt.lineage, event.position, gone.version, bool(rt.restored.paused)

    lineage, position, version, paused = run(go_on())
    assert lineage == done.lineage > made.manifest.lineage == 1
    assert position > max(before["feed"])
    assert version == 3, "a deleted record goes on counting"
    assert paused
    assert run(restore.confirm(other_url, "ann"))
    assert not run(restore.confirm(other_url, "bob"))


def test_each_restore_of_one_backup_begins_a_lineage_of_its_own(tmp_path: Path) -> None:
    """Operators 2.11: the number alone tells two histories from one backup apart."""
    url, clock, found = f"sqlite:///{tmp_path / 's.db'}", ManualClock(), list[int]()
    run(fill(url))
    made = run(backup.create(url, tmp_path / "b"))
    for name in ("one", "two"):
        clock.advance(60)
        target = f"sqlite:///{tmp_path / name}.db"
        done = run(restore.restore(Path(made.path), target, world=World(clock=clock)))
        found.append(done.lineage)
    assert 1 < found[0] < found[1]


def test_a_lineage_grows_also_where_the_clock_went_back(tmp_path: Path) -> None:
    """Operators 2.11: a machine with a wrong clock begins no lineage that there was before."""
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two", "three")]
    late, early = ManualClock(), ManualClock()
    late.advance(1_000_000)
    lineages, versions = [1], [0]
    run(fill(urls[0]))

    async def version(url: str) -> int:
        async with holdfast.open(url, read_only=True) as rt:
            row = await rt._store.read(lambda reader: reader.record(KIND, KEY))
            return 0 if row is None else row.version

    for here, there, clock in zip(urls, urls[1:], (late, early), strict=False):
        made = run(backup.create(here, tmp_path / f"of {len(lineages)}"))
        done = run(restore.restore(Path(made.path), there, world=World(clock=clock)))
        lineages.append(done.lineage)
        versions.append(run(version(there)))
    assert lineages[0] < lineages[1] < lineages[2]
    assert versions == [0, 1, 2], "the record of the lineage goes on counting, as all do"


def test_a_restore_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """X1, X4: such as on a full disk, in the middle; it is simply tried again."""
    url, target = f"sqlite:///{tmp_path / 's.db'}", f"sqlite:///{tmp_path / 'r.db'}"
    run(fill(url))
    path = Path(run(backup.create(url, tmp_path / "b")).path)

    def fails(table: str, count: int) -> None:
        if table == "record":
            raise OSError(28, "No space left on device")

    with pytest.raises(StoreError):
        run(restore.restore(path, target, tell=fails))
    assert [one.name for one in tmp_path.glob("r.db*")] == ["r.db-holdfast"]
    run(restore.restore(path, target))
    assert run(content(target)) == run(content(url))


def test_a_backup_is_one_moment_while_two_processes_write(kept_url: str, place: Path) -> None:
    """Issue 7, X2: every unit is in it whole or not at all, and so is all before it."""
    with process("write", kept_url, "a") as one, process("write", kept_url, "b") as two:
        try:
            for child in (one, two):
                assert child.stdout is not None
                assert child.stdout.readline() == "writes\n"
            made = [run(backup_then_wait(kept_url, place)) for _ in range(3)]
        finally:
            for child in (one, two):
                child.kill()
    counts = list[dict[str, int]]()
    for number, one_made in enumerate(made):
        assert run(backup.verify(Path(one_made.path))) == []
        target = f"sqlite:///{place / str(number)}.db"
        run(restore.restore(Path(one_made.path), target))
        counts.append(run(counted(target)))
    assert counts[0]["a"] < counts[2]["a"] and counts[0]["b"] < counts[2]["b"], "nobody wrote"


async def backup_then_wait(url: str, place: Path) -> Any:
    """Make a backup, then wait until both writers wrote something that is not in it."""
    made = await backup.create(url, place)
    async with holdfast.open(url, read_only=True) as rt, asyncio.timeout(60):
        for name in ("a", "b"):
            stream = rt.history(f"left/{name}")
            async for _ in stream.follow(after=(await stream.info()).last_sequence):
                break
    return made


async def counted(url: str) -> dict[str, int]:
    """Return what each writer counted; both its streams have to agree."""
    async with holdfast.open(url, read_only=True) as rt:
        found = {one.key[0]: one.value for one in await rt.records.list("count")}
        for name, count in found.items():
            for side in ("left", "right"):
                assert (await rt.history(f"{side}/{name}").info()).last_sequence == count
        assert await rt.verify() == []
        return found


@pytest.mark.parametrize("point", ["backup.copied", "file.synced", "backup.sealed"])
def test_a_backup_whose_maker_is_killed_is_not_there(point: str, tmp_path: Path) -> None:
    """X1, X4: nothing half is listed, and the next one removes what was left."""
    url, place = f"sqlite:///{tmp_path / 's.db'}", tmp_path / "b"
    run(fill(url))
    assert ended("create", url, place, point) == -signal.SIGKILL
    (left,) = place.iterdir()
    assert backup.list_backups(place) == []
    made = run(backup.create(url, place))
    assert not left.exists()
    assert [one.path for one in backup.list_backups(place)] == [made.path]
    assert run(backup.verify(Path(made.path))) == []


def test_what_is_under_way_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    """X4: of two backups into one folder neither removes the other's files."""
    url, place = f"sqlite:///{tmp_path / 's.db'}", tmp_path / "b"
    run(fill(url))
    inner: list[backup.Backup] = []

    def meddle(table: str, count: int) -> None:
        if not inner:
            inner.append(backup._create(url, place, World(), backup.silent))

    outer = run(backup.create(url, place, tell=meddle))
    assert sorted(one.path for one in backup.list_backups(place)) == sorted(
        [inner[0].path, outer.path]
    )
    assert all(run(backup.verify(Path(one.path))) == [] for one in (inner[0], outer))


@pytest.mark.parametrize("point", ["restore.filled", "restore.placed"])
def test_a_restore_that_is_killed_leaves_a_whole_store_or_none(
    point: str, other_url: str, tmp_path: Path
) -> None:
    """X1, X9: before its end there is no store; after it there is one, and it is paused."""
    url = f"sqlite:///{tmp_path / 's.db'}"
    run(fill(url))
    made = run(backup.create(url, tmp_path / "b"))
    assert ended("restore", made.path, other_url, point) == -signal.SIGKILL
    if point == "restore.filled":
        with pytest.raises(StoreNotFoundError):
            run(content(other_url))
        run(restore.restore(Path(made.path), other_url))
    else:
        with pytest.raises(StoreExistsError):
            run(restore.restore(Path(made.path), other_url))
    assert run(content(other_url)) == run(content(url))
    assert run(restore.confirm(other_url))
    assert not [one for one in tmp_path.iterdir() if ".tmp-" in one.name]


def test_files_are_private_and_hold_no_password(postgres_url: str, place: Path) -> None:
    """X12: a backup holds what the store holds, so nobody else may read it."""
    run(fill(postgres_url))
    url = f"{postgres_url}&password=hunter2"
    made = Path(run(backup.create(url, place)).path)
    assert {stat.S_IMODE(one.stat().st_mode) for one in made.iterdir()} == {0o600}
    assert {stat.S_IMODE(one.stat().st_mode) for one in (place, made)} == {0o700}
    assert "hunter2" not in (made / "manifest.json").read_text()


def test_every_damage_to_a_backup_is_found_and_it_is_not_restored(tmp_path: Path) -> None:
    """Issue 7, X3, X13: bytes flipped, cut, missing, swapped; nothing is made from such a one."""
    url, target = f"sqlite:///{tmp_path / 's.db'}", f"sqlite:///{tmp_path / 'r.db'}"
    run(fill(url))
    sound = Path(run(backup.create(url, tmp_path / "b")).path)
    rng = Random(7)
    for number in range(24):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(sound, copy)
        file = copy / ("manifest.json" if number % 4 == 3 else "store.db")
        raw = bytearray(file.read_bytes())
        if number == 0:
            file.unlink()
        elif number == 1:
            file.write_bytes(raw[: len(raw) // 2])
        else:
            at = rng.randrange(len(raw)) if number % 4 != 3 else raw.index(b'"seconds"') - 8
            raw[at] ^= 1 << rng.randrange(3)
            file.write_bytes(raw)
        assert found_damaged(copy), f"damage {number} was not found"
        with pytest.raises(DamagedFileError):
            run(restore.restore(copy, target))
        assert not (tmp_path / "r.db").exists()
    with pytest.raises(BackupNotFoundError):
        run(restore.restore(tmp_path / "nothing", target))


@pytest.mark.parametrize("field", ["lineage", "made_at", "number", "name", "store_id"])
def test_a_manifest_in_which_one_field_was_changed_is_no_manifest(
    field: str, tmp_path: Path
) -> None:
    """X3, X13: none of them is in the file of the store, so its own digest has to tell."""
    url = f"sqlite:///{tmp_path / 's.db'}"
    run(fill(url))
    made = Path(run(backup.create(url, tmp_path / "b")).path)
    file = made / "manifest.json"
    said = json.loads(file.read_text())
    was = said["manifest"][field]
    said["manifest"][field] = f"{was}0" if isinstance(was, str) else was + 1
    file.write_text(json.dumps(said))
    for look in (
        lambda: backup.list_backups(tmp_path / "b"),
        lambda: run(backup.verify(made)),
        lambda: run(restore.restore(made, f"sqlite:///{tmp_path / 'r.db'}")),
    ):
        with pytest.raises(DamagedFileError, match="digest"):
            look()
    assert not (tmp_path / "r.db").exists()


@pytest.mark.parametrize("field", ["rows", "heads", "keys"])
def test_a_copy_that_is_not_what_was_counted_is_found(field: str, tmp_path: Path) -> None:
    """X3: a sound store with a sound manifest that are not of one moment; both digests fit."""
    url = f"sqlite:///{tmp_path / 's.db'}"
    run(fill(url))
    made = run(backup.create(url, tmp_path / "b"))
    rows = {**made.manifest.rows, "event": made.manifest.rows["event"] - 1}
    other = {"rows": rows, "heads": "0" * 64, "keys": ("k1",)}[field]
    manifest = msgspec.structs.replace(made.manifest, **{field: other})
    (Path(made.path) / "manifest.json").write_bytes(backup._sealed(manifest))
    (finding,) = run(backup.verify(Path(made.path)))
    assert finding.reason == f"{field} are not those of the manifest"


def test_a_store_whose_lineage_is_damaged_is_backed_up_as_it_is(tmp_path: Path) -> None:
    """X3: better a copy of what is left than none; it counts as later than every restore."""
    path, place = tmp_path / "s.db", tmp_path / "b"
    url, copy = f"sqlite:///{path}", f"sqlite:///{tmp_path / 'r.db'}"
    run(fill(url))
    made = run(backup.create(url, place))
    again = f"sqlite:///{tmp_path / 'again.db'}"
    run(restore.restore(Path(made.path), again))
    with sqlite3.connect(tmp_path / "again.db") as connection:
        connection.execute("UPDATE record SET value = X'00' WHERE kind = ?", (KIND,))
    connection.close()
    kept = run(backup.create(again, place))
    assert kept.manifest.lineage > 1
    assert [one.what for one in run(backup.verify(Path(kept.path)))] == [f"record {KIND}"]
    done = run(restore.restore(Path(kept.path), copy))
    assert done.lineage > kept.manifest.lineage
    assert run(content(copy))["findings"] == [], "the restore wrote the record anew"
    assert run(restore.confirm(copy))


def test_the_newest_backup_is_the_one_that_is_taken(tmp_path: Path) -> None:
    """Issue 7: a folder of backups stands for its newest, by time and not by name or order."""
    url, place, clock = f"sqlite:///{tmp_path / 's.db'}", tmp_path / "b", ManualClock()
    run(fill(url))
    assert backup.newest(place) == place, "there is none yet"
    made = list[str]()
    for _ in range(3):
        clock.advance(60)
        made.append(run(backup.create(url, place, world=World(clock=clock))).path)
    assert [one.path for one in backup.list_backups(place)] == made
    assert backup.newest(place) == Path(made[-1])
    assert backup.newest(Path(made[0])) == Path(made[0]), "one that is named is taken"


def test_a_backup_is_listed_behind_a_sync_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X1: the name is durable when `create` returns, and so are the folders above it."""
    url, place, synced = f"sqlite:///{tmp_path / 's.db'}", tmp_path / "b", list[Any]()
    run(fill(url))

    def sync(folder: Path) -> None:
        sync_folder(folder)
        synced.append((folder, sorted(one.name for one in folder.iterdir())))

    monkeypatch.setattr(backup, "sync_folder", sync)
    made = run(backup.create(url, place))
    assert synced[0][0] == tmp_path and "b" in synced[0][1]
    assert synced[-1] == (place, [made.manifest.name])


def found_damaged(path: Path) -> bool:
    """Return whether verifying says that a backup is damaged."""
    try:
        return bool(run(backup.verify(path)))
    except (DamagedFileError, StoreError):
        return True


def test_the_remains_of_a_lost_store_do_not_get_into_the_new_one(tmp_path: Path) -> None:
    """Operators 5: a log beside a restored file would be taken for its own; it is put aside."""
    path, url = tmp_path / "s.db", f"sqlite:///{tmp_path / 's.db'}"
    run(fill(url))
    made = run(backup.create(url, tmp_path / "b"))
    before = run(content(url))
    with process("write", url, "later") as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.kill()
    assert path.with_name("s.db-wal").stat().st_size > 0
    path.unlink()
    run(restore.restore(Path(made.path), url))
    assert run(content(url)) == before
    kept = {one.name for one in (tmp_path / "s.db-holdfast" / "kept").rglob("*")}
    assert {"s.db-wal", "mark"} <= kept


def test_a_process_of_the_lost_store_cannot_write_into_the_restored_one(
    postgres_url: str, place: Path
) -> None:
    """X5: its incarnation is in the backup, but not as one that may write."""
    import psycopg

    async def overtaken() -> None:
        async with holdfast.open(postgres_url) as rt:
            await rt.history("s").append("x")
            made = await backup.create(postgres_url, place)
            with psycopg.connect(postgres_url.partition("&schema")[0], autocommit=True) as server:
                server.execute("DROP SCHEMA holdfast CASCADE")
            await restore.restore(Path(made.path), postgres_url)
            with pytest.raises((FenceError, StoreError)):
                await rt.history("s").append("x")

    with suppress(FenceError, StoreError):  # Its goodbye is refused, too.
        run(overtaken())
    assert [len(rows) for name, rows in run(content(postgres_url)).items() if name == "s"] == [1]


def test_a_drill_restores_recovers_and_checks_without_executing(tmp_path: Path) -> None:
    """Issue 7: how long it takes to be back is known before it is needed."""
    url, scratch = f"sqlite:///{tmp_path / 's.db'}", tmp_path / "scratch"
    scratch.mkdir()
    run(fill(url))
    made = run(backup.create(url, tmp_path / "b"))
    done = run(restore.drill(Path(made.path), scratch))
    assert done.findings == []
    assert done.recovery["parts"]["ledger"]["runtimes"] == []
    assert min(done.restore_seconds, done.recovery_seconds, done.verify_seconds) > 0
    assert list(scratch.iterdir()) == []
