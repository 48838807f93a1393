"""
One batch on PostgreSQL, step by step.

    BEGIN
    enter_batch       shared gate, lock on the last position, server's clock, incarnation known?
    lock_*            rows in id order, locked until the end
    take_numbers      a transaction number and positions, above everything taken before
    (decide)
    create_*, update_*, events, outcome
    COMMIT

What stands above `decide` travels in one round trip, what stands below it in another, COMMIT in
its own: only then is it known that everything else went well. The server keeps to the order.

Rows that exist are locked before anything is decided. Rows that do not exist cannot be locked;
creating one that somebody else created meanwhile is noticed (`Again`), and the batch starts
over. Batches of several processes run side by side unless they touch the same rows.

Invariant: positions are taken only while the lock on a lower one is held, so a reader that
honours `position_held` never passes an event that is still to come.
"""

from collections.abc import Iterator

import psycopg

from holdfast.core.clock import Clock, Offset, StoreTime
from holdfast.core.commit import Decision, Moment, Needs, State
from holdfast.core.errors import IncarnationFencedError, StoreError
from holdfast.core.world import World
from holdfast.store import effects
from holdfast.store.port import Again, CommitFailed
from holdfast.store.postgres.connection import PostgresConnection
from holdfast.store.reader import Reader, learn_keys
from holdfast.store.vault import Vault

DOMAIN = "server"


def vouched_by(wall: float, asked: float, clock: Clock) -> Offset:
    """
    Return the offset that the server's clock vouches for.

    Args:
        wall: what it said.
        asked: store time of this machine before it was asked; the answer came just now.
        clock: of this machine.
    """
    return Offset(wall - clock.store_time().seconds, wall - asked)


class PostgresTransaction:
    """The steps of one batch."""

    def __init__(
        self,
        main: PostgresConnection,
        incarnation: bytes,
        epoch: int,
        world: World,
        retention: float,
        vault: Vault | None,
    ) -> None:
        """Take the connection and who writes."""
        self.vault = vault
        self._main = main
        self._incarnation = incarnation
        self._epoch = epoch
        self._world = world
        self._retention = retention
        self._state = State()
        self.vouched: Offset | None = None
        self.number = 0
        self._taken = 0
        self._position = 0

    def begin(self, wanted: Needs) -> tuple[State, Moment, Iterator[int]]:
        """Lock and load what is wanted, and take positions and a number."""
        self._state = State()
        loading = effects.Loading(wanted, self._state, self.vault)
        asked = self._world.clock.store_time().seconds
        entered, *found, taken = self._main.fetch_together(
            [
                ("enter_batch", {"incarnation": self._incarnation}),
                *loading.queries,
                ("take_numbers", {"count": wanted.positions}),
            ],
            opening="BEGIN",
        )
        self._world.failpoints.reach("commit.begun")
        _, _, seconds, known = entered[0]
        if not known:
            raise IncarnationFencedError(
                store=self._main.location, reason="it does not know this incarnation"
            )
        loading.keep(found)
        self.vouched = vouched_by(seconds, asked, self._world.clock)
        moment = Moment(self._world.clock.wall(), StoreTime(DOMAIN, seconds), self._incarnation)
        self._taken, positions = taken[0]
        if positions:
            self._position = positions[-1]
        return self._state, moment, iter(positions)

    def write(self, decision: Decision, moment: Moment) -> None:
        """Write all effects and the outcome."""
        main = self._main
        self.number = self._taken
        row = effects.outcome(decision, self.number, self._epoch, self._position, moment)
        with main.together():
            effects.write(main, decision, self._state, moment, self.vault)
            main.run_rows("add_outcome", [row])
        if self.number % effects.TRIM_EVERY == 0:
            effects.trim_outcomes(main, moment.wall - self._retention, self.number)

    def commit(self) -> None:
        """
        Commit.

        Raises:
            CommitFailed: the connection was lost, or the server stopped.
            Again: the server says that it rolled back.
            StoreError: the server had ended the transaction before it was told to commit.
        """
        try:
            answer = self._main.script("COMMIT")
        except StoreError as error:
            # Said only of a transaction that waited too long for its next command.
            if isinstance(error.__cause__, psycopg.errors.IdleInTransactionSessionTimeout):
                raise
            raise CommitFailed(str(error)) from error
        if answer != "COMMIT":
            raise Again

    def rollback(self) -> None:
        """Drop the transaction; a lost connection has done it."""
        if not self._main.broken:
            try:
                self._main.script("ROLLBACK")
            except (StoreError, Again, psycopg.Error):
                self._main.close()

    def learn(self, number: int) -> None:
        """Look which data keys there are, since one was met that is not known."""
        learn_keys(Reader(self._main.fetch, self.vault), number)

    def committed(self, decision: Decision) -> None:
        """Keep nothing: other processes write too."""
