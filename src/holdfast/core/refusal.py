"""
Errors of the nouns above the kernel: the boot, sessions, the ledger, runs,
machines.

They belong to the families of `core.errors` and are made like the errors there.
"""

from dataclasses import dataclass, field
from typing import Any

from holdfast.core.errors import (
    CodecError,
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


@dataclass(eq=False, kw_only=True)
class SessionBusyError(ConflictError):
    """The session changes all the time; it could not be read as it is at one moment."""

    kind: str
    key: tuple[str, ...]
    code = "session_busy"
    text = "session {kind} {key!r} changes faster than it can be read; try again"


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


# Machines: a table, its input, what its branches know.


@dataclass(eq=False, kw_only=True)
class InputMismatchError(ConflictError):
    """The pipeline is under way with other content than the one that was supplied."""

    pipeline: str
    expected: str
    found: str
    code = "input_mismatch"
    text = (
        "{pipeline} is under way with content {expected}, not {found}; "
        "resume it, or run it with restart=True"
    )


@dataclass(eq=False, kw_only=True)
class InputMissingError(StateError):
    """The input of the pipeline was not kept and is needed again; run it with the same input."""

    pipeline: str
    digest: str
    code = "input_missing"
    text = "the input of {pipeline} (SHA-256 {digest}) was not kept; run it again with it"


@dataclass(eq=False, kw_only=True)
class MergeConflictError(ConflictError):
    """Two branches of a parallel block changed one field to different values."""

    field: str
    first: str
    second: str
    code = "merge_conflict"
    text = "branches {first!r} and {second!r} both changed {field!r}; give the block a merge"


@dataclass(eq=False, kw_only=True)
class NoTransitionError(StateError):
    """A state ended with an outcome for which its machine declares no way on."""

    machine: str
    state: str
    outcome: str
    code = "no_transition"
    text = "machine {machine!r} has no way on from {state!r} with outcome {outcome!r}"


@dataclass(eq=False, kw_only=True)
class BudgetExceededError(StateError):
    """The run made as many transitions as its machine allows; it does not seem to end."""

    machine: str
    budget: int
    code = "budget_exceeded"
    text = "a run of machine {machine!r} made {budget} transitions; find the loop or raise budget"


@dataclass(eq=False, kw_only=True)
class GoalGateError(StateError):
    """A graph reached its exit while a goal gate had not succeeded, and nothing can retry it."""

    graph: str
    node: str
    code = "goal_gate"
    text = "graph {graph!r} ends with goal gate {node!r} unsatisfied; give it a retry_target"


@dataclass(eq=False, kw_only=True)
class InvalidMachineError(CodecError):
    """A machine or graph cannot be run as it is declared."""

    machine: str
    faults: tuple[str, ...]
    code = "invalid_machine"
    text = "machine {machine!r} cannot be run: {faults}"


# Runs and sessions from other stores.


@dataclass(eq=False, kw_only=True)
class AlreadyThereError(ConflictError):
    """What an import would bring is in use in this store."""

    what: str
    reason: str
    code = "already_there"
    text = "{what}: {reason}; nothing was imported"


@dataclass(eq=False, kw_only=True)
class BackupNotFoundError(NotFoundError):
    """There is no backup in this folder."""

    backup: str
    code = "backup_not_found"
    text = "there is no backup at {backup}"


# Runs.


@dataclass(eq=False, kw_only=True)
class RunExistsError(ConflictError):
    """There is, or was, a run with this id."""

    run_id: str
    code = "run_exists"
    text = "there is a run {run_id!r} already; ids are never used twice"


@dataclass(eq=False, kw_only=True)
class AnswerConflictError(ConflictError):
    """The question has its answer; of several, the first one counts."""

    question_id: str
    winner: str
    state: str
    answered_at: float = 0.0
    answer: Any = field(default=None, repr=False)
    code = "answer_conflict"
    text = "question {question_id!r} is {state}; the answer that counts is by {winner!r}"


@dataclass(eq=False, kw_only=True)
class RunNotFoundError(NotFoundError):
    """There is no such run, or retention removed it."""

    run_id: str
    code = "run_not_found"
    text = "there is no run {run_id!r}"


@dataclass(eq=False, kw_only=True)
class QuestionNotFoundError(NotFoundError):
    """There is no such question."""

    question_id: str
    code = "question_not_found"
    text = "there is no question {question_id!r}"


@dataclass(eq=False, kw_only=True)
class ArtifactNotFoundError(NotFoundError):
    """There is no such artifact."""

    artifact_id: str
    code = "artifact_not_found"
    text = "there is no artifact {artifact_id!r}"


@dataclass(eq=False, kw_only=True)
class ScheduleNotFoundError(NotFoundError):
    """There is no such schedule."""

    name: str
    code = "schedule_not_found"
    text = "there is no schedule {name!r}"


@dataclass(eq=False, kw_only=True)
class RunStateError(StateError):
    """The run is in a state that does not allow this."""

    run_id: str
    state: str
    action: str
    reason: str
    code = "run_state"
    text = "run {run_id!r} is {state} and cannot be {action}: {reason}"


@dataclass(eq=False, kw_only=True)
class RunFailedError(StateError):
    """The run ended with an error; its type and message are kept with the run."""

    run_id: str
    type: str
    message: str
    code = "run_failed"
    status = 500
    text = "run {run_id!r} failed with {type}; its view holds the message"


@dataclass(eq=False, kw_only=True)
class RunCancelledError(StateError):
    """The run was cancelled."""

    run_id: str
    reason: str
    by: str
    code = "run_cancelled"
    text = "run {run_id!r} was cancelled by {by!r}"


@dataclass(eq=False, kw_only=True)
class StepFailedError(StateError):
    """A step failed for good; its error is in the journal and the same in every replay."""

    step: str
    type: str
    message: str
    attempts: int
    code = "step_failed"
    status = 500
    text = "step {step} failed with {type} after {attempts} attempt(s); the journal has the message"


@dataclass(eq=False, kw_only=True)
class ChildFailedError(StateError):
    """A child run did not succeed."""

    run_id: str
    state: str
    type: str
    message: str
    code = "child_failed"
    status = 500
    text = "child run {run_id!r} ended as {state}"


@dataclass(eq=False, kw_only=True)
class StageFailedError(StateError):
    """A stage of a graph failed, and no edge or retry target leads on from there."""

    stage: str
    reason: str
    code = "stage_failed"
    text = "stage {stage!r} failed: {reason}"


@dataclass(eq=False, kw_only=True)
class PipelinePausedError(StateError):
    """The pipeline rests, since a state was tried often enough; look at why, and run it again."""

    pipeline: str
    state: str
    reason: str
    code = "pipeline_paused"
    text = "{pipeline} is {state}: {reason}; run or resume it to go on"


@dataclass(eq=False, kw_only=True)
class PipelineNotFoundError(NotFoundError):
    """No such pipeline, or not this version of it."""

    pipeline: str
    code = "pipeline_not_found"
    text = "there is no pipeline {pipeline}"


# Engines.


@dataclass(eq=False, kw_only=True)
class RulesChangedError(StateError):
    """A working memory was made by other rules than those given; it is not loaded by guessing."""

    memory: str
    stored: str
    current: str
    code = "rules_changed"
    text = (
        "working memory {memory} was made by rules {stored}, these are {current}; "
        "attach with migrate=, or with the rules it was made by"
    )


@dataclass(eq=False, kw_only=True)
class RulesRefusedError(CodecError):
    """The rules do what no journal can repeat, or are not rules; nothing was loaded."""

    where: str
    reason: str
    code = "rules_refused"
    text = "rules refused: {where} {reason}"


@dataclass(eq=False, kw_only=True)
class EvaluationError(StateError):
    """A rule or a function that it calls failed; what the request did is undone."""

    reason: str
    code = "evaluation_failed"
    status = 500
    text = "the evaluation failed and was undone: {reason}"


@dataclass(eq=False, kw_only=True)
class NotCapturedError(StateError):
    """A working memory holds what a snapshot would lose; its journal keeps it instead."""

    reason: str
    code = "not_captured"
    text = "no snapshot, the journal keeps it: {reason}"


@dataclass(eq=False, kw_only=True)
class NotRestoredError(CodecError):
    """What is stored does not give back the working memory it says; it is not used."""

    reason: str
    code = "not_restored"
    text = "not restored: {reason}"


@dataclass(eq=False, kw_only=True)
class EngineLostError(StateError):
    """No snapshot of a working memory can be used, and its journal does not reach far enough."""

    memory: str
    reason: str
    code = "engine_lost"
    status = 503
    text = "working memory {memory} cannot be brought back: {reason}; restore a backup"


@dataclass(eq=False, kw_only=True)
class EngineBehindError(ConflictError):
    """Another runtime changed the working memory first; it is loaded anew, repeat the request."""

    memory: str
    code = "engine_behind"
    text = "working memory {memory} was changed by another runtime; nothing was done, repeat it"
