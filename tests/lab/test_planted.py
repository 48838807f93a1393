"""Each layer of the lab finds the bugs that are planted for it, and nothing in a sound store."""

import sys

import pytest

from holdfast.testing.faults import PLANTS
from tests.lab.planted import HUNTS, SEED, by_emptying

pytestmark = pytest.mark.lab


def test_every_planted_bug_is_hunted() -> None:
    """X1. A bug that nobody looks for proves nothing."""
    assert sorted(HUNTS) == sorted(PLANTS)


# When SQLite tries again within one statement, APSW reports the first error aside.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.timeout(120)
@pytest.mark.parametrize("plant", sorted(HUNTS))
def test_a_planted_bug_is_found(plant: str) -> None:
    """X1. Each within its budget, by the layer that is meant to find it."""
    failures = HUNTS[plant](plant)
    sys.stdout.write(f"\nseed {SEED} {plant}: {failures[:1]}\n")
    assert failures


def test_an_emptied_or_missing_main_file_is_refused_and_nothing_is_changed() -> None:
    """F12. The log and the mark beside it say that there was a store."""
    assert by_emptying() == []
