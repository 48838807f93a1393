"""
What backups are tested with: a filled store, and processes that write, die or do what is done once.

    python -m tests.runtime.backups write URL NAME          writes until it is killed
    python -m tests.runtime.backups create URL DIR POINT    makes a backup, dies at a failpoint
    python -m tests.runtime.backups restore PATH URL POINT  restores it, dies at a failpoint
    python -m tests.runtime.backups work URL FOLDER         executes a run that hangs in a step
"""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import holdfast
from holdfast import Append, AtVersion, Event, PutRecord, Run, Unit
from holdfast.core import codec
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World
from holdfast.runtime import backup, restore
from holdfast.runtime.runs.step import current_step

FOLDER = Path(sys.argv[3]) if sys.argv[1:2] == ["work"] else Path()
hangs = asyncio.Event()


def process(*words: object) -> subprocess.Popen[str]:
    """Start one of these programs."""
    program = [sys.executable, "-m", "tests.runtime.backups", *map(str, words)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)


def ended(*words: object) -> int:
    """Run one of these programs to its end and return how it ended."""
    with process(*words) as child:
        return child.wait(60)


def effect(value: Any) -> Any:
    """Leave a line outside; what is in it was really done."""
    with (FOLDER / "effects").open("a") as file:
        file.write(f"{current_step.get().name}\n")
    return value


async def hang() -> None:
    """Do it, and never say so."""
    effect(None)
    sys.stdout.write("there\n")
    sys.stdout.flush()
    await hangs.wait()


async def safe(run: Run) -> str:
    """Do one step that is recorded, then one that may be repeated."""
    await run.step("first", lambda: effect("first"))
    await run.step("again", hang)
    return "safe"


async def once(run: Run) -> str:
    """Do what must not be done twice."""
    await run.step("post", hang, effect="once")
    return "once"


async def work(url: str) -> None:
    """Execute both runs; each hangs in its second half."""
    async with holdfast.open(url, functions=[safe, once]) as rt:
        await rt.runs.start(safe, run_id="safe")
        await rt.runs.start(once, run_id="once")
        await hangs.wait()


async def fill(url: str) -> None:
    """Put some of everything into a store."""
    async with holdfast.open(url) as rt:
        for name in ("s/0", "s/1", "s/2"):
            events = tuple(Event.of("x", {"n": number}) for number in range(400))
            await rt.commit(Unit((Append(name, events),)))
        await rt.records.put("thing", ("a", "b"), {"v": 1}, tag="t")
        await rt.records.put("thing", "gone", 1)
        await rt.records.delete("thing", "gone")
        await rt.blobs.put(b"large" * 20_000)
        await rt.snapshots.put("snap", "s/0", 3, b"state")
        await rt.leases.grant("right", 1_000.0)


async def write(url: str, name: str) -> None:
    """Append to two streams and count in a record, each time in one unit."""
    async with holdfast.open(url) as rt:
        number = 0
        while True:
            writes = (
                Append(f"left/{name}", (Event.of("x", {"n": number}),)),
                Append(f"right/{name}", (Event.of("x", {"n": number}),)),
                PutRecord("count", (name,), codec.encode(number + 1)),
            )
            await rt.commit(Unit(writes, (AtVersion("count", (name,), number),)))
            number += 1
            if number == 20:
                sys.stdout.write("writes\n")
                sys.stdout.flush()


def dying(point: str) -> World:
    """Return a world that ends at a failpoint."""
    failpoints = Failpoints()
    failpoints.arm(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
    return World(failpoints=failpoints)


async def main(what: str, one: str, two: str, point: str = "") -> None:
    """Do one of these."""
    if what == "write":
        await write(one, two)
    elif what == "work":
        await work(one)
    elif what == "create":
        await backup.create(one, Path(two), world=dying(point))
    else:
        await restore.restore(Path(one), two, world=dying(point))


if __name__ == "__main__":
    # By its own name, since a run is stored with the name of its function.
    from tests.runtime import backups

    asyncio.run(backups.main(*sys.argv[1:]))
