"""
Schemas: old ones are brought up to date, newer ones are left alone (X11, F20).

`fixtures/` holds a store of every released schema and what was read from it then; the script
`fixtures/generate.py` makes the next one.
"""

import hashlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

import holdfast
from holdfast.core.errors import MigrationChangedError, SchemaNewerError
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World
from holdfast.store.migrate import Migrator, known, migrate
from holdfast.store.sqlite.connection import SqliteConnection
from holdfast.testing.disk.acts import read_image
from holdfast.testing.disk.images import write_image
from holdfast.testing.programs import installation
from tests.store.fixtures import generate
from tests.store.sample import EVENTS, NOTES, OTHER, contents, fill, refusal, run, url_of

FIXTURES = Path(generate.__file__).parent
Execute = Callable[[str], list[Any]]


def content_of(url: str, **options: Any) -> Any:
    """Return what ordinary reads give, as it is written down beside a fixture."""
    return msgspec.json.decode(msgspec.json.encode(run(url, contents, **options)))


def written_down(fixture: Path) -> Any:
    """Return what was read from a fixture when it was made."""
    return msgspec.json.decode(fixture.with_suffix(".json").read_bytes())


def postgres_schema(url: str) -> list[str]:
    """Return the schema as pg_dump tells it, without what changes from run to run."""
    found = installation()
    text = found.account.run(found.programs / "pg_dump", "-s", "-n", "holdfast", "-d", url)
    return [line for line in text.splitlines() if line and not line.startswith(("--", "\\"))]


def sqlite_schema(path: Path) -> list[Any]:
    """Return the schema as SQLite keeps it."""
    with closing(apsw.Connection(str(path))) as db:
        text = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name"
        return list(db.execute(text))


@pytest.mark.parametrize("fixture", sorted(FIXTURES.glob("*.db")), ids=lambda path: path.stem)
def test_an_old_file_is_brought_up_to_date_and_reads_as_it_did(
    fixture: Path, tmp_path: Path
) -> None:
    """X11. Opened, migrated, read, verified, written to; its schema is that of a new one."""
    path = tmp_path / "old.db"
    path.write_bytes(fixture.read_bytes())
    assert content_of(url_of(path)) == written_down(fixture)
    run(url_of(tmp_path / "new.db"), fill)
    assert sqlite_schema(path) == sqlite_schema(tmp_path / "new.db")
    assert run(url_of(path), go_on) == []


@pytest.mark.parametrize("fixture", sorted(FIXTURES.glob("*.sql")), ids=lambda path: path.stem)
def test_an_old_dump_is_brought_up_to_date_and_reads_as_it_did(
    fixture: Path, postgres_url: str, postgres_folder: Path
) -> None:
    """X11. The same on PostgreSQL."""
    import psycopg

    found = installation()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        run(postgres_url, fill)
        created = postgres_schema(postgres_url)
        connection.execute("DROP SCHEMA holdfast CASCADE")
    copy = postgres_folder / fixture.name
    copy.write_bytes(fixture.read_bytes())
    found.account.own(postgres_folder)
    found.account.run(
        *(found.programs / "psql", "-q", "-v", "ON_ERROR_STOP=1", "-d", postgres_url),
        *("-c", "SET client_min_messages = warning", "-f", copy),
    )
    assert content_of(postgres_url) == written_down(fixture)
    assert postgres_schema(postgres_url) == created
    assert run(postgres_url, go_on) == []


async def go_on(rt: holdfast.Runtime) -> list[Any]:
    """Write to every kind of thing, and verify all of it."""
    assert (await rt.history(NOTES).append("noted", 1)).sequence == EVENTS + 1
    await rt.records.put("note", ("k", "0"), {"value": "changed"})
    await rt.blobs.put(b"another")
    await rt.snapshots.put("state", NOTES, EVENTS, b"newer")
    await (await rt.leases.grant("given back", 60.0)).release()
    return list(await rt.verify())


def test_a_fixture_of_todays_schema_is_kept() -> None:
    """X11. Whoever adds a migration keeps a store of it."""
    for dialect in ("sqlite", "postgres"):
        assert generate.place_of(dialect).exists(), "run python -m tests.store.fixtures.generate"


def test_migrating_from_every_earlier_schema_equals_creating() -> None:
    """X11. Step by step or all at once, the schema is the same."""
    migrations = known("sqlite")
    schemas = []
    for first in range(len(migrations) + 1):
        with closing(SqliteConnection(":memory:", writable=True, vfs="", busy_wait=0.0)) as main:
            migrator = Migrator(main, World().clock)
            for some in (migrations[:first], migrations):
                migrate("memory", migrator, some, Failpoints())
            schemas.append(main.schema())
            recorded = [(one.number, one.name, one.checksum) for one in migrations]
            assert migrator.applied() == recorded
    assert all(schema == schemas[0] for schema in schemas)


def test_what_is_recorded_is_what_is_shipped(store: tuple[str, Execute]) -> None:
    """X11. Number, name and the checksum of the text, in order, without gaps."""
    url, execute = store
    dialect = "sqlite" if url.startswith("sqlite") else "postgres"
    folder = Path(holdfast.__file__).parent / "store" / "migrations" / dialect
    files = sorted(folder.glob("*.sql"))
    shipped = [
        (number, path.stem[5:], hashlib.sha256(path.read_bytes()).hexdigest())
        for number, path in enumerate(files, 1)
    ]
    assert [int(path.name[:4]) for path in files] == list(range(1, len(files) + 1))
    found = execute("SELECT number, name, checksum FROM migration ORDER BY number")
    assert [tuple(row) for row in found] == shipped


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Execute]:
    """A filled store, and how to run SQL in it from outside."""
    if request.param == "sqlite":
        path = tmp_path / "s" / "store.db"
        path.parent.mkdir()
        run(url_of(path), fill)

        def sqlite(text: str) -> list[Any]:
            with closing(apsw.Connection(str(path))) as db:
                return list(db.execute(text))

        return url_of(path), sqlite
    import psycopg

    url = str(request.getfixturevalue("postgres_url"))
    run(url, fill)

    def postgres(text: str) -> list[Any]:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("SET search_path = holdfast")
            cursor = connection.execute(text)
            return cursor.fetchall() if cursor.description else []

    return url, postgres


def everything(url: str, execute: Execute) -> Any:
    """Return what must not change: all bytes of the files, or all rows of the database."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        return {
            name: content
            for name, content in read_image(path.parent).items()
            if content and not name.endswith(("/gate", "/life"))
        }
    tables = execute("SELECT tablename FROM pg_tables WHERE schemaname = 'holdfast'")
    rows = {name: sorted(map(repr, execute(f"SELECT * FROM {name}"))) for (name,) in tables}
    sequences = "SELECT sequencename, last_value FROM pg_sequences WHERE schemaname = 'holdfast'"
    return rows, sorted(execute(sequences))


NEWER = "INSERT INTO migration VALUES (2, 'of_tomorrow', 'unknown', 0.0)"
CHANGED = "UPDATE migration SET checksum = 'another'"


@pytest.mark.parametrize(
    ("change", "error"), [(NEWER, SchemaNewerError), (CHANGED, MigrationChangedError)]
)
def test_a_schema_that_is_not_ours_is_refused_unchanged_and_can_be_read(
    store: tuple[str, Execute], change: str, error: type[Exception]
) -> None:
    """F20, X11. Nothing is written, not even who looked; read_only reads and verifies it."""
    url, execute = store
    expected = content_of(url, read_only=True)
    execute(change)
    before = everything(url, execute)
    assert isinstance(refusal(url), error)
    assert everything(url, execute) == before
    assert content_of(url, read_only=True) == expected
    assert run(url, lambda rt: rt.verify(), read_only=True) == []
    assert everything(url, execute) == before


def test_a_newer_schema_in_a_log_that_a_kill_left_is_refused_unchanged(tmp_path: Path) -> None:
    """F20. Not even the log is written home."""
    path = tmp_path / "s" / "store.db"
    path.parent.mkdir()

    async def work(rt: holdfast.Runtime) -> dict[str, bytes]:
        await fill(rt)
        with closing(apsw.Connection(str(path))) as db:
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            db.execute(NEWER)
        return read_image(path.parent)

    image = run(url_of(path), work)
    assert image["store.db-wal"]
    write_image(image, tmp_path / "t")
    copy = url_of(tmp_path / "t" / "store.db")
    before = everything(copy, lambda text: [])
    error = refusal(copy)
    assert isinstance(error, SchemaNewerError)
    assert (error.found, error.known) == (2, 1)
    assert everything(copy, lambda text: []) == before

    async def read(rt: holdfast.Runtime) -> int:
        return len(await rt.history(OTHER).read())

    assert run(copy, read, read_only=True) == EVENTS
