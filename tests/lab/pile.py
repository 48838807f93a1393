"""
A tiny rule engine: facts, and an agenda of those that did not fire yet.

Like a real one it loses something in a capture, the order of its agenda, so that a memory and
one restored from it go on differently; unlike a real one it is made in microseconds.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any

from holdfast.core import codec
from holdfast.core.clock import StoreTime
from holdfast.core.engine import Request
from holdfast.core.refusal import EvaluationError, NotRestoredError


class Pile:
    """One memory."""

    def __init__(self, engine: "PileEngine") -> None:
        self.engine = engine
        self.facts: dict[str, int] = {}
        self.agenda: list[str] = []
        self.fired: list[str] = []
        self.operations: list[Any] = []
        self.heard: list[Any] = []
        self.told: list[Any] = []
        self.before = 0

    @property
    def hands(self) -> "Pile":
        """The memory itself: it has nothing to hide."""
        return self

    def put(self, name: str, value: int) -> None:
        """Add to a fact; it is to fire."""
        self._do(["put", name, value])

    def ask(self, name: str) -> int:
        """Put what the program says."""
        self._do(["ask", name])
        return self.facts[name]

    def fire(self, limit: int) -> list[str]:
        """Fire so many, and return them."""
        before = len(self.fired)
        self._do(["fire", limit])
        return self.fired[before:]

    def fail(self) -> None:
        """Do something that fails half-way."""
        self._do(["put", "half", 1])
        raise EvaluationError(reason="asked to")

    def _do(self, operation: list[Any]) -> None:
        self._execute(operation)
        self.operations.append(operation)

    def _execute(self, operation: list[Any]) -> None:
        match operation:
            case ["put", name, value]:
                self.facts[name] = self.facts.get(name, 0) + value
                self.agenda.append(name)
            case ["ask", name]:
                answer = self.told.pop(0) if self.told else self.engine.outside()
                self.heard.append(answer)
                self.facts[name] = answer
            case ["fire", limit]:
                self.fired += self.agenda[:limit]
                del self.agenda[:limit]
            case _:
                raise NotRestoredError(reason="unknown operation")

    def begin(self, seed: int, now: StoreTime, wall: float) -> None:
        """Begin a request."""
        self.operations, self.heard, self.told = [], [], []
        self.before = len(self.fired)

    def end(self) -> Request:
        """Return what was done."""
        fired = self.fired[self.before :]
        trace, facts = _digest(fired), _digest([dict(sorted(self.facts.items())), self.fired])
        return Request(self.operations, self.heard, len(fired), trace, facts)

    def redo(self, request: Request, seed: int) -> Request:
        """Do it again."""
        self.operations, self.heard, self.told = request.operations, [], list(request.heard)
        self.before = len(self.fired)
        for operation in request.operations:
            self._execute(operation)
        return self.end()

    def plain(self, value: Any) -> Any:
        """Return the value: it is plain."""
        return value

    def contents(self) -> list[Any]:
        """Return the facts."""
        return sorted(self.facts.items())

    def take(self, contents: list[Any]) -> None:
        """Take facts over."""
        for name, value in contents:
            self.put(name, value)

    def capture(self) -> Iterator[bytes]:
        """Give everything but the order of the agenda."""
        yield codec.encode(["fired", self.fired])
        yield b""
        yield codec.encode(["agenda", sorted(self.agenda)])
        for name, value in sorted(self.facts.items()):
            yield codec.encode([name, value])

    def restore(self, parts: Iterable[bytes]) -> Iterator[None]:
        """Take the parts."""
        for part in parts:
            match codec.decode(part):
                case ["fired", list(names)]:
                    self.fired = names
                case ["agenda", list(names)]:
                    self.agenda = names
                case [str(name), int(value)] if not (self.engine.leaks and value % 2):
                    self.facts[name] = value
                case _:
                    pass
            yield

    def close(self) -> None:
        """Hold nothing."""


def _digest(value: Any) -> bytes:
    return blake2b(codec.encode(value), digest_size=16).digest()


class PileEngine:
    """Its rules: whether a restored memory leaks every odd fact."""

    fingerprint = "pile"

    def __init__(self, outside: Callable[[], int] = int, *, leaks: bool = False) -> None:
        self.outside = outside
        self.leaks = leaks

    @property
    def description(self) -> Any:
        """There is nothing to say."""
        return None

    def earlier(self, description: Any) -> "PileEngine":
        """Return itself: there were no other rules."""
        return self

    def fresh(self) -> Pile:
        """Return an empty memory."""
        return Pile(self)
