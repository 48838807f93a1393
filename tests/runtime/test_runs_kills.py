"""
Runs that are killed: whatever the moment, they come to the same end.

A run with every kind of step is executed in a process of its own, which kills itself with
SIGKILL at a failpoint; then again at another one, and so on; at last it may end. Status, result
and the order of what was recorded have to be those of a run that nobody killed.
"""

import asyncio
import json
import random
import secrets
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import holdfast
from tests.runtime.runner import RUN_ID

POINTS = {
    "run.dispatched": 7,
    "run.step_started": 4,
    "run.step_recorded": 8,
    "run.ended": 2,
    "commit.taken": 30,
    "commit.written": 30,
    "commit.committed": 30,
    "commit.answered": 30,
    "ledger.begun": 7,
    "rescue.taken": 1,
    "rescue.entry": 1,
    "rescue.ended": 1,
}
"""Where it dies, and about how often a whole run comes there."""
RESULT = [
    ["lighthouses", "first", "second"],
    4.5,
    ["LEFT", "RIGHT"],
    "yes",
    "abc",
    "got it",
    f"{RUN_ID}!1",
    49,
    "posted yes",
]
ORDER = ["plan#1", "price#1", ("left#1", "right#1"), "flaky#1", "post#1"]


def live(url: str, folder: Path, point: str = "", nth: int = 0) -> str | None:
    """Execute the run in a process; return what it printed, or None if it killed itself."""
    program = [sys.executable, "-m", "tests.runtime.runner", url, str(folder)]
    if point:
        program += [point, str(nth)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr
    return done.stdout


def recorded(url: str) -> list[holdfast.RecordedEvent]:
    """Return the journal as it is, read by somebody who changes nothing."""

    async def read() -> list[holdfast.RecordedEvent]:
        async with holdfast.open(url, read_only=True) as rt:
            return await rt.history(f"run/{RUN_ID}").read(limit=10_000)

    return asyncio.run(read())


def judge(url: str, folder: Path, printed: str) -> None:
    """Say what is not as in a run that nobody killed."""
    assert json.loads(printed) == {"result": RESULT, "status": "succeeded"}
    events = recorded(url)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    steps = [f"{e.data['name']}#{e.data['n']}" for e in events if e.type == "step.succeeded"]
    over = [e.data for e in events if e.type == "step.resolved" and e.data["verdict"] == "done"]
    resolved = [f"{e['name']}#{e['n']}" for e in over]
    assert tidied(steps + resolved) == ORDER, "a step is missing, recorded twice, or out of order"
    assert events[-1].type == "run.succeeded"
    kinds = Counter(event.type for event in events)
    once = ("question.asked", "question.answered", "timer.fired", "signal.taken", "user.halfway")
    for kind in (*once, "signal.received", "artifact.attached", "child.started", "child.ended"):
        expected = 2 if kind == "timer.fired" else 1
        assert kinds[kind] >= expected if kind == "timer.fired" else kinds[kind] == 1, kind
    effects = Counter(line.split()[0] for line in (folder / "effects").read_text().splitlines())
    assert effects["post#1"] == 1, "an effect that is done once was done again"


def tidied(steps: list[str]) -> list[Any]:
    """Put the two steps that run side by side into one place."""
    pair = tuple(sorted(step for step in steps if step in ("left#1", "right#1")))
    rest: list[Any] = [step for step in steps if step not in pair]
    place = steps.index(pair[0]) if pair else 0
    rest.insert(min(place, 2), pair)
    return rest


def kill_again_and_again(url: str, folder: Path, chance: random.Random, kills: int) -> list[str]:
    """Let it die at drawn places, then let it end; return where it died."""
    died: list[str] = []
    for _ in range(kills):
        point, most = chance.choice(list(POINTS.items()))
        nth = chance.randint(1, most)
        printed = live(url, folder, point, nth)
        if printed is not None:
            judge(url, folder, printed)
            return died
        died.append(f"{point}:{nth}")
        after_one_life(folder, recorded(url))
    printed = live(url, folder)
    assert printed is not None
    judge(url, folder, printed)
    return died


def after_one_life(folder: Path, events: list[holdfast.RecordedEvent]) -> None:
    """Note what was recorded and how often it was done; a later life must not do it again."""
    kept = folder / "kept.json"
    before: dict[str, int] = json.loads(kept.read_text()) if kept.exists() else {}
    lines = (folder / "effects").read_text().splitlines() if (folder / "effects").exists() else []
    done = Counter(line.split()[0] for line in lines)
    for step, count in before.items():
        assert done[step] == count, f"{step} was recorded, and was done again"
    over = [e.data for e in events if e.type == "step.succeeded"]
    kept.write_text(json.dumps({(s := f"{e['name']}#{e['n']}"): done[s] for e in over}))


@pytest.mark.parametrize("lives", [2, 4])
def test_a_run_that_is_killed_comes_to_the_same_end(
    kept_url: str, tmp_path: Path, lives: int
) -> None:
    """A1, A2, C1, C2. Same status, result and order; what was recorded is not done again."""
    seed = secrets.randbelow(2**32)
    sys.stdout.write(f"seed {seed}, {lives} lives\n")
    died = kill_again_and_again(kept_url, tmp_path, random.Random(seed), lives)
    sys.stdout.write(f"died at {died}\n")
