"""Several tasks of one run: each gets what it waits for, and nobody is forgotten at the end."""

import asyncio
from typing import Any

import pytest

import holdfast
from holdfast import Run
from holdfast.core.run import RunView, Status
from holdfast.runtime.runs.handle import RunHandle
from holdfast.runtime.runs.view import Views


class Gate:
    """A step that ends when it is told to, and signals that may never come."""

    def __init__(self) -> None:
        self.open = asyncio.Event()

    async def beside(self, run: Run) -> Any:
        return await asyncio.gather(run.step("held", self.open.wait), run.signal("never"))


async def two_of_a_name(run: Run) -> Any:
    return await asyncio.gather(run.signal("go"), run.signal("go"))


async def two_names(run: Run) -> Any:
    return await asyncio.gather(run.signal("one"), run.signal("two"))


async def says(run: RunHandle, type: str, times: int = 1) -> None:
    """Wait until the journal has so many of these."""
    async for event in run.follow():
        times -= event.type == type
        if not times:
            return


def test_two_who_wait_for_signals_of_one_name_get_one_each(store_url: str) -> None:
    """A1. The second who waits takes nothing from the first."""

    async def work() -> None:
        async with holdfast.open(store_url, functions=[two_of_a_name]) as rt:
            run = await rt.runs.start(two_of_a_name, run_id="r")
            await says(run, "run.waiting", 2)
            await rt.runs.signal("r", "go", 1)
            await rt.runs.signal("r", "go", 2)
            async with asyncio.timeout(20):
                assert await run.result() == [1, 2]

    asyncio.run(work())


def test_what_arrives_while_a_parked_run_is_taken_back_does_not_fail_it(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A1. One task parked it, another one takes it back to wait too, and just then it comes."""
    get, sent = Views.get, list[str]()

    async def work() -> None:
        async with holdfast.open(store_url, functions=[two_names]) as rt:

            async def getting(views: Views, run_id: str) -> tuple[RunView, int]:
                found = await get(views, run_id)
                execution = rt._executor.live.get(run_id)
                if execution is not None and execution.parked and not sent:
                    sent.append(run_id)
                    await rt.runs.signal(run_id, "one", 1)
                return found

            monkeypatch.setattr(Views, "get", getting)
            run = await rt.runs.start(two_names, run_id="r")
            await says(run, "signal.received")
            await rt.runs.signal("r", "two", 2)
            async with asyncio.timeout(20):
                assert await run.result() == [1, 2]

    asyncio.run(work())


@pytest.mark.parametrize("mode", ["after_step", "now"])
def test_a_run_that_is_cancelled_during_its_last_step_does_not_wait_on(
    store_url: str, mode: Any
) -> None:
    """A11. The step ends, another task of it only waits, and nobody there would look again."""

    async def work() -> None:
        gate = Gate()
        async with holdfast.open(store_url, functions=[gate.beside]) as rt:
            run = await rt.runs.start(gate.beside, run_id="r")
            await says(run, "step.started")
            await rt.runs.cancel("r", mode=mode)
            execution = rt._executor.live["r"]
            while execution.view.status is not Status.CANCELLING and not execution.over.done():
                await rt.streams()
            gate.open.set()
            async with asyncio.timeout(20):
                assert (await run.ended()).status is Status.CANCELLED

    asyncio.run(work())


def test_a_run_that_waits_beside_its_last_step_does_not_hold_up_a_drain(kept_url: str) -> None:
    """H6. It is let go when the step is over, and not at the end of the time."""

    async def work() -> None:
        gate = Gate()
        async with holdfast.open(kept_url, functions=[gate.beside]) as rt:
            run = await rt.runs.start(gate.beside, run_id="r")
            await says(run, "step.started")
            draining = asyncio.create_task(rt.drain(600.0))
            while not rt._executor.live["r"].draining:
                await rt.streams()
            gate.open.set()
            async with asyncio.timeout(20):
                await draining

    asyncio.run(work())
