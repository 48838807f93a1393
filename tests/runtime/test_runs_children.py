"""Runs that were started by runs: what becomes of them when the parent is cancelled."""

import asyncio
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

import holdfast
from holdfast import Run, Status
from holdfast.core.world import World
from holdfast.runtime.runs.ending import ORPHANS_KIND


async def quiet(run: Run) -> Any:
    """Wait for what never comes."""
    return await run.signal("never")


async def middle(run: Run) -> Any:
    """Have a child, and wait for it."""
    return await run.child(quiet)


async def waiting(run: Run) -> Any:
    """Wait for a child, and do nothing else."""
    return await run.child(middle)


async def working(run: Run) -> Any:
    """Work beside a child."""
    return await asyncio.gather(run.child(middle), run.step("long", asyncio.Event().wait))


DIE = """
import asyncio, sys
from tests.runtime.test_runs_children import die_after_the_end
asyncio.run(die_after_the_end(*sys.argv[1:]))
"""
FUNCTIONS: list[Any] = [quiet, middle, waiting, working]


async def die_after_the_end(url: str, name: str) -> None:
    """Cancel a run that has children; die when it ended, before anything else."""
    world = World()
    async with holdfast.open(url, functions=FUNCTIONS, world=world) as rt:
        await rt.runs.start(globals()[name], run_id="top")
        async for event in rt.runs.history("top/1/1").follow():
            if event.type == "run.waiting":
                break
        world.failpoints.arm("run.ended", lambda: os.kill(os.getpid(), signal.SIGKILL))
        await rt.runs.cancel("top")
        await rt.runs.ended("top")


@pytest.mark.parametrize("name", ["waiting", "working"])
def test_children_of_a_cancelled_run_are_cancelled_also_if_who_cancelled_it_died(
    tmp_path: Any, name: str
) -> None:
    """A11. Parent cancelled while it waits and while it is executed; killed in between."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    killed = subprocess.run([sys.executable, "-c", DIE, url, name])
    assert killed.returncode == -signal.SIGKILL

    async def look() -> None:
        async with holdfast.open(url, functions=FUNCTIONS) as rt:
            async with asyncio.timeout(20):
                for run_id in ("top", "top/1", "top/1/1"):
                    assert (await rt.runs.ended(run_id)).status is Status.CANCELLED
                while await rt.records.list(ORPHANS_KIND):
                    await rt.runs.ended("top")
            assert await rt.verify() == []

    asyncio.run(look())
