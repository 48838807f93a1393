"""What became of a unit whose answer was lost: all of it, or nothing."""

from enum import StrEnum

from holdfast.store.store import Store


class Outcome(StrEnum):
    """What became of a unit whose answer was lost."""

    COMMITTED = "committed"
    """All of it is durable."""

    ABSENT = "absent"
    """Nothing of it was written, and nothing will be."""


async def outcome_of(store: Store, unit_id: bytes | str) -> Outcome:
    """
    Say what became of a unit; final when it returns.

    Raises:
        OutcomeForgottenError: it is older than the outcomes that are kept.
    """
    raw = bytes.fromhex(unit_id) if isinstance(unit_id, str) else unit_id
    return Outcome.COMMITTED if await store.committed(raw) else Outcome.ABSENT
