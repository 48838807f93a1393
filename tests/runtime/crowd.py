"""
A store with something of everything in it, left by a process that was killed at work.

And what has to go on with it whatever one thing in it is damaged: new work of every noun, every
list, and the work that was interrupted.
"""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import holdfast
from holdfast import BUFFERED, RESUME, SUSPEND, EntryState, Run, Runtime
from holdfast.core.errors import DamagedError
from holdfast.core.ledger import Terms
from tests.lab.pile import PileEngine
from tests.lab.piles import do

HOLDS: list[bool] = []
"""Not empty in the process that is killed: its steps do not come to an end."""
PATIENCE = 60.0
STREAM = "lines"


@holdfast.state(version=1)
class Desk:
    """A session with fields of both tiers and a group."""

    said: int = 0
    last: int = holdfast.field(default=0, tier=BUFFERED)
    left: int = holdfast.field(default=0, group="pair")


async def seven(run: Run) -> int:
    """Return seven."""
    return await run.step("seven", lambda: 7)


async def sleeps(run: Run) -> None:
    """Sleep for a thousand seconds."""
    await run.sleep(1_000.0)


async def asks(run: Run, name: str) -> Any:
    """Attach something, then ask."""
    await run.attach("note", name.encode() * 100)
    return await run.ask("Well?")


async def parent(run: Run) -> Any:
    """Let a child ask."""
    return await run.child(asks, "child")


async def works(run: Run) -> str:
    """Be at work when the process is killed."""
    return await run.step("work", _hold)


async def _hold() -> str:
    if HOLDS:
        await asyncio.Event().wait()
    return "done"


FUNCTIONS = [seven, sleeps, asks, parent, works]


async def fill(url: str) -> None:
    """Put something of everything into a store, then die."""
    HOLDS.append(True)
    async with holdfast.open(url, functions=FUNCTIONS) as rt:
        await _talk(rt, "old")
        await rt.latches.set("models", "slow", "it was slow", ttl=3_600.0)
        for key, policy in {"resume": RESUME, "suspend": SUSPEND, "stopped": RESUME}.items():
            await rt.ledger.start((key,), Terms(policy=policy))
        await rt.ledger.stop("stopped", "enough")
        pile = await rt.engines.attach("pile", PileEngine())
        await pile.request(do, 1)
        await pile.snapshot()
        await rt.tokens.create("viewer")
        await rt.leases.grant("mine", 1_000.0)
        await rt.records.put("own", "key", 1)
        await rt.history(STREAM).append("said", 1)
        await rt._damages.note(DamagedError(what="stream", name="elsewhere", reason="a test"))
        await _start(rt)
        os.kill(os.getpid(), signal.SIGKILL)


async def _start(rt: Runtime) -> None:
    await rt.runs.queues.limit("narrow", concurrency=1)
    await rt.runs.queues.limit("wide", concurrency=10)
    await rt.runs.schedules.put("daily", "0 3 * * *", seven)
    await rt.runs.start(works, run_id="first", queue="narrow")
    await _until(lambda: _running(rt, 4))
    await rt.runs.start(works, run_id="second", queue="narrow")
    await rt.runs.start(works, run_id="third")
    await rt.runs.start(sleeps, run_id="sleeps")
    await rt.runs.start(asks, "one", run_id="asks")
    await rt.runs.start(parent, run_id="parent")
    await (await rt.runs.start(seven, run_id="ended")).result()
    await _until(lambda: _asked(rt, 2))
    await rt.runs.questions.claim("asks?1", by="ann")
    await _until(lambda: _running(rt, 5))


async def _running(rt: Runtime, number: int) -> bool:
    return len(await rt.ledger.list(EntryState.RUNNING)) >= number


async def _asked(rt: Runtime, number: int) -> bool:
    return len(await rt.runs.questions.list()) >= number


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 it is in the store, and nowhere else
            await asyncio.sleep(0.01)


async def _talk(rt: Runtime, name: str) -> None:
    session = await rt.sessions.reach(Desk, (f"name:{name}",))
    async with session.edit() as draft:
        draft.said = draft.last = draft.left = 1
    await rt.flush()


async def go_on(rt: Runtime) -> None:
    """Begin new work of every noun, and list everything."""
    await _talk(rt, "new")
    await rt.latches.set("models", "new", "it is new")
    async with rt.ledger.begin("new"):
        pass
    assert await (await rt.runs.start(seven)).result() == 7
    await rt.runs.start(asks, "new", run_id="new")
    await _until(lambda: _asks(rt, "new"))
    await rt.runs.answer("new?1", "yes")
    assert await rt.runs.result("new") == "yes"
    await rt.runs.schedules.put("new", "0 4 * * *", seven)
    await rt.runs.list()
    await rt.runs.schedules.list()
    await rt.runs.queues.list()
    await rt.runs.artifacts.list("asks")
    await rt.ledger.list()
    await rt.ledger.interrupted()
    await rt.latches.list("models")
    await rt.sessions.list(Desk)
    await rt.sessions.stored.list()
    await rt.runs.handle("asks").forks()
    await rt.tokens.list()
    await rt.workers.list()
    await rt.bulk.list()
    await rt.streams(reserved=True)


async def _asks(rt: Runtime, run_id: str) -> bool:
    return run_id in [question.run_id for question in await rt.runs.questions.list()]
