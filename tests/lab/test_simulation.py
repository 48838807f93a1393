"""Layer L2 of the crash lab: several processes on one store, in virtual time, by seeds."""

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from holdfast.testing.simulation.simulation import Campaign, campaign, simulate
from tests.lab.mistakes import MISTAKES, SEEDS_TO_FIND, SEEDS_TO_REACH, SOMETIMES

pytestmark = pytest.mark.lab

# A slice; the lab runs 20,000.
SEEDS = int(os.environ.get("HOLDFAST_SEEDS", "500"))
FIRST = int(os.environ.get("HOLDFAST_SEED", "1"))
CHUNK = 50


def test_seeds_break_no_promise_and_reach_rare_states() -> None:
    """C1, F14, F15, F16, F19. Nothing lost, doubled, unshown or written by a stale owner."""
    total = Campaign()
    chunks = [range(n, min(n + CHUNK, FIRST + SEEDS)) for n in range(FIRST, FIRST + SEEDS, CHUNK)]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for part in pool.map(campaign, chunks):
            total.join(part)
    print(f"{total.seeds} seeds, {total.steps} steps, {total.seconds:.0f} virtual seconds")
    for state, count in sorted(total.reached.items()):
        print(f"  {count:6} {state}")
    assert not total.broken, f"replay with HOLDFAST_SEED=n HOLDFAST_SEEDS=1: {total.broken}"
    assert total.seeds == SEEDS
    missed = [state for state in SOMETIMES if not total.reached[state]]
    assert SEEDS < SEEDS_TO_REACH or not missed


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_the_same_seed_gives_the_same_history_byte_for_byte(seed: int) -> None:
    """C6. In this process twice, and in another one whose sets have another order."""
    first = simulate(seed).text()
    assert simulate(seed).text() == first
    assert simulate(seed + 10).text() != first
    program = (
        "import sys; from holdfast.testing.simulation.simulation import simulate; "
        f"sys.stdout.buffer.write(simulate({seed}).text())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    other = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True
    )
    assert other.stdout == first


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_found(mistake: str) -> None:
    """F15, C1. Without this the clean campaign would prove nothing."""
    found = campaign(range(1, SEEDS_TO_FIND), MISTAKES[mistake], enough=1)
    print(f"{mistake}: after {found.seeds} seeds: {found.broken}")
    assert found.broken
    seed, broken = found.broken.popitem()
    assert simulate(seed, MISTAKES[mistake]).broken == broken
    assert not simulate(seed).broken
