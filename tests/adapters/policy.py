"""What tests of CLIPS engines have in common."""

from typing import Any

from holdfast import Runtime
from holdfast.adapters.clips import ClipsEngine, Hands
from holdfast.core.clock import StoreTime
from holdfast.runtime.engines.attached import AttachedEngine
from holdfast.runtime.engines.snapshot import Cadence

LOGICAL = """
(defrule derive (logical (base ?x)) => (assert (derived ?x)))
"""
SELDOM = Cadence(requests=10**6, seconds=1e9, idle=1e9, on_close=False)
HOLDER = "(deftemplate holder (slot v) (multislot m))"
NOW = StoreTime("here", 1.0)


async def attach(rt: Runtime, rules: str, **more: Any) -> AttachedEngine:
    """Attach rules whose snapshots are made by hand."""
    return await rt.engines.attach("policy", ClipsEngine(rules, **more), cadence=SELDOM)


def look(clips: Hands) -> list[Any]:
    """Return what is there in plain values."""
    return [[fact.index, fact.template, repr(fact.values)] for fact in clips.facts()]
