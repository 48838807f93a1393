"""
How a runtime is: its phase, what keeps it from being ready, what is not as it should be.

`Life` holds the phase and changes it by the table in `core.recovery`. `Gates` are questions
with a name; each answers with a reason, or with nothing if all is well. A gate that is *needed*
keeps the runtime from being ready; any other only makes it *degraded*.

Invariants: `ready` is true in phase `ready` alone, and only while every needed gate is open; a
gate's `since` is the moment its answer last changed, as far as anybody looked.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from holdfast.core.clock import Clock
from holdfast.core.errors import (
    HoldfastError,
)
from holdfast.core.recovery import NEXT, Phase, Report
from holdfast.core.refusal import (
    NotReadyError,
)

SETTLED: Final = frozenset({Phase.READY, Phase.CLOSED, Phase.FAILED})
Probe = Callable[[], str]
"""Answers with the reason why something is not as it should be, or with an empty string."""


def totals(progress: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return how many things are done and how many there are, over all parts of the boot."""
    return sum(done for done, _ in progress.values()), sum(of for _, of in progress.values())


class Gate(msgspec.Struct, frozen=True):
    """
    One condition by name.

    Attributes:
        name: what is looked at.
        ok: all is well.
        reason: what is not, in words; empty if all is well.
        since: wall time in seconds at which the answer changed last.
        needed: the runtime is not ready without it; otherwise it is degraded.
    """

    name: str
    ok: bool
    reason: str
    since: float
    needed: bool


class Health(msgspec.Struct, frozen=True):
    """
    How a runtime is, at one moment.

    Attributes:
        phase: where it is on its way from opening to closed.
        ready: state may be changed.
        reads: what is durable can be read.
        since: wall time in seconds at which the phase began.
        reason: why it failed; empty otherwise.
        stage: what a runtime that is draining is doing; empty otherwise.
        degraded: reasons why it is ready, but not as it should be.
        gates: every condition, by name.
        progress: things done and things to do, for each part of the boot.
        report: what the last recovery found and did; None before it ended.
    """

    phase: Phase
    ready: bool
    reads: bool
    since: float
    reason: str
    stage: str
    degraded: tuple[str, ...]
    gates: tuple[Gate, ...]
    progress: dict[str, tuple[int, int]]
    report: Report | None


class Life:
    """
    The phase of a runtime.

    Attributes:
        phase: where it is.
        since: wall time at which that began.
        failure: why it failed, or None.
        progress: things done and to do, by part.
        stage: what it does within the phase, in a word.
    """

    def __init__(self, clock: Clock) -> None:
        """Begin with `opening`."""
        self._clock = clock
        self._settled = asyncio.Event()
        self.phase = Phase.OPENING
        self.since = clock.wall()
        self.failure: BaseException | None = None
        self.progress: dict[str, tuple[int, int]] = {}
        self.stage = ""

    def move(self, phase: Phase) -> None:
        """
        Go on to a phase.

        Raises:
            RuntimeError: it does not follow; a fault of ours.
        """
        if phase not in NEXT[self.phase]:
            raise RuntimeError(f"{phase} does not follow {self.phase}")
        self.phase = phase
        self.since = self._clock.wall()
        if phase in SETTLED:
            self._settled.set()

    def fail(self, failure: BaseException) -> None:
        """Give up, with the reason; the first one stays."""
        if Phase.FAILED in NEXT[self.phase]:
            self.failure = failure
            self.move(Phase.FAILED)

    def refusal(self) -> NotReadyError:
        """Return the error for whoever wants to change state now."""
        done, total = totals(self.progress)
        reason = "see rt.health()" if self.failure is None else reason_of(self.failure)
        return NotReadyError(phase=self.phase.value, done=done, total=total, reason=reason)

    async def ready(self) -> None:
        """
        Wait until it is ready.

        Raises:
            NotReadyError: it will not be; the cause is what it failed with.
        """
        await self._settled.wait()
        if self.phase is not Phase.READY:
            raise self.refusal() from self.failure


class Gates:
    """Named conditions, and since when each is as it is."""

    def __init__(self, clock: Clock) -> None:
        """Begin with none."""
        self._clock = clock
        self._probes: dict[str, tuple[Probe, bool]] = {}
        self._last: dict[str, tuple[str, float]] = {}

    def add(self, name: str, probe: Probe, *, needed: bool = False) -> None:
        """Ask this question from now on."""
        self._probes[name] = (probe, needed)

    def look(self) -> tuple[Gate, ...]:
        """Ask all questions and return the answers."""
        return tuple(self._ask(name, *asked) for name, asked in self._probes.items())

    def _ask(self, name: str, probe: Probe, needed: bool) -> Gate:
        reason = probe()
        last = self._last.get(name)
        if last is None or last[0] != reason:
            last = self._last[name] = (reason, self._clock.wall())
        return Gate(name, not reason, reason, last[1], needed)


def reason_of(error: BaseException) -> str:
    """Return an error in words that hold no stored content: only ours are known to have none."""
    name = type(error).__name__
    return f"{name}: {error}" if isinstance(error, HoldfastError) else name
