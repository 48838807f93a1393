"""The goodbye of a runtime, as its runs see it: what they owe is written, nothing fails of it."""

import asyncio

import holdfast
from holdfast import Run, Status
from holdfast.core.refusal import NotReadyError


def test_a_step_that_ends_while_its_runtime_says_goodbye_is_recorded(store_url: str) -> None:
    """A1, A13. The owner still writes when others may not any more; the run does not fail of it."""
    done: list[str] = []

    async def leave() -> None:
        async with holdfast.open(store_url) as rt:

            async def work(run: Run) -> str:
                first = await run.step("first", shut)
                return first + await run.step("second", lambda: done.append("second") or "b")

            async def shut() -> str:
                done.append("first")
                rt._store.shut(lambda: NotReadyError(phase="draining", reason="goodbye"))
                return "a"

            rt.runs.register(work, name="work")
            await rt.runs.start(work, run_id="r")
            assert (await rt.runs.ended("r")).status is Status.SUCCEEDED
            assert await rt.runs.result("r") == "ab"

    asyncio.run(leave())
    assert done == ["first", "second"]
