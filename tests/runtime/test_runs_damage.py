"""Runs whose journal decayed: they rest with the reason, and nothing else is held up."""

import asyncio
import signal
import subprocess
import sys

import pytest

import holdfast
from holdfast import Run, Status
from holdfast.core.errors import DamagedError
from tests.runtime import cancelled
from tests.runtime.behind import execute
from tests.runtime.test_runs import until


async def asks(run: Run, what: str) -> str:
    """Do a step and ask."""
    return await run.step("say", lambda: what) + str(await run.ask("Well?"))


def decay(url: str, table: str, where: str, column: str) -> None:
    """Change a row of a kind that the database itself protects, as decay does."""
    if url.startswith("sqlite"):
        execute(url, "DROP TRIGGER event_is_immutable")
        execute(url, f"UPDATE {table} SET {column} = digest WHERE {where}")
        return
    execute(
        url,
        f"SET session_replication_role = replica; "
        f"UPDATE holdfast.{table} SET {column} = digest WHERE {where}",
    )


def test_a_run_with_a_damaged_journal_rests_and_the_others_go_on(kept_url: str) -> None:
    """R7, A13. With the reason; `verify` names stream and sequence; it does not begin anew."""

    async def begin() -> None:
        async with holdfast.open(kept_url) as rt:
            rt.runs.register(asks, name="asks")
            for id in ("bad", "good"):
                await rt.runs.start(asks, id, run_id=id)
                await until(rt, id, "run.waiting")

    async def go_on() -> None:
        async with holdfast.open(kept_url) as rt:
            rt.runs.register(asks, name="asks")
            for id in ("bad", "good"):
                await rt.runs.answer(f"{id}?1", "!")
            assert await rt.runs.result("good") == "good!"
            async with asyncio.timeout(20):
                while (info := await rt.runs.get("bad")).status is not Status.PAUSED:
                    await until(rt, "good", "run.succeeded")
            assert info.why == "cannot be resumed: damaged"
            assert rt.health().degraded == ("1 things are damaged; run `holdfast verify`",)
            assert len(await rt.runs.history("bad").read()) == 2
            with pytest.raises(DamagedError) as damaged:
                await rt.runs.history("bad").read(after=2)
            assert (damaged.value.name, damaged.value.sequence) == ("run/bad", 3)
            found = {(one.what, one.name) for one in await rt.verify()}
            assert {("stream", "run/bad"), ("run", "bad")} <= found
            assert not {name for _, name in found} & {"good", "run/good"}

    asyncio.run(begin())
    damaged = (
        "type = 'step.succeeded' AND position = (SELECT min(position) FROM {} WHERE type = {})"
    )
    table = "event" if kept_url.startswith("sqlite") else "holdfast.event"
    decay(kept_url, "event", damaged.format(table, "'step.succeeded'"), "payload")
    asyncio.run(go_on())


def test_a_run_with_a_damaged_journal_that_is_to_be_cancelled_is_cancelled(kept_url: str) -> None:
    """A7, A13. Its owner died over it; to end it takes nothing of the journal."""
    done = subprocess.run([sys.executable, "-m", "tests.runtime.cancelled", kept_url], check=False)
    assert done.returncode == -signal.SIGKILL
    decay(kept_url, "event", "type = 'step.succeeded'", "payload")

    async def go_on() -> None:
        async with holdfast.open(kept_url, functions=[cancelled.work]) as rt:
            async with asyncio.timeout(20):
                info = await rt.runs.ended(cancelled.RUN_ID)
            assert info.status is Status.CANCELLED

    asyncio.run(go_on())
