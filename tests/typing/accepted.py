"""User code that must type-check."""

from typing import Any

import holdfast
from holdfast import BUFFERED, Append, AtSequence, Event, Outcome, RecordedEvent, Unit, field, state


def renamed(fields: dict[str, Any]) -> dict[str, Any]:
    """Bring the first version up to the second."""
    return {**fields, "files": fields.pop("count", 0)}


@state(version=2, upcast={1: renamed}, history=True, ttl=3600.0)
class Totals:
    """Running totals."""

    files: int = 0
    low: int = field(default=0, tier=BUFFERED, group="range", kind="counter")
    width: int = field(derived=lambda totals: totals.low)
    names: list[str] = field(default_factory=list)
    seen: float = field(default=0.0, tier=BUFFERED)


async def use(url: str) -> int:
    """Use the nouns of a runtime."""
    async with holdfast.open(url, flush_interval=0.5, redact=["password"], read_only=False) as rt:
        history = rt.history("chat/user-42")
        event: RecordedEvent = await history.append("turn_added", {"text": "hello"}, expected=0)
        async for found in history.follow(after=event.sequence):
            sequence: int = found.sequence
            assert sequence
        unit = Unit((Append("a", (Event.of("b", 1),)),), (AtSequence("a", 0),), rt.unit_id())
        await rt.commit(unit)
        outcome: Outcome = await rt.outcome(unit.id)
        assert outcome is Outcome.COMMITTED
        async with rt.session(Totals, ("bank", "source")) as session:
            async with session.edit() as totals:
                totals.files += 1
                totals.names.append("x")
            value: Totals = session.value
            saved: frozenset[str] = session.saved
            assert saved
        reached = await rt.sessions.reach(Totals, ["hdr:1"], within=60.0)
        there: Totals = reached.value
        assert there.width == 0
        known: tuple[str, ...] | None = (await rt.sessions.find(Totals, ["hdr:1"])).key
        assert known == reached.key
        latch = await rt.latches.set("model", "gpt", "slow", ttl=60)
        left: float | None = latch.remaining
        assert left
        async with await rt.leases.grant("job", 30) as lease:
            generation: int = lease.generation
        return value.files + generation
