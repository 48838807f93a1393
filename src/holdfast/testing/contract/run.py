"""
Claims about runs and pipelines: lists, filters, removal, forks, one winner of many.

With these, C2 and C3 are part of the contract, and C1 and C4 hold for runs as for streams.
"""

import asyncio
from typing import Any, Final

from holdfast.core.context import Context
from holdfast.core.errors import EncodeError
from holdfast.core.machine import Machine
from holdfast.core.refusal import AnswerConflictError, PipelineNotFoundError, RunExistsError
from holdfast.core.run import Status
from holdfast.runtime.runs.run import Run
from holdfast.runtime.runtime import Runtime
from holdfast.testing.contract.claim import Opener, asynchronous, equal, holds, refused

__all__ = ["PipelineContract", "RunContract"]

RACERS: Final = 32


async def _double(run: Run, number: int) -> int:
    return await run.step("double", lambda: number * 2)


async def _approved(run: Run, text: str) -> str:
    draft = await run.step("draft", lambda: f"draft of {text}")
    sent = await run.step("send", lambda: f"sent {draft}", effect="once")
    await run.attach("draft", draft.encode())
    return f"{sent}: {await run.ask('Good?')}"


class RunContract:
    """What runs promise on any store."""

    @asynchronous
    async def test_runs_are_listed_filtered_and_removed(self, open_store: Opener) -> None:
        """R11, A8, A15. By status, label, text and page; what is removed is gone, its id is not."""
        async with open_store() as rt:
            rt.runs.register(_double, name="double")
            rt.runs.register(_approved, name="approved")
            for n in range(6):
                labels = {"team": "red" if n % 2 else "blue"}
                await (await rt.runs.start(_double, n, run_id=f"d{n}", labels=labels)).result()
            await rt.runs.start(_approved, "x", run_id="a")
            await _until(rt, "a", "run.waiting")
            equal(await _ids(rt, limit=3), ["a", "d0", "d1"], "first page")
            equal(await _ids(rt, after="d1"), ["d2", "d3", "d4", "d5"], "behind d1")
            equal(await _ids(rt, status="waiting"), ["a"], "waiting")
            equal(await _ids(rt, function="double", labels={"team": "red"}), ["d1", "d3", "d5"])
            equal(await _ids(rt, text="4"), ["d4"], "with a text")
            equal(await rt.runs.retain(0.0), 6, "how many were removed")
            equal(await _ids(rt), ["a"], "what is left")
            with refused(RunExistsError):
                await rt.runs.start(_double, 1, run_id="d1")
            equal(await rt.verify(), [], "findings")

    @asynchronous
    async def test_runs_are_found_by_any_number_of_names(self, open_store: Opener) -> None:
        """R11. One that is not there is nothing in its place, also of none, and of itself twice."""
        async with open_store() as rt:
            await (await rt.runs.start(_double, 1, run_id="a")).result()
            equal(await rt.bulk.named([]), [], "of no names")
            equal(await rt.bulk.named(["b"]), [None], "of one that is not there")
            found = [one and one.id for one in await rt.bulk.named(["b", "a", "a"])]
            equal(found, [None, "a", "a"], "of several")

    @asynchronous
    async def test_one_of_many_answers_counts(self, open_store: Opener) -> None:
        """A10, C5. The others are told who was first."""
        async with open_store() as rt:
            run = await rt.runs.start(_approved, "x", run_id="a")
            await _until(rt, "a", "run.waiting")
            answers = (rt.runs.answer("a?1", str(n), by=str(n)) for n in range(RACERS))
            found = await asyncio.gather(*answers, return_exceptions=True)
            won = [one for one in found if not isinstance(one, BaseException)]
            lost = [one for one in found if isinstance(one, AnswerConflictError)]
            equal((len(won), len(lost)), (1, RACERS - 1), "won and lost")
            equal({one.winner for one in lost}, {won[0].by}, "who is named")
            equal(await run.result(), f"sent draft of x: {won[0].answer}", "result")

    @asynchronous
    async def test_equal_forks_are_equal_and_repeat_no_effect(self, open_store: Opener) -> None:
        """C2, C3. The origin stays; what it did once is not done again without anybody's word."""
        async with open_store() as rt:
            await _finished(rt)
            before = await rt.runs.history("a").read()
            patch = {"draft#1": "patched"}
            for id in ("f1", "f2"):
                await rt.runs.fork("a", patch=patch, new_id=id)
            results = [await rt.runs.result(id) for id in ("f1", "f2")]
            equal(results, ["sent draft of x: yes"] * 2, "results of the forks")
            equal(await rt.runs.history("a").read(), before, "the origin")
            await rt.runs.fork("a", at="send#1", new_id="f3")
            await _until(rt, "f3", "run.waiting")
            equal((await rt.runs.get("f3")).waits, ["uncertain_effect:send#1"], "what it waits for")

    @asynchronous
    async def test_a_run_goes_on_in_the_next_opening(self, open_store: Opener) -> None:
        """C1, C4. Nothing that is recorded is done again; what cannot be stored is refused."""
        open_store.need_keeping()
        async with open_store() as rt:
            with refused(EncodeError):
                await rt.runs.start(_approved, object(), run_id="b")
            await rt.runs.start(_approved, "x", run_id="a")
            await _until(rt, "a", "run.waiting")
            before = await rt.runs.history("a").read()
        async with open_store() as rt:
            rt.runs.register(_approved)
            await rt.runs.answer("a?1", "yes")
            equal(await rt.runs.result("a"), "sent draft of x: yes", "result")
            after = await rt.runs.history("a").read()
            equal(after[: len(before)], before, "what was recorded")
            steps = [event.type for event in after].count("step.succeeded")
            equal(steps, 2, "steps that were recorded")


class PipelineContract:
    """What pipelines promise on any store."""

    @asynchronous
    async def test_pipelines_are_listed_by_key_and_version(self, open_store: Opener) -> None:
        """R3, R9, R11. Keys are values; new content is a new version, the same one is not."""
        async with open_store() as rt:
            machine = _counting()
            keys = [("a",), ("a", "b"), ("a/b",), ("b", "a"), ("b", "")]
            for key in keys:
                equal(await rt.pipeline(machine, key).run("one two"), {"n": 2}, str(key))
            listed = await rt.pipelines.list("count")
            equal(sorted(one.key for one in listed), sorted(keys), "keys")
            below = await rt.pipelines.list("count", prefix=("a",))
            equal({one.key for one in below}, {("a",), ("a", "b")}, "keys below a")
            pages = await rt.pipelines.list("count", after=listed[1].key, limit=2)
            equal([one.key for one in pages], [one.key for one in listed[2:4]], "second page")
            pipeline = rt.pipeline(machine, ("a", "b"))
            for content in ("one two", "three"):
                await pipeline.run(content)
            equal([one.version for one in await pipeline.versions()], [1, 2], "versions")
            done = (await pipeline.checkpoint(1)).status
            equal(done, Status.SUCCEEDED, "status of version 1")

    @asynchronous
    async def test_old_versions_are_removed_and_the_newest_stays(self, open_store: Opener) -> None:
        """R9, R11. With their journals; a key that has nothing is an error by name."""
        async with open_store() as rt:
            pipeline = rt.pipeline(_counting(), "k")
            with refused(PipelineNotFoundError):
                await pipeline.newest()
            for content in ("one", "two", "three"):
                await pipeline.run(content)
            await rt.runs.retain(0.0)
            equal([one.version for one in await pipeline.versions()], [3], "versions")
            holds(bool(await pipeline.log()), "the newest version has its log")
            equal(await rt.verify(), [], "findings")


def _counting() -> Machine:
    machine = Machine("count", initial="count", final={"done"})

    @machine.on("count", to="done")
    def count(step: Any, ctx: Context) -> None:
        ctx["n"] = len(ctx.input.split())

    return machine


async def _finished(rt: Runtime) -> None:
    run = await rt.runs.start(_approved, "x", run_id="a")
    await _until(rt, "a", "run.waiting")
    await rt.runs.answer("a?1", "yes")
    await run.result()


async def _until(rt: Runtime, run_id: str, type: str) -> None:
    async for event in rt.runs.history(run_id).follow():
        if event.type == type:
            return


async def _ids(rt: Runtime, **filters: Any) -> list[str]:
    return [info.id for info in await rt.runs.list(**filters)]
