"""
Errors of the nouns above the kernel: the boot, sessions, the ledger.

They belong to the families of `core.errors` and are made like the errors there.
"""

from dataclasses import dataclass

from holdfast.core.errors import (
    ConflictError,
    FenceError,
    NotFoundError,
    StaleGenerationError,
    StateError,
)

# The boot.


@dataclass(eq=False, kw_only=True)
class NotReadyError(StateError):
    """The runtime is still coming back, is going away, or failed; state cannot be changed."""

    phase: str
    done: int = 0
    total: int = 0
    reason: str = ""
    code = "not_ready"
    status = 503
    text = "not ready: {phase}, {done} of {total} done; {reason}"


@dataclass(eq=False, kw_only=True)
class BootBudgetError(StateError):
    """The boot took longer than it may; what it did is kept, and the next one goes on there."""

    budget: float
    phase: str
    done: int
    total: int
    code = "boot_budget"
    status = 503
    text = (
        "not ready within {budget:g} s (phase {phase}, {done} of {total} done); what was done "
        "is kept; open it again, or raise boot_budget"
    )


# Sessions.


@dataclass(eq=False, kw_only=True)
class AmbiguousIdentityError(ConflictError):
    """An identity belongs to several sessions; they are never merged by guessing."""

    kind: str
    candidates: tuple[tuple[str, ...], ...]
    code = "ambiguous_identity"
    text = "{kind}: several sessions have this identity: {candidates!r}; say which by its key"


@dataclass(eq=False, kw_only=True)
class SessionClosedError(StateError):
    """Another runtime closed the session; what is in memory here is not written."""

    kind: str
    key: tuple[str, ...]
    code = "session_closed"
    status = 410
    text = "session {kind} {key!r} was closed elsewhere; open it again for a new one"


@dataclass(eq=False, kw_only=True)
class SessionArchivedError(StateError):
    """The session was put aside; it can be read, and changed again after `restore`."""

    kind: str
    key: tuple[str, ...]
    code = "session_archived"
    text = "session {kind} {key!r} is archived; restore it before it is changed"


# The ledger.


@dataclass(eq=False, kw_only=True)
class EntryHeldError(FenceError):
    """Another runtime works on this."""

    key: tuple[str, ...]
    holder: str
    since: float
    code = "entry_held"
    text = "ledger entry {key!r} is in flight at {holder} since {since:.0f} (seconds since 1970)"


@dataclass(eq=False, kw_only=True)
class EntrySupersededError(StaleGenerationError):
    """The ledger entry belongs to a newer generation; this one has nothing to say any more."""

    code = "entry_superseded"
    text = "ledger entry {key} is at generation {actual}, not {generation}; it was begun anew"


@dataclass(eq=False, kw_only=True)
class EntryNotFoundError(NotFoundError):
    """The ledger knows no such work."""

    key: tuple[str, ...]
    code = "entry_not_found"
    text = "there is no ledger entry {key!r}"


@dataclass(eq=False, kw_only=True)
class EntryQuarantinedError(StateError):
    """The work crashed its runtimes too often; resolve it before it is begun again."""

    key: tuple[str, ...]
    attempts: int
    code = "entry_quarantined"
    text = "ledger entry {key!r} is quarantined after {attempts} attempts; resolve it first"


@dataclass(eq=False, kw_only=True)
class EntryStateError(StateError):
    """The ledger entry is in a state that does not allow this."""

    key: tuple[str, ...]
    state: str
    action: str
    code = "entry_state"
    text = "ledger entry {key!r} is {state}; it cannot be {action}"


@dataclass(eq=False, kw_only=True)
class EffectUncertainError(StateError):
    """The effect was begun by an attempt that crashed; nobody knows whether it happened."""

    key: tuple[str, ...]
    effect: str
    code = "effect_uncertain"
    text = (
        "effect {effect!r} of ledger entry {key!r} was begun and may have happened; find out, "
        "then pass again=True, or settle the entry"
    )
