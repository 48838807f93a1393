"""How an engine is kept: one value, given when it is attached."""

from typing import Final, TypedDict

import msgspec

from holdfast.core.errors import InvalidValueError
from holdfast.core.tier import DURABLE, EPHEMERAL, Tier
from holdfast.runtime.engines.audit import AuditKept
from holdfast.runtime.engines.place import Migrate
from holdfast.runtime.engines.snapshot import Cadence

IN_MEMORY: Final = 100


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How an engine is kept.

    Attributes:
        tier: `DURABLE` keeps a request before it is answered, `BUFFERED` with the next flush.
        cadence: when snapshots are made.
        in_memory: working memories that are kept after they were used.
        migrate: what of memories of other rules is taken over; None refuses them.
        audit: how much of its audit is kept.
    """

    tier: Tier = DURABLE
    cadence: Cadence = Cadence()
    in_memory: int = IN_MEMORY
    migrate: Migrate | None = None
    audit: AuditKept = AuditKept()

    def __post_init__(self) -> None:
        """
        Refuse what cannot work.

        Raises:
            InvalidValueError: the tier keeps nothing, or no memory is kept.
        """
        if self.tier is EPHEMERAL:
            raise InvalidValueError(what="tier", reason="keeps nothing; use the engine as it is")
        if self.in_memory < 1:
            raise InvalidValueError(what="in_memory", reason=f"is {self.in_memory}, 1 or more")


class Single(TypedDict, total=False):
    """Single fields of `EngineSettings`, given by name instead of it or beside it."""

    tier: Tier
    cadence: Cadence
    in_memory: int
    migrate: Migrate | None
    audit: AuditKept


def settings_with(settings: EngineSettings | None, single: Single) -> EngineSettings:
    """
    Return settings with some fields set.

    Raises:
        InvalidValueError: they cannot work.
    """
    return msgspec.structs.replace(settings or EngineSettings(), **single)
