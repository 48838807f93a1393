"""
The boot: from a store that is closed to a runtime that is ready, part by part.

Each noun that has something to bring back is a `Part`. A part first says what it found (its
steps), then does it. What it does is committed in units each of which may be the last one
before a crash, so that a boot that was killed is simply begun again.

    opening, migrating   the driver guards, connects and migrates
    verifying            the members enter; damage known is looked at; every part plans
    restoring            parts that bring back indexes and state
    reconciling          parts that take over the work of runtimes that died
    ready                the report is durable, and state may be changed

Invariants: until `ready` every commit of a user is refused, and no unit of a user is queued;
the report is durable before that; a boot that fails or runs out of time leaves what it did,
which is what the next one begins with.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from holdfast.core.clock import Clock
from holdfast.core.errors import (
    HoldfastError,
)
from holdfast.core.event import Event
from holdfast.core.recovery import Phase, Plan, Report, Step, plain
from holdfast.core.refusal import (
    BootBudgetError,
)
from holdfast.core.unit import Append, TrimStream, Unit, Write
from holdfast.runtime.damage import Damages
from holdfast.runtime.health import Life, reason_of
from holdfast.store.store import Store

REPORTS: Final = "holdfast/recovery"
REPORTS_KEPT: Final = 1_000
log = logging.getLogger("holdfast")

Progress = Callable[[int], None]
"""Called by a part with the number of things done since its last call."""


class Part(Protocol):
    """
    One noun's share of the boot.

    What it commits goes through `Store.commit_early`, since nobody else may commit yet.

    Attributes:
        name: its name in plan, progress and report.
        phase: `RESTORING` (indexes, state) or `RECONCILING` (work of dead runtimes).
    """

    name: str
    phase: Phase

    async def plan(self) -> Sequence[Step]:
        """Look at what is stored and return what there is to do; changes nothing."""
        ...

    async def execute(self, steps: Sequence[Step], progress: Progress) -> dict[str, Any]:
        """
        Do it, restartably.

        Returns:
            Its section of the report: plain values that depend only on what was stored.
        """
        ...


class Member(Protocol):
    """Who says when this runtime enters the store, before the parts plan, and leaves it."""

    async def enter(self) -> None:
        """Say that this runtime lives."""
        ...

    async def leave(self) -> None:
        """Say goodbye; the last thing that is committed."""
        ...


class Boot:
    """
    Brings one runtime up.

    Attributes:
        parts: what comes back, in order within a phase.
        members: who enters and leaves with the runtime.
        report: what was found and done, once it is durable.
    """

    def __init__(self, store: Store, life: Life, damages: Damages) -> None:
        """Take a store that is not open yet."""
        self._store = store
        self._damages = damages
        self._life = life
        self._clock: Clock = store.world.clock
        self.parts: list[Part] = []
        self.members: list[Member] = []
        self._entered: list[Member] = []
        self.report: Report | None = None

    async def run(self) -> None:
        """
        Bring the runtime up; when this returns, it is ready.

        Raises:
            BootBudgetError: it took longer than it may.
            StoreError: the store is refused, damaged, newer, locked or unsafe.
        """
        budget = self._store.options.boot_budget
        limit = asyncio.timeout(budget)
        try:
            try:
                async with limit:
                    await self._run()
            except TimeoutError:
                if not limit.expired():
                    raise
                refusal = self._life.refusal()
                raise BootBudgetError(
                    budget=budget, phase=refusal.phase, done=refusal.done, total=refusal.total
                ) from None
        except Exception as error:
            if self._entered:
                await self._write_failure(error)
            self._life.fail(error)
            raise

    async def _run(self) -> None:
        begun = self._clock.monotonic()
        await self._store.open(self._migrating)
        self._migrating()
        self._life.move(Phase.VERIFYING)
        writable = not self._store.options.read_only
        if writable:
            await self._damages.recall()
            for member in self.members:
                await member.enter()
                self._entered.append(member)
        plan = await self.plan() if writable else Plan()
        sections: dict[str, dict[str, Any]] = {}
        for phase in (Phase.RESTORING, Phase.RECONCILING):
            self._life.move(phase)
            for part in self.parts:
                if writable and part.phase is phase:
                    sections[part.name] = await self._execute(part, plan)
        if writable:
            await self._write_report(Report.of(plan, sections, self._reconciling()), begun)
        self._life.move(Phase.READY)

    def _migrating(self) -> None:
        # Called by the driver, perhaps again when a full disk makes it try twice.
        if self._life.phase is Phase.OPENING:
            self._life.move(Phase.MIGRATING)

    async def plan(self) -> Plan:
        """Return what there is to do; changes nothing."""
        return Plan(tuple([step for part in self.parts for step in await part.plan()]))

    async def _execute(self, part: Part, plan: Plan) -> dict[str, Any]:
        steps = plan.of(part.name)
        total = sum(step.count for step in steps)
        self._life.progress[part.name] = (0, total)

        def progress(count: int) -> None:
            done = self._life.progress[part.name][0] + count
            self._life.progress[part.name] = (done, max(done, total))

        return await part.execute(steps, progress)

    def _reconciling(self) -> frozenset[str]:
        return frozenset(part.name for part in self.parts if part.phase is Phase.RECONCILING)

    async def _write_report(self, report: Report, begun: float) -> None:
        meta = {**self._meta(), "seconds": self._clock.monotonic() - begun}
        event = Event.of("recovery.finished", plain(report), meta)
        head = await self._store.read(lambda reader: reader.head(REPORTS))
        writes: tuple[Write, ...] = (Append(REPORTS, (event,)),)
        if head is not None and head.last_sequence + 1 - head.first_sequence >= REPORTS_KEPT:
            writes = (*writes, TrimStream(REPORTS, head.last_sequence + 2 - REPORTS_KEPT))
        await self._store.commit_early(Unit(writes))
        self.report = report

    def _meta(self) -> dict[str, object]:
        """Return what tells one start from another; no part of what was found."""
        opened = self._store.opened
        if opened is None:
            return {}
        return {"epoch": opened.epoch, "incarnation": opened.incarnation.hex()}

    async def _write_failure(self, error: Exception) -> None:
        """Leave word why it failed, if the store takes it; what failed goes on to the caller."""
        data = {"phase": self._life.phase.value, "reason": reason_of(error)}
        with suppress(HoldfastError):
            event = Event.of("recovery.failed", data, self._meta())
            await self._store.commit_early(Unit((Append(REPORTS, (event,)),)))

    async def leave(self) -> None:
        """Say goodbye for every member that entered, last one first; a second call does nothing."""
        while self._entered:
            try:
                await self._entered.pop().leave()
            except HoldfastError as error:
                log.warning("event=goodbye_failed reason=%s", reason_of(error))
