"""
The bare drivers: what the databases do without Holdfast, with the same durability.

Two tables: `plain` holds an id and the bytes, `indexed` has the columns and the unique index of
Holdfast's event table. SQLite runs with WAL, synchronous=FULL, psow=0 and the same length of
log; PostgreSQL with synchronous_commit=on.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import apsw
import psycopg

from bench.measure import Rate, Stopwatch

LOG_PAGES = 4_000
PLAIN = "id {int} PRIMARY KEY, data {bytes}"
INDEXED = (
    "position {int} NOT NULL PRIMARY KEY, origin {int} NOT NULL, sequence {int} NOT NULL, "
    "type TEXT NOT NULL, payload {bytes} NOT NULL, meta {bytes}, recorded_at {real} NOT NULL, "
    "digest {bytes} NOT NULL, format {int} NOT NULL"
)
TYPES = {
    "plain": ["int8", "bytea"],
    "indexed": ["int8", "int8", "int8", "text", "bytea", "bytea", "float8", "bytea", "int8"],
}
READ = "SELECT * FROM indexed WHERE origin = 1 AND sequence > {after} ORDER BY sequence LIMIT {n}"
Row = tuple[Any, ...]


class Bare(Protocol):
    """A database without Holdfast."""

    def commit(self, table: str, rows: list[Row]) -> None:
        """Commit these rows durably."""
        ...

    def read(self, after: int, limit: int) -> list[Row]:
        """Return a page of the indexed table."""
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class BareSqlite:
    """apsw."""

    def __init__(self, folder: Path) -> None:
        """Make a database of its own."""
        flags = apsw.SQLITE_OPEN_URI | apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        path = folder / f"bare-{uuid4().hex[:8]}.db"
        self.raw = apsw.Connection(f"file:{path}?psow=0", flags=flags)
        self.raw.pragma("journal_mode", "wal")
        self.raw.pragma("synchronous", "full")
        self.raw.wal_autocheckpoint(LOG_PAGES)
        for table, columns in (("plain", PLAIN), ("indexed", INDEXED)):
            shown = columns.format(int="INTEGER", bytes="BLOB", real="REAL")
            self.raw.execute(f"CREATE TABLE {table} ({shown})")
        self.raw.execute("CREATE UNIQUE INDEX by_stream ON indexed (origin, sequence)")

    def commit(self, table: str, rows: list[Row]) -> None:
        """Begin, insert, commit."""
        marks = ", ".join("?" * len(rows[0]))
        self.raw.execute("BEGIN IMMEDIATE")
        self.raw.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
        self.raw.execute("COMMIT")

    def read(self, after: int, limit: int) -> list[Row]:
        """Return a page."""
        return list(self.raw.execute(READ.format(after="?", n="?"), (after, limit)))

    def close(self) -> None:
        """Close the connection."""
        self.raw.close()


class BarePostgres:
    """psycopg: binary COPY of a set, one INSERT of a single row."""

    def __init__(self, url: str) -> None:
        """Make tables in a schema of its own."""
        self.raw = psycopg.connect(url, autocommit=True)
        name = f"bare_{uuid4().hex[:8]}"
        self.raw.execute(f"CREATE SCHEMA {name}".encode())
        self.raw.execute(f"SET search_path = {name}".encode())
        self.raw.execute("SET synchronous_commit = on")
        for table, columns in (("plain", PLAIN), ("indexed", INDEXED)):
            shown = columns.format(int="BIGINT", bytes="BYTEA", real="DOUBLE PRECISION")
            self.raw.execute(f"CREATE TABLE {table} ({shown})".encode())
        self.raw.execute("CREATE UNIQUE INDEX by_stream ON indexed (origin, sequence)")
        self._cursor = self.raw.cursor(binary=True)

    def commit(self, table: str, rows: list[Row]) -> None:
        """Insert one row, or copy many; both are a transaction of their own."""
        if len(rows) == 1:
            marks = ", ".join(["%s"] * len(rows[0]))
            self._cursor.execute(f"INSERT INTO {table} VALUES ({marks})".encode(), rows[0])
            return
        with self._cursor.copy(f"COPY {table} FROM STDIN (FORMAT BINARY)".encode()) as copy:
            copy.set_types(TYPES[table])
            for row in rows:
                copy.write_row(row)

    def read(self, after: int, limit: int) -> list[Row]:
        """Return a page."""
        self._cursor.execute(READ.format(after="%s", n="%s").encode(), (after, limit))
        return self._cursor.fetchall()

    def close(self) -> None:
        """Close the connection."""
        self.raw.close()


def rows_of(table: str, payload: bytes) -> Callable[[int, int], list[Row]]:
    """Return what makes `count` rows of a table from a number on."""
    if table == "plain":
        return lambda first, count: [(n, payload) for n in range(first, first + count)]
    digest = b"\1" * 16
    return lambda first, count: [
        (n, 1, n, "appended", payload, None, 1.0, digest, 1) for n in range(first, first + count)
    ]


class Inserts:
    """Commits sets of rows into one table, slice by slice."""

    def __init__(self, bare: Bare, table: str, payload: bytes) -> None:
        """Take the database and the table."""
        self._bare = bare
        self._table = table
        self._rows = rows_of(table, payload)
        self._next = 1

    def run(self, batch: int, seconds: float) -> Rate:
        """Commit `batch` rows at a time for some seconds; at least one commit."""
        count = 0
        watch = Stopwatch()
        while not count or watch.seconds < seconds:
            self.commit(batch)
            count += batch
        return watch.rate(count)

    def commit(self, batch: int) -> None:
        """Commit the next rows."""
        self._bare.commit(self._table, self._rows(self._next, batch))
        self._next += batch
