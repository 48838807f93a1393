"""Runs: what is recorded, what is read back, how they end, and what they refuse."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import holdfast
from holdfast import Run, Runtime, Status, Verdict
from holdfast.core.errors import HoldfastError, LimitError, StreamClosedError
from holdfast.core.refusal import (
    RunCancelledError,
    RunExistsError,
    RunNotFoundError,
    RunStateError,
)
from holdfast.core.unit import Append, Unit

Work = Callable[[Runtime], Any]


async def until(rt: Runtime, run_id: str, type: str, nth: int = 1) -> None:
    """Wait until the journal of a run has the n-th event of a type."""
    async for event in rt.runs.history(run_id).follow():
        nth -= event.type == type
        if not nth:
            return
    raise AssertionError(f"run {run_id} ended without {type}")


async def journal(rt: Runtime, run_id: str) -> list[str]:
    """Return the types of the events of a run."""
    return [event.type for event in await rt.runs.history(run_id).read(limit=10_000)]


class Calls:
    """Functions that say that they were called."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.gate = asyncio.Event()

    async def note(self, what: str) -> str:
        self.made.append(what)
        return what

    async def blocked(self) -> str:
        self.made.append("blocked")
        await self.gate.wait()
        return "free"

    async def report(self, run: Run, topic: str) -> str:
        outline = await run.step("outline", self.note, f"outline of {topic}")
        answer = await run.ask("Publish?", choices=["yes", "no"])
        if answer == "yes":
            await run.step("publish", self.note, "published", effect="once")
        return f"{outline}: {answer}"

    async def asks(self, run: Run) -> Any:
        return await run.ask("Well?", timeout=60, default="late")

    async def works(self, run: Run) -> str:
        await run.step("first", self.note, "first")
        await run.step("block", self.blocked)
        await run.step("last", self.note, "last")
        return "done"

    async def fails(self, run: Run) -> None:
        await run.step("boom", self.boom)

    async def boom(self) -> None:
        raise ValueError("no secret in the error")


def execute(url: str, calls: Calls, work: Work, **options: Any) -> Any:
    """Open a store with the functions known, and do something."""

    async def run() -> Any:
        calls.gate = asyncio.Event()
        functions = [calls.report, calls.asks, calls.works, calls.fails]
        async with holdfast.open(url, functions=functions, **options) as rt:
            return await work(rt)

    return asyncio.run(run())


def test_what_was_recorded_is_read_back_after_a_restart(kept_url: str) -> None:
    """A1, A2, A10, C1. No step again, no question again; an answer given by another runtime."""
    calls = Calls()

    async def begin(rt: Runtime) -> None:
        await rt.runs.start(calls.report, "light", run_id="r")
        await until(rt, "r", "run.waiting")
        info = await rt.runs.get("r")
        assert (info.status, info.waits) == (Status.WAITING, ["question:r?1"])

    async def answer(rt: Runtime) -> None:
        await rt.runs.answer("r?1", "yes", by="ann")

    async def end(rt: Runtime) -> Any:
        return await rt.runs.result("r"), await journal(rt, "r"), await rt.verify()

    execute(kept_url, calls, begin)

    async def elsewhere() -> None:
        async with holdfast.open(kept_url) as rt:
            await answer(rt)

    asyncio.run(elsewhere())
    result, types, damage = execute(kept_url, calls, end)
    assert (result, damage) == ("outline of light: yes", [])
    assert calls.made == ["outline of light", "published"]
    assert types.count("question.asked") == types.count("question.answered") == 1


def test_ids_are_values_and_used_once(store_url: str) -> None:
    """A8, X6. Odd ids stay apart; an id is never used again; a key gives the same run."""
    calls = Calls()
    ids = ["..", "a/b", "a", "A", "a\u0301", "\u00e1", "", "x" * 10_000, "a?1", "\0"]

    async def work(rt: Runtime) -> None:
        for id in ids:
            await rt.runs.start(calls.fails, run_id=id)
        for id in ids:
            assert (await rt.runs.ended(id)).status is Status.FAILED
            with pytest.raises(RunExistsError):
                await rt.runs.start(calls.report, "x", run_id=id)
        assert {info.id for info in await rt.runs.list()} == set(ids)
        assert await rt.runs.retain(0.0) == len(ids)
        with pytest.raises(RunExistsError):
            await rt.runs.start(calls.report, "x", run_id="a")
        await rt.runs.start(calls.asks, run_id="w")
        await until(rt, "w", "run.waiting")
        with pytest.raises(RunExistsError):
            await rt.runs.start(calls.report, "x", run_id="w")
        keyed = [rt.runs.start(calls.report, "x", key="k") for _ in range(8)]
        assert len({run.id for run in await asyncio.gather(*keyed)}) == 1
        with pytest.raises(RunNotFoundError):
            await rt.runs.get("never")

    execute(store_url, calls, work)


def test_a_run_that_ended_does_not_change_any_more(store_url: str) -> None:
    """A7, A16. Nothing late gets in, and every refusal says state, action, reason, or the limit."""
    calls = Calls()

    async def work(rt: Runtime) -> None:
        run = await rt.runs.start(calls.asks, run_id="r")
        await until(rt, "r", "question.asked")
        await rt.runs.cancel("r", reason="enough", by="ann")
        before, view = await journal(rt, "r"), await run.view()
        late: list[tuple[str, Any]] = [
            ("cancelled", rt.runs.cancel("r")),
            ("paused", rt.runs.pause("r")),
            ("resumed", rt.runs.resume("r")),
            ("retried", rt.runs.retry("r")),
            ("given signal.received", rt.runs.signal("r", "x")),
            ("resolved", rt.runs.resolve("r", "a#1", Verdict("done"))),
        ]
        for action, one in late:
            with pytest.raises(RunStateError) as refused:
                await one
            said = refused.value.fields()
            assert (said["run_id"], said["state"], said["action"]) == ("r", "cancelled", action)
            assert said["reason"] and refused.value.code == "run_state"
        with pytest.raises(LimitError) as limited:
            await rt.runs.list(limit=10_001)
        assert (limited.value.size, limited.value.limit) == (10_001, 10_000)
        with pytest.raises(HoldfastError):
            await rt.runs.answer("r?1", "late")
        with pytest.raises(StreamClosedError):
            event = rt.history("run/r").event("run.succeeded", {})
            await rt.commit(Unit((Append("run/r", (event,)),)))
        assert (await journal(rt, "r"), await run.view()) == (before, view)
        with pytest.raises(RunCancelledError) as cancelled:
            await run.result()
        assert (cancelled.value.reason, cancelled.value.by) == ("enough", "ann")

    execute(store_url, calls, work)


def test_who_follows_gets_every_event_and_a_clean_end(store_url: str) -> None:
    """A5, A7. Also at the very end; with the terminal event the record is terminal as well."""
    calls = Calls()

    async def work(rt: Runtime) -> None:
        run = await rt.runs.start(calls.works, run_id="r")
        seen: list[list[int]] = []

        async def follow(after: int) -> None:
            found: list[int] = []
            async for event in run.follow(after):
                found.append(event.sequence)
                if event.type == "run.succeeded":
                    assert (await run.view()).status is Status.SUCCEEDED
            seen.append(found)

        followers = [asyncio.ensure_future(follow(0)) for _ in range(3)]
        await until(rt, "r", "step.started", 1)
        calls.gate.set()
        await run.result()
        last = len(await journal(rt, "r"))
        await asyncio.gather(*followers, follow(0), follow(last))
        assert sorted(seen, key=len) == [[], *[list(range(1, last + 1))] * 4]

    execute(store_url, calls, work)


@pytest.mark.parametrize("mode", ["now", "after_step"])
def test_a_run_is_cancelled_while_a_step_is_under_way(store_url: str, mode: Any) -> None:
    """A11. Now: the step is interrupted. After the step: it is recorded, and nothing more."""
    calls = Calls()

    async def work(rt: Runtime) -> None:
        run = await rt.runs.start(calls.works, run_id="r")
        await until(rt, "r", "step.started")
        await rt.runs.cancel("r", mode=mode, reason="enough")
        if mode == "after_step":
            rt.runs.look()
            calls.gate.set()
        info = await run.ended()
        assert (info.status, info.why) == (Status.CANCELLED, "enough")
        assert calls.made == ["first", "blocked"]
        recorded = (await journal(rt, "r")).count("step.succeeded")
        assert recorded == (1 if mode == "now" else 2)

    execute(store_url, calls, work)


def test_a_run_that_waits_or_is_not_known_is_cancelled_at_once(kept_url: str) -> None:
    """A11. Before, during and after a restart; its questions are closed, nobody is asked."""
    calls = Calls()

    async def begin(rt: Runtime) -> None:
        await rt.runs.start(calls.asks, run_id="waits")
        await until(rt, "waits", "run.waiting")
        await rt.runs.start(calls.asks, run_id="later")
        await until(rt, "later", "run.waiting")
        await rt.runs.cancel("waits", reason="enough")

    async def end(rt: Runtime) -> None:
        await rt.runs.cancel("later", reason="enough")
        for id in ("waits", "later"):
            info = await rt.runs.ended(id)
            assert (info.status, info.why) == (Status.CANCELLED, "enough")
            assert (await rt.runs.questions.get(f"{id}?1")).state == "closed"
        assert await rt.runs.questions.list() == []
        assert await rt.records.list("holdfast.run.timer") == []

    execute(kept_url, calls, begin)
    execute(kept_url, calls, end)


def test_a_paused_run_rests_until_it_is_resumed(store_url: str) -> None:
    """A16. At the next step if it is executed; an answer given meanwhile is used."""
    calls = Calls()

    async def work(rt: Runtime) -> None:
        run = await rt.runs.start(calls.works, run_id="r")
        await until(rt, "r", "step.started")
        await rt.runs.pause("r", reason="lunch", by="ann")
        rt.runs.look()
        calls.gate.set()
        await until(rt, "r", "run.paused")
        info = await run.view()
        assert (info.status, info.why, info.by) == (Status.PAUSED, "lunch", "ann")
        await rt.runs.resume("r")
        assert await run.result() == "done"
        assert calls.made == ["first", "blocked", "last"]
        asking = await rt.runs.start(calls.asks, run_id="q")
        await until(rt, "q", "run.waiting")
        await rt.runs.pause("q")
        await rt.runs.answer("q?1", 7)
        assert (await asking.view()).status is Status.PAUSED
        await rt.runs.resume("q")
        assert await asking.result() == 7

    execute(store_url, calls, work)


def test_another_version_waits_until_it_is_forced(kept_url: str) -> None:
    """A12. What was captured counts; a changed version is refused unless forced, and recorded."""
    calls = Calls()

    async def one() -> None:
        async with holdfast.open(kept_url) as rt:
            rt.runs.register(calls.report, name="report", version="1")
            topics = ["light"]
            await rt.runs.start(calls.report, topics[0], run_id="r")
            await until(rt, "r", "run.waiting")

    async def two() -> None:
        async with holdfast.open(kept_url) as rt:
            await rt.runs.answer("r?1", "no")
            await until(rt, "r", "run.waiting", 2)
            assert (await rt.runs.get("r")).waits == ["no_code:report"]
            rt.runs.register(calls.report, name="report", version="2")
            await rt.runs.resume("r")
            await until(rt, "r", "run.waiting", 3)
            assert (await rt.runs.get("r")).waits == ["version_mismatch:1->2"]
            await rt.runs.resume("r", force=True, by="ann")
            assert await rt.runs.result("r") == "outline of light: no"
            events = await rt.runs.history("r").read()
            forced = [e.data for e in events if e.type == "run.resumed" and "version" in e.data]
            assert [(one["by"], one["version"]) for one in forced] == [("ann", "2")]

    asyncio.run(one())
    asyncio.run(two())
    assert calls.made == ["outline of light"]


def test_code_that_comes_back_is_used(kept_url: str) -> None:
    """A13. A run whose function is not there waits for it, and goes on when it is registered."""
    calls = Calls()

    async def start() -> None:
        async with holdfast.open(kept_url) as rt:
            rt.runs.register(calls.asks, name="asks")
            await rt.runs.start(calls.asks, run_id="r")
            await until(rt, "r", "run.waiting")

    async def later() -> None:
        async with holdfast.open(kept_url) as rt:
            await rt.runs.answer("r?1", 1)
            await until(rt, "r", "run.waiting", 2)
            rt.runs.register(calls.asks, name="asks")
            assert await rt.runs.result("r") == 1

    asyncio.run(start())
    asyncio.run(later())


def test_a_resume_that_fails_leaves_the_run_to_be_resumed(kept_url: str) -> None:
    """A13. Arguments that do not fit any more: paused with the reason, then the right code."""

    async def old(run: Run, number: int) -> int:
        return int(await run.ask("?")) + number

    async def wrong(run: Run, number: list[str]) -> int:
        return len(number)

    async def act(fn: Any, expected: Status) -> str:
        async with holdfast.open(kept_url) as rt:
            rt.runs.register(fn, name="f")
            if fn is old and expected is Status.WAITING:
                await rt.runs.start(fn, 5, run_id="r")
                await until(rt, "r", "run.waiting")
            elif fn is wrong:
                await rt.runs.answer("r?1", 1)
                await until(rt, "r", "run.paused")
            else:
                await rt.runs.resume("r")
                assert await rt.runs.result("r") == 6
            info = await rt.runs.get("r")
            assert info.status is expected
            return info.why

    asyncio.run(act(old, Status.WAITING))
    assert "cannot be resumed: decode" in asyncio.run(act(wrong, Status.PAUSED))
    asyncio.run(act(old, Status.SUCCEEDED))


def test_a_function_that_does_something_else_has_diverged(kept_url: str) -> None:
    """C1. Both sides are shown and nothing new is done; the old code goes on where it was."""
    calls = Calls()

    async def before(run: Run) -> str:
        await run.step("a", calls.note, "a")
        return str(await run.ask("?"))

    async def other(run: Run) -> str:
        await run.step("b", calls.note, "b")
        return str(await run.ask("?"))

    async def shorter(run: Run) -> str:
        return "short"

    async def pause_first() -> None:
        async with holdfast.open(kept_url) as rt:
            rt.runs.register(before, name="f")
            await rt.runs.start(before, run_id="r")
            await until(rt, "r", "run.waiting")

    async def go(fn: Any, expected: tuple[str, str]) -> None:
        async with holdfast.open(kept_url) as rt:
            rt.runs.register(fn, name="f")
            info = await rt.runs.get("r")
            if info.status is Status.WAITING and info.reason == "question":
                await rt.runs.answer("r?1", "x")
            else:
                await rt.runs.resume("r")
            if not expected[1]:
                assert await rt.runs.result("r") == "x"
                return
            await until(rt, "r", "run.diverged", 1 if fn is other else 2)
            info = await rt.runs.get("r")
            assert (info.reason, info.expected, info.asked) == ("diverged", *expected)

    asyncio.run(pause_first())
    asyncio.run(go(other, ("step a#1", "step b#1")))
    asyncio.run(go(shorter, ("step a#1", "the end")))
    asyncio.run(go(before, ("", "")))
    assert calls.made == ["a"]
