"""
How a service is, in the words that probes, systemd and people are told alike.

Two questions are kept apart: may work be sent (`accept`), and can be looked (`read`). What says
why not may name files and hosts, so only those who come with a token get it whole; everybody
else gets a sentence per gate that says no more than its name.

Invariants: `accept` is open in phase `ready` alone, while every needed gate is open and nobody
told the service to leave; a store that many share and that is out of reach closes `accept` at
once, and the probe itself only after the grace, so that not all replicas are taken away together.
"""

from datetime import datetime
from typing import Any, Final

import msgspec

from holdfast.core.errors import HoldfastError
from holdfast.core.recovery import Phase
from holdfast.http.answers import moment
from holdfast.http.site import Site
from holdfast.runtime.health import Gate, Health

STARTED: Final = frozenset({Phase.READY.value, Phase.DRAINING.value})
ACCEPT: Final = "accept"
READ: Final = "read"
LEAVING: Final = "leaving"
_OUTAGE: Final = frozenset({"heartbeat"})
_WORDS: Final = {
    "store": "the store stopped after a failed commit; restart",
    "disk": "too little room is left on the disk",
    "engines": "an engine is not restored",
    "restored": "it is paused after a restore; confirm to go on",
    "commits": "the last commit failed",
    "heartbeat": "the store took no heartbeat",
    "flush": "the last flush is late",
    "damage": "damage was found",
    "snapshots": "a snapshot is missing",
    "clock": "the wall clock is off",
}


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    A gate as it is shown.

    Attributes:
        name: of the gate.
        ok: all is well.
        reason: what is not, and what clears it.
        since: when that began.
        needed: no work is accepted without it.
    """

    name: str
    ok: bool
    reason: str = ""
    since: datetime | None = None
    needed: bool = False


class Readiness(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Whether work may be sent.

    Attributes:
        status: `ready`, or the phase it is in.
        ready: work may be sent, as far as a probe is concerned.
        accepts: state may be changed now.
        reads: what is durable can be looked at.
        reason: why not.
        since: when the phase began.
        progress: things done and to do, by part of the boot.
        gates: every condition.
    """

    status: str
    ready: bool
    accepts: bool = False
    reads: bool = False
    reason: str = ""
    since: datetime | None = None
    progress: dict[str, tuple[int, int]] = {}
    gates: list[Condition] = []

    @property
    def started(self) -> bool:
        """Whether it came up: the recovery is over and durable."""
        return self.status in STARTED

    @property
    def fresh(self) -> bool:
        """Whether the store took what it was last given."""
        return self.started and self._is_open("store") and self._is_open("heartbeat")

    def _is_open(self, name: str) -> bool:
        return all(gate.ok for gate in self.gates if gate.name == name)

    def is_open(self, name: str) -> bool | None:
        """Return whether a gate is open; None if there is none of this name."""
        groups = {"": self.ready, ACCEPT: self.accepts, READ: self.reads}
        if name in groups:
            return groups[name]
        found = [gate.ok for gate in self.gates if gate.name == name]
        return all(found) if found else None


def readiness(site: Site, scope: Any, *, whole: bool) -> Readiness:
    """
    Return how a service is, also while there is no runtime yet.

    Args:
        site: what is served.
        scope: of the request, where the runtime may come from.
        whole: with everything that reasons say.
    """
    try:
        health: Health = site.runtime(scope).health()
    except HoldfastError:
        return Readiness(Phase.OPENING.value, False, reason="the store is not open yet")
    gates = [_condition(gate, whole=whole) for gate in health.gates]
    gates.append(Condition(LEAVING, not site.leaving, "it was told to leave" * site.leaving))
    accepts = health.ready and not site.leaving
    return Readiness(
        health.phase.value,
        accepts or _is_graced(site, health),
        accepts,
        health.reads,
        "" if accepts else _reason(site, health, gates, whole=whole),
        moment(health.since),
        health.progress,
        gates,
    )


def _is_graced(site: Site, health: Health) -> bool:
    """Return whether all that is wrong is a shared store out of reach, and that not for long."""
    closed = [gate for gate in health.gates if gate.needed and not gate.ok]
    if site.leaving or health.phase is not Phase.READY or not closed:
        return False
    wall = site.clock.wall()
    grace = site.settings.outage_grace
    return all(gate.name in _OUTAGE and wall - gate.since < grace for gate in closed)


def _reason(site: Site, health: Health, gates: list[Condition], *, whole: bool) -> str:
    if site.leaving:
        return "it was told to leave"
    if health.phase is Phase.FAILED:
        return health.reason if whole else "it failed; its log says why"
    closed = "; ".join(gate.reason for gate in gates if gate.needed and not gate.ok)
    return closed or f"it is {health.phase.value}"


def _condition(gate: Gate, *, whole: bool) -> Condition:
    said = gate.reason if whole else _WORDS.get(gate.name, "it is closed")
    return Condition(gate.name, gate.ok, "" if gate.ok else said, moment(gate.since), gate.needed)
