"""
The runs that tests take from store to store, the processes that die over them, and a meddler.

The functions are here and not in a test, since processes of their own execute them too.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, cast

import holdfast
from holdfast.core.context import Context
from holdfast.core.machine import Machine
from holdfast.core.world import World
from holdfast.runtime.runtime import make_driver
from holdfast.runtime.transfer_file import Parts
from holdfast.store.port import Reads
from tests.cli.invocation import run

QUESTION = "report-7?1"
PAGES = b"page " * 20_000
HOLDS: list[bool] = []
"""Not empty while steps are not to come to an end."""
ARRIVED = asyncio.Event()
"""Set when a step is there that does not come to an end."""
MACHINE = Machine("reading", initial="read", final={"done"})

DYING = """
import asyncio, sys, holdfast
from tests.cli.exported import HOLDS, post
async def main():
    async with holdfast.open(sys.argv[1]) as rt:
        HOLDS.append(True)
        await (await rt.runs.start(post, run_id="post")).result()
asyncio.run(main())
"""

CANCELLING = """
import asyncio, os, signal, sys, holdfast
from tests.cli.exported import ARRIVED, HOLDS, parent, reach
async def main():
    async with holdfast.open(sys.argv[1]) as rt:
        HOLDS.append(True)
        await rt.runs.start(parent, run_id="parent")
        await ARRIVED.wait()
        await reach(rt, "parent", "run.waiting")
        info = await rt.runs.cancel("parent/1", mode="after_step")
        if info.status is holdfast.Status.CANCELLING:
            os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""

IMPORT = """
import asyncio, os, signal, sys
from pathlib import Path
import holdfast
from holdfast.core.world import World
from holdfast.runtime.transfer import import_stream
from holdfast.runtime.transfer_file import is_bundle
url, source, point, nth = sys.argv[1:]
left = int(nth)
def pass_by():
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
world = World()
async def main():
    async with holdfast.open(url, world=world) as rt:
        world.failpoints.arm(point, pass_by)
        if is_bundle(Path(source)):
            await rt.transfers.import_file(Path(source))
        else:
            await import_stream(rt, Path(source))
asyncio.run(main())
"""


async def word(run: holdfast.Run, of: str) -> str:
    """Return a word; a child of `report`."""
    return await run.step("spell", str.upper, of)


async def report(run: holdfast.Run, topic: str) -> str:
    """Use everything a run has: large values, a child, an artifact, a question, a sleep."""
    pages = await run.step("write", lambda: PAGES)
    title = await run.child(word, topic)
    await run.attach("pages", pages, media_type="text/plain")
    said = await run.ask("Publish this?", choices=["yes", "no"], timeout=3600.0)
    await run.sleep(0.01)
    return f"{title}: {said}, {len(pages)}"


async def keeper(run: holdfast.Run) -> str:
    """Leave something small behind, then ask."""
    await run.attach("note", b"note")
    return str(await run.ask("Keep it?"))


async def sleeper(run: holdfast.Run) -> str:
    """Sleep for an hour."""
    await run.sleep(3_600.0)
    return "awake"


async def shout(run: holdfast.Run) -> None:
    """Say more than one unit holds."""
    await run.attach("note", b"note")
    for _ in range(5):
        await run.emit("cry", b"a" * 15 * 1024 * 1024)


def send() -> str:
    """Be killed while it happens."""
    if HOLDS:
        os.kill(os.getpid(), signal.SIGKILL)
    return "sent anew"


async def post(run: holdfast.Run) -> str:
    """Do what must not be done twice."""
    return await run.step("send", send, effect="once")


async def dawdle() -> None:
    """Come to no end."""
    ARRIVED.set()
    await asyncio.Event().wait()


async def lazy(run: holdfast.Run) -> None:
    """Be the child that comes to no end."""
    await run.step("dawdle", dawdle)


async def parent(run: holdfast.Run) -> None:
    """Wait for it."""
    await run.child(lazy)


@MACHINE.on("read", to="done")
async def read(step: Any, ctx: Context) -> None:
    """Count words, as soon as it may."""
    while HOLDS:
        await asyncio.Event().wait()
    ctx["words"] = len(ctx.input.split())


class Meddled:
    """A reader on a real store, in which something changes before one of its queries, once."""

    def __init__(self, reader: Reads, query: str, change: Coroutine[Any, Any, None]) -> None:
        self._reader = reader
        self._query = query
        self._change: Coroutine[Any, Any, None] | None = change

    def __getattr__(self, name: str) -> Any:
        change = self._change
        if name == self._query and change is not None:
            self._change = None
            run(change)
        return getattr(self._reader, name)


def read_meddled(
    url: str, query: str, change: Coroutine[Any, Any, None], read: Callable[[Reads], Parts]
) -> Parts:
    """Read from a store in which something changes before a query."""
    driver = make_driver(url, holdfast.Options(read_only=True), World())
    driver.open()
    try:
        with driver.reading() as reader:
            return read(cast(Reads, Meddled(reader, query, change)))
    finally:
        driver.close()


FUNCTIONS = (report, word)


async def reach(rt: holdfast.Runtime, run_id: str, type: str, nth: int = 1) -> None:
    """Wait until something is in the journal of a run for the n-th time."""
    async for event in rt.runs.history(run_id).follow():
        nth -= event.type == type
        if not nth:
            return
