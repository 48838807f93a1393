"""
What the broker decides by: its rules, the catalogue that they ask, and one request to them.

`decide` is all that is done to the working memory of a session. What it returns is what the
client is told, what the audit says, and what a request that comes again is answered.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from holdfast.adapters.clips import ClipsEngine, Hands, Symbol

NAME: Final = "policy"
RULES: Final = Path(__file__).with_name("policy.clp")


class Source(NamedTuple):
    """
    Something that can be read.

    Attributes:
        kind: `public`, `private`, or `outside`: written by strangers.
        weight: how much it tells.
    """

    kind: str
    weight: int


CATALOGUE: Final = {
    f"{shelf}/{number}": Source(kind, 1 + number * 5 % 7)
    for shelf, kind in (("handbook", "public"), ("payroll", "private"), ("inbox", "outside"))
    for number in range(10)
}


def engine() -> ClipsEngine:
    """Return the rules as an engine; they ask the catalogue, which refuses what it lacks."""
    return ClipsEngine(RULES, functions={"kind-of": _kind_of, "weight-of": _weight_of})


def _kind_of(name: str) -> Symbol:
    return Symbol(CATALOGUE[name].kind)


def _weight_of(name: str) -> int:
    return CATALOGUE[name].weight


def decide(clips: Hands, id: str, sources: Sequence[str]) -> dict[str, Any]:
    """Decide a request of a session, and return the decision with what led to it."""
    clips.assert_fact("intent", id=id, sources=list(sources))
    clips.run()
    (decision,) = clips.facts("decision", intent=id)
    denials = clips.facts("denial", intent=id)
    new = clips.facts("exposure", intent=id)
    return {
        "decision": decision["verdict"],
        "rule": denials[0]["rule"] if denials else "",
        "reason": denials[0]["reason"] if denials else "",
        "exposed": {fact["source"]: fact["weight"] for fact in new},
        "fired": list(clips.fired()),
    }


def exposure(clips: Hands) -> dict[str, Any]:
    """Return what a session has seen, and how much that is by the sum the rules keep."""
    seen = {fact["source"]: fact["weight"] for fact in clips.facts("exposure")}
    return {"exposure": seen, "seen": sum(fact["seen"] for fact in clips.facts("agent"))}
