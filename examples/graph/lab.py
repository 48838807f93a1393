"""
Kills the release graph at every node: before and behind each stage, and behind each transition.

Each case is a store of its own: one process dies at its place, a second one goes on to the end.
Fields and way have to be those of a process that nobody killed. Last, one store is killed at one
place after the other.
"""

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]


class Trial(NamedTuple):
    """What came of it: kills, broken promises in words, and what was done in a line."""

    kills: int
    troubles: list[str]
    detail: str


def live(store: Path, place: str = "", nth: int = 0) -> dict[str, Any] | None:
    """Run one process; return what it printed, or None if it killed itself."""
    program = [sys.executable, "-m", "examples.graph.process", f"sqlite:///{store}"]
    if place:
        program += [place, str(nth)]
    done = subprocess.run(
        program, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode == -signal.SIGKILL:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def places(reached: dict[str, int]) -> list[tuple[str, int]]:
    """Return every place at which a process can die, from how often each was reached."""
    return [(place, nth) for place in reached for nth in range(1, reached[place] + 1)]


def tidied(way: list[str]) -> list[str]:
    """Return a way with the steps of the branches in one order; they run side by side."""
    inside = sorted(state for state in way if state.startswith("fork/"))
    first = next(number for number, state in enumerate(way) if state.startswith("fork/"))
    rest = [state for state in way if not state.startswith("fork/")]
    return [*rest[:first], *inside, *rest[first:]]


def trial(chosen: int | None = None, seed: int = 0) -> Trial:
    """
    Kill the graph.

    Args:
        chosen: at so many places, drawn by the seed; at all of them if None.
        seed: for the draw.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        expected = live(folder / "undisturbed.db")
        if expected is None:
            return Trial(0, ["the undisturbed process died"], "")
        where = places(expected["reached"])
        if chosen is not None:
            where = Random(seed).sample(where, chosen)
        troubles: list[str] = []
        kills = 0
        for place, nth in where:
            store = folder / f"{place}-{nth}.db"
            if live(store, place, nth) is None:
                kills += 1
            troubles += _compared(f"killed at {place} {nth}", expected, live(store))
        again = folder / "again.db"
        for place, nth in [("begin", 1), ("recorded", 3), ("end", 2), ("recorded", 4)] * 3:
            kills += live(again, place, nth) is None
        troubles += _compared("killed again and again", expected, live(again))
    done = f"{kills} kills at {len(where)} places, then 12 times in a row on one store"
    return Trial(kills, troubles, done)


def _compared(case: str, expected: dict[str, Any], found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return [f"{case}: it died without being killed"]
    troubles: list[str] = []
    if found["fields"] != expected["fields"]:
        troubles.append(f"{case}: other fields than undisturbed")
    if tidied(found["way"]) != tidied(expected["way"]):
        troubles.append(f"{case}: another way than undisturbed: {found['way']}")
    return troubles
