"""
What an engine has to offer: a fresh memory, its fingerprint, and four verbs of a memory.

Holdfast knows no rule engine. Whatever can say what was done to it in plain values, and do it
again, can be kept: `adapters.clips` is one, a plain object with counters another.

A memory is used by one thread at a time. Between `begin` and `end` a caller's function works
on its `hands`; what it did comes out of `end`. In a replay `redo` does the same again and
executes nothing of the caller.

Invariant asked of an engine: two memories of the same fingerprint to which the same requests
were done, in order and with the same seeds, are equal in everything that can be observed.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from holdfast.core.clock import StoreTime
from holdfast.core.engine import Request


class Memory(Protocol):
    """
    One working memory.

    Attributes:
        hands: what a caller's function gets.
    """

    @property
    def hands(self) -> Any:
        """What a caller's function gets."""
        ...

    def begin(self, seed: int, now: StoreTime, wall: float) -> None:
        """Begin a request; what has outlived its time by now goes first."""
        ...

    def end(self) -> Request:
        """
        Return what was done since `begin`, with nothing in `operations` if nothing was.

        Raises:
            EvaluationError: a rule or a function failed; the memory is not to be used again.
            EncodeError: a value came in that cannot be kept exactly; the same.
        """
        ...

    def redo(self, request: Request, seed: int) -> Request:
        """
        Do a request again and return what came of it.

        Raises:
            NotRestoredError: it cannot be done to this memory.
        """
        ...

    def plain(self, value: Any) -> Any:
        """Return a caller's answer in plain values: words of the engine become strings."""
        ...

    def contents(self) -> list[Any]:
        """Return what other rules can take over, in whatever form a migration works on."""
        ...

    def take(self, contents: list[Any]) -> None:
        """
        Take over contents within a request; nothing fires because of it.

        Raises:
            HoldfastError: the rules do not take them.
        """
        ...

    def capture(self) -> Iterator[bytes]:
        """
        Give the whole state, part by part; equal states, equal parts.

        A part that is empty is none: there, as between two parts, somebody else may have a turn.

        Raises:
            NotCapturedError: it holds what the parts would lose.
        """
        ...

    def restore(self, parts: Iterable[bytes]) -> Iterator[None]:
        """
        Take the parts of a state, in order, into a memory that is fresh; step by step.

        Between two steps somebody else may have a turn, so a step is short.

        Raises:
            NotRestoredError: they are not the parts of a state of these rules.
        """
        ...

    def close(self) -> None:
        """Release what it holds, without a turn; it is not used again."""
        ...


class Engine(Protocol):
    """A kind of working memory: its rules."""

    @property
    def fingerprint(self) -> str:
        """Names the rules; another one means that memories are not interchangeable."""
        ...

    @property
    def description(self) -> Any:
        """The rules in plain values, kept so that what they made can be read after they changed."""
        ...

    def earlier(self, description: Any) -> "Engine":
        """Return the engine of a description, good for doing requests again."""
        ...

    def fresh(self) -> Memory:
        """Return an empty memory with the rules."""
        ...
