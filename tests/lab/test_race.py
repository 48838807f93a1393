"""Many processes after the same thing: exactly one gets it, on every store that can be shared."""

import os
import sys
from pathlib import Path
from random import Random

import pytest

from holdfast.testing.process.race import RUN_CLAIMS, race

pytestmark = pytest.mark.lab

SEED = int(os.environ.get("HOLDFAST_SEED") or Random().randrange(2**32))
RACERS = 32
# A slice; the lab runs 1,000.
ROUNDS = 100


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_of_32_racing_processes_exactly_one_gets_each_thing(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """C5, F14, R10, X5. A lease, a record, a stream, work that a dead runtime left behind."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    if store == "postgresql":
        url = request.getfixturevalue("postgres_url")
    found = race(url, racers=RACERS, rounds=ROUNDS, seed=SEED)
    sys.stdout.write(f"\nHOLDFAST_SEED={SEED}: winners {found.winners}\n")
    assert found.sound, found.failures[:5]
    assert found.rounds == ROUNDS
    assert len(found.winners) > RACERS // 4, "too few won: that was no race"


@pytest.mark.parametrize("store", ["sqlite", "postgresql"])
def test_of_racing_processes_one_answers_resumes_and_executes_each_run(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """C5, A9, A10. A question, a run that rests, a run whose owner died."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    if store == "postgresql":
        url = request.getfixturevalue("postgres_url")
    found = race(url, racers=8, rounds=ROUNDS, seed=SEED, kinds=RUN_CLAIMS)
    sys.stdout.write(f"\nHOLDFAST_SEED={SEED}: winners {found.winners}\n")
    assert found.sound, found.failures[:5]
    assert len(found.winners) > 1, "one got everything: that was no race"


def test_a_racer_that_says_nothing_ends_the_race(tmp_path: Path) -> None:
    """C5. Nobody waits for ever for one that hangs, and none of them is left behind."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with pytest.raises(RuntimeError, match=r"racer r\d has said nothing for 0.0 s"):
        race(url, racers=2, rounds=20, seed=SEED, patience=0.0)
