"""
Holdfast keeps what long-lived Python processes know across `kill -9` and power loss.

    async with holdfast.open("sqlite:///agent.db") as rt:
        history = rt.history("chat/user-42")
        await history.append("turn_added", {"text": "hello"})
        async for event in history.follow(after=0):
            ...
"""

from typing import TYPE_CHECKING

from holdfast.core.errors import (
    CodecError,
    ConflictError,
    FenceError,
    HoldfastError,
    NotFoundError,
    StateError,
    StoreError,
)
from holdfast.core.event import Event, RecordedEvent
from holdfast.core.ledger import ASK, REPORT, RESUME, SUSPEND, EntryState, Policy
from holdfast.core.machine import Machine, Transition
from holdfast.core.redaction import Redaction
from holdfast.core.run import Retry, Status, Verdict
from holdfast.core.secret import Secret
from holdfast.core.tier import BUFFERED, DURABLE, EPHEMERAL, Tier
from holdfast.core.unit import (
    Append,
    AtSequence,
    AtVersion,
    CloseStream,
    Committed,
    DeleteBlob,
    DeleteRecord,
    Fence,
    GrantLease,
    MendRecord,
    PatchRecord,
    PutBlob,
    PutRecord,
    PutSnapshot,
    ReleaseLease,
    RenewLease,
    TrimStream,
    Unit,
)
from holdfast.runtime.exact import register
from holdfast.runtime.opening import open
from holdfast.runtime.outcome import Outcome
from holdfast.runtime.runs.run import Run
from holdfast.runtime.runs.step import Step
from holdfast.runtime.runtime import Keyring, Options, Runtime
from holdfast.runtime.sessions.state import field, state

if TYPE_CHECKING:
    from holdfast.core.attractor import load_graph
    from holdfast.core.graph import StageOutcome

__all__ = [
    "ASK",
    "Append",
    "AtSequence",
    "AtVersion",
    "BUFFERED",
    "CloseStream",
    "CodecError",
    "Committed",
    "ConflictError",
    "DURABLE",
    "DeleteBlob",
    "DeleteRecord",
    "EPHEMERAL",
    "EntryState",
    "Event",
    "Fence",
    "FenceError",
    "GrantLease",
    "HoldfastError",
    "Keyring",
    "Machine",
    "MendRecord",
    "NotFoundError",
    "Options",
    "Outcome",
    "PatchRecord",
    "Policy",
    "PutBlob",
    "PutRecord",
    "PutSnapshot",
    "REPORT",
    "RESUME",
    "RecordedEvent",
    "Redaction",
    "ReleaseLease",
    "RenewLease",
    "Retry",
    "Run",
    "Runtime",
    "SUSPEND",
    "Secret",
    "StageOutcome",
    "StateError",
    "Status",
    "Step",
    "StoreError",
    "Tier",
    "Transition",
    "TrimStream",
    "Unit",
    "Verdict",
    "field",
    "load_graph",
    "open",
    "register",
    "state",
]


def __getattr__(name: str) -> object:
    """Import what reads graphs only when it is asked for: few programs need it."""
    if name == "load_graph":
        from holdfast.core.attractor import load_graph

        return load_graph
    if name == "StageOutcome":
        from holdfast.core.graph import StageOutcome

        return StageOutcome
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
