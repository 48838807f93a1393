"""
The PostgreSQL driver.

One connection commits, a few read, one listens. Before it is ready it asks the server for the
settings that its promises rest on. A connection lost before COMMIT is made anew with the next
batch; one lost during COMMIT leaves the outcome unknown, and the store stops.

Invariants:
- every session commits synchronously, whatever the server's default is;
- an outcome is *absent* only after every transaction that was under way is over;
- a connection is never used in another process than the one that opened it.
"""

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg

from holdfast.core.clock import Offset
from holdfast.core.errors import (
    ClosedError,
    ForkedError,
    HoldfastError,
    ReadOnlyError,
    StoreError,
    StoreNotFoundError,
    StoreRefusedError,
    UnsafeStoreError,
)
from holdfast.core.ids import unit_lower_bound
from holdfast.core.unit import Unit
from holdfast.core.world import World
from holdfast.store import rows
from holdfast.store.migrate import Migrator, check, known, migrate
from holdfast.store.options import Options
from holdfast.store.own import OwnEvents
from holdfast.store.owner import describe_owner
from holdfast.store.pool import Pool
from holdfast.store.port import (
    ALL,
    Again,
    Answers,
    Changes,
    Depth,
    Finding,
    Opened,
    Verdict,
    commit_batch,
)
from holdfast.store.postgres.archive import PostgresArchive
from holdfast.store.postgres.connection import PostgresConnection, create_schema, parse
from holdfast.store.postgres.transaction import PostgresTransaction, vouched_by
from holdfast.store.reader import Reader
from holdfast.store.vault import Vault
from holdfast.store.verify import verify_rows

SLICE: Final = 0.1
LOOK_AGAIN: Final = 0.05


class PostgresDriver:
    """Keeps units in one schema of a PostgreSQL database."""

    def __init__(self, url: str, options: Options, world: World) -> None:
        """Take the URL and the limits."""
        self.location = parse(url)[0]
        self._url = url
        self.migrating: Callable[[], None] = lambda: None
        self.vault: Vault | None = None
        self.vouched: Offset | None = None
        self._options = options
        self._world = world
        self._main: PostgresConnection | None = None
        self._listener: PostgresConnection | None = None
        self._readers = Pool(lambda: self._connect(read_only=True), options.readers)
        self._interrupt = threading.Event()
        # Held while the listener is made, so that closing does not leave one behind.
        self._listening = threading.Lock()
        self._incarnation = b""
        self._epoch = 0
        self._entry: dict[str, Any] = {}
        self._number = 0
        self._watched = (0, 0)
        self._own = OwnEvents()
        self._pid = os.getpid()
        self._open = False

    def open(self) -> Opened:
        """Connect, check the settings, migrate, draw an incarnation."""
        try:
            return self._open_up()
        except BaseException:
            self.close()
            raise

    def _open_up(self) -> Opened:
        self._open = True
        main = self._main = self._connect(read_only=self._options.read_only)
        software, durability = self._check_settings(main)
        self._world.failpoints.reach("boot.connected")
        self.migrating()
        schema = self._bring_up_to_date(main)
        self._world.failpoints.reach("boot.migrated")
        store_id = self._enter(main)
        for number, _ in main.fetch("last_outcome"):
            self._number = number
        with self.reading() as reader:
            self._watched = (self._number, reader.horizon())
        self._world.failpoints.reach("boot.entered")
        return Opened(
            store_id,
            self._incarnation,
            self._epoch or main.fetch("last_epoch")[0][0],
            schema,
            self._number,
            False,
            software,
            durability,
        )

    def _check_settings(self, main: PostgresConnection) -> tuple[str, str]:
        """
        Return the server's name and the durability it gives.

        Raises:
            UnsafeStoreError: a setting weakens the promises.
            StoreRefusedError: the server is a standby.
        """
        asked = self._world.clock.store_time().seconds
        fsync, pages, synchronous, version, standby, wall = main.fetch("settings")[0]
        self.vouched = vouched_by(wall, asked, self._world.clock)
        if standby and not self._options.read_only:
            raise StoreRefusedError(store=self.location, reason="the server is a standby")
        found = {"fsync": fsync, "full_page_writes": pages, "synchronous_commit": synchronous}
        weak = {name: value for name, value in found.items() if value != "on"}
        if weak and not self._options.allow_unsafe:
            name, value = next(iter(weak.items()))
            raise UnsafeStoreError(setting=name, found=value, needed="'on'")
        label = ", ".join(f"{name}={value}" for name, value in weak.items())
        return f"PostgreSQL {version}", f"unsafe: {label}" if weak else "synced"

    def _bring_up_to_date(self, main: PostgresConnection) -> int:
        migrator = Migrator(main, self._world.clock)
        migrations = known("postgres")
        if self._options.read_only:
            applied = migrator.applied()
            if not applied:
                raise StoreNotFoundError(store=self.location)
            with suppress(HoldfastError):
                check(self.location, migrations, applied)
            return len(applied)
        create_schema(main)
        return migrate(self.location, migrator, migrations, self._world.failpoints)

    def _enter(self, main: PostgresConnection) -> bytes:
        """Leave a row that says which incarnation writes from now on; return the store's id."""
        if not self._options.read_only:
            clock, ids = self._world.clock, self._world.ids
            # Several processes may come first; one of them makes the store.
            with suppress(Again):
                main.run("add_store", **rows.store_row(ids.incarnation(), clock.wall(), 0))
            epoch, id_ = main.fetch("take_epoch")[0][0], ids.incarnation()
            entry = rows.incarnation_row(epoch, id_, describe_owner(clock), clock.wall())
            main.run("add_incarnation", **entry)
            self._incarnation, self._epoch, self._entry = id_, epoch, entry
        for row in main.fetch("read_store"):
            return rows.read_store(row)[0]
        raise StoreNotFoundError(
            store=self.location
        )  # Tables, but nobody came so far to fill them.

    def close(self) -> None:
        """Say goodbye and release everything."""
        main, self._main = self._main, None
        with self._listening:
            listener, self._listener = self._listener, None
            self._open = False
        if os.getpid() != self._pid:
            return
        with suppress(StoreError, Again):
            if main is not None and self._epoch and not main.broken:
                goodbye = rows.closed_row(self._entry, self._world.clock.wall())
                main.run("close_incarnation", **goodbye)
        for connection in (main, listener):
            if connection is not None:
                with suppress(psycopg.Error):
                    connection.close()
        self._readers.close()
        self._world.failpoints.reach("close.released")

    # Writing.

    def commit(self, units: Sequence[Unit]) -> Answers:
        """
        Commit a batch; called by one thread only.

        Raises:
            CommitFailed: COMMIT failed; whether it happened is unknown.
            StoreError: nothing was written.
        """
        if self._options.read_only:
            raise ReadOnlyError(store=self.location)
        transaction = PostgresTransaction(
            self._writing(),
            self._incarnation,
            self._epoch,
            self._world,
            self._options.outcome_retention,
            self.vault,
        )
        answers = commit_batch(transaction, units, self._world)
        self.vouched = transaction.vouched
        self._number = max(self._number, transaction.number)
        self._own.note(answers.positions)
        return answers

    def last_number(self) -> int:
        """Return the number of the last transaction this opening has seen."""
        return self._number

    def outcome(self, unit_id: bytes) -> Verdict:
        """Say whether a unit was committed, after waiting for every batch under way."""
        after = unit_lower_bound(unit_id)
        connection = self._connect(read_only=True)
        try:
            connection.script("BEGIN")
            connection.run("wait_for_batches")
            return Reader(connection.fetch).outcome(unit_id, after)
        finally:
            connection.close()

    def tidy(self) -> None:
        """Tell the other processes that there is something new; they only get a hint."""
        with suppress(StoreError, Again):
            self._writing().fetch_together([("notify", {"epoch": str(self._epoch)})])

    def relieve(self) -> None:
        """Do nothing: the server's disk is not ours."""

    # Reading.

    @contextmanager
    def reading(self) -> Generator[Reader]:
        """Lend a reader on a connection of its own."""
        self._check_open()
        with self._readers.lend() as connection:
            yield Reader(connection.fetch, self.vault)

    def wait_foreign(self, timeout: float) -> Changes:
        """Wait for a hint of another process, and look at the end of the wait in any case."""
        left, hinted = timeout, False
        while left > 0 and not hinted and not self._interrupt.is_set():
            hinted = self._hint(min(SLICE, left))
            left -= SLICE
        if self._interrupt.is_set():
            self._interrupt.clear()
            return Changes()
        return self._changes(hinted=hinted)

    def interrupt_wait(self) -> None:
        """Make `wait_foreign` return soon."""
        self._interrupt.set()

    def verify(self, depth: Depth = ALL) -> Iterator[Finding]:
        """Read as much as is asked for and yield what does not fit."""
        with self.reading() as reader:
            yield from verify_rows(reader, depth)

    def archive(self) -> PostgresArchive:
        """Return the store as a whole, to be copied or filled."""
        return PostgresArchive(self.location, self._connect, self._world)

    def _hint(self, timeout: float) -> bool:
        """Wait for a notification that is not our own."""
        with self._listening:
            self._check_open()
            listener = self._listener
            if listener is None or listener.broken:
                listener = self._listener = self._connect(read_only=True)
                listener.script(f"LISTEN holdfast_{listener.schema}")
                return True  # What was hinted while nobody listened is looked for.
        own = str(self._epoch)
        with listener.mapped():
            found = listener.raw.notifies(timeout=timeout, stop_after=1)
            return any(notification.payload != own for notification in found)

    def _changes(self, *, hinted: bool) -> Changes:
        """
        Look what others have committed.

        Numbers do not become visible in their order: what has no event, and appears behind one
        that was seen, is told by its hint alone. Events are found by the horizon in any case.
        """
        before, after = self._watched
        with self.reading() as reader:
            horizon = reader.horizon()
            names = reader.changed_streams(after, horizon, self._own.take(horizon))
            news = reader.fetch("find_news", after=before, own=self._epoch)
        number, _, foreign = news[0] if news else (before, 0, False)
        self._watched = max(before, number), max(after, horizon)
        return Changes(tuple(names), foreign=hinted or bool(foreign))

    def _writing(self) -> PostgresConnection:
        self._check_open()
        if self._main is None or self._main.broken:
            self._main = self._connect(read_only=False)
        return self._main

    def _connect(self, *, read_only: bool) -> PostgresConnection:
        return PostgresConnection(self._url, busy_wait=self._options.busy_wait, read_only=read_only)

    def _check_open(self) -> None:
        if os.getpid() != self._pid:
            raise ForkedError(opened_by=self._pid, used_by=os.getpid())
        if not self._open:
            raise ClosedError(store=self.location)
