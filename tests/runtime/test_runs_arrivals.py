"""What others put into a run while its owner looks at what they put in before."""

import asyncio
from typing import Any

import pytest

import holdfast
from holdfast import Run, Status
from holdfast.core.errors import DamagedError
from holdfast.runtime.runs import execution
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
                    sent.append("word")
                    await rt.runs.signal(self.run_id, "word", "said")

            async def work(run: Run) -> Any:
                monkeypatch.setattr(Execution, "look", look_and_get)
                rt._executor._poke(run.id)  # So its next step looks first.
                await run.step("step", lambda: None)
                return await run.signal("word")

            run = await rt.runs.start(work)
            info = await run.ended()
            assert info.status is Status.SUCCEEDED, info.error
            assert sent and await run.result() == "said"

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


def test_what_begins_a_wait_is_durable_also_if_something_arrives_just_then(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A1, A10. It waited for an answer to what was never asked, for a time that never was set."""

    async def main() -> None:
        async with holdfast.open(store_url) as rt:
            change = Execution._change
            sent: list[str] = []

            async def changed_meanwhile(self: Execution, *rest: Any, **more: Any) -> Any:
                if len(sent) < 2:
                    sent.append("word")
                    await rt.runs.signal(self.run_id, "word")
                return await change(self, *rest, **more)

            async def work(run: Run) -> Any:
                answer = await run.ask("Who?")
                await run.sleep(0.001)
                return answer

            monkeypatch.setattr(Execution, "_change", changed_meanwhile)
            run = await rt.runs.start(work)
            async with asyncio.timeout(20):
                async for event in run.follow():
                    if event.type == "question.asked":
                        break
                await rt.runs.answer(f"{run.id}?1", "me", by="ann")
                assert await run.result() == "me"

    asyncio.run(main())


def test_what_arrived_and_could_not_be_read_at_once_is_not_slept_over(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A11, A13. It waited for what had arrived, after a restart too."""

    async def main() -> None:
        async with holdfast.open(store_url) as rt:

            async def fail(*_: Any) -> None:
                monkeypatch.undo()
                raise DamagedError(what="stream", name="run/r", reason="it cannot be read just now")

            async def work(run: Run) -> Any:
                return await run.signal("word")

            run = await rt.runs.start(work, run_id="r")
            async for event in run.follow():
                if event.type == "run.waiting":
                    break
            monkeypatch.setattr(execution, "read_arrivals", fail)
            await rt.runs.signal(run.id, "word", "said")
            async with asyncio.timeout(20):
                assert await run.result() == "said"

    asyncio.run(main())
