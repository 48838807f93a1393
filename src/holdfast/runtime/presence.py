"""
Being there: how a runtime tells others that it lives, and how they know that it does not.

Every writable opening *enters* with one unit: a presence record (who and where it is) and a
lease of its own, `holdfast/runtime/<incarnation>`. A heartbeat renews the lease. A clean close
*leaves* with one unit: record deleted, lease given back. So a presence record means "did not
say goodbye", and an incarnation without one is not alive.

Authority. The lease is the right to own work in the ledger; `fence` is its token and stands in
every unit that changes such work. Whoever takes over a dead runtime's work first takes its
lease; from then on the token of the dead one, should it live after all, passes no more.

Trust. Nothing is believed between heartbeats: a runtime that was frozen and wakes learns from
the store, at its next write behind the fence or its next heartbeat, that it was overtaken.

Failure. Overtaken with no work in flight, a runtime enters anew under a new generation. With
work in flight it is *fenced*: that work belongs to somebody else now, and going on would do it
twice. It stops for good and says why.
"""

import logging
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec

from holdfast.core import codec
from holdfast.core.errors import (
    ClosedError,
    DamagedError,
    FenceError,
    LeaseExpiredError,
    LeaseHeldError,
    StaleGenerationError,
    StoreError,
)
from holdfast.core.unit import (
    AtVersion,
    Committed,
    DeleteRecord,
    Expectation,
    Fence,
    GrantLease,
    MendRecord,
    PatchRecord,
    PutRecord,
    ReleaseLease,
    RenewLease,
    Unit,
    Write,
)
from holdfast.runtime.damage import Damages
from holdfast.runtime.service import Service
from holdfast.store.owner import Owner, this_owner
from holdfast.store.port import Reads
from holdfast.store.store import Store

log = logging.getLogger("holdfast")
KIND: Final = "holdfast.runtime"
LEASE_TTL: Final = 30.0
LOG_PREFIX: Final = "holdfast/ledger/"
_BEATS_PER_TTL: Final = 3
_BEATS_PER_TTL_AFTER_FAILURE: Final = 12


class Present(msgspec.Struct, frozen=True):
    """
    A presence record: a runtime that did not say goodbye.

    Attributes:
        owner: its process.
        epoch: number of its opening.
        flush_interval: how much of its buffered state may be lost, in seconds; None if nobody
            knows.
        log: stream of what its ledger did.
        seen: wall time of its last heartbeat, for people and for the age of its work.
        domain, seconds: the same moment in the time of its machine.
        drained_at: wall time at which somebody asked it to take no runs any more; 0 for nobody.
    """

    owner: Owner
    epoch: int
    flush_interval: float | None
    log: str
    seen: float
    domain: str
    seconds: float
    drained_at: float = 0.0


def lease_of(incarnation: str) -> str:
    """Return the name of the lease of a runtime, by its incarnation in hex."""
    return f"holdfast/runtime/{incarnation}"


class Presence:
    """
    This runtime among others.

    Attributes:
        busy: says whether work of this runtime is in flight; set by the ledger.
        closing: returns what else is written with the goodbye; set by the ledger.
        on_fenced: called once with the reason when it was overtaken with work in flight.
        beside: called with every beat; looks at what has to be looked at now and then.
        fenced: that reason, or None.
        drained_at: as its record says; read by the executor, which takes no runs then.
    """

    def __init__(
        self, store: Store, damages: Damages, lease_ttl: float, flush_interval: float
    ) -> None:
        """Take a store that is open, and how long silence means nothing."""
        self._store = store
        self._damages = damages
        self._lease_ttl = lease_ttl
        self._flush_interval = flush_interval
        self._owner = this_owner(store.world.clock)
        self._ttls: Counter[float] = Counter()
        self._generation = 0
        self._times_entered = 0
        self._heartbeat = Heartbeat(self)
        self.busy: Callable[[], bool] = lambda: False
        self.closing: Callable[[], tuple[Write, ...]] = tuple
        self.on_fenced: Callable[[FenceError], None] = lambda _: None
        self.beside: Callable[[], object] = lambda: None
        self.fenced: FenceError | None = None
        self.drained_at = 0.0

    @property
    def incarnation(self) -> str:
        """The incarnation of this opening, in hex."""
        return self._opened_incarnation().hex()

    @property
    def owner(self) -> Owner:
        """This process."""
        return self._owner

    @property
    def holder(self) -> str:
        """This process in words, for people."""
        return f"process {self._owner.pid} on {self._owner.host}"

    @property
    def is_entered(self) -> bool:
        """Whether this runtime entered and did not leave."""
        return self._generation > 0

    @property
    def fence(self) -> Fence:
        """
        The token of this runtime's lease; changes when it had to enter anew.

        Raises:
            NotReadyError: it did not enter yet, or is on its way out.
            ClosedError: it left.
        """
        if not self._generation:
            self._store.check_admitted()
            raise ClosedError(store=self._store.driver.location)
        incarnation = self._opened_incarnation()
        return Fence(lease_of(incarnation.hex()), self._generation, incarnation)

    @property
    def log(self) -> str:
        """The stream of what the ledger of this runtime did."""
        return self._log(self._times_entered)

    @property
    def ttl(self) -> float:
        """Seconds of silence until others may take over: the shortest asked for."""
        return min((self._lease_ttl, *self._ttls))

    def entering(self) -> Unit:
        """Return the unit with which this runtime enters; hand its answer to `entered`."""
        key, lease = (self.incarnation,), lease_of(self.incarnation)
        grant = GrantLease(lease, self.ttl, self.holder, over=self._generation)
        value = msgspec.to_builtins(self._present(self._log(self._times_entered + 1)))
        expects: tuple[Expectation, ...] = ()
        if not self._times_entered:
            expects = (AtVersion(KIND, key, 0),)
        return Unit((PutRecord(KIND, key, codec.encode(value)), grant), expects)

    def entered(self, committed: Committed) -> None:
        """Take note that this runtime entered; begins the heartbeat."""
        self._generation = committed.leases[0].generation
        self._times_entered += 1
        if self._times_entered == 1:
            self._heartbeat.start()
        self._store.world.failpoints.reach("presence.entered")

    def leaving(self, *also: Write) -> Unit:
        """Return the unit with which this runtime says goodbye, together with other writes."""
        fence = self.fence
        release = ReleaseLease(fence.key, fence.generation)
        return Unit((*also, DeleteRecord(KIND, (self.incarnation,)), release))

    def left(self) -> None:
        """Take note that this runtime said goodbye."""
        self._generation = 0

    async def leave(self) -> None:
        """
        End the heartbeat and say goodbye.

        With work in flight only the lease is given back: who comes next finds a runtime that
        did not say goodbye and does not live, and takes over what it left.
        """
        await self.stop()
        if not self.is_entered or self.fenced is not None:
            return
        fence = self.fence
        if self.busy():
            unit = Unit((ReleaseLease(fence.key, fence.generation),))
        else:
            unit = self.leaving(*self.closing())
        await self._commit(unit)
        self.left()

    async def stop(self) -> None:
        """End the heartbeat without a goodbye."""
        await self._heartbeat.stop()

    def recall(self, reader: Reads) -> None:
        """Read whether somebody asked this runtime to take no runs any more."""
        with suppress(DamagedError):  # Others say it; here all stays as it is.
            row = reader.record(KIND, (self.incarnation,)) if self._generation else None
            if row is not None and row.value is not None:
                self.drained_at = codec.decode_as(row.value, Present, "presence").drained_at

    def promise(self, ttl: float) -> RenewLease | None:
        """
        Promise to be heard from at least every `ttl` seconds, until `release`.

        Returns:
            The write that makes it so, if it is more often than promised before.
        """
        shorter = ttl < self.ttl
        self._ttls[ttl] += 1
        if not shorter:
            return None
        self._heartbeat.hurry()
        return RenewLease(self.fence.key, self._generation, ttl)

    def release(self, ttl: float) -> None:
        """Take back a promise."""
        self._ttls[ttl] -= 1
        if self._ttls[ttl] <= 0:
            del self._ttls[ttl]

    @property
    def trouble(self) -> str:
        """Why the store took no heartbeat the last time; empty if it did."""
        return self._heartbeat.trouble

    async def beat(self) -> None:
        """
        Say that this runtime lives; called by the heartbeat.

        Raises:
            StoreError: the store could not take it; the next one may come through.
        """
        if self.fenced is not None or not self._generation:
            return
        now = self._store.world.clock.store_time()
        seen = {
            "seen": codec.encode(self._store.world.clock.wall()),
            "domain": codec.encode(now.domain),
            "seconds": codec.encode(now.seconds),
        }
        patch = PatchRecord(KIND, (self.incarnation,), seen)
        renew = RenewLease(self.fence.key, self._generation, self.ttl)
        try:
            await self._commit(Unit((renew, patch)))
        except (LeaseExpiredError, StaleGenerationError) as error:
            await self.overtaken(error)

    async def _commit(self, unit: Unit) -> Committed:
        """Commit what changes the record of this runtime; one that is damaged is mended first."""
        try:
            return await self._store.commit_early(unit)
        except DamagedError as damage:
            if damage.what != f"record {KIND}":
                raise
            value = codec.encode(msgspec.to_builtins(self._present(self.log)))
            mend = MendRecord(KIND, (self.incarnation,), value)
            committed = await self._store.commit_early(Unit((mend, *unit.writes), unit.expects))
            log.error("event=presence_mended reason=%s", damage.reason)
            await self._damages.forget(damage)
            return committed

    async def overtaken(self, error: FenceError) -> None:
        """Enter anew, or stop if somebody else may have this runtime's work."""
        if self.fenced is not None:
            return
        if self.busy():
            self.fenced = error
            log.error("event=runtime_fenced reason=%s", error.code)
            self.on_fenced(error)
            return
        try:
            self.entered(await self._commit(self.entering()))
        except LeaseHeldError:
            log.warning("event=runtime_being_rescued")  # It ends soon; then the next beat enters.

    def _log(self, times: int) -> str:
        """One stream per entering: the former one was closed by whoever took over."""
        opened = self._store.opened
        epoch = 0 if opened is None else opened.epoch
        return f"{LOG_PREFIX}{epoch}" + (f".{times}" if times > 1 else "")

    def _present(self, log: str) -> Present:
        opened, clock = self._store.opened, self._store.world.clock
        now = clock.store_time()
        return Present(
            self._owner,
            0 if opened is None else opened.epoch,
            self._flush_interval,
            log,
            clock.wall(),
            now.domain,
            now.seconds,
            self.drained_at,
        )

    def _opened_incarnation(self) -> bytes:
        if self._store.opened is None:
            raise ClosedError(store=self._store.driver.location)
        return self._store.opened.incarnation


class Heartbeat(Service):
    """
    Says that this runtime lives, three times as often as it promised.

    Attributes:
        trouble: why the last one did not come through; empty if it did.
    """

    def __init__(self, presence: Presence) -> None:
        """Take the presence it keeps up."""
        super().__init__("heartbeat", presence.ttl / _BEATS_PER_TTL)
        self._presence = presence
        self.trouble = ""

    def hurry(self) -> None:
        """Beat at once: less silence was promised than before."""
        self.nudge()

    async def tick(self) -> None:
        """Beat; after a failure again soon, so that one failure does not cost the lease."""
        beats = _BEATS_PER_TTL
        try:
            await self._presence.beat()
            self.trouble = ""
        except StoreError as error:
            self.failures += 1
            self.trouble = f"the store took no heartbeat ({error.code})"
            beats = _BEATS_PER_TTL_AFTER_FAILURE
            log.warning("event=heartbeat_failed reason=%s", error.code)
        self._presence.beside()
        self.interval = self._presence.ttl / beats
