"""
Coming back: the phases of a runtime, and recovery as a value before it is an act.

    opening -> migrating -> verifying -> restoring -> reconciling -> ready -> draining -> closed
       |           |            |            |             |           |         |
       +-----------+------------+------------+-------------+-----------+---------+--> failed

Each *part* that has something to bring back (identities, the ledger, engines, runs) says first
what it found, as `Step`s; together they are the `Plan`. Then the plan is executed, part after
part, in units that may each be the last: a recovery that was killed anywhere plans again from
what is stored and comes to the same end. What was done becomes the `Report`.

Invariants: every change of phase is one of `NEXT`; `closed` and `failed` are final; the data of
a report depend on what was found alone, never on clocks, processes or identifiers drawn now, so
the same crash image gives the same report.
"""

from enum import StrEnum
from typing import Any, Final

import msgspec

from holdfast.core.tier import BUFFERED, DURABLE, EPHEMERAL


class Phase(StrEnum):
    """Where a runtime is on its way from opening to closed."""

    OPENING = "opening"
    """The store is being looked at."""

    MIGRATING = "migrating"
    """The schema is brought up to date."""

    VERIFYING = "verifying"
    """What is stored is compared with itself."""

    RESTORING = "restoring"
    """Indexes, sessions and engines come back."""

    RECONCILING = "reconciling"
    """Work of runtimes that died is taken over."""

    READY = "ready"
    """State may be changed."""

    DRAINING = "draining"
    """Work under way ends; nothing new begins."""

    CLOSED = "closed"
    """Everything is written and released."""

    FAILED = "failed"
    """It will not become ready; the reason is in the health report."""


NEXT: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.OPENING: frozenset({Phase.MIGRATING, Phase.CLOSED, Phase.FAILED}),
    Phase.MIGRATING: frozenset({Phase.VERIFYING, Phase.CLOSED, Phase.FAILED}),
    Phase.VERIFYING: frozenset({Phase.RESTORING, Phase.CLOSED, Phase.FAILED}),
    Phase.RESTORING: frozenset({Phase.RECONCILING, Phase.CLOSED, Phase.FAILED}),
    Phase.RECONCILING: frozenset({Phase.READY, Phase.CLOSED, Phase.FAILED}),
    Phase.READY: frozenset({Phase.DRAINING, Phase.FAILED}),
    Phase.DRAINING: frozenset({Phase.CLOSED, Phase.FAILED}),
    Phase.CLOSED: frozenset(),
    Phase.FAILED: frozenset({Phase.CLOSED}),
}


class Step(msgspec.Struct, frozen=True):
    """
    One thing a recovery has to do.

    Attributes:
        part: which part does it: `identities`, `ledger` ...
        what: what is done, in words for people.
        name: what it is done to; empty if it is all of a kind.
        count: how many things that are, for progress.
    """

    part: str
    what: str
    name: str = ""
    count: int = 1


class Plan(msgspec.Struct, frozen=True):
    """All steps of a recovery, in the order in which they are taken."""

    steps: tuple[Step, ...] = ()

    @property
    def count(self) -> int:
        """How many things are to be done, over all steps."""
        return sum(step.count for step in self.steps)

    def of(self, part: str) -> tuple[Step, ...]:
        """Return the steps of one part."""
        return tuple(step for step in self.steps if step.part == part)

    def clean(self, reconciling: frozenset[str]) -> bool:
        """Return whether everybody had said goodbye: no step of the parts named here."""
        return not any(step.part in reconciling for step in self.steps)


class Report(msgspec.Struct, frozen=True):
    """
    What a recovery found and did; stored as one event per start.

    Attributes:
        clean: every runtime before this one had said goodbye.
        plan: the steps it took.
        parts: per part what it found, replayed, rescued, quarantined, dropped: plain values.
    """

    clean: bool
    plan: Plan
    parts: dict[str, dict[str, Any]]

    @staticmethod
    def of(
        plan: Plan, sections: dict[str, dict[str, Any]], reconciling: frozenset[str]
    ) -> "Report":
        """
        Return the report of a plan that was executed.

        Args:
            plan: the steps that were taken.
            sections: what each part answered.
            reconciling: names of the parts that take over the work of dead runtimes; a step of
                one of them means that somebody did not say goodbye.
        """
        return Report(plan.clean(reconciling), plan, sections)


def plain(report: Report) -> dict[str, Any]:
    """Return a report as the data of an event: what can be stored, and nothing else."""
    steps = [msgspec.structs.asdict(step) for step in report.plan.steps]
    return {"clean": report.clean, "steps": steps, "parts": report.parts}


def loss(epoch: int, flush_interval: float | None) -> dict[str, Any]:
    """
    Return what a runtime that died may have lost: per tier the seconds before its death.

    Whatever was durable is there, buffered fields are as of the last flush, and ephemeral ones
    were never meant to come back.

    Args:
        epoch: of the runtime.
        flush_interval: seconds between two of its flushes; None if nobody knows.
    """
    lost = {DURABLE.value: 0.0, BUFFERED.value: flush_interval, EPHEMERAL.value: None}
    return {"epoch": epoch, "lost_seconds_max": lost}
