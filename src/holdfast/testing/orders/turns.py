"""
Instances of an SQLite store that take turns before each SQL statement, and what judges them.

`Instance` is the real driver; `Baton` says which of several instances goes on, `Judge` tells
the oracle what each of them did. `holdfast.testing.orders.schedules` walks all orders with them.
"""

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

from holdfast.core.clock import StoreTime
from holdfast.core.commit import State
from holdfast.core.errors import StoreBusyError, TooOldError
from holdfast.core.ids import Ids
from holdfast.core.key import Key
from holdfast.core.unit import Expectation, Unit, Write
from holdfast.core.world import World
from holdfast.store import rows
from holdfast.store.options import Options
from holdfast.store.port import Answer
from holdfast.store.reader import Reader
from holdfast.store.sqlite.connection import SqliteConnection
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.testing.clock import ManualClock
from holdfast.testing.oracle import Kept, Oracle, agrees

__all__ = ["Baton", "Instance", "Judge", "content_in"]

_LOCK: Final = "BEGIN IMMEDIATE"
_READ: Final = "a read is asked for"
# Inside of another's transaction these find the lock taken, or find what they would find right
# behind its begin; so they are not worth an order of their own at each of its statements.
_NOT_INSIDE: Final = frozenset({_LOCK, _READ})


class Baton:
    """
    Who may run: one instance at a time, chosen anew before each statement.

    Attributes:
        choices: which of those who could go on did, at each step; all are at their first
            statement before the first choice.
        options: how many could go on, at each step.
        contended: an instance found the store busy.
        open: nobody was dismissed yet.
    """

    def __init__(self, count: int, *, refusals: bool) -> None:
        """
        Take how many instances there are.

        Args:
            count: number of instances.
            refusals: also walk orders that differ only in where a refused lock was asked for.
        """
        self.choices: list[int] = []
        self.options: list[int] = []
        self.contended = False
        self.open = True
        self._refusals = refusals
        self._next = [""] * count
        self._holder = -1
        self._held_since = 0
        self._gates = [threading.Semaphore(0) for _ in range(count)]
        self._over = threading.Semaphore(0)
        self._prefix: list[int] = []
        self._running: set[int] = set()
        self._to_start: list[int] = []
        self._waiting: set[int] = set()

    def run(self, prefix: list[int]) -> None:
        """Run one schedule: the choices given, then always the first there is."""
        self._prefix, self.choices, self.options = prefix, [], []
        self.contended = False
        self._running = set(range(len(self._gates)))
        self._next = [""] * len(self._gates)
        self._waiting.clear()
        self._holder = -1
        self._to_start = sorted(self._running)
        self._pass_on()
        self._over.acquire()

    def await_turn(self, number: int) -> None:
        """Wait until this instance is chosen."""
        self._gates[number].acquire()

    def step(self, number: int, statement: str = "") -> None:
        """Let somebody go on, perhaps the caller, who is about to run a statement."""
        self._next[number] = statement
        if self._holder == number:
            self._held_since += 1
        if self._pass_on(number) != number:
            self.await_turn(number)
        if statement == _LOCK and self._holder < 0:
            self._holder, self._held_since = number, 0

    def busy(self, number: int) -> None:
        """Go on only when another instance has finished an operation."""
        self.contended = True
        self._waiting.add(number)
        self.step(number)

    def finished_operation(self, number: int) -> None:
        """Let those who found the store busy try again."""
        self._waiting.clear()
        if self._holder == number:
            self._holder = -1

    def end(self, number: int) -> None:
        """Leave the schedule; the last one ends it."""
        self._running.discard(number)
        self._waiting.clear()
        if self._running:
            self._pass_on()
        else:
            self._over.release()

    def dismiss(self) -> None:
        """Send everybody home."""
        self.open = False
        for gate in self._gates:
            gate.release()

    def _pass_on(self, caller: int = -1) -> int:
        chosen = self._to_start.pop(0) if self._to_start else self._choose()
        if chosen != caller:
            self._gates[chosen].release()
        return chosen

    def _choose(self) -> int:
        able = sorted(filter(self._may_run, self._running - self._waiting))
        able = able or sorted(self._running)
        at = len(self.choices)
        choice = self._prefix[at] if at < len(self._prefix) else 0
        self.choices.append(choice)
        self.options.append(len(able))
        return able[choice]

    def _may_run(self, number: int) -> bool:
        """Leave out a refusal that equals one that is walked: right behind the lock."""
        return (
            self._refusals
            or self._next[number] not in _NOT_INSIDE
            or self._holder in {-1, number}
            or self._held_since == 1
        )


class Instance(SqliteDriver):
    """
    One opening of the store, stopping before each statement.

    Attributes:
        number: which one it is.
        clock: its own; two instances need not agree on the time.
        wrong: what it was told and should not have been.
    """

    def __init__(self, path: Path, number: int, judge: "Judge", baton: Baton) -> None:
        """Take the file, its number, and who says when it may go on."""
        self.clock = ManualClock()
        self.wrong: list[str] = []
        self.number = number
        self._judge = judge
        self._baton = baton
        self._stepping = False
        self._rng = Random(number)
        self._unit_ids = Ids(lambda count: self._rng.randbytes(count))
        world = World(clock=self.clock, ids=Ids(Random(f"open/{number}").randbytes))
        super().__init__(path, Options(busy_wait=0.0, readers=1), world)

    def _connect(self, alone: bool) -> list[str]:
        notes = super()._connect(alone)
        self._connection().raw.exec_trace = self._trace
        return notes

    def _connect_reader(self) -> SqliteConnection:
        connection = super()._connect_reader()
        connection.raw.exec_trace = self._trace
        return connection

    def _trace(self, cursor: object, statement: str, bindings: object) -> bool:
        if self._stepping:
            self._baton.step(self.number, statement)
        return True

    def begin_again(self) -> None:
        """Be as right after the opening, knowing nothing."""
        self.clock = self._world.clock = ManualClock()
        self.wrong.clear()
        self._rng.seed(self.number)
        self._known.state = State()
        self._known.data_version = -1
        self._known.number = self._known.position = 0

    def play(self, program: "Callable[[Instance], None]") -> None:
        """Run a program, stopping before each of its statements."""
        self._stepping = True
        try:
            program(self)
        except Exception as error:
            self.wrong.append(f"{type(error).__name__}: {error}")
        finally:
            self._stepping = False

    @property
    def incarnation(self) -> bytes:
        """Return the id of this opening."""
        return self._known.incarnation

    def do(self, *writes: Write, expects: tuple[Expectation, ...] = ()) -> Answer:
        """Commit a unit, as often as it takes, and return its answer."""
        unit = Unit(writes, expects, self._unit_ids.unit(self._known.number))
        while True:
            try:
                (answer,) = self.commit([unit]).units
            except StoreBusyError:
                self._baton.busy(self.number)
                continue
            self.wrong += self._judge.committed(self, unit, answer)
            self._baton.finished_operation(self.number)
            return answer

    def _ask(self) -> int:
        """Begin a read at some moment, and return what is the least it has to see."""
        self._baton.step(self.number, _READ)
        return self._judge.version

    def record(self, kind: str, key: Key) -> int:
        """Return the version of a record that has a value, or 0."""
        began = self._ask()
        with self.reading() as reader:
            found = reader.record(kind, key)
        seen = None if found is None else Kept(found.version, found.tag, found.value)
        self.wrong += self._judge.read_record(began, (kind, key), seen)
        return found.version if found is not None and found.value is not None else 0

    def events(self, stream: str, after: int) -> None:
        """Read a stream."""
        began = self._ask()
        try:
            with self.reading() as reader:
                head, page = reader.events(stream, after, 100)
            seen: object = head.last_sequence if head else 0, [row.payload for row in page]
        except TooOldError as error:
            seen = error.first_sequence
        self.wrong += self._judge.read_stream(began, stream, after, seen)


class Judge:
    """The oracle, told of each operation when it is finished; it remembers every state."""

    def __init__(self) -> None:
        """Begin with an empty store."""
        self.oracle = Oracle(StoreTime("", 0.0), b"")
        self.states = [self.oracle.state]

    @property
    def version(self) -> int:
        """Return how many units were finished."""
        return len(self.states) - 1

    def begin_again(self, oracle: Oracle) -> None:
        """Go back to where this oracle was."""
        self.oracle = copy.copy(oracle)  # A unit works on a copy of the state and replaces it.
        self.states = [self.oracle.state]

    def committed(self, instance: Instance, unit: Unit, answer: Answer) -> list[str]:
        """Say what is wrong with the answer to a unit that was just finished."""
        self.oracle.now = instance.clock.store_time()
        self.oracle.incarnation = instance.incarnation
        told = self.oracle.apply(unit)
        self.states.append(self.oracle.state)
        return [] if agrees(answer, told) else [f"answered {answer!r} instead of {told!r}"]

    def read_record(self, began: int, name: tuple[str, Key], seen: Kept | None) -> list[str]:
        """Say what is wrong with a record that was read since version `began`."""
        possible = [state.records.get(name) for state in self.states[began:]]
        return [] if seen in possible else [f"read {seen!r}, none of {possible!r}"]

    def read_stream(self, began: int, stream: str, after: int, seen: object) -> list[str]:
        """Say what is wrong with a page, or with the first sequence that retention left."""
        possible: list[object] = []
        for state in self.states[began:]:
            line = state.streams.get(stream)
            if line is None:
                possible.append((0, list[bytes]()))
            elif after < line.trimmed and after < len(line.events):
                possible.append(line.trimmed + 1)
            else:
                payloads = [payload for _, payload, _ in line.events[after:]]
                possible.append((len(line.events), payloads))
        return [] if seen in possible else [f"read {seen!r}, none of {possible!r}"]

    def content(self) -> object:
        """Return what the store has to hold now."""
        state = self.oracle.state
        return (
            {
                name: (line.trimmed + 1, line.closed, line.events[line.trimmed :])
                for name, line in state.streams.items()
            },
            state.records,
            {key: (held.generation, held.incarnation) for key, held in state.leases.items()},
        )


def content_in(reader: Reader) -> object:
    """Return what `Judge.content` says, from the store."""
    streams: dict[str, object] = {}
    for row in reader.pages("scan_heads", _behind):
        head = rows.read_head(row[1:])
        _, page = reader.events(head.name, head.first_sequence - 1, 1000)
        events = [(event.type, event.payload, event.meta) for event in page]
        streams[head.name] = (head.first_sequence, head.closed, events)
    records = [rows.read_record(row[1:]) for row in reader.pages("scan_records", _behind)]
    leases = [rows.read_lease(row[1:]) for row in reader.pages("scan_leases", _behind)]
    return (
        streams,
        {(one.kind, one.key): Kept(one.version, one.tag, one.value) for one in records},
        {one.key: (one.generation, one.incarnation) for one in leases},
    )


def _behind(row: rows.Row | None) -> dict[str, object]:
    return {"after": b"" if row is None else row[0]}
