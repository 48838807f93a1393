"""
A PostgreSQL connection that runs named statements, with its errors mapped once.

Rows go in as sets: arrays for `unnest`, binary COPY for many events. What a transaction reads
first and what it writes last each travel together, in one round trip. Every session commits
synchronously, gives up on a lock after a limit, and is ended by the server if it hangs inside
a transaction, so that a frozen process does not hold others up for long.
"""

import select
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import psycopg
from psycopg import errors, sql

from holdfast.core.errors import (
    DamagedError,
    InvalidValueError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
)
from holdfast.store import rows
from holdfast.store.port import Again
from holdfast.store.postgres.pipeline import Call, Pipeline
from holdfast.store.sql import statements

DEFAULT_SCHEMA: Final = "holdfast"
# Up to so many events go as arrays, together with all else; more go by COPY, one round trip more.
FEW_EVENTS: Final = 200
# In column order.
_EVENT_TYPES: Final = "int8 int8 int8 text bytea bytea float8 bytea int2".split()  # noqa: SIM905
_AGAIN: Final = (errors.SerializationFailure, errors.DeadlockDetected, errors.UniqueViolation)


class PostgresConnection:
    """One connection; used by one thread at a time."""

    def __init__(self, url: str, *, busy_wait: float, read_only: bool = False) -> None:
        """
        Connect and set the session up.

        Args:
            url: `postgresql://…`, with an optional `schema` parameter.
            busy_wait: seconds to wait for a lock.
            read_only: refuse to write in this session.

        Raises:
            StoreUnavailableError: the server cannot be reached.
        """
        self.location, conninfo, self.schema = parse(url)
        self._statements = statements("postgres")
        self._numbered: dict[str, str] = {}
        self._busy_wait = busy_wait
        with self.mapped():
            self.raw = psycopg.connect(conninfo, autocommit=True, cursor_factory=psycopg.Cursor)
            if not read_only:
                # Psycopg drops all prepared statements after a rollback, also the pipeline's.
                self.raw.prepare_threshold = None
            self._cursor = self.raw.cursor(binary=True)
            self._set_up(read_only)
        self._pipeline = Pipeline(self.raw)
        self._held: list[tuple[Call, int]] = []
        self._holding = False

    @property
    def broken(self) -> bool:
        """Whether the connection is lost; looks, without a round trip, if the server hung up."""
        if self.raw.closed:
            return True
        pgconn, ready = self.raw.pgconn, select.poll()
        try:
            ready.register(pgconn.socket, select.POLLIN)
            while ready.poll(0):
                pgconn.consume_input()
        except psycopg.Error:
            return True
        return False

    def fetch(self, name: str, /, **parameters: Any) -> list[rows.Row]:
        """Run a query; a list parameter is an array."""
        with self.mapped():
            self._cursor.execute(self._text(name).encode(), parameters)
            return list(self._cursor)

    def fetch_together(
        self, queries: Sequence[tuple[str, dict[str, Any]]], *, opening: str = ""
    ) -> list[list[rows.Row]]:
        """
        Run queries in order, in one round trip.

        Args:
            queries: names and parameters.
            opening: a statement that is not in a file, to be run before them.
        """
        calls = [Call(opening, {})] if opening else []
        calls += [Call(self._text(name), parameters) for name, parameters in queries]
        with self.mapped():
            answers = self._pipeline.run(calls)
        return [answer.rows for answer in answers[bool(opening) :]]

    @contextmanager
    def together(self) -> Generator[None]:
        """Hold back what `run` and `run_rows` are given, and run it together at the end."""
        self._holding = True
        try:
            yield
            self._run_held()
        finally:
            self._holding = False
            self._held.clear()

    def run(self, name: str, /, **parameters: Any) -> None:
        """Run a statement."""
        if self._holding:
            self._held.append((Call(self._text(name), parameters), 0))
            return
        with self.mapped():
            self._cursor.execute(self._text(name).encode(), parameters)

    def run_rows(self, name: str, values: Sequence[rows.Row]) -> None:
        """
        Run a statement over a set of rows at the end of a block of `together`.

        Raises:
            Again: there, if one of the rows is there already.
        """
        if name == "append_events" and len(values) <= FEW_EVENTS:
            name = "append_few_events"
        statement = self._statements[name]
        if statement.text.startswith("COPY"):
            self._run_held()
            self._copy(statement.text, values)
            return
        columns = zip(*values, strict=True)
        arrays = dict(zip(statement.parameters, map(list, columns), strict=True))
        needed = len(values) if name.startswith("create_") else 0
        self._held.append((Call(self._text(name), arrays), needed))

    def script(self, text: str) -> str:
        """Run one statement that is not in a file and return its command tag."""
        with self.mapped():
            self._cursor.execute(text.encode(), prepare=False)
            return self._cursor.statusmessage or ""

    def begin_alone(self) -> None:
        """Begin a transaction that keeps other migrators out until it ends."""
        self.script("BEGIN")
        self.run("lock_migrations")

    def drop(self) -> None:
        """Drop the transaction; a lost connection has done it."""
        if not self.broken:
            self.script("ROLLBACK")

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self.raw.close()

    @contextmanager
    def mapped(self) -> Generator[None]:
        """Turn the driver's errors into Holdfast's."""
        try:
            yield
        except _AGAIN as error:
            raise Again from error
        except psycopg.DataError as error:
            reason = f"PostgreSQL does not store it ({type(error).__name__})"
            raise InvalidValueError(what="value", reason=reason) from error
        except psycopg.Error as error:
            raise as_store_error(self.location, error, self._busy_wait) from error

    def _run_held(self) -> None:
        """Run what is held back; a row that is not created anew was there already."""
        held, self._held = self._held, []
        if not held:
            return
        with self.mapped():
            answers = self._pipeline.run([call for call, _ in held])
        for answer, (_, needed) in zip(answers, held, strict=True):
            if answer.touched < needed:
                raise Again

    def _copy(self, text: str, values: Sequence[rows.Row]) -> None:
        with self.mapped(), self._cursor.copy(text.encode()) as copy:
            copy.set_types(_EVENT_TYPES)
            for row in values:
                copy.write_row(row)

    def _text(self, name: str) -> str:
        text = self._numbered.get(name)
        if text is None:
            text = self._numbered[name] = self._statements[name].numbered()
        return text

    def _set_up(self, read_only: bool) -> None:
        wait = round(self._busy_wait * 1000)
        settings = {
            "search_path": self.schema,
            "synchronous_commit": "on",
            "lock_timeout": str(wait),
            # One that is frozen inside a transaction holds locks; others wait longer than this.
            "idle_in_transaction_session_timeout": str(max(1, wait // 2)),
            "default_transaction_read_only": "on" if read_only else "off",
            "default_transaction_isolation": "read committed",
        }
        for name, value in settings.items():
            self.fetch("set_setting", setting=name, value=value)


def parse(url: str) -> tuple[str, str, str]:
    """
    Return a URL without secrets, what psycopg connects to, and the schema.

    Raises:
        InvalidValueError: the schema's name is not a plain word.
    """
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    schema = query.pop("schema", DEFAULT_SCHEMA)
    if not schema.isidentifier() or not schema.isascii() or len(schema) > 50:
        raise InvalidValueError(what="schema", reason=f"{schema!r} is not a short plain word")
    # Not `urlunsplit`: it drops the slashes of an empty host, which means a local socket.
    # And `quote`, because libpq does not read a plus as a space.
    conninfo = f"postgresql://{parts.netloc}{parts.path}?{urlencode(query, quote_via=quote)}"
    host = parts.netloc.rpartition("@")[2]
    shown = {name: query[name] for name in ("host", "port") if name in query} | {"schema": schema}
    location = f"postgresql://{host}{parts.path}?{urlencode(shown, safe='/')}"
    return location, conninfo, schema.lower()


def create_schema(connection: PostgresConnection) -> None:
    """Make the schema if it is missing."""
    name = sql.Identifier(connection.schema)
    # Two that make it at once: the second waits for the first, and is told of a row in its way.
    with connection.mapped(), suppress(errors.UniqueViolation, errors.DuplicateSchema):
        connection.raw.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(name))


def as_store_error(location: str, error: psycopg.Error, waited: float) -> StoreError:
    """Return Holdfast's error for one of psycopg's; its text holds no stored content."""
    reason = f"{type(error).__name__} {error.sqlstate or ''}".strip()
    if error.sqlstate is None and isinstance(error, psycopg.OperationalError):
        # Of a lost or refused connection libpq says why; statements and data are not in it.
        reason = f"{reason}: {str(error).splitlines()[0] if str(error) else 'connection lost'}"
    match error:
        case errors.LockNotAvailable() | errors.QueryCanceled():
            return StoreBusyError(waited=waited)
        case errors.DiskFull():
            return StoreFullError(reason=reason)
        case errors.DataCorrupted() | errors.IndexCorrupted():
            return DamagedError(what="database", name=location, reason=reason)
        case errors.InsufficientPrivilege() | errors.InvalidPassword():
            return StoreRefusedError(store=location, reason=f"permission denied ({reason})")
        case _:
            return StoreUnavailableError(reason=reason)
