"""
Every order of the SQL of several instances on one real SQLite file.

Each instance is a real driver with connections of its own. Before every SQL statement it stops
and the baton says who goes on; `explore` walks all these choices, depth first, from the same
start. An instance that finds the store busy waits until another one has finished an operation.

    walk = explore("fence")
    assert walk.schedules > 100 and not walk.violations

After each schedule everything has to be as if the operations had run one after the other, in
the order in which they were finished: every answer, every read (of some moment between its
begin and its end), and what is in the store, as the oracle says; and `verify` finds nothing.

While one instance holds the write lock, the `BEGIN IMMEDIATE` of another is refused wherever it
comes and changes nothing; and a read that is asked for inside of the other's transaction has to
see what it has to see when it is asked for right behind the `BEGIN`. Of such equal orders one
is walked; all of them with `refusals`. The statements of a read go between any two others.
"""

import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import apsw

from holdfast.core import codec
from holdfast.core.event import Event
from holdfast.core.key import Key
from holdfast.core.unit import (
    Append,
    AtSequence,
    AtVersion,
    CloseStream,
    Committed,
    Fence,
    GrantLease,
    PatchRecord,
    PutRecord,
    RenewLease,
    TrimStream,
    Unit,
)
from holdfast.testing.orders.turns import Baton, Instance, Judge, content_in

__all__ = ["SCENARIOS", "Scenario", "Walk", "explore"]

_MEMORY: Final = Path("/dev/shm")
_CHECKPOINT_EVERY: Final = 200
_FAILURES_KEPT: Final = 5


@dataclass(frozen=True, slots=True)
class Scenario:
    """
    What the instances do.

    Attributes:
        start: units committed before; every schedule begins behind them.
        programs: what each instance does, in a thread of its own.
    """

    start: tuple[Unit, ...]
    programs: "tuple[Callable[[Instance], None], ...]"


@dataclass(slots=True)
class Walk:
    """
    What was walked and what it showed.

    Attributes:
        schedules: different orders that were run to their end.
        steps: statements in all of them.
        contended: schedules in which an instance found the store busy.
        outcomes: how many different ends there were.
        violations: schedules that are not as if one operation came after the other.
        failures: the first of them in words, each with the choices that replay it.
        complete: whether every order was walked.
    """

    schedules: int = 0
    steps: int = 0
    contended: int = 0
    outcomes: int = 0
    violations: int = 0
    failures: list[str] = field(default_factory=list[str])
    complete: bool = False


class _Stage:
    """The file, the instances on it, and the way back to the start."""

    def __init__(self, folder: Path, scenario: Scenario, *, refusals: bool) -> None:
        self._scenario = scenario
        self._judge = Judge()
        self.baton = Baton(len(scenario.programs), refusals=refusals)
        path = folder / "a.db"
        count = len(scenario.programs)
        self.instances = [Instance(path, n, self._judge, self.baton) for n in range(count)]
        for instance in self.instances:
            instance.open()
        for unit in scenario.start:
            self.instances[0].do(*unit.writes)
        self._oracle = self._judge.oracle
        self._start = apsw.Connection(":memory:")
        self._raw = apsw.Connection(str(path))
        _copy_database(self._raw, self._start)
        self._sound: set[object] = set()
        self._restored = 0
        self._threads = [
            threading.Thread(target=self._play, args=(number,), daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def outcomes(self) -> int:
        return len(self._sound)

    def run(self, prefix: list[int]) -> list[str]:
        """Run one schedule from the start and return what is wrong."""
        _copy_database(self._start, self._raw)
        self._restored += 1
        if self._restored % _CHECKPOINT_EVERY == 0:
            self._raw.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        self._judge.begin_again(self._oracle)
        for instance in self.instances:
            instance.begin_again()
        self.baton.run(prefix)
        wrong = [one for instance in self.instances for one in instance.wrong]
        return wrong or self._examine()

    def close(self) -> None:
        self.baton.dismiss()
        for thread in self._threads:
            thread.join()
        for instance in self.instances:
            instance.close()
        self._raw.close()
        self._start.close()

    def _play(self, number: int) -> None:
        while True:
            self.baton.await_turn(number)
            if not self.baton.open:
                return
            self.instances[number].play(self._scenario.programs[number])
            self.baton.end(number)

    def _examine(self) -> list[str]:
        """Look at the store after a schedule; equal stores are verified once."""
        instance = self.instances[0]
        with instance.reading() as reader:
            content = content_in(reader)
        expected = self._judge.content()
        if content != expected:
            return [f"the store holds {content!r} instead of {expected!r}"]
        seen = repr(content)
        if seen not in self._sound:
            if findings := list(instance.verify()):
                return [f"verify: {findings[0]}"]
            self._sound.add(seen)
        return []


def _copy_database(source: apsw.Connection, target: apsw.Connection) -> None:
    with target.backup("main", source, "main") as backup:
        backup.step()


def explore(
    name: str,
    *,
    refusals: bool = False,
    first_only: bool = False,
    only: list[int] | None = None,
) -> Walk:
    """
    Walk all orders of a scenario.

    Args:
        name: one of `SCENARIOS`.
        refusals: walk also the orders that differ only in where a refused lock was asked for.
        first_only: end with the first violation.
        only: run this one schedule, by its choices as a failure names them.
    """
    above = _MEMORY if _MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="holdfast-", dir=above))
    stage = _Stage(folder, SCENARIOS[name], refusals=refusals)
    try:
        return _walk(name, stage, only or [], once=only is not None, first_only=first_only)
    finally:
        stage.close()
        shutil.rmtree(folder)


def _walk(name: str, stage: _Stage, choices: list[int], *, once: bool, first_only: bool) -> Walk:
    walk, baton = Walk(), stage.baton
    while not (once and walk.schedules) and not (first_only and walk.violations):
        wrong = stage.run(choices)
        walk.schedules += 1
        walk.steps += len(baton.choices)
        walk.contended += baton.contended
        if wrong:
            walk.violations += 1
            if len(walk.failures) < _FAILURES_KEPT:
                replay = f"explore({name!r}, only={baton.choices})"
                walk.failures.append(f"{wrong[0]}; replay: {replay}")
        # The last choice that can still be another one is; what came behind it is open again.
        choices = baton.choices
        while choices and choices[-1] + 1 >= baton.options[len(choices) - 1]:
            choices.pop()
        if not choices:
            walk.complete = True
            break
        choices[-1] += 1
    walk.outcomes = stage.outcomes
    return walk


# What the instances do.

_KEY: Final[Key] = ("a",)


def _event(instance: Instance, number: int) -> Event:
    return Event.of("happened", [instance.number, number])


def _put(value: int) -> PutRecord:
    return PutRecord("session", _KEY, codec.encode({"n": value}))


def _appends(instance: Instance) -> None:
    """Append where the stream begins, then wherever it ends."""
    instance.do(Append("s", (_event(instance, 1),)), expects=(AtSequence("s", 1),))
    instance.do(Append("s", (_event(instance, 2),)), Append("t", (_event(instance, 3),)))


def _compares_and_sets(instance: Instance) -> None:
    """Write a record if nobody wrote it since it was read."""
    version = instance.record("session", _KEY)
    instance.do(_put(instance.number), expects=(AtVersion("session", _KEY, version),))


def _adds_once(instance: Instance) -> None:
    instance.do(PatchRecord("session", _KEY, {}, {"n": 1}))


def _adds(instance: Instance) -> None:
    _adds_once(instance)
    _adds_once(instance)


def _adds_more(instance: Instance) -> None:
    _adds(instance)
    _adds_once(instance)


def _grants(instance: Instance) -> None:
    instance.do(GrantLease("k", 10.0, "first"))


def _owns(instance: Instance) -> None:
    """Take the lease and write under it; its end is never reached on this clock."""
    answer = instance.do(GrantLease("k", 10.0, "first"))
    if isinstance(answer, Committed):
        fence = Fence("k", answer.leases[0].generation, instance.incarnation)
        instance.do(_put(instance.number), expects=(fence,))
        instance.do(Append("s", (_event(instance, 1),)), RenewLease("k", fence.generation, 10.0))


def _takes_over(instance: Instance) -> None:
    """Find the lease expired, or free, and write under it."""
    instance.clock.advance(60.0)
    answer = instance.do(GrantLease("k", 10.0, "second"))
    if isinstance(answer, Committed):
        fence = Fence("k", answer.leases[0].generation, instance.incarnation)
        instance.do(Append("s", (_event(instance, 2),)), expects=(fence,))


def _closes(instance: Instance) -> None:
    instance.do(Append("s", (_event(instance, 1),)))
    instance.do(CloseStream("s"))


def _trims(instance: Instance) -> None:
    instance.do(Append("s", (_event(instance, 1), _event(instance, 2))))
    instance.do(TrimStream("s", 3))


def _reads(instance: Instance) -> None:
    instance.events("s", 0)


def _reads_on(instance: Instance) -> None:
    instance.events("s", 1)
    instance.record("session", _KEY)
    instance.events("s", 0)


_BEGUN: Final = (Unit((Append("s", (Event.of("begun", 0),)), _put(9))),)

SCENARIOS: Final[Mapping[str, Scenario]] = MappingProxyType(
    {
        "append": Scenario(_BEGUN, (_appends, _appends)),
        "record": Scenario(_BEGUN, (_compares_and_sets, _compares_and_sets)),
        "counter": Scenario(_BEGUN, (_adds, _adds)),
        "fence": Scenario(_BEGUN, (_owns, _takes_over)),
        "close": Scenario(_BEGUN, (_closes, _appends)),
        "trim": Scenario(_BEGUN, (_trims, _appends)),
        "read": Scenario(_BEGUN, (_trims, _reads)),
        "read on": Scenario(_BEGUN, (_trims, _reads_on)),
        "counter on": Scenario(_BEGUN, (_adds_more, _adds_more)),
        "three": Scenario(_BEGUN, (_grants, _takes_over, _adds_once)),
    }
)
