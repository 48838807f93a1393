"""Pipelines that ask: questions as states and in branches, and what happens to them meanwhile."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

import holdfast
from holdfast import Machine, Runtime
from holdfast.core.refusal import InputMismatchError, PipelinePausedError
from tests.runtime.test_pipelines import QUICK, run


def test_other_content_under_way_is_a_named_error_and_changes_nothing(store_url: str) -> None:
    """R4. The mismatch names both digests; only whoever insists starts anew."""

    async def work(rt: Runtime) -> None:
        pipeline = rt.pipeline(waiting(), "k")
        first = await pipeline.start("one")
        with pytest.raises(InputMismatchError) as caught:
            await pipeline.run("two")
        assert caught.value.expected == first.digest.hex() != caught.value.found
        assert await pipeline.newest() == first
        assert await pipeline.start("one") == first
        second = await pipeline.start("two", restart=True)
        assert second.version == 2
        assert (await pipeline.checkpoint(1)).status == "cancelled"
        await answer(rt, second.run_id, "yes")
        assert (await pipeline.run("two"))["answer"] == "yes"

    run(store_url, work)


def waiting() -> Machine:
    """Return a machine that asks a person."""
    machine = Machine("gate", initial="ask", final={"published", "dropped"})
    machine.ask(
        "ask",
        lambda ctx: f"Publish {ctx.input}?",
        to={"yes": "published", "no": "dropped"},
        into="answer",
    )
    return machine


async def answer(rt: Runtime, run_id: str, choice: str) -> None:
    """Wait for the question and answer it."""
    async for event in rt.history(f"run/{run_id}").follow():
        if event.type == "question.asked":
            await rt.runs.answer(event.data["id"], choice, by="ann")
            return


def test_a_question_is_a_state_and_its_answer_the_way_on(store_url: str) -> None:
    """A10, R2."""

    async def work(rt: Runtime) -> None:
        pipeline = rt.pipeline(waiting(), "k")
        version = await pipeline.start("it")
        await answer(rt, version.run_id, "no")
        assert await pipeline.run("it") == {"answer": "no"}
        assert (await pipeline.checkpoint()).next == "dropped"
        asked = await rt.history(f"run/{version.run_id}").read()
        assert [e.data["prompt"] for e in asked if e.type == "question.asked"] == ["Publish it?"]

    run(store_url, work)


def test_branches_ask_at_the_same_time_and_each_gets_its_own_answer(store_url: str) -> None:
    """R6, A10. Also after a restart, when they come to their questions in another order."""

    def asking() -> Machine:
        machine = Machine("both", initial="fork", final={"done"})
        machine.parallel("fork", ["prepare", "right"], join="after")
        machine.on("prepare", to="left")(lambda step, ctx: None)
        machine.ask("left", "Left?", to={"yes": "after", "no": "after"}, into="left")
        machine.ask("right", "Right?", to={"yes": "after", "no": "after"}, into="right")
        machine.on("after", to="done")(lambda step, ctx: None)
        return machine

    async def begin(rt: Runtime) -> None:
        version = await rt.pipeline(asking(), "k").start()
        count = 0
        async for event in rt.history(f"run/{version.run_id}").follow():
            count += event.type == "question.asked"
            if count == 2:
                break
        asked = await rt.runs.questions.list(run_id=version.run_id)
        assert [one.prompt for one in asked] == ["Right?", "Left?"]

    async def end(rt: Runtime) -> None:
        pipeline = rt.pipeline(asking(), "k")
        for one in await rt.runs.questions.list():
            await rt.runs.answer(one.id, "yes" if one.prompt == "Left?" else "no")
        assert await pipeline.run() == {"left": "yes", "right": "no"}
        answered = await rt.runs.questions.list(state="answered")
        assert [one.prompt for one in answered] == ["Right?", "Left?"]

    async def whole(rt: Runtime) -> None:
        await begin(rt)
        await end(rt)

    if ":memory:" in store_url:
        run(store_url, whole)
    else:
        run(store_url, begin)
        run(store_url, end)


def test_of_two_who_save_the_same_key_one_wins_and_nothing_is_mixed(store_url: str) -> None:
    """R10."""

    async def work(rt: Runtime) -> None:
        machine = waiting()
        texts = [f"text {number}" for number in range(8)]
        starts = [rt.pipeline(machine, "k").start(text) for text in texts]
        found = await asyncio.gather(*starts, return_exceptions=True)
        won = [one for one in found if not isinstance(one, BaseException)]
        lost = [one for one in found if isinstance(one, BaseException)]
        assert len(won) == 1
        assert all(isinstance(one, InputMismatchError) for one in lost)
        assert await rt.pipeline(machine, "k").newest() == won[0]
        content = await rt.blobs.get(won[0].digest.hex())
        assert content.endswith(texts[found.index(won[0])].encode())
        same = await asyncio.gather(*[rt.pipeline(machine, "s").start("same") for _ in range(8)])
        assert len({one.run_id for one in same}) == 1

    run(store_url, work)


@pytest.mark.parametrize("first", ["forced", "answered"])
def test_a_changed_table_is_walked_only_if_somebody_says_so(tmp_path: Any, first: str) -> None:
    """A12. What is under way waits under the table it began with; forcing it is recorded."""
    url = f"sqlite:///{tmp_path / 'store.db'}"

    async def begin(rt: Runtime) -> None:
        version = await rt.pipeline(waiting(), "k").start("it")
        async for event in rt.history(f"run/{version.run_id}").follow():
            if event.type == "run.waiting":
                break

    async def change(rt: Runtime) -> None:
        changed = waiting()
        changed.on("extra", to="dropped")(lambda step, ctx: None)
        changed.states["ask"] = replace(changed.states["ask"], failed="extra")
        pipeline = rt.pipeline(changed, "k")
        with pytest.raises(PipelinePausedError, match="version_mismatch"):
            await pipeline.run("it")
        version = await pipeline.newest()
        if first == "answered":
            await answer(rt, version.run_id, "yes")
            assert await pipeline.resume(force=True) == {"answer": "yes"}
        else:
            going_on = asyncio.create_task(pipeline.resume(force=True))
            async for event in rt.history(f"run/{version.run_id}").follow():
                if event.type == "run.resumed":
                    break
            await answer(rt, version.run_id, "yes")
            assert await going_on == {"answer": "yes"}
        events = await rt.history(f"run/{version.run_id}").read()
        forced = [event.data.get("version") for event in events if event.type == "run.resumed"]
        assert forced == [changed.fingerprint]

    run(url, begin)
    run(url, change)


def test_content_that_is_not_kept_has_to_be_supplied_again(tmp_path: Any) -> None:
    """R4. Only its digest is stored; after a restart it is compared with what is supplied."""
    url = f"sqlite:///{tmp_path / 'store.db'}"

    def asking() -> Machine:
        made = Machine("later", initial="ask", final={"done"})
        made.ask("ask", "Go on?", to={"yes": "use"})
        made.on("use", to="done", retry=QUICK)(lambda step, ctx: ctx.update(n=len(ctx.input)))
        return made

    async def begin(rt: Runtime) -> None:
        version = await rt.pipeline(asking(), "k", keep_input=False).start("secret text")
        with pytest.raises(holdfast.NotFoundError):
            await rt.blobs.get(version.digest.hex())

    async def go_on(rt: Runtime) -> None:
        pipeline = rt.pipeline(asking(), "k", keep_input=False)
        await answer(rt, (await pipeline.newest()).run_id, "yes")
        with pytest.raises(PipelinePausedError):
            await pipeline.resume()
        assert "InputMissingError" in (await pipeline.log())[-1].error
        with pytest.raises(InputMismatchError):
            await pipeline.run("another text")
        assert await pipeline.run("secret text") == {"n": 11}

    run(url, begin)
    run(url, go_on)
