"""What SQLite itself says of a file: is it sound, and is its schema that of its migrations."""

from functools import cache

import apsw

from holdfast.core.errors import DamagedError
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World
from holdfast.store import rows
from holdfast.store.migrate import Migration, Migrator, known, migrate
from holdfast.store.port import Finding
from holdfast.store.sqlite.connection import SqliteConnection, as_store_error


def is_sound(connection: SqliteConnection) -> bool:
    """Return whether a quick look at every page finds nothing wrong."""
    try:
        return bool(connection.pragma("quick_check") == "ok")
    except (DamagedError, UnicodeDecodeError):
        return False


def check_file(
    connection: SqliteConnection, location: str, *, quick: bool = False
) -> list[Finding]:
    """Have SQLite check the file, and compare the schema; `quick` leaves the indexes out."""
    lines: list[str] = []
    try:
        check = "PRAGMA quick_check" if quick else "PRAGMA integrity_check"
        lines = [row[0] for row in connection.raw.execute(check)]
        if connection.schema() != _shipped_schema(connection):
            lines.append("the schema is not the one that its migrations make")
    except apsw.Error as error:
        found = as_store_error(location, error)
        if isinstance(error, apsw.IOError | apsw.BusyError):
            raise found from error  # Nothing is known about what could not be read.
        lines.append(str(found))
    except UnicodeDecodeError:
        lines.append("the schema holds text that is none")
    return [Finding("database", location, line) for line in lines if line != "ok"]


def _shipped_schema(connection: SqliteConnection) -> list[rows.Row]:
    """Return the schema that the applied migrations make; a newer one is not known here."""
    applied = len(Migrator(connection, World().clock).applied())
    if applied > len(known("sqlite")):
        return connection.schema()
    return _schema_of(known("sqlite")[:applied])


@cache
def _schema_of(migrations: tuple[Migration, ...]) -> list[rows.Row]:
    """Return the schema that migrations make, in a store of its own in memory."""
    fresh = SqliteConnection(":memory:", writable=True, vfs="", busy_wait=0.0)
    try:
        migrate("memory", Migrator(fresh, World().clock), migrations, Failpoints())
        return fresh.schema()
    finally:
        fresh.close()
