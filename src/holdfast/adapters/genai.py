"""
Runs and steps in the words of the OpenTelemetry conventions for generative AI.

These conventions are in development and change; this module alone knows them, and says by which
version. They are off unless one asks for them: `Traces(genai=GenAi())`.

A run is a workflow, or an agent if it has a label that names one; a step is a tool. Prompts,
answers and arguments are never in a span. Who knows how many tokens a step took says so on the
span of the step, which is the current one while it runs.
"""

from typing import Final

from holdfast.core.telemetry import Attributes, Span

SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"
"""Version of the conventions these names are from."""


class GenAi:
    """The names of the conventions, for the spans of Holdfast."""

    def __init__(self, *, agent: str = "agent", conversation: str = "session") -> None:
        """
        Take the labels of runs that say more.

        Args:
            agent: the label whose value is the name of an agent.
            conversation: the label whose value is the id of a session.
        """
        self._agent = f"run.label.{agent}"
        self._conversation = f"run.label.{conversation}"

    def of(self, span: Span) -> Attributes:
        """Return what the conventions say of a span."""
        if span.kind == "step":
            return {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": span.name,
                "gen_ai.tool.type": "function",
            }
        found: dict[str, str | int | float | bool] = {
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": span.name,
        }
        if agent := span.attributes.get(self._agent):
            found |= {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": agent}
        if conversation := span.attributes.get(self._conversation):
            found["gen_ai.conversation.id"] = conversation
        return found
