"""
The ledger's rules: which work was in flight, and what becomes of it when its runtime dies.

An *entry* is a piece of work under a key: a turn, a request, a job of a queue. It is written
before the work begins and settled when it ends. In between it belongs to one runtime (an
incarnation of the store) under one generation.

                begin                              settle
    (nothing) ----------> running(g) --------------------------------> settled(g) --begin--> g+1
                             |
                             | its runtime is proven dead: `verdict`, in this order
                             |
          +---------+--------+--+-----------+-----------+-----------+-------------+
          v         v           v           v           v           v             v
       stopped  suspended    expired   quarantined    asking    resumable    interrupted
                                                                    |             |
                                               claim: running(g+1), attempt + 1 <-+

Authority. Only the runtime that an entry names may renew or settle it, only under the
generation it began, and only while its own lease holds; all three are expectations of the unit
that does it. Another generation means that the work was begun anew or taken over.

Order of the verdict. What a person decided (stop) comes first, then what the application said
beforehand (suspend), then whether it still makes sense (freshness), then whether it does harm
(attempts), and only then may it go on. So stopped and suspended always beat resume.

Age. How long an entry was silent is counted from its last sign of life: its own last mark or
the last heartbeat of its runtime, whichever is later. Within one boot that is machine time; over
a boot only wall time is left, and a wall clock set back makes nothing older than it is.

Invariants: the generation of a key grows with each begin and each claim, also after it was
settled, and is never used again; `attempt` is raised in the unit that hands the work out; every
change of state is one of `NEXT`.
"""

from enum import StrEnum
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.errors import (
    InvalidValueError,
)
from holdfast.core.key import Key
from holdfast.core.refusal import (
    EntryHeldError,
    EntryQuarantinedError,
    EntryStateError,
)

RESUME_AGAIN: Final = "resume"
DONE: Final = "done"
FAILED: Final = "failed"


class EntryState(StrEnum):
    """Where a piece of work is."""

    RUNNING = "running"
    """A runtime works on it, or died doing so and was not looked at yet."""

    SETTLED = "settled"
    """It ended, with an outcome."""

    INTERRUPTED = "interrupted"
    """Its runtime died; it is only reported."""

    RESUMABLE = "resumable"
    """Its runtime died; whoever claims it goes on with it."""

    SUSPENDED = "suspended"
    """Its runtime died; it rests until somebody begins or resolves it."""

    ASKING = "asking"
    """Its runtime died; a person says whether it goes on."""

    STOPPED = "stopped"
    """Somebody stopped it; it never goes on by itself."""

    EXPIRED = "expired"
    """Its runtime died so long ago that going on makes no sense."""

    QUARANTINED = "quarantined"
    """Its runtimes died again and again; it is not begun until somebody resolves it."""


class Policy(StrEnum):
    """What becomes of work whose runtime died."""

    RESUME = "resume"
    """It may be claimed and goes on."""

    SUSPEND = "suspend"
    """It rests."""

    ASK = "ask"
    """A person is asked."""

    REPORT = "report"
    """It is reported, nothing more."""


RESUME = Policy.RESUME
SUSPEND = Policy.SUSPEND
ASK = Policy.ASK
REPORT = Policy.REPORT

CRASHED: Final = (
    EntryState.INTERRUPTED,
    EntryState.RESUMABLE,
    EntryState.SUSPENDED,
    EntryState.ASKING,
    EntryState.STOPPED,
    EntryState.EXPIRED,
    EntryState.QUARANTINED,
)
CLAIMABLE: Final = frozenset({EntryState.RESUMABLE, EntryState.INTERRUPTED})
_ENDED: Final = frozenset({EntryState.RUNNING, EntryState.SETTLED})
NEXT: Final[dict[EntryState, frozenset[EntryState]]] = {
    EntryState.RUNNING: frozenset({*_ENDED, *CRASHED}),
    EntryState.SETTLED: frozenset({EntryState.RUNNING}),
    EntryState.INTERRUPTED: frozenset({*_ENDED, EntryState.RESUMABLE, EntryState.STOPPED}),
    EntryState.RESUMABLE: frozenset({*_ENDED, EntryState.STOPPED}),
    EntryState.SUSPENDED: frozenset({*_ENDED, EntryState.RESUMABLE, EntryState.STOPPED}),
    EntryState.ASKING: frozenset({*_ENDED, EntryState.RESUMABLE, EntryState.STOPPED}),
    EntryState.STOPPED: _ENDED,
    EntryState.EXPIRED: frozenset({*_ENDED, EntryState.RESUMABLE, EntryState.STOPPED}),
    EntryState.QUARANTINED: frozenset({EntryState.SETTLED, EntryState.RESUMABLE}),
}


class Sign(msgspec.Struct, frozen=True, gc=False):
    """
    A sign of life: one moment in both kinds of time.

    Attributes:
        wall: wall time in seconds, for people.
        domain, seconds: time of the machine.
    """

    wall: float
    domain: str
    seconds: float

    def age(self, now: "Sign") -> float:
        """Return how many seconds ago this was, never less than none."""
        same = self.domain == now.domain
        return max(0.0, now.seconds - self.seconds if same else now.wall - self.wall)


class Terms(msgspec.Struct, frozen=True, gc=False):
    """
    What an application says of a piece of work when it begins.

    Attributes:
        kind: family of the work, by which it can be claimed.
        policy: what becomes of it when its runtime dies.
        attempts: crashes after which it is quarantined.
        fresh_for: seconds of silence after which going on makes no sense.
        ttl: seconds of silence of its runtime until others may take it over; None: as the
            runtime's.
    """

    kind: str = "work"
    policy: Policy = REPORT
    attempts: int = 3
    fresh_for: float = 3600.0
    ttl: float | None = None

    def __post_init__(self) -> None:
        """
        Refuse terms under which nothing could ever go on.

        Raises:
            InvalidValueError: a number is not positive.
        """
        if self.attempts < 1:
            raise InvalidValueError(what="attempts", reason=f"is {self.attempts}, at least 1")
        if not self.fresh_for > 0:
            raise InvalidValueError(what="fresh_for", reason=f"is {self.fresh_for}, more than 0")
        if self.ttl is not None and not self.ttl > 0:
            raise InvalidValueError(what="ttl", reason=f"is {self.ttl}, more than 0")


class Owned(msgspec.Struct, frozen=True, gc=False):
    """
    Whose an entry is.

    Attributes:
        incarnation: of the runtime, in hex.
        epoch: number of its opening.
        holder: the runtime in words, for people.
        log: stream of what its ledger did.
    """

    incarnation: str
    epoch: int
    holder: str
    log: str


class EntryRow(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """
    What the store keeps of a piece of work.

    Attributes:
        generation: number of this begin or claim; grows over the whole life of the key.
        state: where it is.
        terms: what was said when it began.
        owner: whose it is, or was.
        began: when this generation began.
        active: last mark of progress.
        first: generation in which the work began; claims keep it.
        attempt: how often it was handed out, this time included.
        note: what the application wrote down.
        outcome: what it came to, once it is settled.
        effects: by name, None for an effect that was begun, or `[result]` for one that is done.
        by: who resolved or stopped it.
        reason: why.
    """

    generation: int
    state: EntryState
    terms: Terms
    owner: Owned
    began: Sign
    active: Sign
    first: int
    attempt: int = 1
    note: Any = None
    outcome: Any = None
    effects: dict[str, list[Any] | None] = {}
    by: str = ""
    reason: str = ""

    @property
    def uncertain(self) -> tuple[str, ...]:
        """Names of effects that were begun and may or may not have happened."""
        return tuple(sorted(name for name, done in self.effects.items() if done is None))

    def changed(self, state: EntryState, **fields: Any) -> "EntryRow":
        """
        Return the row in another state.

        Raises:
            RuntimeError: the table does not allow it; a fault of ours.
        """
        if state not in NEXT[self.state]:
            raise RuntimeError(f"{state} does not follow {self.state}")
        return msgspec.structs.replace(self, state=state, **fields)


def encode_row(row: EntryRow) -> bytes:
    """Return a row as it is stored; notes and outcomes were checked when they came in."""
    return msgspec.msgpack.encode(row)


def decode_row(value: bytes) -> EntryRow:
    """
    Return a stored row.

    Raises:
        DecodeError: it was written by something else.
    """
    return codec.decode_as(value, EntryRow, "ledger entry")


def begun(key: Key, before: EntryRow | None, terms: Terms, owner: Owned, now: Sign) -> EntryRow:
    """
    Return the row of work that begins, given what is known of its key.

    Raises:
        EntryHeldError: another runtime works on it.
        EntryQuarantinedError: it crashed too often; it has to be resolved first.
    """
    if before is None:
        return EntryRow(1, EntryState.RUNNING, terms, owner, now, now, 1)
    if before.state is EntryState.QUARANTINED:
        raise EntryQuarantinedError(key=key, attempts=before.attempt)
    if before.state is EntryState.RUNNING and before.owner.incarnation != owner.incarnation:
        raise EntryHeldError(key=key, holder=before.owner.holder, since=before.began.wall)
    generation = before.generation + 1
    return EntryRow(generation, EntryState.RUNNING, terms, owner, now, now, generation)


def claimed(key: Key, before: EntryRow, owner: Owned, now: Sign) -> EntryRow:
    """
    Return the row of interrupted work that somebody goes on with, its attempt counted.

    Raises:
        EntryHeldError: a runtime works on it.
        EntryStateError: it is not to go on.
    """
    if before.state is EntryState.RUNNING:
        raise EntryHeldError(key=key, holder=before.owner.holder, since=before.began.wall)
    if before.state not in CLAIMABLE:
        raise EntryStateError(key=key, state=before.state.value, action="claimed")
    return before.changed(
        EntryState.RUNNING,
        generation=before.generation + 1,
        attempt=before.attempt + 1,
        owner=owner,
        began=now,
        active=now,
    )


def settled(row: EntryRow, outcome: object) -> EntryRow:
    """Return the row of work that ended; what it did on the way is not kept."""
    return row.changed(EntryState.SETTLED, outcome=outcome, note=None, effects={})


def stopped(key: Key, row: EntryRow, by: str, reason: str) -> EntryRow:
    """
    Return the row of interrupted work that never goes on by itself.

    Raises:
        EntryStateError: there is nothing to stop.
    """
    if EntryState.STOPPED not in NEXT[row.state]:
        raise EntryStateError(key=key, state=row.state.value, action="stopped")
    return row.changed(EntryState.STOPPED, by=by, reason=reason)


def resolved(key: Key, row: EntryRow, outcome: object, by: str, reason: str) -> EntryRow:
    """
    Return the row as a person decided: it goes on with all its attempts, or it is settled.

    Raises:
        EntryStateError: a runtime works on it, it ended, or it was stopped and cannot go on.
    """
    again = outcome == RESUME_AGAIN
    state = EntryState.RESUMABLE if again else EntryState.SETTLED
    if row.state not in CRASHED or (again and EntryState.RESUMABLE not in NEXT[row.state]):
        raise EntryStateError(key=key, state=row.state.value, action="resolved like this")
    if again:
        return row.changed(state, attempt=0, by=by, reason=reason)
    return msgspec.structs.replace(settled(row, outcome), by=by, reason=reason)


def verdict(row: EntryRow, seen: Sign, now: Sign, *, stop: bool) -> EntryState:
    """
    Return what becomes of work whose runtime is proven dead.

    Args:
        row: the entry as it was left.
        seen: last heartbeat of its runtime.
        now: the moment of the verdict.
        stop: somebody asked for it to be stopped.
    """
    silent = min(row.active.age(now), seen.age(now))
    if stop:
        return EntryState.STOPPED
    if row.terms.policy is Policy.SUSPEND:
        return EntryState.SUSPENDED
    if silent > row.terms.fresh_for:
        return EntryState.EXPIRED
    if row.attempt >= row.terms.attempts:
        return EntryState.QUARANTINED
    return {
        Policy.ASK: EntryState.ASKING,
        Policy.RESUME: EntryState.RESUMABLE,
        Policy.REPORT: EntryState.INTERRUPTED,
    }[row.terms.policy]


class Logged(msgspec.Struct, frozen=True, gc=False):
    """What the log says of an entry: its key and the row as it was then."""

    key: Key
    row: EntryRow


def encode_logged(key: Key, row: EntryRow) -> bytes:
    """Return what the log says of an entry."""
    return msgspec.msgpack.encode(Logged(key, row))


def fold(open_entries: dict[Key, EntryRow], payload: bytes) -> None:
    """
    Bring the entries in flight up to one more event of a log.

    Raises:
        DecodeError: the event was written by something else.
    """
    logged = codec.decode_as(payload, Logged, "ledger log")
    if logged.row.state is EntryState.RUNNING:
        open_entries[logged.key] = logged.row
    else:
        open_entries.pop(logged.key, None)
