"""The lineage of a store, and the pause after a restore until somebody confirms."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import Run, Runtime, Status
from holdfast.core.clock import Clock, SystemClock
from holdfast.core.refusal import NotReadyError
from holdfast.core.unit import Unit
from holdfast.core.world import World
from holdfast.runtime.restored import KIND, Lineage, read_lineage
from holdfast.testing.clock import ManualClock
from tests.runtime.test_runs import until

RESTORED = Lineage(2, 1.0, "2026-11-22T01-02-03Z")


async def sleeps(run: Run) -> str:
    """Sleep for a hundred seconds."""
    await run.sleep(100)
    return "awake"


async def notes(run: Run, word: str) -> str:
    """Do a step."""
    return await run.step("note", lambda: word)


def leave(url: str, lineage: Lineage, clock: Clock | None = None) -> None:
    """Leave what a restore leaves; at a time at which nothing is due, if something is there."""

    async def put() -> None:
        async with holdfast.open(url, world=World(clock=clock or SystemClock())) as rt:
            await rt._store.commit(Unit((lineage.put(),)))

    asyncio.run(put())


def during(url: str, clock: ManualClock, work: Callable[[Runtime], Awaitable[None]]) -> None:
    """Open the store with the functions, and do something."""

    async def run() -> None:
        world = World(clock=clock)
        async with holdfast.open(url, world=world, functions=[sleeps, notes]) as rt:
            await work(rt)

    asyncio.run(run())


def test_openings_do_not_change_the_lineage(kept_url: str) -> None:
    """Operators 2.11: a cursor stays good over restarts; only a restore begins another line."""

    async def lineages(*, read_only: bool) -> tuple[int, int, bool]:
        async with holdfast.open(kept_url, read_only=read_only) as rt:
            return rt.lineage, rt.opened.epoch, rt.health().ready

    assert [asyncio.run(lineages(read_only=False)) for _ in "12"] == [(1, 1, True), (1, 2, True)]
    leave(kept_url, Lineage(2, 1.0, "b", confirmed_at=2.0))
    assert asyncio.run(lineages(read_only=True))[::2] == (2, True)
    assert asyncio.run(lineages(read_only=False))[::2] == (2, True)


def test_a_store_that_was_restored_executes_nothing_until_somebody_confirms(kept_url: str) -> None:
    """Operators 8.5: no run, timer, schedule or claim goes on; look and cancel one may."""
    clock = ManualClock()

    async def prepare(rt: Runtime) -> None:
        await rt.runs.start(sleeps, run_id="sleeps")
        await until(rt, "sleeps", "timer.set")
        await rt.runs.schedules.put("daily", "0 0 * * *", notes, "scheduled")

    async def look(rt: Runtime) -> None:
        await rt.runs.start(notes, "a", run_id="queued")
        await rt.runs.start(notes, "b", run_id="unwanted")
        health = rt.health()
        (gate,) = (gate for gate in health.gates if gate.name == "restored")
        assert (health.ready, gate.ok, gate.needed) == (False, False, True)
        assert RESTORED.source in gate.reason
        with pytest.raises(NotReadyError, match="paused"):
            await rt.ledger.begin("work")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):  # Many times as long as it takes otherwise.
                await rt.runs.handle("queued").result()
        found = {view.id: view.status for view in await rt.runs.list()}
        assert sorted(found) == ["queued", "sleeps", "unwanted"]
        assert set(found.values()) <= {Status.WAITING, Status.QUEUED}
        await rt.runs.cancel("unwanted", by="ann", reason="happened already")
        async with holdfast.open(kept_url, world=World(clock=clock)) as other:
            assert await other.restored.confirm(by="ann")
            assert not await other.restored.confirm(by="bob")
        assert await rt.runs.handle("queued").result() == "a"
        assert await rt.runs.handle("sleeps").result() == "awake"
        await until(rt, "daily@2023-11-15T00:00Z", "run.succeeded")
        assert (await rt.runs.get("unwanted")).status is Status.CANCELLED
        assert rt.health().ready
        async with rt.ledger.begin("work"):
            pass
        assert rt.lineage == 2

    during(kept_url, clock, prepare)
    leave(kept_url, RESTORED, clock)
    clock.advance(2 * 86_400.0)
    during(kept_url, clock, look)


def test_who_confirms_is_kept_and_what_waited_begins_once(kept_url: str) -> None:
    """Operators 8.5: here, at once; looking again later begins nothing a second time."""
    leave(kept_url, RESTORED)

    async def work() -> None:
        begun = list[int]()
        async with holdfast.open(kept_url) as rt:
            rt.restored._duties = (lambda: begun.append(1),)
            await rt.restored.tick()
            assert begun == [], "nobody confirmed"
            assert await rt.restored.confirm(by="ann")
            assert begun == [1]
            await rt.restored.tick()
            assert begun == [1]
            found = await rt._store.read(read_lineage)
            assert found is not None and (found.confirmed_by, found.number) == ("ann", 2)

    asyncio.run(work())


def test_a_damaged_lineage_is_a_restore_that_nobody_confirmed(tmp_path: Path) -> None:
    """X3: an old cursor is reset rather than believed; confirming mends the record."""
    path = tmp_path / "store.db"
    url = f"sqlite:///{path}"
    leave(url, Lineage(2, 1.0, "b", confirmed_at=2.0))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE record SET value = X'00' WHERE kind = ?", (KIND,))
    connection.close()

    async def mend() -> list[Any]:
        async with holdfast.open(url) as rt:
            found = [rt.lineage > 2, bool(rt.restored.paused), await rt.restored.confirm("ann")]
            kept = rt.lineage
        async with holdfast.open(url) as rt:
            return [*found, rt.lineage == kept, rt.restored.paused, await rt.verify()]

    assert asyncio.run(mend()) == [True, True, True, True, "", []]
