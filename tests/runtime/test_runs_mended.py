"""What is shown of a run is damaged; its journal is not, so it is made anew from that."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import holdfast
from holdfast import Machine, Run
from holdfast.core.pipeline import HEAD
from holdfast.runtime.runs.view import KIND

DAMAGE = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as db:
    db.execute("UPDATE record SET value = x'c0' WHERE kind = ?", (sys.argv[2],))
"""


def damage(file: Path, kind: str) -> None:
    """Change every record of a kind behind the store's back, from another process."""
    subprocess.run([sys.executable, "-c", DAMAGE, str(file), kind], check=True)


def test_a_damaged_view_is_made_anew_and_holds_up_nobody(tmp_path: Path, caplog: Any) -> None:
    """R7, A6. Of a run that waits and of one in the midst of a step; said aloud; others go on."""
    file = tmp_path / "store.db"
    gate, made = asyncio.Event(), list[str]()

    async def waits(run: Run) -> Any:
        return await run.signal("go")

    async def works(run: Run) -> int:
        await run.step("first", lambda: made.append("first"))
        await run.step("long", gate.wait)
        return len(made)

    async def whole() -> None:
        async with holdfast.open(f"sqlite:///{file}", functions=[waits, works]) as rt:
            one = await rt.runs.start(waits, run_id="waits")
            two = await rt.runs.start(works, run_id="works")
            for run, type in ((one, "run.waiting"), (two, "step.succeeded")):
                async for event in run.follow():
                    if event.type == type:
                        break
            damage(file, KIND)
            rt.runs.look()
            other = await rt.runs.start(works, run_id="other")
            gate.set()
            await rt.runs.signal("waits", "go", 7)
            async with asyncio.timeout(20):
                async for event in two.follow():
                    last = event.type
                assert last == "run.succeeded"
                assert await one.result() == 7
                assert (await two.result(), await other.result()) == (2, 2)
            assert made == ["first", "first"]
            assert await rt.verify() == []

    asyncio.run(whole())
    assert "event=run_mended run=waits" in caplog.text
    assert "event=run_mended run=works" in caplog.text
    assert "service_failed" not in caplog.text


def test_a_damaged_head_of_a_pipeline_is_that_of_its_newest_version(
    tmp_path: Path, caplog: Any
) -> None:
    """R7. What is done is not worked on again, and numbers are not used again."""
    file = tmp_path / "store.db"
    machine = Machine("count", initial="read", final={"done"})
    visits: list[str] = []

    @machine.on("read", to="done")
    def read(step: Any, ctx: Any) -> None:
        visits.append(ctx.input)

    async def whole() -> None:
        async with holdfast.open(f"sqlite:///{file}") as rt:
            pipeline = rt.pipeline(machine, "k")
            await pipeline.run("one")
            await pipeline.run("two")
            damage(file, HEAD)
            await pipeline.run("two")
            assert await rt.verify() == []
            await pipeline.run("three")
            assert visits == ["one", "two", "three"]
            assert [one.version for one in await pipeline.versions()] == [1, 2, 3]

    asyncio.run(whole())
    assert "event=pipeline_mended" in caplog.text
