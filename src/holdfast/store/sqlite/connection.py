"""
An SQLite connection that runs named statements, set up so that its promises hold.

WAL, synchronous=FULL and `psow=0`: each is read back after it was set, because SQLite ignores
a setting it does not like. Errors of the library become Holdfast's here, once.
"""

import ctypes
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

import apsw

from holdfast.core.errors import (
    DamagedError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreRefusedError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from holdfast.store import rows
from holdfast.store.sql import statements

# 3.7.0 to 3.51.2 can damage a database when a checkpoint and a write of two connections meet
# (fixed in 3.51.3, and in 3.50.7 and 3.44.6): https://www.sqlite.org/releaselog/3_51_3.html
_FIXED: Final = ((3, 44, 6), (3, 50, 7), (3, 51, 3))
# Sizes of sets for which a statement is prepared. The largest has to stay below 16 KiB of text:
# apsw keeps no longer statement, and to prepare it each time costs more than to run it.
_SIZES: Final = (1, 4, 16, 64, 128, 256, 512)


class SqliteConnection:
    """One connection; used by one thread at a time."""

    def __init__(
        self, target: str, *, writable: bool, vfs: str, busy_wait: float, more: str = ""
    ) -> None:
        """
        Open a connection.

        Args:
            target: a file, or `:memory:`.
            writable: may write, and create the file.
            vfs: name of the VFS, or "" for the default.
            busy_wait: seconds to wait for another process's transaction.
            more: parameters of the file's URI.

        Raises:
            StoreRefusedError: the file cannot be opened.
        """
        flags = apsw.SQLITE_OPEN_URI | (
            apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
            if writable
            else apsw.SQLITE_OPEN_READONLY
        )
        name = target if target == ":memory:" else f"file:{quote(target)}?psow=0{more}"
        self._statements = statements("sqlite")
        self.looked_at = -1  # The data version at which this saw all that others committed.
        self.target = target
        with self.mapped():
            self.raw = apsw.Connection(name, flags=flags, vfs=vfs or None, statementcachesize=128)
            self._busy_wait = busy_wait
            self._wait(busy_wait)
            self.raw.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
            # Else a statement with a range is planned anew for each value that is bound to it.
            self.raw.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
            self.raw.execute("PRAGMA cell_size_check = ON")

    @property
    def broken(self) -> bool:
        """Never: a local connection does not get lost."""
        return False

    def fetch(self, name: str, /, **parameters: Any) -> list[rows.Row]:
        """Run a query; a list parameter is an array of byte strings."""
        text = self._statements[name].text
        for key, value in parameters.items():
            if isinstance(value, list):
                array = cast("list[bytes]", value)
                if len(array) == 1:
                    text, parameters[key] = self._statements[name].of_one, array[0]
                else:
                    parameters[key] = apsw.carray(tuple(array))
        try:
            return list(self.raw.execute(text, parameters))
        except apsw.Error as error:
            raise as_store_error(self.target, error) from error
        except UnicodeDecodeError:
            with self.mapped():
                return self._fetch_damaged(text, parameters)

    def run(self, name: str, /, **parameters: Any) -> None:
        """Run a statement."""
        self.fetch(name, **parameters)

    def run_rows(self, name: str, values: Sequence[rows.Row]) -> None:
        """
        Run a statement over a set of rows, in as few steps as they fit.

        Each step gives the interpreter lock away and may have to wait for it; so a set is
        filled up with empty rows to a size for which there is a statement.
        """
        width = len(values[0])
        for start in range(0, len(values), _SIZES[-1]):
            part = values[start : start + _SIZES[-1]]
            size = next(size for size in _SIZES if size >= len(part))
            empty = repeat(None, (size - len(part)) * width)
            text = self._statements[name].repeated(size)
            self.script(text, (*chain.from_iterable(part), *empty))

    def script(self, text: str, bindings: Sequence[Any] | None = None) -> None:
        """Run a statement by its text; the hot path, so without a context manager."""
        try:
            self.raw.execute(text, bindings)
        except apsw.Error as error:
            raise as_store_error(self.target, error) from error

    def begin_alone(self) -> None:
        """Begin a transaction that keeps every other writer out until it ends."""
        self.script("BEGIN IMMEDIATE")

    def drop(self) -> None:
        """Drop the transaction, if there is one."""
        if self.raw.in_transaction:
            self.script("ROLLBACK")

    def pragma(self, name: str, value: object = None) -> Any:
        """Read or set a pragma and return what SQLite says it is."""
        try:
            return self.raw.pragma(name) if value is None else self.raw.pragma(name, value)
        except apsw.Error as error:
            raise as_store_error(self.target, error) from error

    def schema(self) -> list[rows.Row]:
        """Return what SQLite keeps of every table, index and trigger, by name."""
        # As bytes: a damaged name is no text.
        return list(
            self.raw.execute(
                "SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), "
                "CAST(sql AS BLOB) FROM sqlite_schema ORDER BY name"
            )
        )

    def make_durable(self) -> None:
        """
        Turn on WAL and synchronous=FULL, and check that they and psow=0 are in force.

        Raises:
            UnsafeStoreError: SQLite kept another setting.
        """
        self._demand("journal_mode", self.pragma("journal_mode", "wal"), "wal")
        self.pragma("synchronous", 2)
        self._demand("synchronous", self.pragma("synchronous"), 2)
        asked = ctypes.c_int(-1)  # A negative value asks instead of setting.
        address = ctypes.addressof(asked)
        if self.raw.file_control("main", apsw.SQLITE_FCNTL_POWERSAFE_OVERWRITE, address):
            self._demand("psow", asked.value, 0)

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self.raw.close()

    @contextmanager
    def patience(self, seconds: float) -> Generator[None]:
        """Wait only so many seconds for locks inside a block."""
        self._wait(min(seconds, self._busy_wait))
        try:
            yield
        finally:
            self._wait(self._busy_wait)

    def _wait(self, seconds: float) -> None:
        self.raw.set_busy_timeout(round(seconds * 1000))

    @contextmanager
    def mapped(self) -> Generator[None]:
        """Turn SQLite's errors into Holdfast's."""
        try:
            yield
        except apsw.Error as error:
            raise as_store_error(self.target, error) from error

    def _fetch_damaged(self, text: str, bound: dict[str, Any]) -> list[rows.Row]:
        """Fetch rows of which some text is none: it comes as bytes, which no digest fits."""
        cursor = self.raw.cursor()
        cursor.execute(text, bound)
        names = [f"c{number}" for number in range(len(cursor.get_description()))]
        cursor.close()
        shown = ", ".join(
            f"iif(typeof({name}) = 'text', CAST({name} AS BLOB), {name}), typeof({name})"
            for name in names
        )
        query = f"WITH found ({', '.join(names)}) AS ({text}) SELECT {shown} FROM found"
        found: list[rows.Row] = []
        for pairs in self.raw.execute(query, bound):
            columns = zip(pairs[::2], pairs[1::2], strict=True)
            found.append([_text(value) if kind == "text" else value for value, kind in columns])
        return found

    def _demand(self, setting: str, found: object, needed: object) -> None:
        if found != needed:
            raise UnsafeStoreError(setting=setting, found=str(found), needed=repr(needed))


def check_library(*, allow_unsafe: bool) -> str:
    """
    Return name and version of the SQLite library.

    Raises:
        UnsafeStoreError: it has the WAL-reset bug.
    """
    version = apsw.sqlite_lib_version()
    found = tuple(int(part) for part in version.split("."))
    fixed = found >= _FIXED[-1] or any(found[:2] == low[:2] and found >= low for low in _FIXED)
    if not fixed and not allow_unsafe:
        raise UnsafeStoreError(
            setting="SQLite version", found=version, needed="3.51.3 or later (WAL-reset bug)"
        )
    return f"SQLite {version}"


def as_store_error(target: str, error: apsw.Error) -> StoreError:
    """Return Holdfast's error for one of SQLite's; its text holds no stored content."""
    extended = getattr(error, "extendedresult", apsw.SQLITE_ERROR)
    reason = apsw.mapping_extended_result_codes.get(
        extended, apsw.mapping_result_codes.get(extended & 255, "SQLITE_ERROR")
    )
    if extended == apsw.SQLITE_IOERR_SHMSIZE:
        return StoreFullError(reason=str(reason))  # No room for the index of the log.
    match error:
        case apsw.BusyError() | apsw.LockedError():
            return StoreBusyError(waited=0.0)
        case apsw.FullError():
            return StoreFullError(reason=str(reason))
        case apsw.CorruptError() | apsw.NotADBError():
            return DamagedError(what="database", name=Path(target).name, reason=str(reason))
        case apsw.CantOpenError() | apsw.ReadOnlyError() | apsw.PermissionsError():
            return StoreRefusedError(store=target, reason=f"it cannot be opened ({reason})")
        case _:
            return StoreUnavailableError(reason=f"{reason}: {type(error).__name__}")


def _text(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
