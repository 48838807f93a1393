"""
What is true of the store and of this process at the moment somebody asks for metrics.

Whatever can be counted while it happens is told as a notice; here is what only a look can say:
how many runs are in which state, what is open, how old the oldest is, how large the store is.

Invariants: a look reads pages, never one long transaction; what the store says is kept for a
while, ten times as long as the look took and five seconds at least, so that scrapes cannot load a
store by more than a tenth; many who ask at once share one look.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.clock import StoreTime
from holdfast.core.deadline import remaining
from holdfast.core.errors import DamagedError, HoldfastError
from holdfast.core.key import encode_key, prefix_end
from holdfast.core.ledger import CRASHED, EntryState
from holdfast.core.recovery import Phase
from holdfast.core.run import ATTENTION, LIVE
from holdfast.core.unit import RecordRow
from holdfast.runtime.health import Health
from holdfast.runtime.listing import tally
from holdfast.runtime.room import Room
from holdfast.runtime.runs.executor import Executor
from holdfast.runtime.runs.question import KIND as QUESTION_KIND
from holdfast.runtime.runs.view import KIND as RUN_KIND
from holdfast.runtime.runs.view import Timer
from holdfast.runtime.service import Service, carry_on
from holdfast.runtime.work.entry import KIND as ENTRY_KIND
from holdfast.runtime.work.info import LISTED_MAX
from holdfast.runtime.work.ledger import Ledger
from holdfast.store.store import Store

AGE: Final = 5.0
PAGE: Final = 1_000
DETAIL: Final = 10_000
"""Records of one state that are looked into; of those beyond only the number is told."""
BEYOND: Final = "_beyond"
_BEAT: Final = 0.5
_DUE: Final = 0.2
_SQLITE: Final = "sqlite:///"


class Reading(NamedTuple):
    """One sampled value: of which metric, with which labels."""

    name: str
    labels: dict[str, str]
    value: float


class _Shown(msgspec.Struct):
    """What a look needs to know of a run."""

    function: str = ""
    updated: float = 0.0
    queued: float = 0.0
    waits: list[str] = []
    why: str = ""

    @property
    def attention(self) -> str:
        """For which reason it waits for an operator; another word if it does not."""
        return (self.waits[0] if self.waits else self.why).partition(":")[0]


class _Asked(msgspec.Struct):
    """What a look needs to know of a question."""

    asked_at: float = 0.0
    timer: Timer | None = None

    def is_due(self, now: StoreTime, wall: float) -> bool:
        """Tell whether less than a fifth of its time is left."""
        if self.timer is None:
            return False
        deadline = self.timer.deadline
        return remaining(deadline, now, wall) < deadline.left * _DUE


class Gauges:
    """Looks at the store and at this process."""

    def __init__(
        self,
        store: Store,
        health: Callable[[], Health],
        executor: Executor,
        ledger: Ledger,
        room: Room,
    ) -> None:
        """Take what is looked at."""
        self._store = store
        self._disk = room
        self._health = health
        self._executor = executor
        self._ledger = ledger
        self._clock = store.world.clock
        self._kept: tuple[Reading, ...] = ()
        self._until = float("-inf")
        self._looking: asyncio.Future[None] | None = None

    async def read(self) -> Sequence[Reading]:
        """Return what is true now; of the store, what was true a moment ago."""
        if self._clock.monotonic() >= self._until and self._store.opened is not None:
            if self._looking is None:
                self._looking = carry_on(self._look(), self._forget)
            with suppress(HoldfastError):  # What cannot be read is told by what is known of it.
                await asyncio.shield(self._looking)
        return self.kept()

    def kept(self) -> Sequence[Reading]:
        """Return what the last look found, and how this process is; from any thread."""
        return (*self._kept, *self._process())

    def _forget(self) -> None:
        self._looking = None

    async def _look(self) -> None:
        began = self._clock.monotonic()
        self._until = began + AGE  # Also where a look fails it is not tried at every scrape.
        found = [*await self._runs(), *await self._questions(), *await self._entries()]
        self._kept = (*found, *await self._room())
        now = self._clock.monotonic()
        self._until = now + max(AGE, 10 * (now - began))

    # The store.

    async def _runs(self) -> list[Reading]:
        found: list[Reading] = []
        attention: Counter[str] = Counter()
        for state in LIVE:
            rows, beyond = await self._tagged(RUN_KIND, state)
            runs = [codec.decode_as(row.value or b"", _Shown, "run") for row in rows]
            kinds = Counter(run.function for run in runs)
            kinds.update({BEYOND: beyond} if beyond else {})
            for kind, count in kinds.items():
                found.append(Reading("runs", {"kind": kind, "state": state}, count))
            since = (run.queued if state == "queued" else run.updated for run in runs)
            oldest = min(since, default=0.0)
            found.append(Reading("runs_oldest_timestamp_seconds", {"state": state}, oldest))
            attention.update(run.attention for run in runs if run.waits or state == "paused")
        for reason in ATTENTION:
            found.append(Reading("runs_attention", {"reason": reason}, attention[reason]))
        return [*found, Reading("crash_loop_runs", {}, attention["crash_loop"])]

    async def _questions(self) -> list[Reading]:
        rows, beyond = await self._tagged(QUESTION_KIND, "open")
        asked = [codec.decode_as(row.value or b"", _Asked, "question") for row in rows]
        oldest = min((one.asked_at for one in asked), default=0.0)
        now, wall = self._clock.store_time(), self._clock.wall()
        return [
            Reading("questions_due", {}, sum(one.is_due(now, wall) for one in asked)),
            Reading("questions_open", {}, len(rows) + beyond),
            Reading("questions_oldest_timestamp_seconds", {}, oldest),
        ]

    async def _entries(self) -> list[Reading]:
        running = await self._ledger.list(EntryState.RUNNING, limit=LISTED_MAX)
        kinds = Counter(info.terms.kind for info in running)
        oldest = min((info.began.wall for info in running), default=0.0)
        found = [Reading("inflight_effects", {"kind": kind}, n) for kind, n in kinds.items()]
        found.append(Reading("inflight_oldest_timestamp_seconds", {}, oldest))
        for state in CRASHED:
            count = sum(await tally(self._store, ENTRY_KIND, state.value))
            found.append(Reading("inflight_unresolved", {"state": state.value}, count))
        return found

    async def _room(self) -> list[Reading]:
        main = await self._store.read(lambda reader: reader.size_bytes())
        return [Reading("store_size_bytes", {"file": "main"}, main), *self._files()]

    def _files(self) -> Iterator[Reading]:
        """Give what only the files of an SQLite store say; they are not opened for it."""
        location = self._store.driver.location
        path = Path(location.removeprefix(_SQLITE))
        if location.startswith(_SQLITE) and path.is_absolute():
            with suppress(OSError):
                size = path.with_name(path.name + "-wal").stat().st_size
                yield Reading("store_size_bytes", {"file": "wal"}, size)
            if (free := self._disk.free()) is not None:
                yield Reading("store_free_bytes", {}, free)

    async def _tagged(self, kind: str, tag: str) -> tuple[list[RecordRow], int]:
        """Return the first records with a tag, and how many there are beyond them."""
        found: list[RecordRow] = []
        first = b""
        try:
            while len(found) < DETAIL:
                page = await self._page(kind, tag, first)
                found += page
                if len(page) < PAGE:
                    return found, 0
                first = encode_key(page[-1].key) + b"\0"
        except DamagedError:
            pass  # Told by `damage`; it counts, and those behind it do.
        return found, sum(await tally(self._store, kind, tag)) - len(found)

    async def _page(self, kind: str, tag: str, first: bytes) -> list[RecordRow]:
        return await self._store.read(
            lambda reader: reader.records(kind, first, prefix_end(b""), PAGE, tag)
        )

    # This process.

    def _process(self) -> Iterable[Reading]:
        health, telemetry = self._health(), self._store.world.telemetry
        for gate in health.gates:
            yield Reading("ready", {"gate": gate.name}, gate.ok)
        yield Reading("draining", {}, health.phase is Phase.DRAINING)
        taken = sum(not run.parked for run in self._executor.live.values())
        free = max(0, self._executor.capacity - taken)
        yield Reading("worker_slots", {"state": "taken"}, taken)
        yield Reading("worker_slots", {"state": "free"}, free)
        yield Reading("telemetry_failures", {}, telemetry.failures)
        yield Reading("build_info", self._build(), 1)

    def _build(self) -> dict[str, str]:
        opened = self._store.opened
        database = "" if opened is None else opened.software
        python = ".".join(map(str, sys.version_info[:3]))
        return {"version": _release(), "python": python, "database": database}


@cache
def _release() -> str:
    # Imported when somebody asks for metrics: it takes a quarter of what `holdfast` may.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"


class Pulse(Service):
    """Tells how late the loop is, as long as somebody listens."""

    def __init__(self, store: Store) -> None:
        """Take the store in whose world it beats."""
        super().__init__("pulse", _BEAT)
        self._clock = store.world.clock
        self._telemetry = store.world.telemetry
        self._last: float | None = None

    async def tick(self) -> None:
        """Compare the time that passed with the time that should have."""
        now, last = self._clock.monotonic(), self._last
        self._last = now
        if last is not None and self._telemetry.listens:
            lag = max(0.0, now - last - self.interval)
            self._telemetry.tell("loop.lag", {}, {"seconds": lag})
