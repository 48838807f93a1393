"""
Bugs to plant: known ways to break a promise, each to show that a test would notice.

    with planted("acknowledge-before-commit"):
        ...  # stores opened in here have the bug

A planted bug changes Holdfast inside this process, until the block ends. The docstring of each
says which promise it breaks; `PLANTS` lists them by name.
"""

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from holdfast.core.commit import Decision, decide
from holdfast.core.errors import InvalidValueError, StoreUnavailableError
from holdfast.core.unit import Unit
from holdfast.store import port, writer
from holdfast.store.sqlite import connection
from holdfast.store.sqlite.connection import SqliteConnection
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.store.sqlite.guard import Guard
from holdfast.store.sqlite.transaction import SqliteTransaction
from holdfast.store.writer import Entry, Writer

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

        with _replaced(port, "decide", deciding), _replaced(Writer, "_decide", committing):
            yield


@contextmanager
def _synchronous_normal() -> Generator[None]:
    """Sync only checkpoints: a power cut takes acknowledged commits."""
    durable = SqliteConnection.make_durable

    def normal(self: SqliteConnection) -> None:
        durable(self)
        self.pragma("synchronous", 1)

    with _replaced(SqliteConnection, "make_durable", normal):
        yield


@contextmanager
def _powersafe_overwrite() -> Generator[None]:
    """Trust that a sector in flight keeps its neighbours: garbage takes the commit before."""

    def trusting(target: str) -> str:
        return f"{quote(target)}?psow=1&instead-of="

    with (
        _replaced(connection, "quote", trusting),
        _replaced(SqliteConnection, "_demand", _do_nothing),
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

    with _replaced(SqliteTransaction, "commit", early):
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

    with _replaced(SqliteTransaction, "commit", certain):
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

    with _replaced(SqliteDriver, "commit", again):
        yield


def _afresh_on_an_empty_file() -> AbstractContextManager[None]:
    """Do not look at the files first: SQLite deletes the log of a main file that is empty."""
    return _replaced(Guard, "_look", _do_nothing)


PLANTS: Final[Mapping[str, Callable[[], AbstractContextManager[None]]]] = MappingProxyType(
    {
        "acknowledge-before-commit": lambda: AcknowledgeBeforeCommit().planted(),
        "afresh-on-an-empty-file": _afresh_on_an_empty_file,
        "failed-commit-called-refused": _failed_commit_called_refused,
        "failed-commit-tried-again": _failed_commit_tried_again,
        "mark-before-commit": _mark_before_commit,
        "powersafe-overwrite": _powersafe_overwrite,
        "synchronous-normal": _synchronous_normal,
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


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Generator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def _do_nothing(*_: object) -> None:
    return
