"""
Bringing the schema to what this Holdfast knows.

Migrations are numbered files, forward only, each one transaction that also writes its own row.
A kill at any statement leaves the transaction undone, and the next opening does it again. The
text of an applied migration is checked, so a schema that was edited is noticed, and a newer
schema than the last known file is refused before anything is written.

Invariants: migrations are applied in order without gaps; migration n is recorded if and only
if all its statements are applied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, Protocol

from holdfast.core.clock import Clock
from holdfast.core.errors import MigrationChangedError, SchemaNewerError
from holdfast.core.failpoint import Failpoints
from holdfast.store.rows import Row
from holdfast.store.sql import split_script


@dataclass(frozen=True, slots=True)
class Migration:
    """
    One step of the schema.

    Attributes:
        number: its place, from 1.
        name: what it does.
        script: its SQL.
        checksum: SHA-256 of the script, hexadecimal.
    """

    number: int
    name: str
    script: str
    checksum: str


class MigrationConnection(Protocol):
    """What migrating needs of a connection."""

    def fetch(self, name: str, /, **parameters: Any) -> list[Row]:
        """Run a named query."""
        ...

    def run(self, name: str, /, **parameters: Any) -> None:
        """Run a named statement."""
        ...

    def script(self, text: str) -> object:
        """Run a statement by its text."""
        ...

    def begin_alone(self) -> None:
        """Begin a transaction that keeps other migrators out until it ends."""
        ...

    def drop(self) -> None:
        """Drop the transaction, if there is one."""
        ...


class Migrator:
    """The migrations of one store, over a connection of either database."""

    def __init__(self, connection: MigrationConnection, clock: Clock) -> None:
        """Take the connection, and the clock that says when a migration was applied."""
        self._connection = connection
        self._clock = clock

    def applied(self) -> list[tuple[int, str, str]]:
        """Return number, name and checksum of what was applied; empty in a new store."""
        if not self._connection.fetch("has_migration_table")[0][0]:
            return []
        found = self._connection.fetch("list_migrations")
        return [(number, name, checksum) for number, name, checksum in found]

    def begin(self) -> None:
        """Begin a transaction that keeps other migrators out."""
        self._connection.begin_alone()
        self._connection.run("create_migration_table")

    def apply(self, migration: Migration, failpoints: Failpoints) -> None:
        """Run the statements of a migration and write its row."""
        for statement in split_script(migration.script):
            self._connection.script(statement)
            failpoints.reach("migrate.statement")
        self._connection.run(
            "add_migration",
            number=migration.number,
            name=migration.name,
            checksum=migration.checksum,
            applied_at=self._clock.wall(),
        )
        failpoints.reach("migrate.recorded")

    def commit(self) -> None:
        """Commit."""
        self._connection.script("COMMIT")

    def rollback(self) -> None:
        """Drop the transaction."""
        self._connection.drop()


@cache
def known(dialect: str) -> tuple[Migration, ...]:
    """Return the migrations this Holdfast ships for a dialect, in order; read once."""
    folder = files("holdfast.store") / "migrations" / dialect
    found: list[Migration] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        number, _, name = entry.name.removesuffix(".sql").partition("_")
        script = entry.read_text(encoding="utf-8")
        found.append(Migration(int(number), name, script, sha256(script.encode()).hexdigest()))
    return tuple(found)


def check(
    store: str, migrations: Sequence[Migration], applied: Sequence[tuple[int, str, str]]
) -> int:
    """
    Check that what was applied is a beginning of what is known.

    Returns:
        How many migrations are applied.

    Raises:
        SchemaNewerError: the store knows more than this Holdfast.
        MigrationChangedError: an applied migration has another text.
    """
    if len(applied) > len(migrations):
        raise SchemaNewerError(store=store, found=applied[-1][0], known=len(migrations))
    for migration, (number, name, checksum) in zip(migrations, applied, strict=False):
        if (migration.number, migration.name, migration.checksum) != (number, name, checksum):
            raise MigrationChangedError(number=number)
    return len(applied)


def migrate(
    store: str,
    migrator: Migrator,
    migrations: Sequence[Migration],
    failpoints: Failpoints,
    applied: Sequence[tuple[int, str, str]] | None = None,
) -> int:
    """
    Apply what is missing, each migration in a transaction of its own.

    Args:
        store: where, for people.
        migrator: applies them.
        migrations: what this Holdfast knows.
        failpoints: places for tests.
        applied: what was applied, if the caller has just looked; looked up again before
            anything is changed.

    Returns:
        The number of the last migration.

    Raises:
        SchemaNewerError: the store knows more than this Holdfast.
        MigrationChangedError: an applied migration has another text.
    """
    if applied is None:
        applied = migrator.applied()
    while check(store, migrations, applied) < len(migrations):
        migrator.begin()
        try:
            failpoints.reach("migrate.begun")
            # Looked up again inside the transaction: another process may have been faster.
            applied = migrator.applied()
            done = check(store, migrations, applied)
            if done < len(migrations):
                migrator.apply(migrations[done], failpoints)
        except BaseException:
            migrator.rollback()
            raise
        migrator.commit()
        applied = migrator.applied()
        failpoints.reach("migrate.committed")
    return len(migrations)
