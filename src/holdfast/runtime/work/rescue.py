"""
Rescue: what becomes of the work of runtimes that died.

    presence record there?   no: it said goodbye, or never was
       | yes
    lease free or expired, or its holder proven dead?   no: it lives, or somebody is at it
       | yes
    take its lease           the dead one's token is refused from now on; of many exactly one
       |
    entries: verdicts        some in a unit, fenced by the lease that was taken; where somebody
       |                     else changed one meanwhile, each in a unit of its own
    forget the runtime       presence, log and lease, and what came of it, in one unit

A rescue that is killed leaves the presence record, so the next one goes on: what has its
verdict is no longer tagged with the dead runtime, and what was not reached still is. So the
final list does not depend on where, or how often, it was killed; nor does what is said of it
(`RESCUES`, an event for each dead runtime), because the log names what has its verdict already.

The list is made of two sources that have to agree: the records with the tag of the dead
runtime, and the fold of its log. A record that is damaged or missing is rebuilt from the log; a
log that is damaged is reported, and the records stand alone; what is lost in both is reported by
name. An empty answer is never given because something could not be read.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from functools import partial
from itertools import chain
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DamagedError, FenceError, VersionConflictError
from holdfast.core.event import Event
from holdfast.core.key import Key, encode_key, prefix_end
from holdfast.core.ledger import (
    CRASHED,
    EntryRow,
    EntryState,
    Sign,
    decode_row,
    fold,
    verdict,
)
from holdfast.core.recovery import Phase, Step, loss
from holdfast.core.unit import (
    AtVersion,
    CloseStream,
    Committed,
    DeleteRecord,
    Expectation,
    Fence,
    GrantLease,
    MendRecord,
    RecordRow,
    ReleaseLease,
    TrimStream,
    Unit,
    Write,
)
from holdfast.runtime.boot import Planning, Progress
from holdfast.runtime.chronicle import Chronicle, find
from holdfast.runtime.damage import Damages
from holdfast.runtime.listing import TolerantReader, tally
from holdfast.runtime.presence import KIND as PRESENCE_KIND
from holdfast.runtime.presence import LEASE_TTL, Presence, lease_of
from holdfast.runtime.service import each
from holdfast.runtime.work.entry import KIND, STOP_KIND, sign_of, written
from holdfast.runtime.work.roll import Called, Dead, Roll, call
from holdfast.store.port import Reads
from holdfast.store.store import Store

RESCUES: Final = "holdfast/rescues"
RESCUES_KEPT: Final = 1_000
PAGE: Final = 500
TOGETHER: Final = 100
NAMED_MAX: Final = 1_000
_NEVER: Final = -1


class Left(msgspec.Struct, frozen=True, gc=False):
    """
    An entry as a dead runtime left it.

    Attributes:
        key: what it is work on.
        row: what it was.
        version: of its record; None if that is damaged or missing and has to be rebuilt.
    """

    key: Key
    row: EntryRow
    version: int | None


class Rescued(msgspec.Struct):
    """
    What came of rescues.

    Attributes:
        runtimes: epochs of the runtimes whose work was taken over.
        entries: key, generation and state of each entry, up to `NAMED_MAX`.
        states: how many of each.
        losses: per runtime what of it may be lost, by tier.
        rebuilt: keys of entries whose record was rebuilt from the log.
        damaged: what could not be read, in words.
    """

    runtimes: list[int] = []
    entries: list[list[Any]] = []
    states: Counter[str] = msgspec.field(default_factory=Counter[str])
    losses: list[dict[str, Any]] = []
    rebuilt: list[list[str]] = []
    damaged: list[str] = []

    def add(self, other: "Rescued") -> None:
        """Put what came of another one to this."""
        self.runtimes += other.runtimes
        self.losses += other.losses
        self.entries += other.entries[: NAMED_MAX - len(self.entries)]
        self.states.update(other.states)
        self.rebuilt += other.rebuilt
        self.damaged += other.damaged

    def section(self) -> dict[str, Any]:
        """Return it as plain values for the report."""
        return {
            "runtimes": sorted(self.runtimes),
            "rescued": dict(sorted(self.states.items())),
            "entries": sorted(self.entries),
            "losses": sorted(self.losses, key=lambda loss: loss["epoch"]),
            "rebuilt": sorted(self.rebuilt),
            "damaged": sorted(self.damaged),
        }


class Rescue:
    """Takes over the work of dead runtimes; the ledger's part of the boot."""

    name = "ledger"
    phase = Phase.RECONCILING

    def __init__(self, store: Store, presence: Presence, damages: Damages) -> None:
        """Take the store, and the presence in whose name dead runtimes are taken over."""
        self._store = store
        self._presence = presence
        self._damages = damages
        self._roll = Roll(store, presence, damages)
        self._rescues = Chronicle(damages, RESCUES, RESCUES_KEPT)
        self._lock = asyncio.Lock()

    def look(self, reader: Reads) -> Planning:
        """Read who did not say goodbye."""
        return partial(self._plan, call(TolerantReader(reader)))

    async def _plan(self, called: Called) -> Sequence[Step]:
        """Return a step per dead runtime."""
        steps: list[Step] = []
        for dead in await self._roll.dead_of(called):
            count = await self._count(dead)
            steps.append(Step(self.name, "rescue", f"epoch {dead.present.epoch}", count))
        return steps

    async def _count(self, dead: Dead) -> int:
        """Return how many entries carry its tag; where nobody can go through them the log tells."""
        try:
            return sum(await tally(self._store, KIND, dead.incarnation))
        except DamagedError:
            return 0

    async def execute(self, steps: Sequence[Step], progress: Progress) -> dict[str, Any]:
        """Rescue everybody who is dead now, if anybody was; who dies later is found by a sweep."""
        return (await self.sweep(progress) if steps else Rescued()).section()

    async def sweep(self, progress: Progress = lambda _: None) -> Rescued:
        """Rescue everybody who is dead now; what fails of one is raised when all were tried."""
        rescued = Rescued()
        async with self._lock:
            rescues = [partial(self._rescue, dead, progress) for dead in await self._roll.dead()]
            for one in await each(rescues):
                rescued.add(one)
        return rescued

    # What becomes of its work.

    async def _rescue(self, dead: Dead, progress: Progress) -> Rescued:
        rescued = Rescued()
        fence = await self._take(dead)
        if fence is None:
            return rescued
        try:
            log, left, damaged = await self._left(dead)
            for damage in damaged:
                await self._damages.note(damage)
                rescued.damaged.append(f"{damage.what} {damage.name}: {damage.reason}")
            for start in range(0, len(left), PAGE):
                chunk = left[start : start + PAGE]
                parts = (chunk[at : at + TOGETHER] for at in range(0, len(chunk), TOGETHER))
                states = await asyncio.gather(*(self._settle(part, dead, fence) for part in parts))
                settled = list(zip(chunk, chain.from_iterable(states), strict=True))
                _note(rescued, settled)
                self._tell(settled)
                progress(len(chunk))
            rescued.runtimes.append(dead.present.epoch)
            rescued.losses.append(loss(dead.present.epoch, dead.present.flush_interval))
            await self._end(dead, log, fence, rescued)
        except FenceError:
            return Rescued()  # It took longer than the lease lasted; somebody else goes on.
        return rescued

    def _tell(self, settled: Iterable[tuple[Left, EntryState | None]]) -> None:
        """Tell whoever measures which verdicts were given."""
        counts = Counter((left.row.terms.kind, state) for left, state in settled if state)
        for (kind, state), count in counts.items():
            labels = {"kind": kind, "verdict": state.value}
            self._store.world.telemetry.tell("entry.judged", labels, {"count": count})

    async def _take(self, dead: Dead) -> Fence | None:
        """
        Take the lease of a dead runtime; None if somebody else did, or it lives.

        None too if this runtime was itself taken for dead: its heartbeat finds out and enters
        anew, and the next look finds whoever is still dead.
        """
        lease = lease_of(dead.incarnation)
        grant = GrantLease(lease, LEASE_TTL, self._presence.holder, over=dead.over)
        expects = (
            self._presence.fence,
            AtVersion(PRESENCE_KIND, (dead.incarnation,), dead.version),
        )
        try:
            committed = await self._store.commit_early(Unit((grant,), expects))
        except (FenceError, VersionConflictError):
            return None
        if not dead.over:
            self._store.world.telemetry.tell("lease.expired")
        self._store.world.failpoints.reach("rescue.taken")
        row = committed.leases[0]
        return Fence(row.key, row.generation, row.incarnation)

    async def _settle(
        self, some: Sequence[Left], dead: Dead, fence: Fence
    ) -> list[EntryState | None]:
        """Give entries their verdicts in one unit; None for one that somebody else settled now."""
        while True:
            stops = await self._store.read(partial(_stops, some))
            seen = Sign(dead.present.seen, dead.present.domain, dead.present.seconds)
            now = sign_of(self._store)
            states = [_verdict(*one, seen, now) for one in zip(some, stops, strict=True)]
            unit = _verdicts(zip(some, states, stops, strict=True), fence)
            if not unit.writes:
                return [*states]
            try:
                await self._store.commit_early(unit)
            except VersionConflictError as conflict:
                if len(some) > 1:
                    # Whoever is in the way of one does not hold up the others.
                    alone = [await self._settle([one], dead, fence) for one in some]
                    return [*chain.from_iterable(alone)]
                if conflict.kind == KIND:
                    return [None]
                continue  # Somebody asked for a stop just now.
            self._store.world.failpoints.reach("rescue.entry")
            return [*states]

    async def _end(self, dead: Dead, log: str, fence: Fence, rescued: Rescued) -> None:
        """Forget the runtime, and say what came of it; the last unit of a rescue."""
        event = Event.of("runtime.rescued", rescued.section())
        head, said = await self._store.read(
            lambda reader: (find(reader, log) if log else None, find(reader, RESCUES))
        )
        writes: tuple[Write, ...] = (
            DeleteRecord(PRESENCE_KIND, (dead.incarnation,)),
            ReleaseLease(fence.key, fence.generation),
        )
        if isinstance(head, DamagedError):
            await self._damages.note_once(head)  # It is left as it is.
        elif head is not None and not head.closed:
            writes = (TrimStream(log, head.last_sequence + 1), CloseStream(log), *writes)

        def commit(also: tuple[Write, ...]) -> Coroutine[None, None, Committed]:
            return self._store.commit_early(Unit((*also, *writes), (fence,)))

        await self._rescues.say(event, said, commit)
        self._store.world.failpoints.reach("rescue.ended")

    # What it left behind.

    async def _left(self, dead: Dead) -> tuple[str, list[Left], list[DamagedError]]:
        """Return its log, its entries by the records and by the log, and what is damaged."""
        found, damaged = await self._tagged(dead)
        log = dead.present.log or next((left.row.owner.log for left in found), "")
        logged, damage = await self._logged(log)
        if damage is not None:
            damaged.append(damage)
        known = {left.key for left in found}
        for key, row in logged.items():
            if key not in known:
                left = await self._checked(key, row, dead, damaged)
                if left is not None:
                    found.append(left)
        return log, sorted(found, key=lambda left: encode_key(left.key)), damaged

    async def _tagged(self, dead: Dead) -> tuple[list[Left], list[DamagedError]]:
        """Return what carries its tag; behind a damaged record only the log can tell."""
        found: list[Left] = []
        first = b""
        while True:
            try:
                page = await self._page(dead.incarnation, first)
            except DamagedError as damage:
                return found, [damage]
            found += [Left(one.key, decode_row(one.value or b""), one.version) for one in page]
            if len(page) < PAGE:
                return found, []
            first = encode_key(page[-1].key) + b"\0"

    async def _page(self, tag: str, first: bytes) -> list[RecordRow]:
        return await self._store.read(
            lambda reader: reader.records(KIND, first, prefix_end(b""), PAGE, tag)
        )

    async def _checked(
        self, key: Key, row: EntryRow, dead: Dead, damaged: list[DamagedError]
    ) -> Left | None:
        """Return an entry that only the log names, unless somebody went on with it."""
        try:
            record = await self._store.read(lambda reader: reader.record(KIND, key))
        except DamagedError as damage:
            damaged.append(damage)
            return Left(key, row, None)
        if record is None or record.value is None:
            return Left(key, row, None)
        stored = decode_row(record.value)
        if stored.state is EntryState.RUNNING and stored.owner.incarnation == dead.incarnation:
            return Left(key, stored, record.version)
        if stored.generation == row.generation and stored.state in CRASHED:
            return Left(key, stored, record.version)  # By a rescue that was killed.
        return None

    async def _logged(self, log: str) -> tuple[dict[Key, EntryRow], DamagedError | None]:
        """Return what was in flight by a log, as far as it is known and can be read."""
        entries: dict[Key, EntryRow] = {}
        if not log:
            return entries, None
        try:
            head = await self._store.read(lambda reader: reader.head(log))
            after = head.first_sequence - 1 if head is not None else 0
            while True:
                _, page = await self._store.events(log, after, PAGE)
                for event in page:
                    fold(entries, event.payload)
                    after = event.sequence
                if not page:
                    return entries, None
        except DamagedError as damage:
            return entries, damage


def _stops(some: Sequence[Left], reader: Reads) -> list[RecordRow | None]:
    """Read who asked for these entries to be stopped; what cannot be read counts as asked."""
    try:
        rows = reader.records_at(STOP_KIND, [left.key for left in some])
    except DamagedError:
        if len(some) > 1:
            return [stop for left in some for stop in _stops([left], reader)]
        return [RecordRow(STOP_KIND, some[0].key, _NEVER, None, b"", 0.0)]
    return [_stop(left, row) for left, row in zip(some, rows, strict=True)]


def _stop(left: Left, row: RecordRow | None) -> RecordRow | None:
    """Return a stop if it is meant for this generation of the entry."""
    if row is None or row.value is None:
        return None
    asked = codec.decode(row.value, STOP_KIND)
    return row if asked["generation"] == left.row.generation else None


def _verdict(left: Left, stop: RecordRow | None, seen: Sign, now: Sign) -> EntryState:
    """Say what an entry is now; one that has its verdict keeps it."""
    if left.row.state is not EntryState.RUNNING:
        return left.row.state
    return verdict(left.row, seen, now, stop=stop is not None)


def _verdicts(settled: Iterable[tuple[Left, EntryState, RecordRow | None]], fence: Fence) -> Unit:
    """Return the unit that writes verdicts, as far as they are new."""
    writes: list[Write] = []
    expects: list[Expectation] = [fence]
    for left, state, stop in settled:
        if left.row.state is not EntryState.RUNNING:
            continue
        put = written(left.key, left.row.changed(state))
        if left.version is None:
            mend = MendRecord(put.kind, put.key, put.value, put.tag)
            writes += (mend, DeleteRecord(STOP_KIND, left.key))
            continue
        writes.append(put)
        expects.append(AtVersion(KIND, left.key, left.version))
        version = 0 if stop is None else stop.version
        if version != _NEVER:
            expects.append(AtVersion(STOP_KIND, left.key, version))
        if version > 0:
            writes.append(DeleteRecord(STOP_KIND, left.key))
    return Unit(tuple(writes), tuple(expects))


def _note(rescued: Rescued, settled: Iterable[tuple[Left, EntryState | None]]) -> None:
    for left, state in settled:
        if state is None:
            continue
        rescued.states[state.value] += 1
        if len(rescued.entries) < NAMED_MAX:
            rescued.entries.append([list(left.key), left.row.generation, state.value])
        if left.version is None:
            rescued.rebuilt.append(list(left.key))
