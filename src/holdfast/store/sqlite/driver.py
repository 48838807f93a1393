"""
The SQLite driver.

One connection writes, in the thread that commits; a few read-only connections serve readers.
Every commit is synced (WAL, synchronous=FULL), and `psow=0` keeps a sector that is garbage
after a power cut from taking the last acknowledged commit with it.

What a batch loads is kept between batches as long as `PRAGMA data_version` says that no other
connection has written. Statements that write take all their rows at once: a statement gives
the interpreter lock away at each step, and with one row a step a busy event loop would let
the writer do a few hundred rows a second.

Invariants:
- the main connection is the only one that writes and checkpoints in this process;
- nothing is answered before COMMIT has returned; an error of COMMIT is `CommitFailed`;
- positions and transaction numbers grow by the last outcome row, which is never trimmed;
- a connection is never used in another process than the one that opened it;
- before each commit the main file is still the inode that was opened;
- after a failed commit or checkpoint nothing is written any more, also not at the close.
"""

import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import apsw

from holdfast.core.clock import Offset
from holdfast.core.errors import (
    ClosedError,
    ForkedError,
    HoldfastError,
    ReadOnlyError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreNotFoundError,
)
from holdfast.core.ids import unit_lower_bound
from holdfast.core.unit import Unit
from holdfast.core.world import World
from holdfast.store import rows
from holdfast.store.files import SystemFiles
from holdfast.store.migrate import Migrator, check, known, migrate
from holdfast.store.options import Options
from holdfast.store.own import OwnEvents
from holdfast.store.owner import describe_owner
from holdfast.store.pool import Pool
from holdfast.store.port import (
    ALL,
    Answers,
    Changes,
    CommitFailed,
    Depth,
    Finding,
    Opened,
    Verdict,
    commit_batch,
)
from holdfast.store.reader import Reader
from holdfast.store.sqlite.archive import SqliteArchive
from holdfast.store.sqlite.check import check_file, is_sound
from holdfast.store.sqlite.connection import SqliteConnection, check_library
from holdfast.store.sqlite.guard import APPLICATION_ID, Guard
from holdfast.store.sqlite.transaction import Known, SqliteTransaction
from holdfast.store.vault import Vault
from holdfast.store.verify import verify_rows

LOOK_EVERY: Final = 0.01
# A log so many times as long as it should be is not begun anew because of readers.
STARVED: Final = 4
READERS_WAIT: Final = 0.25


class SqliteDriver:
    """Keeps units in one SQLite file, or in memory."""

    def __init__(self, path: Path | None, options: Options, world: World) -> None:
        """Take the main file (None for a store in memory) and the limits."""
        self.location = "sqlite:///:memory:" if path is None else f"sqlite:///{path}"
        self.migrating: Callable[[], None] = lambda: None
        self.vault: Vault | None = None
        self.vouched: Offset | None = None
        self._options = options
        self._world = world
        self._files = world.files or SystemFiles(world.failpoints)
        self._guard = (
            None
            if path is None
            else Guard(path, self._files, world.failpoints, strict=options.strict)
        )
        self._target = ":memory:" if path is None else str(path)
        self._main: SqliteConnection | None = None
        self._readers = Pool(self._connect_reader, options.readers)
        self._main_lock = threading.RLock()
        self._interrupt = threading.Event()
        self._known = Known()
        self._watched = (0, 0)
        self._own = OwnEvents()
        self._log_pages = 0
        self._home_due = options.checkpoint_pages
        self._entry: dict[str, Any] = {}
        self._applied: list[tuple[int, str, str]] = []
        self._stopped = False
        self._pid = os.getpid()
        self._inode: tuple[int, int] | None = None

    def open(self) -> Opened:
        """Guard, connect, check the mark, migrate, draw an incarnation."""
        software = check_library(allow_unsafe=self._options.allow_unsafe)
        try:
            try:
                return self._open(software)
            except StoreFullError:
                # A full disk refuses even the log's index; the ballast makes room for one try.
                self.close()
                self._known = Known()  # What the failed try made up was never committed.
                self.relieve()
                return self._open(software)
        except BaseException:
            self.close()
            raise

    def _open(self, software: str) -> Opened:
        alone = True
        reading = self._options.read_only
        if reading and (self._guard is None or not self._guard.found()):
            raise StoreNotFoundError(store=self.location)
        if self._guard is not None:
            alone = self._guard.enter(
                self._options.busy_wait, allow_unsafe=self._options.allow_unsafe
            )
            if reading and not self._guard.path.exists():
                # Locks and remains of what was never made, or was taken away whole.
                raise StoreNotFoundError(store=self.location)
        try:
            notes = self._connect(alone)
            self.migrating()
            schema = self._bring_up_to_date()
            if not self._options.read_only:
                self._enter()
                self._mark_start()
        except OSError as error:
            if self._guard is None:
                raise
            raise self._guard.as_store_error(error) from error
        if self._guard is not None:
            self._watched = (self._known.number, self._known.position)
            self._inode = self._guard.identity()
            self._guard.open_gate()
        self._world.failpoints.reach("boot.entered")
        return Opened(
            self._known.store_id,
            self._known.incarnation,
            self._known.epoch or self._connection().fetch("last_epoch")[0][0],
            schema,
            self._known.number,
            alone,
            software,
            "memory" if self._guard is None else self._guard.durability,
            tuple(notes),
        )

    def _connect(self, alone: bool) -> list[str]:
        """Open the main connection and make sure that what is there is all there was."""
        writable = not self._options.read_only
        main = SqliteConnection(
            self._target, writable=writable, vfs=self._world.vfs, busy_wait=self._options.busy_wait
        )
        self._main = main
        if self._guard is not None and writable and not self._guard.path.stat().st_size:
            self._guard.path.chmod(0o600)
        # Until everything is checked, nothing may be moved from the log into the main file.
        main.raw.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        notes: list[str] = []
        if self._guard is not None:
            notes = self._check_past(main, self._guard)
            if writable:
                main.make_durable()
                main.raw.wal_autocheckpoint(0)
                main.raw.set_wal_hook(self._on_log)
        self._world.failpoints.reach("boot.connected")
        if self._guard is not None and writable and alone:
            # What an unsynced log holds is in the page cache at best; this writes and syncs it.
            # Nothing may be appended before: the padding behind the last commit may be lost, and
            # a sector in flight that holds its end would take it along.
            with main.mapped():
                main.raw.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            if self._guard.has_log and self._known.store_id:
                self._bring_home(main, self._guard, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        main.raw.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0)
        self._world.failpoints.reach("boot.checkpointed")
        return notes

    def _check_past(self, main: SqliteConnection, guard: Guard) -> list[str]:
        """
        Check the schema, and compare the last transaction with the high-water mark.

        Raises:
            SchemaNewerError, MigrationChangedError: it may be read, but not written.
            StoreRefusedError: the database is older than what was acknowledged.
        """
        if guard.suspicion and not is_sound(main):
            main.close()
            raise guard.refuse(guard.suspicion)
        self._applied = applied = Migrator(main, self._world.clock).applied()
        if not self._options.read_only:
            check(self.location, known("sqlite"), applied)
        store_id = self._read_store(main) if applied else b""
        # The mark is read before the last transaction: others may commit in between.
        marked = guard.mark.read(store_id)
        if applied:
            self._known.read_last(main)
        number = self._known.number
        if marked is None:
            note = "no high-water mark was found, so an older copy would not be noticed"
            return [note] if number else []
        if not store_id:
            reason = "the main file holds no store, but its mark says there was one"
        elif marked.number is None:
            reason = "the mark beside it belongs to another store"
        elif marked.number > number:
            reason = (
                f"it ends at transaction {number}, but {marked.number} was acknowledged; "
                "it is an older copy, or its log was lost"
            )
        elif guard.home is not None and guard.home < marked.home:
            reason = "the main file is older than the log beside it"
        else:
            return []
        main.close()  # The guard copies the files, which nobody here may have open then.
        raise guard.refuse(reason)

    def _read_store(self, main: SqliteConnection) -> bytes:
        for row in main.fetch("read_store"):
            self._known.store_id = rows.read_store(row)[0]
        return self._known.store_id

    def _bring_up_to_date(self) -> int:
        main = self._connection()
        migrations = known("sqlite")
        migrator = Migrator(main, self._world.clock)
        if self._options.read_only:
            if not self._known.store_id:
                raise StoreNotFoundError(store=self.location)
            with suppress(HoldfastError):
                check(self.location, migrations, self._applied)
            return len(self._applied)
        if self._guard is not None and main.pragma("application_id") == 0:
            main.pragma("application_id", APPLICATION_ID)
        schema = migrate(self.location, migrator, migrations, self._world.failpoints, self._applied)
        self._world.failpoints.reach("boot.migrated")
        return schema

    def _enter(self) -> None:
        """Leave a row that says which incarnation writes from now on."""
        main, known, world = self._connection(), self._known, self._world
        wall = world.clock.wall()
        main.script("BEGIN IMMEDIATE")
        if not known.store_id:
            known.store_id = world.ids.incarnation()
            main.run("add_store", **rows.store_row(known.store_id, wall, 0))
        known.read_last(main)
        known.incarnation = world.ids.incarnation()
        epoch = main.fetch("take_epoch")[0][0]
        entry = rows.incarnation_row(epoch, known.incarnation, describe_owner(world.clock), wall)
        main.run("add_incarnation", **entry)
        main.script("COMMIT")
        known.epoch, self._entry = epoch, entry

    def _mark_start(self) -> None:
        if self._guard is not None:
            if not self._guard.mark.exists():
                self._guard.mark.start(self._known.store_id, self._known.number)
            self._guard.hold_ballast()

    def _connect_reader(self) -> SqliteConnection:
        return SqliteConnection(
            self._target, writable=False, vfs=self._world.vfs, busy_wait=self._options.busy_wait
        )

    def close(self) -> None:
        """Bring the log home, say goodbye and release everything."""
        main, self._main = self._main, None
        if main is not None and self._known.epoch and os.getpid() == self._pid:
            with suppress(StoreError, apsw.Error):
                self._leave(main)
        with suppress(apsw.Error):
            self._readers.close()
        if main is not None:
            with suppress(apsw.Error):
                main.close()
        self._files.close()
        if self._guard is not None:
            self._guard.leave()
        self._world.failpoints.reach("close.released")

    def _leave(self, main: SqliteConnection) -> None:
        if self._stopped:
            # A frame behind one whose sync failed would be durable, and the failed one not.
            main.raw.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            return
        if self._guard is not None and self._guard.identity() != self._inode:
            return  # The file was replaced; its log may be somebody else's by now.
        main.run("close_incarnation", **rows.closed_row(self._entry, self._world.clock.wall()))
        if self._guard is not None:
            self._bring_home(main, self._guard, apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._world.failpoints.reach("close.checkpointed")

    def _bring_home(self, main: SqliteConnection, guard: Guard, mode: int) -> None:
        """Write the log into the main file, and count that in both it and the mark."""
        main.script("BEGIN IMMEDIATE")
        count = main.pragma("user_version") + 1
        main.pragma("user_version", count)
        main.script("COMMIT")
        with main.mapped():
            pages, done = main.raw.wal_checkpoint(mode=mode)
        # The log is home all the same; only a later loss would go unnoticed.
        with suppress(OSError):
            if pages == done and guard.mark.exists():
                guard.mark.write_home(self._known.store_id, count)

    # Writing.

    def commit(self, units: Sequence[Unit]) -> Answers:
        """
        Commit a batch; called by one thread only.

        Raises:
            CommitFailed: COMMIT failed; whether it happened is unknown.
            StoreError: nothing was written.
        """
        main = self._connection()
        if self._options.read_only:
            raise ReadOnlyError(store=self.location)
        with self._main_lock:
            self._known.vault = self.vault
            transaction = SqliteTransaction(
                main,
                self._known,
                self._guard,
                self._inode,
                self._world,
                self._options.outcome_retention,
            )
            try:
                answers = commit_batch(transaction, units, self._world)
            except CommitFailed:
                self._stopped = True
                raise
        if self._guard is not None:
            self._own.note(answers.positions)
        return answers

    def last_number(self) -> int:
        """Return the number of the last transaction this opening has seen."""
        return self._known.number

    def outcome(self, unit_id: bytes) -> Verdict:
        """Say whether a unit was committed; a transaction is visible once it is over."""
        after = unit_lower_bound(unit_id)
        with self.reading() as reader:
            return reader.outcome(unit_id, after)

    def tidy(self) -> None:
        """
        Write the log home when it has grown.

        A log that is home begins anew only if no reader still looks at it. Where readers always
        overlap, it would grow for ever; so once it is several times as long as it should be,
        this waits for those who read, a moment at most.

        Raises:
            CommitFailed: the log could not be synced into the main file.
        """
        limit = self._options.checkpoint_pages
        if self._guard is None or self._log_pages < self._home_due:
            return
        starved = self._log_pages >= STARVED * limit
        self._home_due = self._log_pages + limit
        main = self._connection()
        began = self._world.clock.monotonic()
        try:
            if starved:
                with main.patience(READERS_WAIT):
                    self._bring_home(main, self._guard, apsw.SQLITE_CHECKPOINT_RESTART)
            else:
                self._bring_home(main, self._guard, apsw.SQLITE_CHECKPOINT_PASSIVE)
        except StoreBusyError:
            return  # Another process is at it, or reads; it is tried again when the log has grown.
        except StoreError as error:
            self._stopped = True
            raise CommitFailed(str(error)) from error
        seconds = self._world.clock.monotonic() - began
        self._world.telemetry.tell("store.compacted", {}, {"seconds": seconds})

    def relieve(self) -> None:
        """Give the ballast back after the disk was full."""
        if self._guard is not None:
            with suppress(OSError):
                self._guard.drop_ballast()

    # Reading.

    @contextmanager
    def reading(self) -> Generator[Reader]:
        """Lend a reader on a connection of its own; in memory there is only the main one."""
        main = self._connection()
        if self._guard is None:
            with self._main_lock:
                yield Reader(main.fetch, self.vault)
            return
        with self._readers.lend() as connection:
            yield Reader(connection.fetch, self.vault)

    def wait_foreign(self, timeout: float) -> Changes:
        """Look every few milliseconds whether another opening has committed."""
        for _ in range(max(1, round(timeout / LOOK_EVERY))):
            if changes := self._look():
                return changes
            if self._interrupt.wait(LOOK_EVERY):
                self._interrupt.clear()
                break
        return Changes()

    def interrupt_wait(self) -> None:
        """Make `wait_foreign` return soon."""
        self._interrupt.set()

    def verify(self, depth: Depth = ALL) -> Iterator[Finding]:
        """Read as much as is asked for and yield what does not fit."""
        with self.reading() as reader:
            yield from verify_rows(reader, depth)
        with self._main_lock:
            quick = depth.level != "full"
            yield from check_file(self._connection(), self.location, quick=quick)

    def archive(self) -> SqliteArchive:
        """Return the store as a whole, to be copied or filled."""
        return SqliteArchive(self._target, self._guard, self._options, self._world)

    def _look(self) -> Changes | None:
        if self._guard is None or self._main is None:
            return None
        # Only what is committed counts, nothing that the committing thread knows or is about to
        # know; and what was looked at is noted last, so that a look that fails is made again.
        with self._readers.lend_at_once() as connection:
            version = connection.pragma("data_version")
            if version == connection.looked_at:
                return None
            before, after = self._watched
            news = connection.fetch("find_news", after=before, own=self._known.epoch)
            number, position, foreign = news[0] if news else (0, 0, 0)
            # There is one writer at a time, so up to there every position is taken or free.
            own = self._own.take(position)
            names = (
                Reader(connection.fetch).changed_streams(after, position, own) if foreign else ()
            )
            self._watched, connection.looked_at = (number, position), version
            return Changes(tuple(names), foreign=True) if foreign else None

    def _on_log(self, connection: apsw.Connection, schema: str, pages: int) -> int:
        """Note how long the log is, shorter if it began anew; called by SQLite after a commit."""
        if pages < self._log_pages:
            self._home_due = self._options.checkpoint_pages
        self._log_pages = pages
        return apsw.SQLITE_OK

    def _connection(self) -> SqliteConnection:
        if os.getpid() != self._pid:
            raise ForkedError(opened_by=self._pid, used_by=os.getpid())
        if self._main is None:
            raise ClosedError(store=self.location)
        return self._main
