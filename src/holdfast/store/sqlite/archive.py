"""
An SQLite store as a whole: read at one moment, filled with rows, or checked where it lies.

A store is filled in a file beside its place, in one transaction, and gets its name when it is
durable. The file is no write-ahead-logged one before its first opening, so a backup needs no
files beside it and can be read from where nothing can be written.

Invariant: a place where a store is, or the remains of one whose process lives, is never filled.
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Final

import apsw

from holdfast.core.errors import DamagedError, InvalidValueError, StoreError
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World
from holdfast.store import rows
from holdfast.store.archive import Answer, Page, check_query, write_pages
from holdfast.store.migrate import Migrator, known, migrate
from holdfast.store.options import Options
from holdfast.store.port import Finding
from holdfast.store.reader import Reader
from holdfast.store.sqlite.check import check_file
from holdfast.store.sqlite.connection import SqliteConnection, as_store_error
from holdfast.store.sqlite.guard import APPLICATION_ID, Guard
from holdfast.store.verify import verify_rows

_SEALED: Final = "&immutable=1"
_READING: Final = frozenset(
    {apsw.SQLITE_SELECT, apsw.SQLITE_READ, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE}
)


class SqliteArchive:
    """One SQLite file as a whole."""

    def __init__(self, target: str, guard: Guard | None, options: Options, world: World) -> None:
        """Take the file, what guards its place (None in memory), and the limits."""
        self._target = target
        self._guard = guard
        self._options = options
        self._world = world

    @contextmanager
    def moment(self) -> Generator[Reader]:
        """Lend a reader that sees one moment; whoever calls has the store open."""
        connection = self._connect(self._target)
        try:
            connection.script("BEGIN")
            yield Reader(connection.fetch)
        finally:
            connection.close()

    def receive(self, schema: int, pages: Iterable[Page]) -> None:
        """
        Fill a store that is not there yet.

        Raises:
            StoreExistsError: there is one.
            StoreBusyError: somebody has it open.
            DamagedError: the rows are none that a store holds.
        """
        if self._guard is None:
            raise InvalidValueError(what="store", reason="one in memory cannot be filled")
        try:
            with self._guard.building(self._options.busy_wait) as (path, mark):
                self._fill(path, schema, pages)
                self._world.failpoints.reach("restore.filled")
                mark(*self._identity(path))
        except OSError as error:
            raise self._guard.as_store_error(error) from error
        self._world.failpoints.reach("restore.placed")

    def verify(self) -> list[Finding]:
        """Read everything of a file that nobody writes; makes no files beside it."""
        connection = self._connect(self._target, _SEALED)
        try:
            found = list(verify_rows(Reader(connection.fetch)))
            return [*found, *check_file(connection, self._target)]
        finally:
            connection.close()

    @contextmanager
    def sealed(self) -> Generator[Reader]:
        """Lend a reader on a file that nobody writes; makes no files beside it."""
        connection = self._connect(self._target, _SEALED)
        try:
            yield Reader(connection.fetch)
        finally:
            connection.close()

    def query(self, text: str, limit: int, seconds: float) -> Answer:
        """
        Run a query of a person on a connection that cannot write; ended when its time is over.

        Raises:
            TimeoutError: it took longer.
            InvalidValueError: SQLite does not understand it, or it would do more than read.
        """
        check_query(text)
        connection, clock = self._connect(self._target), self._world.clock
        until, names = clock.monotonic() + seconds, tuple[str, ...]()
        try:
            connection.raw.authorizer = _reads_only
            connection.raw.set_progress_handler(lambda: clock.monotonic() > until, 1_000)
            cursor = connection.raw.execute(text)
            with suppress(apsw.ExecutionCompleteError):  # There are no rows to describe.
                names = tuple(column[0] for column in cursor.get_description())
            found = list(islice(cursor, limit + 1))
            return Answer(names, found[:limit], len(found) > limit)
        except apsw.InterruptError as error:
            raise TimeoutError from error
        except (apsw.SQLError, apsw.AuthError, apsw.ReadOnlyError) as error:
            # Of what a person wrote SQLite says where it is wrong; stored content is not in it.
            raise InvalidValueError(what="query", reason=str(error)) from error
        except apsw.Error as error:
            raise as_store_error(self._target, error) from error
        finally:
            connection.close()

    def _fill(self, path: Path, schema: int, pages: Iterable[Page]) -> None:
        path.touch(mode=0o600)
        connection = SqliteConnection(
            str(path), writable=True, vfs="", busy_wait=self._options.busy_wait
        )
        try:
            connection.pragma("application_id", APPLICATION_ID)
            migrator = Migrator(connection, self._world.clock)
            migrate(str(path), migrator, known("sqlite")[:schema], Failpoints())
            connection.script("BEGIN IMMEDIATE")
            write_pages(connection, pages, nullcontext)
            connection.script("COMMIT")
        except StoreError as error:
            if isinstance(error.__cause__, apsw.ConstraintError):
                reason = "holds a row that no store does; nothing was copied"
                raise DamagedError(what="store", name=path.name, reason=reason) from error
            raise
        finally:
            connection.close()

    def _identity(self, path: Path) -> tuple[bytes, int]:
        connection = self._connect(str(path), _SEALED)
        try:
            store_id = rows.read_store(connection.fetch("read_store")[0])[0]
            return store_id, max((row[0] for row in connection.fetch("last_outcome")), default=0)
        finally:
            connection.close()

    def _connect(self, target: str, more: str = "") -> SqliteConnection:
        wait, vfs = self._options.busy_wait, self._world.vfs
        return SqliteConnection(target, writable=False, vfs=vfs, busy_wait=wait, more=more)


def _reads_only(action: int, *_: object) -> int:
    """Allow a statement to read and to compute, nothing else: no attaching, no pragma."""
    return apsw.SQLITE_OK if action in _READING else apsw.SQLITE_DENY
