"""
Bugs to plant: known ways to break a promise, each to show that a test would notice.

    with planted("acknowledge-before-commit"):
        ...  # stores opened in here have the bug

A planted bug changes Holdfast inside this process, until the block ends. The docstring of each
says which promise it breaks; `PLANTS` lists them by name.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from holdfast.core import commit as rules
from holdfast.core import lease
from holdfast.core.commit import Decision, Moment, Needs, State, decide
from holdfast.core.errors import InvalidValueError, StoreUnavailableError
from holdfast.core.event import EventRow, Head
from holdfast.core.unit import LeaseRow, PutSnapshot, Unit
from holdfast.runtime.sessions.session import Session
from holdfast.store import effects, files, port, reader, rows, writer
from holdfast.store.files import SystemFiles
from holdfast.store.migrate import Migrator
from holdfast.store.reader import Reader
from holdfast.store.sqlite import connection, guard
from holdfast.store.sqlite.connection import SqliteConnection
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.store.sqlite.guard import Guard
from holdfast.store.sqlite.mark import Mark, Marked
from holdfast.store.sqlite.transaction import Known, SqliteTransaction
from holdfast.store.sqlite.wal import examine
from holdfast.store.writer import Entry, Writer
from holdfast.testing.lapses import LAPSES
from holdfast.testing.missteps import MISSTEPS
from holdfast.testing.slips import SLIPS, replaced

__all__ = ["PLANTS", "AcknowledgeBeforeCommit", "planted"]


class AcknowledgeBeforeCommit:
    """
    Answer when a unit was decided, commit later: breaks "acknowledged means durable".

    The commit follows after `WAIT` seconds, as in every cache that writes behind, so a kill
    loses what was answered in between.
    """

    WAIT: Final = 0.05

    def __init__(self) -> None:
        """Start with nothing being committed."""
        self._batch: list[Entry] = []

    @contextmanager
    def planted(self) -> Generator[None]:
        """Have the bug for the duration of a block."""
        commit = Writer._decide  # pyright: ignore[reportPrivateUsage]

        def deciding(units: Sequence[Unit], *rest: Any) -> Decision:
            decision = decide(units, *rest)
            # The writer answers again after the commit; answers after the first are dropped.
            writer._answer(self._batch, decision.answers)  # pyright: ignore[reportPrivateUsage]
            threading.Event().wait(self.WAIT)
            return decision

        def committing(self_: Writer, entries: list[Entry]) -> list[port.Answer]:
            self._batch = entries
            return commit(self_, entries)

        with replaced(port, "decide", deciding), replaced(Writer, "_decide", committing):
            yield


@contextmanager
def _synchronous_normal() -> Generator[None]:
    """Sync only checkpoints: a power cut takes acknowledged commits."""
    durable = SqliteConnection.make_durable

    def normal(self: SqliteConnection) -> None:
        durable(self)
        self.pragma("synchronous", 1)

    with replaced(SqliteConnection, "make_durable", normal):
        yield


@contextmanager
def _powersafe_overwrite() -> Generator[None]:
    """Trust that a sector in flight keeps its neighbours: garbage takes the commit before."""

    def trusting(target: str) -> str:
        return f"{quote(target)}?psow=1&instead-of="

    with (
        replaced(connection, "quote", trusting),
        replaced(SqliteConnection, "_demand", _do_nothing),
    ):
        yield


@contextmanager
def _mark_before_commit() -> Generator[None]:
    """Move the mark ahead of the truth: after a power cut a sound store is refused."""
    commit = SqliteTransaction.commit

    def early(self: Any) -> None:
        if self._guard is not None:
            self._guard.mark.write(self._known.store_id, self._number)
        commit(self)

    with replaced(SqliteTransaction, "commit", early):
        yield


@contextmanager
def _failed_commit_called_refused() -> Generator[None]:
    """Answer "nothing was written" when COMMIT fails; it may have been written all the same."""
    commit = SqliteTransaction.commit

    def certain(self: SqliteTransaction) -> None:
        try:
            commit(self)
        except port.CommitFailed as error:
            raise StoreUnavailableError(reason=str(error)) from error

    with replaced(SqliteTransaction, "commit", certain):
        yield


@contextmanager
def _failed_commit_tried_again() -> Generator[None]:
    """Take the second sync for an answer; it proves nothing about the first."""
    commit = SqliteDriver.commit

    def again(self: SqliteDriver, units: Sequence[Unit]) -> port.Answers:
        try:
            return commit(self, units)
        except port.CommitFailed:
            return commit(self, units)

    with replaced(SqliteDriver, "commit", again):
        yield


def _afresh_on_an_empty_file() -> AbstractContextManager[None]:
    """Do not look at the files first: SQLite deletes the log of a main file that is empty."""
    return replaced(Guard, "_look", _do_nothing)


# Files beside the database.


def _file_replaced_in_place() -> AbstractContextManager[None]:
    """Write a file over the old one: a power cut leaves half of each."""

    @contextmanager
    def in_place(path: Path, _: object) -> Generator[FileIO]:
        with FileIO(path, "w") as file:
            yield file

    return replaced(files, "replacing", in_place)


@contextmanager
def _file_replaced_without_folder_sync() -> Generator[None]:
    """Trust that a renaming is durable: a power cut takes the new name."""
    sync, make = files.sync_folder, SystemFiles.make_folder

    def making(self: SystemFiles, path: Path) -> None:
        with replaced(files, "sync_folder", sync):
            make(self, path)

    with (
        replaced(files, "sync_folder", _do_nothing),
        replaced(SystemFiles, "make_folder", making),
    ):
        yield


@contextmanager
def _folder_made_without_parent_sync() -> Generator[None]:
    """Trust that a new folder is durable: a power cut takes it, with all that is in it."""
    make = SystemFiles.make_folder

    def making(self: SystemFiles, path: Path) -> None:
        with replaced(files, "sync_folder", _do_nothing):
            make(self, path)

    with replaced(SystemFiles, "make_folder", making):
        yield


# What is there, and how it is read.


def _log_ignored_by_readers() -> AbstractContextManager[None]:
    """Read with `immutable=1`: what is only in the log is not there."""
    connect = SqliteDriver._connect_reader  # pyright: ignore[reportPrivateUsage]

    def immutable(target: str) -> str:
        return f"{quote(target)}?immutable=1&instead-of="

    def reading(self: SqliteDriver) -> SqliteConnection:
        with replaced(connection, "quote", immutable):
            return connect(self)

    return replaced(SqliteDriver, "_connect_reader", reading)


@contextmanager
def _log_cut_at_the_first_bad_frame() -> Generator[None]:
    """Take what verifies of a log for all there was: damage ends it, and nobody asks."""

    def trusting(wal: Any) -> Any:
        return examine(wal)._replace(damaged_frame=None)

    def unmarked(_: Mark, store_id: bytes) -> Marked:
        return Marked(0, 0)

    with replaced(guard, "examine", trusting), replaced(Mark, "read", unmarked):
        yield


def _file_opened_beside_sqlite() -> AbstractContextManager[None]:
    """Hash the main file while it is open: closing it drops all of SQLite's locks."""
    write = SqliteTransaction.write

    def sealing(self: SqliteTransaction, decision: Decision, moment: Moment) -> None:
        write(self, decision, moment)
        Path(self._main.target).read_bytes()  # pyright: ignore[reportPrivateUsage]

    return replaced(SqliteTransaction, "write", sealing)


def _digest_not_checked() -> AbstractContextManager[None]:
    """Serve rows as they are: a flipped bit is served as truth."""
    return replaced(rows, "_check_seal", _do_nothing)


def _chain_not_checked() -> AbstractContextManager[None]:
    """Serve events as they are: a flipped bit is served as truth."""

    def unchecked(_: Head, page: list[EventRow], *rest: object) -> list[EventRow]:
        return page

    return replaced(reader, "intact_part", unchecked)


def _outcome_not_looked_up() -> AbstractContextManager[None]:
    """Say that a unit is absent without looking: whoever tries again commits it twice."""

    def absent(_: Reader, unit_id: bytes, after: int) -> port.Verdict:
        return "absent"

    return replaced(Reader, "outcome", absent)


# Steps that are left out, or taken twice.


def _recovery_trusts_its_first_try() -> AbstractContextManager[None]:
    """Take the log for brought home once that was begun: fails if recovery was killed."""
    connect = SqliteDriver._connect  # pyright: ignore[reportPrivateUsage]

    def connecting(self: SqliteDriver, alone: bool) -> list[str]:
        path = Path(self._target)  # pyright: ignore[reportPrivateUsage]
        begun = path.with_name(f"{path.name}-recovering")
        if begun.exists():
            path.with_name(f"{path.name}-wal").unlink(missing_ok=True)
        begun.touch()
        notes = connect(self, alone)
        begun.unlink()
        return notes

    return replaced(SqliteDriver, "_connect", connecting)


@contextmanager
def _migration_in_pieces() -> Generator[None]:
    """Run a migration's statements without a transaction: a kill leaves some of them."""
    with (
        replaced(SqliteConnection, "begin_alone", _do_nothing),
        replaced(Migrator, "commit", _do_nothing),
    ):
        yield


async def _do_nothing_soon(*_: object) -> None:
    return


def _durable_fields_written_later() -> AbstractContextManager[None]:
    """Leave the durable fields of a session to the flusher, and answer before."""
    return replaced(Session, "_commit", _do_nothing_soon)


def _snapshot_ahead_of_its_stream() -> AbstractContextManager[None]:
    """Keep a snapshot that includes events that nobody appended."""

    def taking(self: Any, write: PutSnapshot) -> None:
        self.decision.snapshots.append(write)

    return replaced(rules._Batch, "_snapshot", taking)  # pyright: ignore[reportPrivateUsage]


# Several processes on one store.


def _checked_before_the_lock() -> AbstractContextManager[None]:
    """Load what the decision rests on before the lock is taken."""
    begin = SqliteTransaction.begin

    def early(self: SqliteTransaction, wanted: Needs) -> tuple[State, Moment, Iterator[int]]:
        before = State()
        effects.load(self._main, wanted, before)  # pyright: ignore[reportPrivateUsage]
        _, moment, positions = begin(self, wanted)
        return before, moment, positions

    return replaced(SqliteTransaction, "begin", early)


def _lock_taken_late() -> AbstractContextManager[None]:
    """Begin without IMMEDIATE, so that what is known may be old before it is checked."""
    script = SqliteConnection.script

    def deferred(self: SqliteConnection, text: str, bindings: Any = None) -> None:
        script(self, "BEGIN" if text == "BEGIN IMMEDIATE" else text, bindings)

    return replaced(SqliteConnection, "script", deferred)


def _cache_kept_over_foreign_writes() -> AbstractContextManager[None]:
    """Keep what is known although another process has written."""
    return replaced(Known, "forget", _do_nothing)


def _fence_not_checked() -> AbstractContextManager[None]:
    """Take a lease for owned whatever its generation is."""

    def owned(row: LeaseRow, *_: object) -> LeaseRow:
        return row

    return replaced(lease, "_owned", owned)


PLANTS: Final[Mapping[str, Callable[[], AbstractContextManager[None]]]] = MappingProxyType(
    {
        "acknowledge-before-commit": lambda: AcknowledgeBeforeCommit().planted(),
        "afresh-on-an-empty-file": _afresh_on_an_empty_file,
        "cache-kept-over-foreign-writes": _cache_kept_over_foreign_writes,
        "chain-not-checked": _chain_not_checked,
        "checked-before-the-lock": _checked_before_the_lock,
        "digest-not-checked": _digest_not_checked,
        "durable-fields-written-later": _durable_fields_written_later,
        "failed-commit-called-refused": _failed_commit_called_refused,
        "failed-commit-tried-again": _failed_commit_tried_again,
        "fence-not-checked": _fence_not_checked,
        "file-opened-beside-sqlite": _file_opened_beside_sqlite,
        "file-replaced-in-place": _file_replaced_in_place,
        "file-replaced-without-folder-sync": _file_replaced_without_folder_sync,
        "folder-made-without-parent-sync": _folder_made_without_parent_sync,
        "lock-taken-late": _lock_taken_late,
        "log-cut-at-the-first-bad-frame": _log_cut_at_the_first_bad_frame,
        "log-ignored-by-readers": _log_ignored_by_readers,
        "mark-before-commit": _mark_before_commit,
        "migration-in-pieces": _migration_in_pieces,
        "outcome-not-looked-up": _outcome_not_looked_up,
        "powersafe-overwrite": _powersafe_overwrite,
        "recovery-trusts-its-first-try": _recovery_trusts_its_first_try,
        "snapshot-ahead-of-its-stream": _snapshot_ahead_of_its_stream,
        "synchronous-normal": _synchronous_normal,
        **SLIPS,
        **MISSTEPS,
        **LAPSES,
    }
)


def planted(name: str) -> AbstractContextManager[None]:
    """
    Return a block in which Holdfast has a bug.

    Raises:
        InvalidValueError: there is no bug of that name.
    """
    if name not in PLANTS:
        raise InvalidValueError(what="plant", reason=f"{name!r} is none of {', '.join(PLANTS)}")
    return PLANTS[name]()


def _do_nothing(*_: object) -> None:
    return
