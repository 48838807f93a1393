"""
One batch on SQLite, step by step, and what is kept between batches.

`Known` is what the writing thread knows without asking: heads, records and leases it has seen,
the last transaction number and position. It is valid as long as nobody else has written,
which SQLite's data version says inside the transaction.

Invariants: what is kept was committed; a rolled-back batch changes nothing of it.
"""

from collections.abc import Iterator
from itertools import count
from typing import Final

import apsw

from holdfast.core.commit import Decision, Moment, Needs, State
from holdfast.core.errors import IncarnationFencedError
from holdfast.core.world import World
from holdfast.store import effects
from holdfast.store.port import CommitFailed
from holdfast.store.reader import Reader, learn_keys
from holdfast.store.sqlite.connection import SqliteConnection, as_store_error
from holdfast.store.sqlite.guard import Guard
from holdfast.store.vault import Vault

KEPT_ROWS_MAX: Final = 50_000
KEPT_VALUE_BYTES_MAX: Final = 16 * 1024 * 1024


class Known:
    """What the writing thread knows of the store without asking."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.state = State()
        self.data_version = -1
        self.store_id = b""
        self.incarnation = b""
        self.epoch = 0
        self.number = 0
        self.position = 0
        self.mark_failures = 0
        self.vault: Vault | None = None
        self._value_bytes = 0

    def forget(self) -> None:
        """Drop what another writer may have changed."""
        self.state = State()
        self._value_bytes = 0

    def remember(self, decision: Decision) -> None:
        """Keep what a committed batch changed, within bounds."""
        effects.remember(self.state, decision)
        for record in decision.records.values():
            self._value_bytes += len(record.value or b"") if record else 0
        rows = len(self.state.heads) + len(self.state.records) + len(self.state.leases)
        if rows > KEPT_ROWS_MAX or self._value_bytes > KEPT_VALUE_BYTES_MAX:
            self.forget()

    def read_last(self, main: SqliteConnection) -> None:
        """Read the last transaction number and position."""
        for number, position in main.fetch("last_outcome"):
            self.number, self.position = number, position


class SqliteTransaction:
    """The steps of one batch."""

    def __init__(
        self,
        main: SqliteConnection,
        known: Known,
        guard: Guard | None,
        inode: tuple[int, int] | None,
        world: World,
        retention: float,
    ) -> None:
        """Take the connection, what is known, and the file that must still be there."""
        self._main = main
        self._known = known
        self._guard = guard
        self._inode = inode
        self._world = world
        self._retention = retention
        self._positions = count()
        self._number = known.number
        self._position = known.position
        self.vault = known.vault

    def begin(self, wanted: Needs) -> tuple[State, Moment, Iterator[int]]:
        """Take the write lock and load what is wanted and not known."""
        known = self._known
        if self._guard is not None and self._guard.identity() != self._inode:
            raise IncarnationFencedError(
                store=self._main.target, reason="the file was replaced under this process"
            )
        self._main.script("BEGIN IMMEDIATE")
        self._world.failpoints.reach("commit.begun")
        if self._main.raw.data_version() != known.data_version:
            self._look_again()
        effects.load(self._main, wanted, known.state, self.vault)
        clock = self._world.clock
        self._positions = count(known.position + 1)
        moment = Moment(clock.wall(), clock.store_time(), known.incarnation)
        return known.state, moment, self._positions

    def _look_again(self) -> None:
        """Somebody else has written: forget, and make sure it is still our store."""
        known = self._known
        known.forget()
        known.read_last(self._main)
        if not self._main.fetch("find_incarnation", id=known.incarnation):
            raise IncarnationFencedError(
                store=self._main.target, reason="it does not know this incarnation"
            )
        known.data_version = self._main.raw.data_version()

    def write(self, decision: Decision, moment: Moment) -> None:
        """Write all effects and the outcome."""
        known = self._known
        effects.write(self._main, decision, known.state, moment, self.vault)
        number = known.number + 1
        # The iterator has given out every position up to the one before its next.
        position = next(self._positions) - 1
        row = effects.outcome(decision, number, known.epoch, position, moment)
        self._main.run_rows("add_outcome", [row])
        if number % effects.TRIM_EVERY == 0:
            effects.trim_outcomes(self._main, moment.wall - self._retention, number)
        self._number, self._position = number, position

    def commit(self) -> None:
        """Commit and sync, then move the mark."""
        try:
            self._main.raw.execute("COMMIT")
        except apsw.Error as error:
            raise CommitFailed(str(as_store_error(self._main.target, error))) from error
        # Our own commit counts too; what is different next time is somebody else's.
        self._known.data_version = self._main.raw.data_version()

    def rollback(self) -> None:
        """Drop the transaction; SQLite may have done it already."""
        try:
            if self._main.raw.in_transaction:
                self._main.raw.execute("ROLLBACK")
        except apsw.Error:
            # Nothing was committed either way; the next BEGIN says what is wrong.
            self._known.forget()

    def learn(self, number: int) -> None:
        """Look which data keys there are, since one was met that is not known."""
        learn_keys(Reader(self._main.fetch, self.vault), number)

    def committed(self, decision: Decision) -> None:
        """Keep what the batch changed, and move the mark."""
        known = self._known
        known.remember(decision)
        known.number, known.position = self._number, self._position
        if self._guard is not None:
            try:
                self._guard.mark.write(known.store_id, known.number)
            except OSError:
                # The commit is durable all the same; only a later loss would go unnoticed.
                known.mark_failures += 1
            self._world.failpoints.reach("commit.marked")
