"""
What the stages of the release graph do: small things that depend on what went before.

The French branch fails, so the fan-in takes another one. The first composition asks for a retry.
The test fails at first, so that the goal gate sends the graph back from its exit.
"""

from typing import Any

from holdfast import StageOutcome


def stage(step: Any, node: Any, ctx: Any) -> StageOutcome:
    """Do what a node says; its text says which visit of it this is."""
    visits = {**ctx.get("visits", {}), node.id: ctx.get("visits", {}).get(node.id, 0) + 1}
    text = f"{node.attributes.get('prompt')} ({visits[node.id]})"
    fields = {"visits": visits, "last_stage": node.id, f"text.{node.id}": text}
    if node.id == "french":
        return StageOutcome(status="fail", failure_reason="no translator", context_updates=fields)
    if node.id == "test" and visits["test"] == 1:
        return StageOutcome(status="fail", failure_reason="a dead link", context_updates=fields)
    if node.id == "compose" and visits["compose"] == 1 and step.attempt == 1:
        return StageOutcome(status="retry", failure_reason="too long")
    return StageOutcome(context_updates=fields, score=2.0 if node.id == "polish" else 1.0)
