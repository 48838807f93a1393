"""
Runs out of one store and into another (X13): as a whole or not at all, and never executed twice.

Every run here is a real one of a real store; exports and imports go through the command line.
"""

from pathlib import Path
from typing import Any

import msgspec

import holdfast
from holdfast.core.run import Status
from tests.cli.invocation import invoke, run

QUESTION = "report-7?1"
PAGES = b"page " * 20_000


async def word(run: holdfast.Run, of: str) -> str:
    """Return a word; a child of `report`."""
    return await run.step("spell", str.upper, of)


async def report(run: holdfast.Run, topic: str) -> str:
    """Use everything a run has: large values, a child, an artifact, a question, a sleep."""
    pages = await run.step("write", lambda: PAGES)
    title = await run.child(word, topic)
    await run.attach("pages", pages, media_type="text/plain")
    said = await run.ask("Publish this?", choices=["yes", "no"], timeout=3600.0)
    await run.sleep(0.01)
    return f"{title}: {said}, {len(pages)}"


FUNCTIONS = (report, word)


async def reach(rt: holdfast.Runtime, run_id: str, type: str) -> None:
    """Wait until something is in the journal of a run."""
    async for event in rt.runs.history(run_id).follow():
        if event.type == type:
            return


async def begin(url: str, run_id: str = "report-7", *, answer: str = "") -> None:
    """Start a report and leave it when it waits, or at its end if there is an answer."""
    async with holdfast.open(url, functions=FUNCTIONS) as rt:
        handle = await rt.runs.start(report, "lighthouses", run_id=run_id, key=f"k-{run_id}")
        await reach(rt, run_id, "question.asked")
        if answer:
            await rt.runs.answer(f"{run_id}?1", answer, by="ann")
            await handle.result()


async def look(url: str, run_id: str = "report-7") -> dict[str, Any]:
    """Return all that one sees of a run."""
    async with holdfast.open(url, read_only=True) as rt:
        assert await rt.verify() == []
        info = await rt.runs.get(run_id)
        artifacts = await rt.runs.artifacts.list(run_id)
        questions = await rt.runs.questions.list(run_id=run_id, state=None)
        return {
            "info": info,
            "questions": [msgspec.structs.replace(one, remaining=None) for one in questions],
            "artifacts": artifacts,
            "bytes": [await rt.runs.artifacts.read(one.id) for one in artifacts],
            "child": await rt.runs.get(f"{run_id}/1"),
            "result": await rt.runs.result(run_id) if info.is_terminal else None,
        }


def export(store: str, target: Path, run_id: str = "report-7") -> None:
    done = invoke("export", "--run", run_id, "--output", target, store=store)
    assert done.returncode == 0, done.stderr


def test_a_run_that_ended_comes_back_with_all_that_is_found_by_its_id(
    empty: str, tmp_path: Path
) -> None:
    """X13: view, result, question, artifact, child and key are those of the origin."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(begin(origin, answer="yes"))
    export(origin, target)
    done = invoke("import", target, store=empty)
    assert done.returncode == 0, done.stderr
    before = run(look(origin))
    assert run(look(empty)) == before
    assert before["result"] == f"LIGHTHOUSES: yes, {len(PAGES)}"
    assert before["bytes"] == [PAGES]

    async def start_again() -> str:
        async with holdfast.open(empty, functions=FUNCTIONS) as rt:
            return (await rt.runs.start(report, "other", key="k-report-7")).id

    assert run(start_again()) == "report-7"


def test_a_run_under_way_arrives_paused_and_goes_on_when_it_is_resumed(
    empty: str, tmp_path: Path
) -> None:
    """X13, C1: nobody executes it before it is taken up; then nothing is done twice."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(begin(origin))
    export(origin, target)
    done = invoke("import", target, store=empty)
    assert done.returncode == 0, done.stderr
    assert "run report-7 was under way and is paused here" in done.stderr
    found = run(look(empty))
    assert found["info"].status is Status.PAUSED
    assert found["questions"] == run(look(origin))["questions"]

    async def go_on() -> tuple[str, str, list[str]]:
        async with holdfast.open(empty, functions=FUNCTIONS) as rt:
            await rt.runs.answer(QUESTION, "no", by="bob")
            rests = (await rt.runs.get("report-7")).status.value
            await rt.runs.resume("report-7")
            result = await rt.runs.result("report-7")
            events = await rt.runs.history("report-7").read(limit=1_000)
            return rests, result, [one.type for one in events]

    rests, result, types = run(go_on())
    assert (rests, result) == ("paused", f"LIGHTHOUSES: no, {len(PAGES)}")
    assert types.count("step.succeeded") == types.count("child.started") == 1
    assert run(look(origin))["info"].status is Status.WAITING
