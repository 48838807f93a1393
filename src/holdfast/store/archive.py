"""
A whole store as rows: read at one moment, and written into another store as they are.

Both databases keep the same columns, so every row goes over with its digest untouched, and what
was sound or damaged on one side is just that on the other. An SQLite file that was filled like
this is a store; a backup is one that nobody writes.

Invariants: the pages of one reading belong to one moment; a store that is filled appears whole
or not at all, and never in place of another one.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol

from holdfast.core.errors import InvalidValueError
from holdfast.store import rows
from holdfast.store.port import Finding
from holdfast.store.reader import Cursor, Reader

_LOWEST: Final = -(2**63)
_INCARNATION: Final = ("epoch", "id", "owner", "opened_at", "closed_at", "digest")
_STORE: Final = ("store_id", "created_at", "trimmed", "digest")
_SMALL: Final = 500
_LARGE: Final = 20  # A blob or snapshot may have megabytes.


class Page(NamedTuple):
    """
    Rows of one table.

    Attributes:
        table: its name.
        rows: some of its rows, whole.
    """

    table: str
    rows: list[rows.Row]


class Answer(NamedTuple):
    """
    What a query came to.

    Attributes:
        columns: their names.
        rows: as many as were asked for at most.
        more: there are more rows.
    """

    columns: tuple[str, ...]
    rows: list[rows.Row]
    more: bool


class Archive(Protocol):
    """A store as a whole, without being opened for use."""

    def moment(self) -> AbstractContextManager[Reader]:
        """Lend a reader that sees the store as it is at one moment, while others write."""
        ...

    def sealed(self) -> AbstractContextManager[Reader]:
        """Lend a reader on a store that nobody writes; makes no files beside it."""
        ...

    def query(self, text: str, limit: int, seconds: float) -> Answer:
        """
        Run a query of a person, which can change nothing.

        Args:
            text: one statement in the database's own SQL.
            limit: how many rows at most.
            seconds: how long at most.

        Raises:
            TimeoutError: it took longer.
            InvalidValueError: the database does not understand it, or it would change something.
        """
        ...

    def receive(self, schema: int, pages: Iterable[Page]) -> None:
        """
        Fill a store that is not there yet.

        Args:
            schema: number of the last migration that the rows belong to.
            pages: of `read_pages`; the store's own row comes last.

        Raises:
            StoreExistsError: there is one; it was not changed.
        """
        ...

    def verify(self) -> list[Finding]:
        """Read everything of a store that nobody writes; makes no files beside it."""
        ...


def check_query(text: str) -> None:
    """
    Let pass what only reads, as far as the first word says; the database makes sure.

    Raises:
        InvalidValueError: it begins with another word.
    """
    word = text.strip().partition("(")[0].split(maxsplit=1)[:1]
    if not word or word[0].upper() not in ("SELECT", "WITH", "VALUES", "EXPLAIN"):
        raise InvalidValueError(what="query", reason="begins with SELECT, WITH, VALUES or EXPLAIN")


class Target(Protocol):
    """A connection that rows are written to."""

    def run(self, name: str, /, **parameters: Any) -> None:
        """Run a named statement."""
        ...

    def run_rows(self, name: str, values: list[rows.Row]) -> None:
        """Run a named statement over a set of rows."""
        ...

    def fetch(self, name: str, /, **parameters: Any) -> list[rows.Row]:
        """Run a named query."""
        ...


class _Table(NamedTuple):
    scan: str
    write: str
    behind: Callable[[rows.Row | None], Cursor]
    limit: int


def _after_first(row: rows.Row | None) -> Cursor:
    return {"after": b"" if row is None else row[0]}


def _after_number(row: rows.Row | None) -> Cursor:
    return {"after": _LOWEST if row is None else row[0]}


def _after_snapshot(row: rows.Row | None) -> Cursor:
    found: dict[str, Any] = {"after": b"", "after_sequence": 0}
    return found if row is None else {"after": row[0], "after_sequence": row[3]}


TABLES: Final = {
    "stream": _Table("scan_heads", "create_heads", _after_first, _SMALL),
    "event": _Table("scan_events", "append_events", _after_number, _SMALL),
    "record": _Table("scan_records", "create_records", _after_first, _SMALL),
    "lease": _Table("scan_leases", "create_leases", _after_first, _SMALL),
    "blob": _Table("scan_blobs", "put_blobs", _after_first, _LARGE),
    "snapshot": _Table("scan_snapshots", "put_snapshots", _after_snapshot, _LARGE),
    "outcome": _Table("scan_outcomes", "add_outcome", _after_number, _SMALL),
}
"""What is read and written in sets; the rows of openings and of the store itself come behind."""


def read_pages(reader: Reader) -> Iterator[Page]:
    """Yield everything, table by table; the store's own row last."""
    for name, table in TABLES.items():
        held: list[rows.Row] = []
        for row in reader.pages(table.scan, table.behind, table.limit):
            held.append(row)
            if len(held) >= table.limit:
                yield Page(name, held)
                held = []
        if held:
            yield Page(name, held)
    yield Page("incarnation", list(reader.pages("scan_incarnations", _after_number)))
    yield Page("store", reader.fetch("read_store"))


def write_pages(
    target: Target, pages: Iterable[Page], together: Callable[[], AbstractContextManager[None]]
) -> None:
    """Write every page inside the transaction of a target; then say where counting goes on."""
    number, position, epoch = 0, 0, 0
    for page in pages:
        with together():
            if page.table in TABLES:
                target.run_rows(TABLES[page.table].write, page.rows)
            for row in page.rows if page.table not in TABLES else ():
                _write_one(target, page.table, row)
        if page.table == "outcome":
            number = max(number, page.rows[-1][0])
            position = max(position, *(row[2] for row in page.rows))
        if page.table == "incarnation":
            epoch = max((row[0] for row in page.rows), default=0)
    target.fetch("set_counters", number=number, position=position, epoch=epoch)


def _write_one(target: Target, table: str, row: rows.Row) -> None:
    if table == "incarnation":
        target.run("add_incarnation", **dict(zip(_INCARNATION, row, strict=True)))
    else:
        target.run("add_store", **dict(zip(_STORE, row, strict=True)))
