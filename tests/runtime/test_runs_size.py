"""
Many runs and one long journal: what a boot, an event and a first page cost beside a small store.

Each figure is the best of several processes of their own, so that a busy machine does not count.
"""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

import holdfast
from holdfast import Run, Runtime
from holdfast.core.journal import Emitted
from holdfast.core.unit import Append, Unit
from holdfast.runtime.runs.journal import stream_of
from holdfast.runtime.runs.view import event_of
from tests.runtime.test_runs import until

RUNS, EVENTS, FEW = 10_000, 1_000_000, 1_000
BATCH, SIDE_BY_SIDE, PROCESSES = 5_000, 1_000, 3
LONG = "r00000"


async def asks(run: Run, number: int) -> Any:
    """Wait for an answer."""
    return await run.ask("Well?")


async def fill(url: str, runs: int, events: int) -> None:
    """Leave so many runs behind, the first one with a journal of so many events."""
    async with holdfast.open(url) as rt:
        rt.runs.register(asks, name="asks")
        await rt.runs.queues.limit("slow", rate=1, per=1e6)
        for first in range(0, runs, SIDE_BY_SIDE):
            numbers = range(first, min(runs, first + SIDE_BY_SIDE))
            await asyncio.gather(
                *(rt.runs.start(asks, n, run_id=f"r{n:05d}", queue="slow") for n in numbers)
            )
        await until(rt, LONG, "run.waiting")
        await emit(rt, events)


async def emit(rt: Runtime, events: int) -> None:
    """Append events of the program's own to the long journal."""
    for first in range(0, events, BATCH):
        numbers = range(first, min(events, first + BATCH))
        said = [event_of("user.tick", Emitted(n, msgspec.Raw(b"\x01"))) for n in numbers]
        await rt._store.commit(Unit((Append(stream_of(LONG), tuple(said)),)))


async def measure(url: str) -> dict[str, float]:
    """Open a store with the function known, and look at the clocks."""
    found: dict[str, float] = {}
    cpu = time.process_time()
    async with holdfast.open(url) as rt:
        rt.runs.register(asks, name="asks")
        found["boot"] = time.process_time() - cpu
        found["memory"] = resident_mb()
        began = time.perf_counter()
        assert len(await rt.runs.history(LONG).read(limit=100)) == 100
        assert await rt.runs.list(limit=100)
        found["page"] = time.perf_counter() - began
        found["event"] = min([await cost_of_event(rt) for _ in range(10)])
        found["memory after"] = resident_mb()
    return found


async def cost_of_event(rt: Runtime) -> float:
    """Return how many seconds an event takes here, of many in a unit."""
    began = time.perf_counter()
    await emit(rt, FEW)
    return (time.perf_counter() - began) / FEW


def resident_mb() -> float:
    """Return the most memory this process had."""
    [line] = [one for one in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in one]
    return int(line.split()[1]) / 1024


def best(*urls: str) -> list[dict[str, float]]:
    """Return the best figures of several processes each; in turn, since a machine changes pace."""
    rounds = [[measured(url) for url in urls] for _ in range(PROCESSES)]
    return [
        {name: min(one[name] for one in found) for name in found[0]}
        for found in zip(*rounds, strict=True)
    ]


def measured(url: str) -> dict[str, float]:
    """Return the figures of a process of its own."""
    program = [sys.executable, "-m", "tests.runtime.test_runs_size", url]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


@pytest.fixture
def two_urls(kept_url: str) -> tuple[str, str]:
    """Addresses of two stores of one kind."""
    if kept_url.startswith("sqlite"):
        return f"{kept_url}-small", f"{kept_url}-large"
    return f"{kept_url}&schema=small", f"{kept_url}&schema=large"


def test_neither_many_runs_nor_a_long_journal_cost_more(two_urls: tuple[str, str]) -> None:
    """A15. 10,000 runs, one of them with 1,000,000 events, beside one run with 1,000."""
    asyncio.run(fill(two_urls[0], 1, FEW))
    asyncio.run(fill(two_urls[1], RUNS, EVENTS))
    small, large = best(*two_urls)
    sys.stdout.write(f"small {small}\nlarge {large}\n")
    assert large["boot"] < small["boot"] + 0.5, "seconds of CPU until it is ready"
    assert large["memory"] < small["memory"] + 16, "MB when it is ready"
    assert large["memory after"] < small["memory after"] + 32, "MB after work"
    assert large["page"] < small["page"] + 0.05, "seconds until the first pages are read"
    assert large["event"] < 2 * small["event"], "seconds for an event"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(measure(sys.argv[1]))))
