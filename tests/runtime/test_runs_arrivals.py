"""What others put into a run while its owner looks at what they put in before."""

import asyncio
from typing import Any

import pytest

import holdfast
from holdfast import Run, Status
from holdfast.runtime.runs.execution import Execution


def test_a_run_goes_on_when_more_arrives_while_it_looks(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A1, A11. It was failed as one that cancelled itself."""

    async def main() -> None:
        async with holdfast.open(store_url) as rt:
            look = Execution.look
            sent: list[str] = []

            async def look_and_get(self: Execution) -> None:
                await look(self)
                if not sent:
                    sent.append("second")
                    await rt.runs.signal(self.run_id, "word", "second")

            async def work(run: Run) -> list[Any]:
                await run.step("first", rt.runs.signal, run.id, "word", "first")
                monkeypatch.setattr(Execution, "look", look_and_get)
                await run.step("second", lambda: None)
                return [await run.signal("word"), await run.signal("word")]

            run = await rt.runs.start(work)
            info = await run.ended()
            assert info.status is Status.SUCCEEDED, info.error
            assert sent and await run.result() == ["first", "second"]

    asyncio.run(main())


def test_a_pause_that_arrives_as_a_run_begins_to_wait_is_taken(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A3, A11. It waited on, neither paused nor parked, until somebody cancelled it."""

    async def main() -> None:
        async with holdfast.open(store_url) as rt:
            begin_wait = Execution._begin_wait
            paused: list[str] = []

            async def pause_first(self: Execution, *rest: Any) -> None:
                if not paused:
                    paused.append(self.run_id)
                    await rt.runs.pause(self.run_id)
                await begin_wait(self, *rest)

            async def work(run: Run) -> Any:
                return await run.signal("word")

            monkeypatch.setattr(Execution, "_begin_wait", pause_first)
            run = await rt.runs.start(work)
            async for event in run.follow():
                if event.type == "run.paused":
                    break
            await rt.runs.resume(run.id)
            await rt.runs.signal(run.id, "word", "said")
            assert await run.result() == "said"

    asyncio.run(main())
