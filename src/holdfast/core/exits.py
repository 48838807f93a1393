"""
Exit codes: what a script may conclude from how a command ended, error by error.

The HTTP status of an error is on its class; its exit code is here, because only some ends of a
command are errors. Both are looked up by class, nearest ancestor first, so an error that is not
named has what its family has.

Invariant: damage found and could-not-check are two things; a check that did not run proves
nothing.
"""

from enum import IntEnum
from typing import Final, Self

from holdfast.core.denial import (
    CursorResetError,
    ForbiddenError,
    TooManyError,
    UnauthorizedError,
)
from holdfast.core.errors import (
    ClosedError,
    CodecError,
    ConflictError,
    DamagedError,
    DamagedFileError,
    DecodeError,
    FenceError,
    HoldfastError,
    MigrationChangedError,
    NotFoundError,
    OutcomeForgottenError,
    SchemaNewerError,
    StateError,
    StoreBusyError,
    StoreError,
    StoreNotFoundError,
    StoreRefusedError,
    TooOldError,
    UncheckedError,
    UnexpectedError,
)
from holdfast.core.refusal import (
    BootBudgetError,
    ChildFailedError,
    EngineLostError,
    EvaluationError,
    NotReadyError,
    NotRestoredError,
    RunCancelledError,
    RunFailedError,
    StageFailedError,
    StepFailedError,
)
from holdfast.core.sealing import KeyMissingError, KeyWrongError


class Exit(IntEnum):
    """
    How a command ended; any other code is a failure too.

    Attributes:
        meaning: in a few words, for people.
    """

    meaning: str

    def __new__(cls, code: int, meaning: str) -> Self:
        """Make a member that carries its meaning."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    DONE = 0, "done, and what was looked at is all right"
    UNEXPECTED = 1, "unexpected: a fault in Holdfast, or a promise was broken"
    USAGE = 2, "the words on the command line make no sense"
    NOT_FOUND = 3, "what was asked for is not there, or not there any more"
    CONFLICT = 4, "somebody else was first, or the state does not allow it"
    UNAVAILABLE = 5, "the store cannot be reached or opened, or is not ready"
    RUN_FAILED = 6, "the run that was watched failed"
    RUN_CANCELLED = 7, "the run that was watched was cancelled"
    INPUT_NEEDED = 8, "somebody has to answer or confirm first"
    DAMAGED = 9, "damage found"
    NO_STORE = 10, "there is no store"
    LOCKED = 11, "another owner holds the store"
    KEY_REFUSED = 12, "a key is missing or wrong"
    UNCHECKED = 13, "the check could not complete; nothing is known"
    VERSION = 14, "the store was written by another version"
    HANDED_OVER = 15, "it ended in time, and work under way was left to the next one"
    TIMEOUT = 124, "time ran out"
    INTERRUPTED = 130, "ended by Ctrl-C"
    UNHEARD = 141, "whoever read the output went away"


EXITS: Final[dict[type[HoldfastError], Exit]] = {
    HoldfastError: Exit.UNEXPECTED,
    StoreError: Exit.UNAVAILABLE,
    DamagedError: Exit.DAMAGED,
    KeyMissingError: Exit.KEY_REFUSED,
    KeyWrongError: Exit.KEY_REFUSED,
    MigrationChangedError: Exit.VERSION,
    OutcomeForgottenError: Exit.NOT_FOUND,
    TooManyError: Exit.UNAVAILABLE,
    UnauthorizedError: Exit.KEY_REFUSED,
    ForbiddenError: Exit.KEY_REFUSED,
    CursorResetError: Exit.NOT_FOUND,
    SchemaNewerError: Exit.VERSION,
    StoreBusyError: Exit.LOCKED,
    UncheckedError: Exit.UNCHECKED,
    UnexpectedError: Exit.UNEXPECTED,
    ConflictError: Exit.CONFLICT,
    FenceError: Exit.CONFLICT,
    NotFoundError: Exit.NOT_FOUND,
    StoreNotFoundError: Exit.NO_STORE,
    StateError: Exit.CONFLICT,
    BootBudgetError: Exit.UNAVAILABLE,
    ChildFailedError: Exit.RUN_FAILED,
    ClosedError: Exit.UNAVAILABLE,
    EngineLostError: Exit.DAMAGED,
    EvaluationError: Exit.RUN_FAILED,
    NotReadyError: Exit.UNAVAILABLE,
    RunCancelledError: Exit.RUN_CANCELLED,
    RunFailedError: Exit.RUN_FAILED,
    StageFailedError: Exit.RUN_FAILED,
    StepFailedError: Exit.RUN_FAILED,
    TooOldError: Exit.NOT_FOUND,
    CodecError: Exit.USAGE,
    DamagedFileError: Exit.DAMAGED,
    DecodeError: Exit.UNCHECKED,
    NotRestoredError: Exit.DAMAGED,
}
"""An exit code per family, and per error that differs from its family."""


def exit_of(error: HoldfastError) -> Exit:
    """Return how a command ends that met this error."""
    if isinstance(error, StoreRefusedError) and error.report:
        # The guard looked at the files and kept a copy: they are not what was left behind.
        return Exit.DAMAGED
    if isinstance(error, UncheckedError) and error.findings:
        return Exit.DAMAGED
    return next(EXITS[kind] for kind in type(error).__mro__ if kind in EXITS)


def exit_of_check(error: HoldfastError) -> Exit:
    """Return how a check ends that met this error: what it could not reach, it did not check."""
    found = exit_of(error)
    return Exit.UNCHECKED if found in (Exit.UNAVAILABLE, Exit.LOCKED) else found
