"""How a run ends: what it leaves, who hears of it; statements A9 and A11 of the runs."""

import asyncio
from contextlib import aclosing

import msgspec
import pytest

import holdfast
from holdfast import Run
from holdfast.core.run import Status
from holdfast.runtime.runs import executor


def test_a_run_that_ends_while_somebody_is_asked_closes_the_question(store_url: str) -> None:
    """A9. A run that never asked is not searched for questions; one that did is."""

    async def fails() -> None:
        raise ValueError("no")

    async def work(run: Run) -> None:
        asking = asyncio.create_task(run.ask("Go on?"))
        async with aclosing(rt.runs.handle("r").follow()) as events:
            async for event in events:
                if event.type == "question.asked":
                    break
        await asyncio.gather(asking, run.step("fails", fails))

    async def main() -> None:
        assert (await (await rt.runs.start(work, run_id="r")).ended()).status is Status.FAILED
        assert await rt.runs.questions.list() == []
        assert (await rt.runs.questions.get("r?1")).state == "closed"

    async def opened() -> None:
        nonlocal rt
        async with holdfast.open(store_url) as rt:
            await main()

    rt: holdfast.Runtime
    asyncio.run(opened())


@pytest.mark.parametrize("ending", [Status.SUCCEEDED, Status.FAILED, Status.CANCELLED])
def test_who_waits_here_is_told_the_end_as_it_is_stored(store_url: str, ending: Status) -> None:
    """A11. The view that is handed out is the one a later look finds."""

    async def main() -> None:
        async with holdfast.open(store_url) as rt:
            began = asyncio.Event()

            async def work(run: Run) -> int:
                began.set()
                if ending is Status.CANCELLED:
                    await asyncio.Event().wait()
                if ending is Status.FAILED:
                    raise ValueError("no")
                return 7

            run = await rt.runs.start(work, run_id="r")
            await began.wait()
            waiting = asyncio.create_task(run.ended())
            await asyncio.sleep(0)
            if ending is Status.CANCELLED:
                await rt.runs.cancel("r", reason="enough")
            info = await waiting
            assert info.status is ending
            stored = await rt.runs.get("r")
            # Who executes it tells what it wrote, before the number of that change is known.
            assert msgspec.structs.replace(info, revision=stored.revision) == stored

    asyncio.run(main())


@pytest.mark.parametrize("way", ["heard of", "looked for"])
def test_a_run_is_cancelled_from_another_runtime_while_it_is_in_a_step(
    kept_url: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A11. It is heard of at once; who heard nothing looks at all views now and then."""
    if way == "heard of":
        monkeypatch.setattr(executor, "_VIEWS_APART", float("inf"))

    async def main() -> None:
        async with holdfast.open(kept_url) as executes, holdfast.open(kept_url) as cancels:
            if way == "looked for":
                executes._watch.on_streams = lambda _: None
            began = asyncio.Event()

            async def work(run: Run) -> None:
                began.set()
                await run.step("long", asyncio.Event().wait)

            run = await executes.runs.start(work, run_id="r")
            await began.wait()
            await cancels.runs.cancel("r", reason="enough")
            async with asyncio.timeout(20):
                assert (await run.ended()).status is Status.CANCELLED

    asyncio.run(main())
