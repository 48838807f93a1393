"""
Every order of the SQL of several instances, on real SQLite.

Known mistakes of locking and caching are planted; a walk that does not convict them proves
nothing.
"""

from collections.abc import Callable, Iterator

import pytest

from holdfast.core.commit import Moment, Needs, State
from holdfast.store import effects
from holdfast.store.sqlite.connection import SqliteConnection
from holdfast.store.sqlite.transaction import Known, SqliteTransaction
from holdfast.testing.schedules import Walk, explore

pytestmark = pytest.mark.lab

# The others are longer; `python -m tests.lab` walks them.
SHORT = ("append", "record", "counter", "fence", "close", "trim", "read")
Begin = Callable[[SqliteTransaction, Needs], tuple[State, Moment, Iterator[int]]]


def convicted(name: str) -> Walk:
    """Walk until the first violation."""
    walk = explore(name, first_only=True)
    print(walk)
    assert walk.violations, f"{walk} found nothing"
    return walk


@pytest.mark.parametrize("name", SHORT)
def test_every_order_of_two_instances_is_as_good_as_one_after_the_other(name: str) -> None:
    """X5, F14, F15. All orders; answers, reads and content equal a serial order's."""
    walk = explore(name)
    print(f"{name}: {walk}")
    assert walk.complete
    assert not walk.violations, "\n".join(walk.failures)
    # "Sometimes": the walk was worth it.
    assert walk.schedules >= 60
    assert walk.contended or name == "read"
    assert walk.outcomes > 1 or name in {"counter", "read"}


def test_an_order_is_replayed_by_its_choices() -> None:
    assert explore("record", only=[0, 1, 0, 1]).steps == explore("record", only=[0, 1, 0, 1]).steps


def test_refusals_that_are_left_out_change_nothing() -> None:
    """The reduction is sound on the scenario that is small enough to walk without it."""
    few, all_of_them = explore("record"), explore("record", refusals=True)
    assert few.complete and all_of_them.complete
    assert few.schedules < all_of_them.schedules
    assert few.outcomes == all_of_them.outcomes
    assert not all_of_them.violations


def test_a_check_outside_the_transaction_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what the decision rests on is loaded before the lock is taken."""
    begin: Begin = SqliteTransaction.begin

    def checks_first(self: SqliteTransaction, wanted: Needs) -> tuple[State, Moment, Iterator[int]]:
        before = State()
        effects.load(self._main, wanted, before)
        _, moment, positions = begin(self, wanted)
        return before, moment, positions

    monkeypatch.setattr(SqliteTransaction, "begin", checks_first)
    convicted("record")


def test_a_lock_taken_late_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: BEGIN without IMMEDIATE, so that what is known may be old before it is checked."""
    script = SqliteConnection.script

    def deferred(self: SqliteConnection, text: str, bindings: object = None) -> None:
        script(self, "BEGIN" if text == "BEGIN IMMEDIATE" else text, bindings)  # type: ignore[arg-type]

    monkeypatch.setattr(SqliteConnection, "script", deferred)
    convicted("append")


def test_a_cache_that_is_not_dropped_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: what another instance wrote leaves the cache as it is."""
    monkeypatch.setattr(Known, "forget", lambda self: None)
    convicted("counter")


def test_an_unchecked_fence_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a lease counts as owned whatever its generation is."""
    monkeypatch.setattr("holdfast.core.lease._owned", lambda row, *_: row)
    convicted("fence")
