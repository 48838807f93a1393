"""
Damage to what is stored: found, named, contained (X3, A6, F10).

Files are damaged byte by byte while nobody has them open; rows are damaged behind the store's
back by SQL, which keeps the indexes in step and so leaves only the digests to notice. Seeds
are printed; `HOLDFAST_SEED` sets one, `HOLDFAST_DAMAGES` how many are tried.
"""

import asyncio
import os
import re
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import apsw
import pytest

import holdfast
from holdfast import Append, AtVersion, Event, PutRecord, Unit
from holdfast.core import codec
from holdfast.core.errors import DamagedError, HoldfastError
from holdfast.core.event import Head
from holdfast.core.unit import LeaseRow, PutBlob, RecordRow
from holdfast.store import rows
from holdfast.store.port import Finding
from holdfast.store.reader import PAGE_ROWS
from holdfast.testing.disk.acts import read_image
from holdfast.testing.disk.damage import IN_PLACE, Damage, Kind, draw
from holdfast.testing.disk.images import Scratch
from tests.store.conftest import Tell
from tests.store.sample import (
    CLOSED,
    EVENTS,
    NOTES,
    OTHER,
    STREAMS,
    contents,
    dump,
    fill,
    opened,
    payload_of,
    run,
    url_of,
)

DAMAGES = int(os.environ.get("HOLDFAST_DAMAGES", "300"))
FLIPS = 3
# Type of a page that holds rows by their key, in SQLite's file format, section 1.6.
LEAF = 0x0A
KEYS = {
    "store": ("one",),
    "stream": ("id",),
    "event": ("position",),
    "record": ("id",),
    "lease": ("id",),
    "blob": ("content",),
    "snapshot": ("id", "sequence"),
    "outcome": ("number",),
    "incarnation": ("epoch",),
}
Change = Callable[[str, tuple[Any, ...]], list[Any]]


@pytest.fixture(scope="module")
def closed_image(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A store of one file and its sidecar: checkpointed and closed."""
    folder = tmp_path_factory.mktemp("closed")
    run(url_of(folder / "store.db"), fill)
    image = read_image(folder)
    assert not image.get("store.db-wal")
    return image


def notices(image: dict[str, bytes], scratch: Scratch) -> list[Finding] | HoldfastError:
    """Open and verify an image; return what was found, or the error that refused it."""
    try:
        with opened(url_of(scratch.lay(image) / "store.db")) as driver:
            return list(driver.verify())
    except HoldfastError as error:
        return error


# The main file, bit by bit.


def test_every_flipped_bit_of_a_payload_is_found_and_named(closed_image: dict[str, bytes]) -> None:
    """X3, F10. Each bit of one event's payload; the finding names stream and sequence."""
    payload = codec.encode(payload_of(OTHER, 5))
    start = closed_image["store.db"].index(payload)
    assert closed_image["store.db"].count(payload) == 1
    with Scratch() as scratch:
        for number in range(len(payload) * 8):
            flip = Damage(Kind.FLIP, "store.db", start + number // 8, number % 8)
            found = notices(flip.applied(closed_image), scratch)
            assert isinstance(found, list), found
            assert [(one.name, one.sequence) for one in found] == [(OTHER, 5)], flip


def test_no_damage_that_changes_content_goes_unnoticed(
    closed_image: dict[str, bytes], seed: Random, tell: Tell
) -> None:
    """F10. Random single damages of the main file, by opening or by verifying."""
    with Scratch() as scratch:
        before = dump(scratch.lay(closed_image) / "store.db")
        assert before is not None
        tally: Counter[str] = Counter()
        for _ in range(DAMAGES):
            kinds = (*IN_PLACE, Kind.FLIP, Kind.CUT)
            damage = draw(seed, closed_image, kinds, ["store.db"])
            image = damage.applied(closed_image)
            changed = dump(scratch.lay(image) / "store.db") != before
            noticed = bool(notices(image, scratch))
            assert noticed or not changed, damage
            tally["changed" if changed else "harmless"] += 1
            tally["noticed although harmless"] += noticed and not changed
    tell(f"{DAMAGES} damages: {dict(tally)}, 0 unnoticed")
    assert tally["changed"] > DAMAGES // 4


def test_an_undamaged_store_has_no_findings(store_url: str) -> None:
    """X3. Nothing is found where nothing is wrong, on every store."""

    async def look(rt: holdfast.Runtime) -> list[Finding]:
        await fill(rt)
        return await rt.verify()

    assert run(store_url, look) == []


# Rows, behind the store's back.


@pytest.fixture(params=["sqlite", "postgresql"])
def filled_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a store that holds the sample."""
    if request.param == "sqlite":
        url = url_of(tmp_path / "store.db")
    else:
        url = str(request.getfixturevalue("postgres_url"))
    run(url, fill)
    return url


@pytest.fixture
def change(filled_url: str) -> Iterator[Change]:
    """Run SQL in the store with all its protection off."""
    if filled_url.startswith("sqlite"):
        path = filled_url.removeprefix("sqlite:///")
        with closing(apsw.Connection(path)) as db:
            db.set_busy_timeout(10_000)
            db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
            yield lambda text, values: db.execute(text.replace("%s", "?"), values).fetchall()
        return
    import psycopg

    with psycopg.connect(filled_url, autocommit=True) as connection:
        connection.execute("SET search_path = holdfast")
        connection.execute("SET session_replication_role = replica")

        def change(text: str, values: tuple[Any, ...]) -> list[Any]:
            cursor = connection.execute(text, values)
            return cursor.fetchall() if cursor.description else []

        yield change


def flipped(value: Any, rng: Random, *, raw: bool) -> Any:
    """Return a value with one bit flipped; text stays ASCII unless it may be `raw` bytes."""
    if isinstance(value, int):
        return value ^ 1 << rng.randrange(15)
    if isinstance(value, float):
        content = bytearray(struct.pack(">d", value))
        content[rng.randrange(1, 8)] ^= 1 << rng.randrange(8)
        return struct.unpack(">d", content)[0]
    content = bytearray(value.encode() if isinstance(value, str) else value)
    if isinstance(value, str):
        content[rng.randrange(len(content))] ^= 128 if raw else 1
        return bytes(content) if raw else content.decode()
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def flip_column(
    change: Change, rng: Random, table: str, column: str, *, raw: bool
) -> Iterator[tuple[Any, ...]]:
    """Flip a bit in some rows, one after the other; yield each row's key, then repair it."""
    keys = KEYS[table]
    where = " AND ".join(f"{key} = %s" for key in keys)
    shown = ", ".join((*keys, column))
    for *key, value in rng.sample(change(f"SELECT {shown} FROM {table}", ()), k=1) * FLIPS:
        if value in (None, "", b""):
            continue
        damaged = flipped(value, rng, raw=raw)
        cast = "CAST(%s AS TEXT)" if raw and isinstance(value, str) else "%s"
        behind = [damaged if name == column else part for name, part in zip(keys, key, strict=True)]
        try:
            change(f"UPDATE {table} SET {column} = {cast} WHERE {where}", (damaged, *key))
        except Exception as error:
            assert "nique" in f"{type(error)}{error}" or "UNIQUE" in str(error), error
            continue
        yield tuple(key)
        change(f"UPDATE {table} SET {column} = %s WHERE {where}", (value, *behind))


def columns_of(change: Change, table: str) -> list[str]:
    """Return the columns of a table whose change a store has to notice."""
    try:
        found = [row[1] for row in change(f"PRAGMA table_info({table})", ())]
    except Exception:
        asked = "SELECT column_name FROM information_schema.columns WHERE table_name = %s"
        found = [row[0] for row in change(asked, (table,))]
    return [name for name in found if name != "one"]


def test_a_flipped_bit_in_any_column_is_found(
    filled_url: str, change: Change, seed: Random, tell: Tell
) -> None:
    """X3, F10. Every column of every table; also those that hold no payload."""
    tried: Counter[str] = Counter()
    raw = filled_url.startswith("sqlite")
    with opened(filled_url) as driver:
        assert list(driver.verify()) == []
        for table in KEYS:
            for column in columns_of(change, table):
                for key in flip_column(change, seed, table, column, raw=raw):
                    found = list(driver.verify())
                    assert found, f"{table}.{column} of {key}"
                    named = {(one.what, one.name) for one in found}
                    assert all(what and name for what, name in named)
                    tried[table] += 1
        assert list(driver.verify()) == []
    tell(f"flips by table: {dict(tried)}")
    assert set(tried) == set(KEYS)


@pytest.mark.parametrize("column", ["type", "payload", "meta", "recorded_at", "digest"])
def test_damage_in_one_stream_is_named_and_stays_there(
    filled_url: str, change: Change, seed: Random, column: str
) -> None:
    """A6, X3. The prefix reads, the exact sequence is named, the listing shows it, and the
    other streams are untouched."""
    at = seed.randrange(2, EVENTS + 1)
    asked = (
        f"SELECT event.position, event.{column} FROM event JOIN stream USING (origin) "
        "WHERE stream.name = %s AND event.sequence = %s"
    )
    ((position, value),) = change(asked, (NOTES.encode(), at))
    damaged = flipped(value, seed, raw=False)
    change(f"UPDATE event SET {column} = %s WHERE position = %s", (damaged, position))

    async def look(rt: holdfast.Runtime) -> None:
        notes = rt.history(NOTES)
        assert [event.sequence for event in await notes.read()] == list(range(1, at))
        for after in (at - 1, at - 1):
            with pytest.raises(DamagedError) as error:
                await notes.read(after)
            assert (error.value.name, error.value.sequence) == (NOTES, at)
        followed = []
        with pytest.raises(DamagedError):
            async for event in notes.follow():
                followed.append(event.sequence)
        assert followed == list(range(1, at))
        listed = {info.name: info.damaged_at for info in await rt.streams()}
        assert listed == {name: at if name == NOTES else None for name in STREAMS}
        for name, after in STREAMS.items():
            if name != NOTES:
                assert len(await rt.history(name).read(after)) == EVENTS - after
        await rt.history(OTHER).append("still", "works")
        named = {(one.name, one.sequence) for one in await rt.verify()}
        assert (NOTES, at) in named
        assert named <= {(NOTES, at), (NOTES, at + 1)}

    run(filled_url, look)


def test_a_damaged_head_takes_no_other_unit_of_its_batch_down(
    filled_url: str, change: Change
) -> None:
    """A6. Units of one batch: the one on the damaged stream is refused, the others commit."""
    change("UPDATE stream SET last_sequence = 3 WHERE name = %s", (NOTES.encode(),))

    async def look(rt: holdfast.Runtime) -> None:
        units = [Unit((Append(name, (Event.of("more"),)),)) for name in (NOTES, OTHER, "new")]
        answers = await asyncio.gather(*map(rt.commit, units), return_exceptions=True)
        assert [type(answer).__name__ for answer in answers] == [
            "DamagedError",
            "Committed",
            "Committed",
        ]
        assert len(await rt.history(OTHER).read()) == EVENTS + 1

    run(filled_url, look)


def test_behind_a_damaged_record_nothing_counts_as_absent(filled_url: str, change: Change) -> None:
    """X3. A batch that failed on a damaged record leaves no wrong memory of its neighbours."""
    change("UPDATE record SET version = 9 WHERE tag = %s", ("tag0",))

    async def look(rt: holdfast.Runtime) -> None:
        keys = [("k", number) for number in "012"]
        expects = tuple(AtVersion("note", key, 1) for key in keys)
        with pytest.raises(DamagedError):
            await rt.commit(Unit((PutRecord("note", ("mine",), b"\x01"),), expects))
        absent = Unit((PutRecord("note", ("mine",), b"\x01"),), (AtVersion("note", ("k", "1"), 0),))
        with pytest.raises(HoldfastError) as refused:
            await rt.commit(absent)
        assert refused.value.code == "version_conflict"

    run(filled_url, look)


@pytest.mark.parametrize("column", ["anchor", "id"])
def test_a_damaged_stream_is_listed_and_hides_no_other(
    filled_url: str, change: Change, column: str
) -> None:
    """A6. Even a damaged head is listed as that, and so is everything else."""
    change(f"UPDATE stream SET {column} = %s WHERE name = %s", (b"?" * 16, CLOSED.encode()))

    async def look(rt: holdfast.Runtime) -> None:
        listed = {info.name: info.damaged_at for info in await rt.streams()}
        assert listed == {name: 1 if name == CLOSED else None for name in STREAMS}

    run(filled_url, look)


def test_a_damaged_snapshot_gives_way_to_the_one_before(filled_url: str, change: Change) -> None:
    """F10. Derived data is passed over, not served."""
    change("UPDATE snapshot SET stored = %s WHERE sequence = 5", (b"nonsense",))
    found = run(filled_url, contents)
    assert found["snapshot"] == (NOTES, 2, b"state 2 " * 300)


def test_a_damaged_blob_is_not_served(filled_url: str, change: Change) -> None:
    """F10. The digest by which it is asked for is checked."""
    change("UPDATE blob SET stored = %s WHERE size < 100", (b"another blob",))
    with pytest.raises(DamagedError, match="blob"):
        run(filled_url, contents)


def test_verify_ends_where_a_damaged_index_leads_back(tmp_path: Path) -> None:
    """X13, F10. A key in the index that lies before its place sends the scan back; found by
    the lab: verify asked for the same page for ever."""
    path = tmp_path / "store.db"
    blobs = sorted((PutBlob.of(b"%d" % number) for number in range(700)), key=lambda b: b.digest)

    async def put(rt: holdfast.Runtime) -> None:
        await rt.commit(Unit(tuple(blobs)))

    run(url_of(path), put)
    last_of_page = blobs[PAGE_ROWS - 1]
    image = path.read_bytes()
    # In the row its size, encoding and bytes follow; in the index it stands alone.
    place = next(
        found.start()
        for found in re.finditer(re.escape(last_of_page.digest), image)
        if b"raw" + last_of_page.stored not in image[found.end() : found.end() + 12]
    )
    path.write_bytes(image[:place] + bytes(32) + image[place + 32 :])
    with opened(url_of(path)) as driver:
        found = list(islice(driver.verify(), 10 * len(blobs)))
    reasons = {one.reason for one in found}
    assert "leads back to where the scan has been" in reasons
    assert "stored bytes and digest differ" in reasons


@pytest.mark.timeout(60)
def test_verify_ends_where_a_stream_is_listed_and_not_found(tmp_path: Path) -> None:
    """X13, F10. Rows of a page in the wrong order are listed, and a search passes them by; found
    by the lab: verify asked for the same events for ever."""
    path = tmp_path / "store.db"
    run(url_of(path), fill)
    with closing(apsw.Connection(str(path))) as raw:
        [(size,)] = raw.execute("PRAGMA page_size")
        [(root,)] = raw.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'stream'")
    image = bytearray(path.read_bytes())
    page = (root - 1) * size
    assert image[page] == LEAF
    # Behind the header of 8 bytes the page says where each row begins, in the order of the ids.
    begin, end = page + 8, page + 8 + 2 * int.from_bytes(image[page + 3 : page + 5], "big")
    image[begin:end] = image[end - 2 : end] + image[begin : end - 2]
    path.write_bytes(image)
    with opened(url_of(path)) as driver:
        reasons = {one.reason for one in driver.verify()}
    assert "is listed and not found by its name" in reasons


WRONG_TYPES: list[tuple[str, rows.Row, Callable[[rows.Row], object]]] = [
    ("head", rows.head_row(Head("a", 1, 2, b"d" * 16, 1, b"e" * 16, False)), rows.read_head),
    ("record", rows.record_row(RecordRow("a", ("k",), 1, None, b"v", 1.0, 1)), rows.read_record),
    ("lease", rows.lease_row(LeaseRow("k", 1, b"i" * 16, "h", "d", 1.0)), rows.read_lease),
]


@pytest.mark.parametrize("value", [None, 10**15, -1, "?"])
@pytest.mark.parametrize(("what", "row", "read"), WRONG_TYPES, ids=["head", "record", "lease"])
def test_a_column_of_another_type_is_damage_and_nothing_else(
    what: str, row: rows.Row, read: Callable[[rows.Row], object], value: object
) -> None:
    """A6, F10. A zeroed sector turns columns into NULL, other damage turns bytes into a number;
    found by the lab: the listing raised what is not Holdfast's."""
    read(row[1:])  # Sound as it is; its first column only finds it.
    for column in range(1, len(row)):
        damaged = (*row[1:column], value, *row[column + 1 :])
        if damaged == row[1:]:
            continue
        with pytest.raises(DamagedError):
            read(damaged)
        if what == "head":
            assert not rows.list_head(damaged).intact
