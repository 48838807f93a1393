"""Each layer of the lab finds the bugs that are planted for it, and nothing in a sound store."""

import sys
from collections.abc import Callable

import pytest

from holdfast.testing.faults import PLANTS
from tests.lab.hunted import by_a_damaged_snapshot, by_a_slow_commit, by_engines
from tests.lab.planted import (
    HUNTS,
    SEED,
    by_a_clock_set_forward,
    by_a_foreign_lock,
    by_another_process,
    by_emptying,
    by_kills_behind_an_edit,
    by_kills_of_recovery,
    by_nouns,
    by_runs,
    by_two_answers,
    by_two_signals,
    by_zombies,
)

pytestmark = pytest.mark.lab


def test_every_planted_bug_is_hunted() -> None:
    """X1. A bug that nobody looks for proves nothing."""
    assert sorted(HUNTS) == sorted(PLANTS)


# When SQLite tries again within one statement, APSW reports the first error aside.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("plant", sorted(HUNTS)[::3])
def test_a_planted_bug_is_found(plant: str) -> None:
    """X1. Each within its budget, by the layer that is meant to find it; the lab hunts them all."""
    failures = HUNTS[plant](plant)
    sys.stdout.write(f"\nseed {SEED} {plant}: {failures[:1]}\n")
    assert failures


@pytest.mark.parametrize(
    "hunt",
    [
        by_a_clock_set_forward,
        by_a_foreign_lock,
        by_a_slow_commit,
        by_another_process,
        by_a_damaged_snapshot,
        by_engines,
        by_kills_behind_an_edit,
        by_kills_of_recovery,
        by_nouns,
        by_runs,
        by_two_answers,
        by_two_signals,
        by_zombies,
    ],
)
def test_a_hunt_of_its_own_finds_nothing_in_a_sound_store(
    hunt: Callable[[str], list[str]],
) -> None:
    """X1, F2, X5, L5, H1. Those that are no slice of another layer, without a bug."""
    assert hunt("") == []


def test_an_emptied_or_missing_main_file_is_refused_and_nothing_is_changed() -> None:
    """F12. The log and the mark beside it say that there was a store."""
    assert by_emptying() == []
