"""
One owner per run: what an owner still writes that was frozen and taken for dead.

The first owner is a process of its own. It is stopped in the middle of a step for longer than its
lease; the second one goes on with the run and holds it open while the first wakes and ends its
step.
"""

import asyncio
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest

import holdfast
from holdfast import Run, Runtime, Status, Unit
from holdfast.core.errors import HoldfastError, StaleGenerationError
from holdfast.core.recovery import Phase
from holdfast.core.unit import GrantLease, ReleaseLease
from tests.runtime.test_runs import until

TTL = 1.0


class Owner:
    """The function as one owner executes it; `hold` waits for its own signal to go on."""

    def __init__(self, name: str, hold: Any) -> None:
        self.name = name
        self.left = asyncio.Event()
        self._hold = hold

    async def works(self, run: Run) -> list[str]:
        """Do one step, hold another, do a third."""
        try:
            first = await run.step("first", self._say)
            held = await run.step("hold", self._hold)
            return [first, held, await run.step("last", self._say)]
        finally:
            self.left.set()

    async def _say(self) -> str:
        return self.name


async def first_owner(url: str) -> None:
    """Execute the run up to the step that holds, then as far as it gets."""

    async def hold() -> str:
        sys.stdout.write("holding\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        return "first"

    owner = Owner("first", hold)
    with suppress(HoldfastError):
        async with holdfast.open(url, lease_ttl=TTL) as rt:
            rt.runs.register(owner.works, name="works")
            await rt.runs.start(owner.works, run_id="r")
            await owner.left.wait()


def test_an_owner_that_was_frozen_and_overtaken_writes_nothing(kept_url: str) -> None:
    """A9, F15. Its step ends after another one took the run: refused, and the other's counts."""
    program = [sys.executable, "-m", "tests.runtime.test_runs_owner", kept_url]
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "holding\n"
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        asyncio.run(second_owner(kept_url, process))


async def second_owner(url: str, process: "subprocess.Popen[str]") -> None:
    """Take the run over, wake the first owner, and end the run when that one is gone."""
    taken, gone = asyncio.Event(), asyncio.Event()

    async def hold() -> str:
        taken.set()
        await gone.wait()
        return "second"

    owner = Owner("second", hold)
    async with holdfast.open(url, lease_ttl=TTL) as rt:
        rt.runs.register(owner.works, name="works")
        await until(rt, "r", "run.dispatched", 2)
        await taken.wait()
        process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(process.communicate, "\n", 60)
        gone.set()
        assert await rt.runs.result("r") == ["first", "second", "second"]
        events = await rt.runs.history("r").read()
        over = [e.data for e in events if e.type == "step.succeeded"]
        assert [(one["name"], one["result"]) for one in over] == [
            ("first", "first"),
            ("hold", "second"),
            ("last", "second"),
        ]
        assert await rt.verify() == []


def test_who_waits_for_a_run_is_told_when_its_runtime_was_overtaken(store_url: str) -> None:
    """A9, F15. For one that is executed, also in a long step, and for one that just waits."""

    async def whole() -> None:
        async def holds(run: Run) -> None:
            await run.step("hold", asyncio.Event().wait)

        async def sleeps(run: Run) -> None:
            await run.sleep(1_000)

        async with holdfast.open(store_url) as rt:
            held = await rt.runs.start(holds, run_id="held")
            asleep = await rt.runs.start(sleeps, run_id="asleep")
            await until(rt, "held", "step.started")
            await until(rt, "asleep", "run.waiting")
            waits = [asyncio.ensure_future(run.result()) for run in (held, asleep)]
            await asyncio.sleep(0)
            await overtaken(rt)
            for wait in waits:
                with pytest.raises(StaleGenerationError):
                    await asyncio.wait_for(wait, 20)
            assert (await rt.runs.get("held")).status is Status.RUNNING
            assert rt.health().phase is Phase.FAILED

    asyncio.run(whole())


async def overtaken(rt: Runtime) -> None:
    """Take a runtime's lease, as another one does that takes it for dead; let it find that."""
    presence = rt._presence  # pyright: ignore[reportPrivateUsage]
    fence = presence.fence
    steal = (ReleaseLease(fence.key, fence.generation), GrantLease(fence.key, 30.0, "another"))
    await rt._store.commit_early(Unit(steal))  # pyright: ignore[reportPrivateUsage]
    await presence.beat()


if __name__ == "__main__":
    asyncio.run(first_owner(sys.argv[1]))
