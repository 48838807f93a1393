"""
A PostgreSQL store as a whole: read at one moment, or filled with rows.

The moment is a snapshot of the server (REPEATABLE READ), so nobody waits for it. Filling is one
transaction, behind the lock of the migrations, so of two that try one finds the store there.
"""

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import psycopg

from holdfast.core.errors import InvalidValueError, StoreExistsError
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World
from holdfast.store.archive import Answer, Page, check_query, write_pages
from holdfast.store.migrate import Migrator, known, migrate
from holdfast.store.port import Finding
from holdfast.store.postgres.connection import (
    PostgresConnection,
    as_store_error,
    create_schema,
)
from holdfast.store.reader import Reader
from holdfast.store.verify import verify_rows


class Connect(Protocol):
    """Makes a connection."""

    def __call__(self, *, read_only: bool) -> PostgresConnection:
        """Return a new one."""
        ...


class PostgresArchive:
    """One schema of a database as a whole."""

    def __init__(self, location: str, connect: Connect, world: World) -> None:
        """Take where it is, and what makes connections."""
        self._location = location
        self._connect = connect
        self._world = world

    @contextmanager
    def moment(self) -> Generator[Reader]:
        """Lend a reader that sees one moment, while others write."""
        connection = self._connect(read_only=True)
        try:
            _take_time(connection)
            connection.script("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            yield Reader(connection.fetch)
        finally:
            connection.close()

    def sealed(self) -> AbstractContextManager[Reader]:
        """Lend a reader that sees one moment; a server makes no difference."""
        return self.moment()

    def query(self, text: str, limit: int, seconds: float) -> Answer:
        """
        Run a query of a person in a transaction that cannot write; ended when its time is over.

        Raises:
            TimeoutError: it took longer.
            InvalidValueError: the server does not understand it, or it would change something.
        """
        check_query(text)
        connection = self._connect(read_only=True)
        try:
            milliseconds = str(max(1, round(seconds * 1000)))
            connection.fetch("set_setting", setting="statement_timeout", value=milliseconds)
            connection.script("BEGIN READ ONLY")
            # Binary answers come by a protocol that takes one statement only.
            cursor = connection.raw.cursor(binary=True)
            cursor.execute(text.encode(), prepare=False)
            names = tuple(column.name for column in cursor.description or ())
            found = cursor.fetchmany(limit + 1)
            return Answer(names, list(found[:limit]), len(found) > limit)
        except psycopg.errors.QueryCanceled as error:
            raise TimeoutError from error
        except psycopg.Error as error:
            if error.sqlstate is None:
                raise as_store_error(self._location, error, seconds) from error
            # Its text may quote what is stored; the name of the error does not.
            raise InvalidValueError(what="query", reason=type(error).__name__) from error
        finally:
            connection.close()

    def receive(self, schema: int, pages: Iterable[Page]) -> None:
        """
        Fill a store that is not there yet.

        Raises:
            StoreExistsError: there is one.
        """
        connection = self._connect(read_only=False)
        try:
            _take_time(connection)
            create_schema(connection)
            migrator = Migrator(connection, self._world.clock)
            if len(migrator.applied()) > schema:
                raise StoreExistsError(store=self._location)
            migrate(self._location, migrator, known("postgres")[:schema], Failpoints())
            connection.begin_alone()
            if connection.fetch("read_store"):
                raise StoreExistsError(store=self._location)
            write_pages(connection, pages, connection.together)
            self._world.failpoints.reach("restore.filled")
            connection.script("COMMIT")
        finally:
            connection.close()
        self._world.failpoints.reach("restore.placed")

    def verify(self) -> list[Finding]:
        """Read everything."""
        with self.moment() as reader:
            return list(verify_rows(reader))


def _take_time(connection: PostgresConnection) -> None:
    """Allow a transaction to wait for the other store; nobody else waits for it."""
    connection.fetch("set_setting", setting="idle_in_transaction_session_timeout", value="600000")
