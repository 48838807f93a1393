"""A rotation reaches all that can be written again: each kind, each page, and no more."""

import asyncio
import random
from pathlib import Path
from typing import Any

import apsw
import pytest

import holdfast
from holdfast import PutRecord, Runtime, Unit
from holdfast.core import codec
from holdfast.core.sealing import SEALED
from holdfast.runtime import keys
from holdfast.store.keyring import Keyring
from holdfast.store.reseal import PAGE_ROWS
from holdfast.store.vault import number_of
from tests.store.test_encryption import run

MANY = 2 * PAGE_ROWS + 3
COLUMNS = {"record": "value", "blob": "stored", "snapshot": "stored"}


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """A keyring with one key."""
    file = tmp_path / "keys" / "agent.keys"
    Keyring.create(file, "k1")
    return file


async def fill(rt: Runtime) -> None:
    """Leave more than two pages of each kind."""
    await rt.history("s").append("t")
    writes = [PutRecord("k", (str(number),), codec.encode(number)) for number in range(MANY)]
    await rt.commit(Unit(tuple(writes)))
    await rt.records.put("k", "gone", 1)
    await rt.records.delete("k", "gone")
    for number in range(MANY):
        await rt.blobs.put(b"blob %d" % number)
        await rt.snapshots.put(f"snap-{number}", "s", 1, b"snapshot %d" % number)


def under(file: Path) -> dict[str, set[int]]:
    """Return under which data keys the values of each table are sealed; 0 if one is plain."""
    found: dict[str, set[int]] = {}
    raw = apsw.Connection(str(file), flags=apsw.SQLITE_OPEN_READONLY)
    for table, column in COLUMNS.items():
        where = " AND kind = 'k'" if table == "record" else ""
        select = f"SELECT {column}, format FROM {table} WHERE {column} NOT NULL{where}"
        rows = raw.execute(select)
        found[table] = {number_of(one) if format >= SEALED else 0 for one, format in rows}
    raw.close()
    return found


def all_under(*numbers: int) -> dict[str, set[int]]:
    """Return what is found if each kind has values under just these data keys."""
    return {table: set(numbers) for table in COLUMNS}


async def rotate(rt: Runtime) -> Any:
    """Go over to the current key."""
    return await rt.keys.rotate()


def test_after_a_rotation_nothing_is_under_an_older_data_key(ring: Path, tmp_path: Path) -> None:
    """Issue 7. Records, blobs and snapshots, on every page; then there is nothing left to do."""
    file = tmp_path / "store.db"
    url = f"sqlite:///{file}"
    run(url, fill, keyring=ring)
    assert under(file) == all_under(1)
    Keyring.create(ring, "k2")
    done = run(url, rotate, keyring=ring)
    assert under(file) == all_under(2)
    assert (done.newest, done.damaged) == (2, 0) and done.resealed >= 3 * MANY
    assert run(url, rotate, keyring=ring).resealed == 0


def test_who_rotates_seals_under_the_new_data_key_at_once(ring: Path, tmp_path: Path) -> None:
    """Issue 7. What is written behind a rotation, by the runtime that made it."""
    file = tmp_path / "store.db"

    async def work(rt: Runtime) -> None:
        await rt.records.put("k", "a", 1)
        Keyring.create(ring, "k2")
        await rt.keys.rotate()
        await rt.records.put("k", "b", 1)
        await rt.blobs.put(b"blob")
        await rt.history("s").append("t")
        await rt.snapshots.put("snap", "s", 1, b"snapshot")

    run(f"sqlite:///{file}", work, keyring=ring)
    assert under(file) == all_under(2)


def test_what_is_damaged_is_counted_and_left_as_it_is(ring: Path, tmp_path: Path) -> None:
    """Issue 7, X3. It stays what `verify` names; all the rest goes over."""
    file = tmp_path / "store.db"
    url = f"sqlite:///{file}"
    run(url, fill, keyring=ring)
    raw = apsw.Connection(str(file))
    for table, column in COLUMNS.items():
        where = " AND kind = 'k'" if table == "record" else ""
        raw.execute(
            f"UPDATE {table} SET {column} = CAST({column} || X'00' AS BLOB) WHERE rowid = "
            f"(SELECT MIN(rowid) FROM {table} WHERE {column} NOT NULL{where})"
        )
    raw.close()

    async def named(rt: Runtime) -> list[str]:
        return sorted(one.what.split()[0] for one in await rt.verify())

    assert run(url, named, keyring=ring) == ["blob", "record", "snapshot"]
    Keyring.create(ring, "k2")
    done = run(url, rotate, keyring=ring)
    assert (done.damaged, done.newest) == (3, 2) and done.resealed >= 3 * (MANY - 1)
    assert under(file) == all_under(1, 2)
    assert run(url, named, keyring=ring) == ["blob", "record", "snapshot"]


def test_two_who_rotate_at_once_make_one_new_data_key(ring: Path, tmp_path: Path) -> None:
    """Issue 7, X5. Each wraps what the other one did not; no wrapping is written over another."""
    url = f"sqlite:///{tmp_path / 'store.db'}"

    async def both() -> None:
        async with (
            holdfast.open(url, keyring=ring) as one,
            holdfast.open(url, keyring=Keyring.from_file(ring)) as two,
        ):
            await one.records.put("k", "a", 1)
            Keyring.create(ring, "k2")
            done = await asyncio.gather(one.keys.rotate(), two.keys.rotate())
            assert sum(each.wrapped for each in done) == 1
            assert [(each.number, each.by) for each in await one.keys.list()] == [
                (1, "k2"),
                (2, "k2"),
            ]
            assert (await two.records.get("k", "a")).value == 1

    asyncio.run(both())


def test_a_unit_of_a_rotation_is_bounded(
    ring: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 7, X9. Of large values few are sealed anew at once."""
    url = f"sqlite:///{tmp_path / 'store.db'}"

    async def work(rt: Runtime) -> None:
        await rt.history("s").append("t")
        for number in range(12):
            await rt.snapshots.put(f"snap-{number}", "s", 1, random.randbytes(1_000))
        Keyring.create(ring, "k2")
        monkeypatch.setattr(keys, "UNIT_BYTES", 2_500)
        parts = list[int]()
        await rt.keys.rotate(parts.append)
        assert max(parts) < 12 and sum(parts) >= 12

    run(url, work, keyring=ring)


def test_looking_at_a_plain_store_with_a_keyring_makes_no_key(ring: Path, tmp_path: Path) -> None:
    """Issue 7. Who opens it for reading only changes nothing, and reads what is plain."""
    url = f"sqlite:///{tmp_path / 'store.db'}"

    async def put(rt: Runtime) -> None:
        await rt.records.put("k", "a", 1)

    async def look(rt: Runtime) -> None:
        assert await rt.keys.list() == []
        assert (await rt.records.get("k", "a")).value == 1

    run(url, put)
    run(url, look, keyring=ring, read_only=True)
    run(url, look)
