"""What a connection to SQLite is set to, as far as queries get quicker by it (X9)."""

from pathlib import Path
from typing import Any

import apsw
import pytest

from holdfast.store.sqlite.connection import SqliteConnection


@pytest.fixture
def connection(tmp_path: Path) -> SqliteConnection:
    """A connection to a file with a table of records."""
    opened = SqliteConnection(str(tmp_path / "a.db"), writable=True, vfs="", busy_wait=0.0)
    opened.script(
        "CREATE TABLE record (id BLOB UNIQUE, kind TEXT, key BLOB, version, tag TEXT, value BLOB, "
        "written_at, format, digest)"
    )
    opened.script("CREATE INDEX record_by_key ON record (kind, key)")
    for number in range(3):
        row = (bytes([number]), f"kind {number}", b"k", 1, None, b"v", 0.0, 1, b"")
        opened.script("INSERT INTO record VALUES (?,?,?,?,?,?,?,?,?)", row)
    return opened


def test_a_query_is_planned_once_and_not_anew_for_what_is_bound(
    connection: SqliteConnection,
) -> None:
    """Else each bound value of a range has the statement planned again, at three times the cost."""
    assert connection.raw.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1) == 1


def test_functions_of_the_schema_are_not_trusted(connection: SqliteConnection) -> None:
    assert connection.raw.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, -1) == 0
    assert connection.pragma("cell_size_check") == 1


@pytest.mark.parametrize("asked", [[0], [1], [0, 2], [0, 1, 2], [7]])
def test_an_array_finds_what_it_names_one_or_many(
    connection: SqliteConnection, asked: list[int]
) -> None:
    found = connection.fetch("load_records", ids=[bytes([number]) for number in asked])

    assert sorted(row[0] for row in found) == [f"kind {one}" for one in asked if one < 3]


def test_an_array_of_one_needs_no_table_made_of_it(connection: SqliteConnection) -> None:
    said: list[str] = []

    def note(event: dict[str, Any]) -> None:
        said.append(event["sql"])

    connection.raw.trace_v2(apsw.SQLITE_TRACE_STMT, note)

    connection.fetch("load_records", ids=[b"\0"])
    connection.fetch("load_records", ids=[b"\0", b"\1"])

    assert ["carray" in one for one in said] == [False, True]
