"""Taking a run: at the very moment a runtime leaves, and when the store fails."""

import asyncio
import threading
from typing import Any

import pytest

import holdfast
from holdfast import Run
from holdfast.core.errors import (
    ClosedError,
    HoldfastError,
    OutcomeUnknownError,
    PoisonedError,
)
from holdfast.core.ledger import RESUME, Terms
from holdfast.core.unit import PutRecord, Unit
from holdfast.core.world import World
from holdfast.runtime.runs import executor
from holdfast.runtime.runs.executor import Executor
from holdfast.store.port import CommitFailed


async def waits(run: Run) -> Any:
    return await run.signal("go")


async def leave_waiting(url: str) -> None:
    """Let a run wait for its signal and nobody be there."""
    async with holdfast.open(url, functions=[waits]) as rt:
        run = await rt.runs.start(waits, run_id="r")
        async for event in run.follow():
            if event.type == "run.waiting":
                return


async def seven(run: Run) -> int:
    return await run.step("seven", lambda: 7)


def fail() -> None:
    raise CommitFailed("test")


def test_a_run_that_is_taken_while_its_runtime_leaves_goes_on_in_the_next(
    kept_url: str, caplog: Any
) -> None:
    """A1, A13. Taking it is carried to its end, so that it is let go in good order."""
    world = World()
    go_on = threading.Event()

    async def leave() -> None:
        loop, taking = asyncio.get_running_loop(), asyncio.Event()

        def hold() -> None:
            loop.call_soon_threadsafe(taking.set)
            go_on.wait(60)

        async with holdfast.open(kept_url, functions=[seven], world=world) as rt:
            await rt.runs.start(seven, run_id="r")
            world.failpoints.arm("commit.written", hold)
            await taking.wait()
            closing = asyncio.create_task(rt.close())
            for _ in range(1_000):
                await asyncio.sleep(0)
            assert rt.health().stage == "leaving"
            go_on.set()
            await closing

    async def go_on_with_it() -> None:
        async with holdfast.open(kept_url, functions=[seven]) as rt:
            async with asyncio.timeout(20):
                assert await rt.runs.result("r") == 7
            assert await rt.verify() == []

    asyncio.run(leave())
    asyncio.run(go_on_with_it())
    assert "goodbye_failed" not in caplog.text


def test_work_that_was_begun_for_nobody_together_with_something_else_goes_on(
    kept_url: str,
) -> None:
    """F19. What was written with it holds, so it is not settled but may be claimed."""
    world = World()

    async def whole() -> None:
        loop = asyncio.get_running_loop()
        async with holdfast.open(kept_url, world=world) as rt:
            also = Unit((PutRecord("mine", ("a",), b"\xc0"),))
            begin = asyncio.ensure_future(rt.ledger.start(("a",), Terms("", RESUME), None, also))

            def cancel() -> None:
                loop.call_soon_threadsafe(begin.cancel)

            world.failpoints.arm("commit.written", cancel)
            with pytest.raises(asyncio.CancelledError):
                await begin
            world.failpoints.arm("commit.written", lambda: None)
        async with holdfast.open(kept_url) as rt:  # The goodbye wrote what was owed.
            info = await rt.ledger.find("a")
            assert info is not None and info.state == "resumable"

    asyncio.run(whole())


@pytest.mark.parametrize("here", [True, False])
def test_who_waits_for_the_end_of_a_run_hears_that_the_store_failed_or_was_closed(
    kept_url: str, here: bool
) -> None:
    """X2. Nobody waits for ever for what cannot come any more: run executed here, or nowhere."""
    world = World()

    async def ended(how: str) -> str:
        async with holdfast.open(kept_url, functions=[waits], world=world) as rt:
            if here:
                run = await rt.runs.start(waits)
            else:
                await rt.runs.queues.limit("full", rate=1, per=1e9)
                await rt.runs.start(waits, queue="full")
                run = await rt.runs.start(waits, queue="full")
            results = [asyncio.create_task(run.result()) for _ in range(2)]
            if here:
                async for event in run.follow():
                    if event.type == "run.waiting":
                        break
            if how == "poison":
                world.failpoints.arm("commit.written", fail)
                with pytest.raises(OutcomeUnknownError):
                    await rt.history("s").append("t")
                world.failpoints.arm("commit.written", lambda: None)
            else:
                await rt.close()
            async with asyncio.timeout(20):
                found = await asyncio.gather(*results, return_exceptions=True)
            return found[0].code if isinstance(found[0], HoldfastError) else str(found)

    assert asyncio.run(ended("poison")) == PoisonedError.code
    assert asyncio.run(ended("close")) == ClosedError.code


def test_a_run_that_another_runtime_queued_is_taken_without_waiting_for_the_next_look(
    kept_url: str, monkeypatch: Any
) -> None:
    """A9. What others commit is heard of; a look now and then is only the fallback."""
    monkeypatch.setattr(executor, "LOOK", 600.0)

    async def whole() -> None:
        async with (
            holdfast.open(kept_url, functions=[seven]) as takes,
            holdfast.open(kept_url) as starts,
        ):
            starts.runs.register(seven)
            starts._executor.capacity = 0
            await takes.runs.result((await takes.runs.start(seven)).id)  # It looked, and rests.
            run = await starts.runs.start(seven)
            async with asyncio.timeout(20):
                assert await run.result() == 7

    asyncio.run(whole())


def test_who_stops_taking_runs_waits_for_all_that_are_being_taken(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A1, A13. One that was taken behind its back kept the runtime from closing, for ever."""

    async def whole() -> None:
        begin = Executor._begin
        gates, taken = {id: asyncio.Event() for id in ("a", "b")}, asyncio.Semaphore(0)

        async def begin_late(self: Executor, run_id: str, *seen: Any) -> Any:
            found = await begin(self, run_id, *seen)
            taken.release()
            await gates[run_id].wait()
            return found

        monkeypatch.setattr(Executor, "_begin", begin_late)
        async with holdfast.open(store_url, functions=[seven]) as rt:
            rt._executor.capacity = 0
            for run_id in gates:
                await rt.runs.start(seven, run_id=run_id)
            rt._executor.capacity = len(gates)
            rt._executor.look()
            for _ in gates:
                await taken.acquire()
            stopping = asyncio.create_task(rt._executor.stop())
            await asyncio.sleep(0)
            gates["a"].set()
            assert await rt.runs.result("a") == 7
            assert not stopping.done()
            gates["b"].set()
            await stopping

    asyncio.run(whole())


def test_code_that_comes_while_its_run_is_just_set_aside_for_it_is_used(kept_url: str) -> None:
    """A13. Whoever registers a function looks at once, and then it is not there yet that waits."""
    world = World()
    held, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        go_on.wait(60)

    async def go_on_with_it() -> None:
        async with holdfast.open(kept_url, world=world) as rt:
            points = world.failpoints
            points.arm("run.dispatched", lambda: points.arm("commit.taken", hold))
            await rt.runs.signal("r", "go", 7)
            await asyncio.to_thread(held.wait, 60)
            rt.runs.register(waits)
            for _ in range(20):
                await rt.streams()
            go_on.set()
            async with asyncio.timeout(20):
                assert await rt.runs.result("r") == 7

    asyncio.run(leave_waiting(kept_url))
    asyncio.run(go_on_with_it())


def test_a_runtime_that_takes_no_runs_leaves_those_that_wait_for_its_code(kept_url: str) -> None:
    """A13. Queued for others, who lack the code, they would be set aside again and again."""

    async def drained() -> None:
        async with holdfast.open(kept_url) as rt:
            await rt.runs.signal("r", "go", 7)
            async for event in rt.runs.history("r").follow():
                if event.type == "run.waiting" and event.data["waits"] != ["signal:go"]:
                    break
            me = rt.opened.incarnation.hex()
            await rt.workers.drain(me)
            rt.runs.register(waits)
            for _ in range(20):
                await rt.streams()
            assert (await rt.runs.get("r")).waits == [f"no_code:{waits.__module__}.waits"]
            await rt.workers.resume(me)
            async with asyncio.timeout(20):
                assert await rt.runs.result("r") == 7

    asyncio.run(leave_waiting(kept_url))
    asyncio.run(drained())


def test_runs_of_another_version_do_not_hide_those_whose_code_is_here(kept_url: str) -> None:
    """A12, A13. They wait for code too, and take nobody's place."""
    versions = {"a": "1", "z": "1"}

    async def leave(name: str) -> None:
        async with holdfast.open(kept_url) as rt:
            rt.runs.register(waits, name=name, version=versions[name])
            run = await rt.runs.start(name, run_id=name)
            async for event in run.follow():
                if event.type == "run.waiting":
                    return

    async def go_on() -> None:
        async with holdfast.open(kept_url) as rt:
            rt._executor.capacity = 1
            rt.runs.register(waits, name="a", version="2")
            for run_id in versions:
                await rt.runs.signal(run_id, "go", 7)
                async for event in rt.runs.history(run_id).follow():
                    if event.type == "run.waiting" and event.data["waits"] != ["signal:go"]:
                        break
            rt.runs.register(waits, name="z", version="1")
            async with asyncio.timeout(20):
                assert await rt.runs.result("z") == 7

    for name in versions:
        asyncio.run(leave(name))
    asyncio.run(go_on())
