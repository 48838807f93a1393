"""What tests of engines in general have in common: counters, attached and asked."""

from typing import Any

from holdfast import Runtime
from holdfast.core.engine import stream_of
from holdfast.runtime.engines.attached import AttachedEngine, MemoryStatus
from holdfast.runtime.engines.snapshot import Cadence
from tests.runtime.tally import Tally, TallyEngine

SELDOM = Cadence(requests=10**6, seconds=1e9, idle=1e9, on_close=False)
STREAM = stream_of("counts", ())


def add(hands: Tally, name: str, count: int = 1) -> int:
    """Add to a counter and say what it is then."""
    return hands.add(name, count)


def counts(hands: Tally) -> dict[str, int]:
    """Look at all counters."""
    return dict(hands.counts)


async def attach(rt: Runtime, engine: TallyEngine | None = None, **more: Any) -> AttachedEngine:
    """Attach counters whose snapshots are made by hand."""
    return await rt.engines.attach("counts", engine or TallyEngine(), **{"cadence": SELDOM, **more})


def only(attached: AttachedEngine) -> MemoryStatus:
    """Return the status of the one memory that is loaded."""
    [status] = attached.memories()
    return status
