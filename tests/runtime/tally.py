"""
A tiny engine: counters in a plain object.

It shares nothing with a rule engine but the protocol, so what the tests show with it is shown
of the keeping and not of CLIPS.
"""

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from random import Random
from typing import Any

from holdfast.core import codec
from holdfast.core.clock import StoreTime
from holdfast.core.engine import Request
from holdfast.core.refusal import EvaluationError, NotCapturedError, NotRestoredError


class Tally:
    """Counters by name: one memory."""

    def __init__(self, engine: "TallyEngine") -> None:
        self.engine = engine
        self.counts: dict[str, int] = {}
        self.random = Random(0)
        self.operations: list[Any] = []
        self.heard: list[Any] = []
        self.told: list[Any] | None = None

    @property
    def hands(self) -> "Tally":
        """The memory itself: it has nothing to hide."""
        return self

    def add(self, name: str, count: int = 1) -> int:
        """Add to a counter."""
        return self._do(["add", name, count])

    def draw(self, name: str) -> int:
        """Set a counter to something drawn."""
        return self._do(["draw", name])

    def ask(self, name: str) -> int:
        """Set a counter to what the program says."""
        return self._do(["ask", name])

    def fail(self) -> None:
        """Do something that fails half-way."""
        self._do(["add", "half", 1])
        raise EvaluationError(reason="asked to")

    def _do(self, operation: list[Any]) -> int:
        self._execute(operation)
        self.operations.append(operation)
        return self.counts[operation[1]]

    def _execute(self, operation: list[Any]) -> None:
        match operation:
            case ["add", name, count]:
                self.counts[name] = self.counts.get(name, 0) + count * self.engine.factor
            case ["draw", name]:
                self.counts[name] = self.random.randrange(1_000_000)
            case ["ask", name]:
                answer = self.engine.outside() if self.told is None else self.told.pop(0)
                self.heard.append(answer)
                self.counts[name] = answer
            case _:
                raise NotRestoredError(reason="unknown operation")

    def begin(self, seed: int, now: StoreTime, wall: float) -> None:
        """Begin a request."""
        self.random = Random(seed)
        self.operations, self.heard, self.told = [], [], None

    def end(self) -> Request:
        """Return what was done."""
        facts = blake2b(codec.encode(dict(sorted(self.counts.items()))), digest_size=16).digest()
        return Request(self.operations, self.heard, len(self.operations), b"", facts)

    def redo(self, request: Request, seed: int) -> Request:
        """Do it again."""
        self.engine.step("redo")
        self.random = Random(seed)
        self.operations, self.heard, self.told = request.operations, [], list(request.heard)
        for operation in request.operations:
            self._execute(operation)
        return self.end()

    def plain(self, value: Any) -> Any:
        """Return the value: it is plain."""
        return value

    def contents(self) -> list[Any]:
        """Return the counters."""
        return sorted(self.counts.items())

    def take(self, contents: list[Any]) -> None:
        """Take counters over."""
        for name, count in contents:
            self.add(name, count)

    def capture(self) -> Iterator[bytes]:
        """Give the counters, one by one."""
        if "secret" in self.counts:
            raise NotCapturedError(reason="there is a secret")
        yield codec.encode(len(self.counts))
        yield b""
        for name, count in sorted(self.counts.items()):
            self.engine.step("capture")
            yield codec.encode([name, count + self.engine.forgets])

    def restore(self, parts: Iterable[bytes]) -> Iterator[None]:
        """Take the counters, one by one."""
        for part in parts:
            self.engine.step("restore")
            if isinstance(counter := codec.decode(part), list):
                self.counts[counter[0]] = counter[1]
            yield

    def close(self) -> None:
        """Hold nothing."""
        self.counts.clear()
        self.engine.closed.append(self)


class TallyEngine:
    """
    Rules that say by what to multiply.

    Attributes:
        step: is called before each step of upkeep with its name; may let time pass, or raise.
        made, closed: memories.
    """

    def __init__(
        self,
        factor: int = 1,
        outside: Callable[[], int] = int,
        forgets: int = 0,
        step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.factor = factor
        self.outside = outside
        self.forgets = forgets
        self.step = step
        self.made: list[Tally] = []
        self.closed: list[Tally] = []

    @property
    def fingerprint(self) -> str:
        """Names the rules."""
        return f"tally {self.factor}"

    @property
    def description(self) -> Any:
        """The rules."""
        return self.factor

    def earlier(self, description: Any) -> "TallyEngine":
        """Return the engine of other rules."""
        return TallyEngine(description)

    def wait(self) -> None:
        """Hold up nobody."""

    def fresh(self) -> Tally:
        """Return no counters."""
        self.made.append(Tally(self))
        return self.made[-1]
