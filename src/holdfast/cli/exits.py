"""
Exit codes: what a script may conclude from how a command ended.

Damage found and could-not-check are two things: a check that did not run proves nothing.
"""

from enum import IntEnum
from typing import Final

from holdfast.core.errors import (
    CodecError,
    ConflictError,
    DamagedError,
    DamagedFileError,
    DecodeError,
    FenceError,
    HoldfastError,
    NotFoundError,
    StoreNotFoundError,
    StoreRefusedError,
    TooOldError,
)


class Ending(IntEnum):
    """How a command ended."""

    DONE = 0
    """It did what was asked, and what it looked at is all right."""

    BROKEN = 1
    """Damage was found, or a promise was broken."""

    USAGE = 2
    """The words on the command line make no sense."""

    UNCHECKED = 3
    """The store could not be opened, reached or checked; nothing is known about its content."""

    CONFLICT = 4
    """Somebody else was first, or the target holds something else already."""

    ABSENT = 5
    """What was asked for is not there, or not there any more."""

    FAULT = 70
    """A fault in Holdfast itself."""

    INTERRUPTED = 130
    """Ended by Ctrl-C."""

    UNHEARD = 141
    """Whoever read the output went away."""


EXIT_CODES: Final = (
    "Exit codes: 0 done; 1 damage found or promise broken; 2 usage; 3 store refused or could "
    "not be checked; 4 conflict; 5 not found; 70 fault in Holdfast; 130 interrupted."
)

_FAMILIES: Final[tuple[tuple[type[HoldfastError], Ending], ...]] = (
    (DamagedError, Ending.BROKEN),
    (DamagedFileError, Ending.BROKEN),
    (DecodeError, Ending.UNCHECKED),
    (CodecError, Ending.USAGE),
    (ConflictError, Ending.CONFLICT),
    (FenceError, Ending.CONFLICT),
    (StoreNotFoundError, Ending.UNCHECKED),
    (NotFoundError, Ending.ABSENT),
    (TooOldError, Ending.ABSENT),
)


def ending_of(error: HoldfastError) -> Ending:
    """Return how a command ends that met this error."""
    if isinstance(error, StoreRefusedError) and error.report:
        # The guard looked at the files and kept a copy: they are not what was left behind.
        return Ending.BROKEN
    for family, ending in _FAMILIES:
        if isinstance(error, family):
            return ending
    return Ending.UNCHECKED
