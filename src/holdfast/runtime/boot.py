"""
The boot: from a store that is closed to a runtime that is ready, part by part.

Each noun that has something to bring back is a `Part`. A part first says what it found (its
steps), then does it. What it does is committed in units each of which may be the last one
before a crash, so that a boot that was killed is simply begun again.

    opening, migrating   the driver guards, connects and migrates
    verifying            damage known is looked at; every part plans
    restoring            parts that bring back indexes and state
    reconciling          the members enter; parts take over the work of runtimes that died
    ready                the report is durable, and state may be changed

Entering is a unit, and so is the report. Where nobody died there is nothing between the two, and
they are one: a start costs one commit.

Invariants: until `ready` every commit of a user is refused, and no unit of a user is queued;
the report is durable before that; a boot that fails or runs out of time leaves what it did,
which is what the next one begins with.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from holdfast.core.clock import Clock
from holdfast.core.errors import HoldfastError
from holdfast.core.event import Event
from holdfast.core.recovery import Phase, Plan, Report, Step, plain
from holdfast.core.refusal import (
    BootBudgetError,
)
from holdfast.core.unit import Append, Committed, Unit, Write, together
from holdfast.runtime.chronicle import Chronicle, Found, find
from holdfast.runtime.damage import Damages
from holdfast.runtime.health import Life, reason_of
from holdfast.store.port import Reads
from holdfast.store.store import Store

REPORTS: Final = "holdfast/recovery"
REPORTS_KEPT: Final = 1_000
log = logging.getLogger("holdfast")

Progress = Callable[[int], None]
"""Called by a part with the number of things done since its last call."""


Planning = Callable[[], Awaitable[Sequence[Step]]]
"""Returned by a part that has looked: says what there is to do."""


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

    def look(self, reader: Reads) -> Planning:
        """
        Read what is stored, in a reader's thread; all parts look in one read, one by one.

        Returns:
            What plans by it, in the event loop: the steps there are to take; changes nothing.
        """
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

    def entering(self) -> Unit:
        """Return what says that this runtime lives; it may be committed with more."""
        ...

    def entered(self, committed: Committed) -> None:
        """Take note that it is committed."""
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
        recalled: what has to be known before anything is read is known.
    """

    def __init__(
        self,
        store: Store,
        life: Life,
        damages: Damages,
        recalls: Sequence[Callable[[Reads], None]],
    ) -> None:
        """Take a store that is not open yet, and what reads what is to be known first."""
        self._store = store
        self._reports = Chronicle(damages, REPORTS, REPORTS_KEPT)
        self._recalls = [damages.recall, *recalls]
        self._life = life
        self._clock: Clock = store.world.clock
        self._telemetry = store.world.telemetry
        self.parts: list[Part] = []
        self.members: list[Member] = []
        self._entered: list[Member] = []
        self.report: Report | None = None
        self.recalled = False

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
            self._telemetry.tell("recovery.finished", {"result": "failed"})
            if self._life.phase in (Phase.VERIFYING, Phase.RESTORING, Phase.RECONCILING):
                await self._write_failure(error)
            self._life.fail(error)
            raise

    async def _run(self) -> None:
        begun = self._clock.monotonic()
        await self._store.open(self._migrating)
        self._migrating()
        self._life.move(Phase.VERIFYING)
        if self._store.options.read_only:
            await self._store.read(self._recall)
            self._life.move(Phase.RESTORING)
            self._life.move(Phase.RECONCILING)
        else:
            await self._recover(begun)
        self._life.move(Phase.READY)
        self._telemetry.tell("runtime.ready", {}, {"seconds": self._clock.monotonic() - begun})

    async def _recover(self, begun: float) -> None:
        reports, looked = await self._store.read(self._look)
        plan = Plan(tuple([step for planning in looked for step in await planning()]))
        sections = await self._restore(Phase.RESTORING, plan)
        if not plan.clean(self._reconciling()):
            await self._enter()
        sections |= await self._restore(Phase.RECONCILING, plan)
        report = Report.of(plan, sections, self._reconciling())
        await self._reports.say(self._event(report, begun), reports, self._commit_report)
        self.report = report
        result = {"result": "clean" if report.clean else "rescued"}
        seconds = self._clock.monotonic() - begun
        self._telemetry.tell("recovery.finished", result, {"seconds": seconds})

    def _look(self, reader: Reads) -> tuple[Found, list[Planning]]:
        """Look at everything in one read: each goes to a thread and back."""
        self._recall(reader)
        return find(reader, REPORTS), [part.look(reader) for part in self.parts]

    def _recall(self, reader: Reads) -> None:
        for recall in self._recalls:
            recall(reader)
        self.recalled = True

    async def _enter(self, *unit: Unit) -> None:
        """Let the members enter; with a unit, in one with it."""
        entering = [member.entering() for member in self.members]
        committed = await self._store.commit_early(together(*entering, *unit))
        for member in self.members:
            member.entered(committed)
            self._entered.append(member)

    async def _restore(self, phase: Phase, plan: Plan) -> dict[str, dict[str, Any]]:
        """Execute the parts of a phase; return their sections of the report."""
        self._life.move(phase)
        parts = [part for part in self.parts if part.phase is phase]
        return {part.name: await self._execute(part, plan) for part in parts}

    def _migrating(self) -> None:
        # Called by the driver, perhaps again when a full disk makes it try twice.
        if self._life.phase is Phase.OPENING:
            self._life.move(Phase.MIGRATING)

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

    def _event(self, report: Report, begun: float) -> Event:
        meta = {**self._meta(), "seconds": self._clock.monotonic() - begun}
        return Event.of("recovery.finished", plain(report), meta)

    async def _commit_report(self, writes: tuple[Write, ...]) -> None:
        if self._entered:
            await self._store.commit_early(Unit(writes))
        else:
            await self._enter(Unit(writes))

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
