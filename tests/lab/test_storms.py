"""
Storms of SIGKILL, SIGSTOP and SIGCONT over several real processes on one store.

A storm that loses nothing proves something only if one over a store that acknowledges too early
loses work; so that is planted.
"""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.testing.disk.images import Scratch
from holdfast.testing.process.storm import Storm, Survey, storm

pytestmark = pytest.mark.lab


@pytest.fixture
def store() -> Iterator[str]:
    """Address of a new store, in memory where possible: to a kill it is the same."""
    with Scratch() as scratch:
        yield f"sqlite:///{scratch.lay({}) / 'a.db'}"


def weathered(order: Storm) -> Survey:
    """Raise a storm with a new seed, print it, and hold it against what was promised."""
    found = storm(order)
    print(found)
    assert found.sound, "\n".join(found.failures)
    # "Sometimes": units were acknowledged, leases granted, workers frozen.
    assert found.kills >= order.kills
    assert found.acknowledged and found.tokens and found.stops
    return found


def test_processes_killed_and_frozen_on_one_file_lose_nothing(store: str) -> None:
    """X1, X5, F1, F2, F14, F15. Four processes, a hundred kills, some of them while frozen."""
    found = weathered(Storm(store=store, seed=secrets.randbelow(2**32), kills=100))
    assert not found.ended, "workers gave up: a frozen or dead neighbour made the store fail"


def test_processes_killed_together_with_their_postgresql_lose_nothing(
    postgres_folder: Path,
) -> None:
    """F1, F17, F18. The server is killed as well, whatever is under way, and started again."""
    order = Storm(folder=str(postgres_folder), seed=secrets.randbelow(2**32), kills=24, servers=3)
    found = weathered(order)
    assert found.servers == 3
    assert found.ended, "nobody noticed that the server was gone"


def test_a_storm_finds_a_store_that_acknowledges_too_early(store: str) -> None:
    """Planted: answers before the commit."""
    found = storm(Storm(store=store, seed=1, kills=30, plant="acknowledge-before-commit"))
    assert found.lost, found
