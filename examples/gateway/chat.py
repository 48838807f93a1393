"""What the gateway remembers of a conversation, and how it knows one again."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from holdfast import BUFFERED, field, state

KNOWN = ("x-session-id",)
LEARNED = ("x-thread-id",)
WEIGHT = 0.25


@dataclass(frozen=True)
class Turn:
    """One turn: what was asked under which id, what came back, what it cost in micro-dollars."""

    turn: str
    generation: int
    text: str
    answer: str
    cost: int


@state(version=1)
class Chat:
    """
    A conversation.

    Attributes:
        transcript: all turns; durable before the client hears of them.
        turns: how many there were.
        cost: what they cost together, in micro-dollars; may miss one flush interval.
        input_tokens, output_tokens: averages by which the next turn is sized; both or neither.
        warm: how many messages the model has in its cache.
    """

    transcript: list[Turn] = field(default_factory=list)
    turns: int = field(default=0, kind="counter")
    cost: int = field(default=0, tier=BUFFERED, kind="counter")
    input_tokens: float | None = field(default=None, tier=BUFFERED, group="calibration")
    output_tokens: float | None = field(default=None, tier=BUFFERED, group="calibration")
    warm: int = field(default=0, tier=BUFFERED)

    def find(self, turn: str) -> Turn | None:
        """Return the turn with this id if it was answered already."""
        return next((each for each in self.transcript if each.turn == turn), None)

    def add(self, turn: Turn, said: Mapping[str, Any]) -> None:
        """Write down a turn that was answered."""
        self.transcript.append(turn)
        self.turns += 1
        self.cost += turn.cost
        self.input_tokens = _average(self.input_tokens, said["input_tokens"])
        self.output_tokens = _average(self.output_tokens, said["output_tokens"])
        self.warm = len(self.transcript)


class Asked(NamedTuple):
    """
    A request for a turn.

    Attributes:
        turn: id that the client gave it; the same when it is sent again.
        model: who is to answer.
        text: the message.
        names: what the conversation is known by in this request, strongest first.
        fingerprint: what it is known by if nobody named it: how it began.
    """

    turn: str
    model: str
    text: str
    names: list[str]
    fingerprint: str

    @classmethod
    def of(cls, headers: Mapping[str, str], body: Mapping[str, Any]) -> "Asked":
        """Read a request."""
        messages = body["messages"]
        names = [f"{name}={headers[name]}" for name in KNOWN + LEARNED if name in headers]
        digest = hashlib.sha256(messages[0].encode()).hexdigest()
        return cls(body["turn"], body["model"], messages[-1], names, f"begins={digest[:32]}")


def _average(before: float | None, now: float) -> float:
    return now if before is None else before + WEIGHT * (now - before)
