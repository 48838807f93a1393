"""
The runtime: opens a store, hands out its nouns, closes it. The only place that names a driver.

Invariant: when `async with open(...)` enters, what is there has been looked at and brought up
to date; when it leaves, everything accepted is durable and the store is released.
"""

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from holdfast.core.clock import Clock
from holdfast.core.errors import FenceError, PoisonedError
from holdfast.core.key import Key
from holdfast.core.machine import Machine
from holdfast.core.recovery import Phase
from holdfast.core.redaction import Redactor
from holdfast.core.unit import Committed, Unit, check_writes
from holdfast.core.world import World
from holdfast.runtime.blob import Blobs, Snapshots
from holdfast.runtime.boot import Boot
from holdfast.runtime.damage import Damages
from holdfast.runtime.drain import DEADLINE, Drain, Drained
from holdfast.runtime.engines.engines import Engines
from holdfast.runtime.gauges import Gauges, Pulse
from holdfast.runtime.health import Gates, Health, Life, reason_of
from holdfast.runtime.history import Feed, History, StreamInfo, list_streams
from holdfast.runtime.keys import Keys
from holdfast.runtime.lease import Leases
from holdfast.runtime.names import commit_keeping
from holdfast.runtime.outcome import Outcome, outcome_of
from holdfast.runtime.pipelines.graphs import Graphs
from holdfast.runtime.pipelines.pipeline import Pipeline, Pipelines
from holdfast.runtime.presence import Presence
from holdfast.runtime.record import Records
from holdfast.runtime.redaction import HashKey
from holdfast.runtime.requests import Requests
from holdfast.runtime.restored import Restored
from holdfast.runtime.room import Room
from holdfast.runtime.runs.bulk import Bulk
from holdfast.runtime.runs.executor import Executor
from holdfast.runtime.runs.retention import Retention
from holdfast.runtime.runs.runs import Runs
from holdfast.runtime.runs.upkeep import Timers
from holdfast.runtime.runs.view import Views
from holdfast.runtime.service import Errand
from holdfast.runtime.sessions.flush import Flusher, FlushReport, Watchdog
from holdfast.runtime.sessions.identity import Identities
from holdfast.runtime.sessions.latch import Latches
from holdfast.runtime.sessions.session import Session
from holdfast.runtime.sessions.sessions import Sessions
from holdfast.runtime.skew import Skew
from holdfast.runtime.tokens import Tokens
from holdfast.runtime.transfers import Transfers
from holdfast.runtime.watch import Watch
from holdfast.runtime.work.ledger import Ledger
from holdfast.runtime.work.lifeline import Lifeline
from holdfast.runtime.work.rescue import Rescue
from holdfast.runtime.worker import Workers
from holdfast.store.keyring import Keyring as Keyring  # Public: `holdfast.Keyring`.
from holdfast.store.options import Options as Options  # Public: `holdfast.Options`.
from holdfast.store.options import scheme, sqlite_path
from holdfast.store.port import ALL, Driver, Opened
from holdfast.store.port import Depth as Depth  # For who says how much to read,
from holdfast.store.port import Finding as Finding  # and for who shows what was found.
from holdfast.store.store import Store

T = TypeVar("T")


class Runtime:
    """
    An open store and everything it offers; made by `holdfast.open`.

    Attributes:
        records: current values by kind and key.
        leases: rights to act.
        ledger: work in flight, and what was when a runtime died.
        blobs: immutable bytes by digest.
        snapshots: derived copies of state.
        feed: the events of all streams by position.
        latches: breakers and flags that survive restarts.
        sessions: all sessions: found, listed, archived, closed.
        runs: functions that are executed under an id and survive the process.
        bulk: operations on many runs at once.
        graphs: files in the Attractor dialect that are started as they come.
        engines: working memories of foreign programs, such as rule engines.
        keys: the data keys of an encrypted store, and their rotation.
        redaction: what is replaced before it is stored, and how often it was.
        workers: the runtimes that have the store open.
        transfers: runs and sessions out into files, and in again.
        telemetry: who is told what happens; see `holdfast.core.telemetry`.
        gauges: what is true now, for whoever measures.
        room: what is free on the disk of the store.
        restored: whether the store is paused after a restore, and the way on.
        requests: what was asked for from outside, once under a key, with its audit.
        tokens: by which somebody outside proves who asks.
    """

    def __init__(self, store: Store, flush_interval: float, redaction: Redactor) -> None:
        """Take a store that is not open yet."""
        self._store = store
        self.telemetry = store.world.telemetry
        self._life = Life(store.world.clock)
        self._gates = Gates(store.world.clock)
        self._errand = Errand("boot")
        store.shut(self._life.refusal)
        self.redaction = redaction
        self._damages = Damages(store)
        self.restored = Restored(store)
        self._boot = Boot(store, self._life, self._damages, [self.restored.recall])
        self._closing = asyncio.Lock()
        self._flusher = Flusher(store, flush_interval)
        self._watchdog = Watchdog(self._flusher, self.telemetry)
        self._watch = Watch(store)
        self.keys = Keys(store)
        self.records = Records(store, redaction)
        self.leases = Leases(store)
        self.blobs = Blobs(store, redaction)
        self.snapshots = Snapshots(store, self._damages)
        self.feed = Feed(store, self._damages)
        self.latches = Latches(store, self._damages, redaction)
        self.transfers = Transfers(store)
        self.workers = Workers(store, self._damages)
        self.requests = Requests(store, self._damages, redaction, self.history)
        self.tokens = Tokens(store, self._damages)
        options = store.options
        self.sessions = Sessions(
            store, self._flusher, self._damages, self.history, options.sessions_in_memory, redaction
        )
        self.engines = Engines(store, self._damages, flush_interval, redaction)
        self._boot.parts += [Identities(store), self.engines]
        if redaction.keyed:
            self._boot.parts.append(HashKey(store, redaction))
        self._drain = Drain(store, self._life, self._boot, self._flusher)
        self._drain.endings.append(self.engines.finish)
        self._presence = Presence(store, self._damages, store.options.lease_ttl, flush_interval)
        self.ledger = Ledger(store, self._presence, self._damages, redaction)
        rescue = Rescue(store, self._presence, self._damages)
        self._lifeline = Lifeline(self.ledger, rescue, store, self._presence.ttl / 3)
        self._boot.members += [self._presence, self._lifeline]
        self._boot.parts.append(rescue)
        self.ledger.paused = self.restored.reason
        self._drain.work.append(self.ledger)
        self._presence.on_fenced = self._fenced
        views = Views(store, redaction, self._damages)
        self._executor = Executor(views, self.ledger, self._presence)
        self._watch.on_streams = self._executor.heard
        retention = Retention(views, options.runs_kept_for, options.runs_kept)
        self.runs = Runs(views, self._executor, retention, self.history)
        self.pipelines = Pipelines(views, self.runs)
        self.graphs = Graphs(views, self.runs)
        self.bulk = Bulk(views, self.runs, self.requests)
        self._boot.members.append(self._executor)
        self._boot.parts.append(Timers(views))
        self._drain.work.append(self._executor)
        self.room = Room(store)
        self.gauges = Gauges(store, self.health, self._executor, self.ledger, self.room)
        self._pulse = Pulse(store)
        self._add_gates()

    @property
    def opened(self) -> Opened:
        """What the opening found: store id, incarnation, epoch, schema, durability."""
        if self._store.opened is None:
            raise self._life.refusal()
        return self._store.opened

    @property
    def phase(self) -> Phase:
        """Where this runtime is between opening and closed; `health` says more, and asks more."""
        if self._store.poisoned is not None:
            self._life.fail(PoisonedError(reason=self._store.poisoned))
        return self._life.phase

    @property
    def lineage(self) -> int:
        """Number of this line of history: 1, and one more with every restore from a backup."""
        return self.restored.number

    @property
    def clock(self) -> Clock:
        """The clock by which everything here is timed."""
        return self._store.world.clock

    @property
    def poisoned(self) -> str | None:
        """Why the store stopped after a failed commit, or None."""
        return self._store.poisoned

    def history(self, stream: str) -> History:
        """Return a stream by name; it begins with its first event."""
        return History(self._store, stream, self.redaction, self._damages)

    def session(self, kind: type[T], key: str | Key, identities: Sequence[str] = ()) -> Session[T]:
        """
        Return the session of a state class with this key; one object per key and runtime.

        Args:
            kind: the class, declared with `@state`.
            key: a string, or a tuple of strings.
            identities: by what it can be found too; attached when it is entered.

        Raises:
            InvalidValueError: the class is not declared with `@state`.
        """
        return self.sessions.session(kind, key, identities)

    def pipeline(self, machine: Machine, key: str | Key, *, keep_input: bool = True) -> Pipeline:
        """
        Return the pipeline of a machine with a key; see `Pipelines.of`.

        Raises:
            InvalidMachineError: the table has faults.
        """
        return self.pipelines.of(machine, key, keep_input=keep_input)

    async def streams(
        self,
        prefix: str = "",
        *,
        after: str | None = None,
        limit: int = 100,
        reserved: bool = False,
    ) -> list[StreamInfo]:
        """
        Return streams in the order of their names' bytes.

        Args:
            prefix: how the names begin.
            after: name behind which to go on.
            limit: how many at most.
            reserved: also Holdfast's own, whose names begin with `holdfast/`.
        """
        return await list_streams(
            self._store, self._damages, prefix, after, limit, reserved=reserved
        )

    async def commit(self, unit: Unit) -> Committed:
        """
        Commit a unit: all of it or nothing; when this returns, it is durable.

        Raises:
            InvalidValueError: it writes what Holdfast keeps for itself.
            ConflictError, FenceError: an expectation does not hold; nothing was written.
            OutcomeUnknownError: the commit failed; ask `outcome`.
        """
        check_writes(unit)
        return await commit_keeping(self._store, unit)

    def unit_id(self) -> bytes:
        """Return a fresh id for a unit, to be remembered before it is committed."""
        return self._store.unit_id()

    async def outcome(self, unit_id: bytes | str) -> Outcome:
        """
        Say what became of a unit whose answer was lost; final when it returns.

        Raises:
            OutcomeForgottenError: it is older than the outcomes that are kept.
        """
        return await outcome_of(self._store, unit_id)

    async def flush(self) -> FlushReport:
        """Write everything buffered; a barrier: when this returns, it is durable."""
        try:
            await self.engines.flush()
        finally:
            report = await self._flusher.flush()
        return report

    async def verify(self, depth: Depth = ALL) -> list[Finding]:
        """
        Read everything, or as much as is asked for; return what does not fit, empty if all is well.

        Raises:
            UncheckedError: something could not be read; holds what was found until then.
        """
        found = await self._store.verify(depth)
        if depth.level == "full":
            found += await self.runs.verify()
        at = {} if found else {"clean_at": self._store.world.clock.wall()}
        self.telemetry.tell("store.verified", {}, {"findings": len(found), **at})
        return found

    def health(self) -> Health:
        """Return how this runtime is now: phase, readiness, what is degraded, progress."""
        gates, phase, life = self._gates.look(), self.phase, self._life
        return Health(
            phase=phase,
            ready=phase is Phase.READY and all(gate.ok for gate in gates if gate.needed),
            reads=self._boot.recalled and phase is not Phase.CLOSED,
            since=life.since,
            reason="" if life.failure is None else reason_of(life.failure),
            stage=life.stage,
            degraded=tuple(gate.reason for gate in gates if not gate.ok and not gate.needed),
            gates=gates,
            progress=dict(life.progress),
            report=self._boot.report,
        )

    async def ready(self) -> None:
        """
        Wait until state may be changed; for a runtime that was opened with `wait_ready=False`.

        Raises:
            NotReadyError: it will not become ready; the cause is what it failed with.
        """
        await self._life.ready()

    async def drain(
        self, deadline: float = DEADLINE, *, hurry: asyncio.Event | None = None
    ) -> Drained:
        """
        End in good order: begin nothing new, let work under way end, write, say goodbye, close.

        Args:
            deadline: seconds to wait for work under way; what is not done then is left as it
                is, and the next recovery finds it.
            hurry: once it is set, work under way is not waited for any more.
        """
        await self._errand.stop()
        async with self._closing:
            try:
                if self._life.phase is Phase.READY:
                    return await self._drain.run(deadline, hurry)
                return Drained(())
            finally:
                await self._release()

    async def boot(self) -> None:
        """
        Bring it up; when this returns, it is ready.

        Raises:
            StoreError, BootBudgetError: it did not become ready; nothing is left open.
        """
        try:
            await self._boot.run()
            self._start()
        except (Exception, asyncio.CancelledError):
            await self._release()
            raise

    def boot_aside(self) -> None:
        """Bring it up beside the caller, who asks `ready` or `health`."""
        self._errand.start(self._boot_and_start)

    async def _boot_and_start(self) -> None:
        await self._boot.run()
        self._start()

    def _start(self) -> None:
        """Begin to serve: start the background duties, let commits pass."""
        self._watch.start()
        if self.telemetry.listens:
            self._pulse.start()
        if not self._store.options.read_only:
            self._flusher.start()
            self._watchdog.start()
            self.engines.start()
            self.tokens.start()
            self.restored.begin(self._executor.start, self.runs.retention.start)
        self._store.admit()
        # Nobody looked at what others committed while it came back.
        self._store.wakes.wake_all()

    async def close(self) -> None:
        """Flush, say goodbye, release the store; work under way is not waited for."""
        await self.drain(0.0)

    async def _release(self) -> None:
        """End the background duties and release the store."""
        try:
            if self._life.phase is not Phase.CLOSED and self._store.opened is not None:
                await self._goodbye()
            await self.engines.release()
            await self.restored.stop()
            await self.tokens.stop()
            await self.runs.retention.stop()
            await self._executor.end()
            await self._watchdog.stop()
            await self._flusher.stop()
            await self._lifeline.stop()
            await self._presence.stop()
            await self._pulse.stop()
        finally:
            self._store.driver.interrupt_wait()
            try:
                await self._watch.stop()
            finally:
                await self._store.close()
                if self._life.phase is not Phase.CLOSED:
                    self._life.move(Phase.CLOSED)

    def _fenced(self, error: FenceError) -> None:
        """Stop: work of this runtime may be somebody else's by now."""
        self._life.fail(error)
        self._store.shut(self._life.refusal)
        self._store.stop(error)
        self._executor.let_go_of_waiters()

    async def _goodbye(self) -> None:
        """Say it also where a boot failed or a drain did not come so far."""
        self._store.shut(self._life.refusal)
        if self._store.poisoned is None and not self._store.options.read_only:
            await self._boot.leave()

    def _add_gates(self) -> None:
        gates, store, flusher = self._gates, self._store, self._flusher
        gates.add("store", lambda: store.poisoned or "", needed=True)
        gates.add("heartbeat", lambda: self._presence.trouble, needed=True)
        gates.add("disk", self.room.trouble, needed=True)
        gates.add("engines", self.engines.trouble, needed=True)
        gates.add("restored", self.restored.reason, needed=True)
        gates.add("commits", lambda: "" if store.trouble is None else reason_of(store.trouble))
        gates.add("flush", lambda: "the last flush is late" if flusher.late else "")
        gates.add("damage", self._damages.words)
        gates.add("snapshots", self.engines.remarks)
        self._presence.beside = Skew(store).trouble
        gates.add("clock", self._presence.beside)


def make_driver(url: str, options: Options, world: World) -> Driver:
    """
    Return the driver for a URL, not opened.

    Raises:
        InvalidValueError: it names no store that Holdfast knows.
        MissingExtraError: the driver's library is not installed.
    """
    if scheme(url) == "sqlite":
        from holdfast.store.sqlite import SqliteDriver

        return SqliteDriver(sqlite_path(url), options, world)
    from holdfast.store.postgres import PostgresDriver

    return PostgresDriver(url, options, world)
