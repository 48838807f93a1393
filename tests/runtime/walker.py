"""
A pipeline in a process of its own that may kill itself; run by the tests.

    python -m tests.runtime.walker URL FOLDER [PLACE NTH]

Each execution of a state is a line in `FOLDER/visits`. At PLACE (`begin` and `end` of a handler,
or a failpoint) it kills itself for the NTH time it comes there. At the end it prints the fields,
the way and how often each place was reached, as a line of JSON.
"""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import holdfast
from holdfast import Machine, Retry, Transition
from holdfast.core.context import Context
from holdfast.core.failpoint import Failpoints
from holdfast.core.refusal import PipelinePausedError
from holdfast.core.world import World

KEY = ("bank", "source")
TEXT = "one two three"
POINTS = ("run.dispatched", "run.step_started", "run.step_recorded", "commit.committed")
INSIST = Retry(attempts=1_000, backoff=0.001, longest=0.01)
reached: Counter[str] = Counter()
death: tuple[str, int] = ("", 0)


def reach(place: str) -> None:
    """Note that a place is reached; die at the chosen one."""
    reached[place] += 1
    if (place, reached[place]) == death:
        os.kill(os.getpid(), signal.SIGKILL)


async def visit(folder: Path, step: Any, ctx: Context) -> None:
    """Do what every state does: append to a list, and leave a line outside."""
    reach("begin")
    with (folder / "visits").open("a") as file:
        file.write(f"{step.name}#{step.n}\n")
    await asyncio.sleep(0)
    state = step.name.rpartition("/")[2]
    ctx[f"list.{state}"] = [*ctx.get(f"list.{state}", []), len(ctx["words"])]
    ctx["rounds"] = ctx.get("rounds", 0) + (state == "check")
    reach("end")


def walked(folder: Path) -> Machine:
    """Return a machine with a loop, a guard and branches of different lengths, nested once."""
    machine = Machine("walked", initial="read", final={"done"})
    machine.derive("words")(lambda ctx: ctx.input.split())

    def on(state: str, to: Any) -> None:
        machine.on(state, to=to, retry=INSIST)(partial(visit, folder))

    on("read", "fork")
    machine.parallel("fork", ["left", "right"], join="check")
    on("left", "left2")
    on("left2", "check")
    machine.parallel("right", ["up", "down"], join="right2")
    on("up", "right2")
    on("down", "right2")
    on("right2", "check")
    again = Transition("again", when=lambda ctx: ctx["rounds"] < 2)
    on("check", [again, Transition("write")])
    on("again", "check")
    on("write", "done")
    return machine


async def main(url: str, folder: Path) -> None:
    """Open, run or go on, print."""
    failpoints = Failpoints()
    for point in POINTS:
        failpoints.arm(point, partial(reach, point))
    async with holdfast.open(url, world=World(failpoints=failpoints)) as rt:
        pipeline = rt.pipeline(walked(folder), KEY)
        try:
            fields = await pipeline.run(TEXT)
        except PipelinePausedError:
            fields = await pipeline.run(TEXT)  # Killed too often in a row; somebody insists.
        version = await pipeline.newest()
        way = [f"{one.state}#{one.visit}" for one in await pipeline.log() if not one.error]
        checkpoint = await pipeline.checkpoint()
    found = {
        "fields": fields,
        "way": way,
        "version": version.version,
        "end": [checkpoint.done, checkpoint.next, checkpoint.status],
        "reached": reached,
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[3:]:
        death = (sys.argv[3], int(sys.argv[4]))
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
