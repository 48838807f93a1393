"""
Pipelines that are killed: wherever, they go the same way and know the same in the end.

A process kills itself in a state, behind it, or at a failpoint; what its journal holds then is
read by somebody who changes nothing. The next process goes on. What was recorded before is not
executed again, and fields, way and end are those of a process that nobody killed.
"""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

import holdfast
from tests.runtime.walker import KEY, walked

SEED = int(os.environ.get("HOLDFAST_SEED") or secrets.randbelow(2**32))
PARTS = {
    "inside": ("begin", "end"),
    "between": ("run.dispatched", "run.step_started", "run.step_recorded", "commit.committed"),
}


def live(url: str, folder: Path, place: str = "", nth: int = 0) -> dict[str, Any] | None:
    """Run one process; return what it printed, or None if it killed itself."""
    program = [sys.executable, "-m", "tests.runtime.walker", url, str(folder)]
    program += [place, str(nth)] if place else []
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def recorded(url: str, folder: Path) -> list[str]:
    """Return the states that are recorded, read by somebody who changes nothing."""

    async def read() -> list[str]:
        async with holdfast.open(url, read_only=True) as rt:
            pipeline = rt.pipeline(walked(folder), KEY)
            if not await pipeline.versions():
                return []
            log = await pipeline.log()
            return [f"{one.state}#{one.visit}" for one in log if one.next]

    try:
        return asyncio.run(read())
    except holdfast.NotFoundError:
        return []  # It died before there was a store.


def visits(folder: Path) -> Counter[str]:
    """Return how often each state was executed."""
    path = folder / "visits"
    return Counter(path.read_text().splitlines() if path.exists() else [])


def check(expected: dict[str, Any], found: dict[str, Any] | None) -> None:
    """See that an end is that of a process that nobody killed."""
    assert found is not None
    assert found["fields"] == expected["fields"]
    assert sorted(found["way"]) == sorted(expected["way"])
    inside = [state for state in found["way"] if not state.startswith("fork/")]
    assert inside == [state for state in expected["way"] if not state.startswith("fork/")]
    assert (found["version"], found["end"]) == (1, ["write", "done", "succeeded"])


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_killed_pipeline_goes_on_behind_what_is_recorded(
    kept_url: str, part: str, tmp_path: Path
) -> None:
    """R1, R2, R6, A1, A2, C1. One store after the other, killed once more until it is through."""
    sys.stdout.write(f"seed {SEED}; replay with HOLDFAST_SEED={SEED}\n")
    chance = Random(SEED)
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    expected = live(f"sqlite:///{undisturbed / 'store.db'}", undisturbed)
    assert expected is not None
    assert Counter(expected["way"]) == visits(undisturbed) + Counter(
        {"fork#1", "fork/right/right#1"}
    )
    for _ in range(12):
        before, seen = recorded(kept_url, tmp_path), visits(tmp_path)
        place = chance.choice(PARTS[part])
        found = live(kept_url, tmp_path, place, chance.randrange(1, 4))
        after = visits(tmp_path)
        for state in before:
            assert after[state] == seen[state], f"{state} was recorded, and was executed again"
        if found is not None:
            break
    else:
        found = live(kept_url, tmp_path)
    check(expected, found)


def test_a_pipeline_killed_at_any_place_comes_to_the_same_end(tmp_path: Path) -> None:
    """R1, A1, C1. A store of its own for each place drawn; the places come from a whole run."""
    sys.stdout.write(f"seed {SEED}; replay with HOLDFAST_SEED={SEED}\n")
    expected = live(f"sqlite:///{tmp_path / 'whole.db'}", tmp_path)
    assert expected is not None
    reached = expected["reached"]
    places = [(place, nth) for place in sorted(reached) for nth in range(1, reached[place] + 1)]
    for place, nth in Random(SEED).sample(places, 8):
        folder = tmp_path / f"{place}-{nth}"
        folder.mkdir()
        url = f"sqlite:///{folder / 'store.db'}"
        live(url, folder, place, nth)
        check(expected, live(url, folder))
