"""A presence record that is damaged is written anew, and nobody is the worse for it."""

import asyncio
from contextlib import closing
from pathlib import Path

import apsw
import pytest

import holdfast
from holdfast import RESUME, EntryState, Runtime
from holdfast.core.ledger import Terms
from holdfast.core.world import World
from holdfast.runtime import boot
from holdfast.runtime.work import rescue
from holdfast.testing.clock import ManualClock
from tests.runtime import behind
from tests.runtime.process import Process

KIND = "holdfast.runtime"
# Of a runtime that beats, and looks for the dead, only when it is told to.
SELDOM = 1e6


async def told(rt: Runtime) -> list[list[int]]:
    """Return whose work was taken over, as it is told."""
    return [event.data["runtimes"] for event in await rt.history(rescue.RESCUES).read()]


def by_hand(path: Path, statement: str) -> None:
    """Run a statement from outside, which the store would forbid."""
    with closing(apsw.Connection(str(path))) as db:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        db.execute(statement)
        assert db.changes()


def test_its_own_runtime_goes_on_after_its_lease_ran_out(kept_url: str) -> None:
    """F9, H1. As one does that slept: it enters anew, and begins work."""
    clock = ManualClock()

    async def run() -> None:
        async with holdfast.open(kept_url, world=World(clock=clock), lease_ttl=5.0) as rt:
            behind.damage(kept_url, KIND)
            async with holdfast.open(kept_url, world=World(clock=clock)):
                pass  # Whoever commits lets the others look at what is stored.
            clock.advance(100.0)
            await rt._presence.beat()
            await rt.ledger.begin("work")
            assert rt.health().ready
            assert not [reason for reason in rt.health().degraded if "damaged" in reason]

    asyncio.run(run())


def test_its_own_runtime_says_goodbye(kept_url: str) -> None:
    """F9, H6. Nobody rescues who left in good order."""

    async def run() -> None:
        async with holdfast.open(kept_url):
            behind.damage(kept_url, KIND)
        count = f"SELECT 1 FROM {{record}} WHERE kind = '{KIND}' AND value IS NOT NULL"
        assert behind.execute(kept_url, count) == []
        async with holdfast.open(kept_url) as rt:
            assert await told(rt) == []
            assert rt.health().degraded == ()

    asyncio.run(run())


def test_work_is_as_fresh_as_the_lease_of_its_runtime(tmp_path: Path) -> None:
    """F9, H5. What began long ago goes on, if its runtime was there until a moment ago."""
    url, clock = f"sqlite:///{tmp_path / 'a.db'}", ManualClock()

    async def run() -> None:
        async with holdfast.open(url, world=World(clock=clock), lease_ttl=50.0) as one:
            await one.ledger.start(("work",), Terms(policy=RESUME, fresh_for=100.0))
            for _ in range(10):
                clock.advance(40.0)
                await one._presence.beat()
            await one._presence.stop()
            behind.damage(url, KIND)
            clock.advance(51.0)
            async with holdfast.open(url, world=World(clock=clock)) as heir:
                await heir._lifeline.tick()
                info = await heir.ledger.find("work")
                assert info is not None and info.state is EntryState.RESUMABLE

    asyncio.run(run())


def test_of_one_that_died_the_work_is_judged_as_ever_and_no_stream_is_touched(
    kept_url: str,
) -> None:
    """F9, H1, H5. It was heard of until a moment ago; its log is named by its work."""

    async def run() -> None:
        async with holdfast.open(kept_url, lease_ttl=SELDOM) as rt:
            await rt.history("").append("mine")
            with Process(kept_url, lease_ttl=1.0) as process:
                process.call("begin_all", keys=["long"], policy="resume")
                process.kill()
            [present] = [row for row in await rt.records.list(KIND) if row.value["epoch"] == 2]
            behind.execute(kept_url, f"UPDATE {{record}} SET value = digest WHERE {_old()}")
            async with asyncio.timeout(60):
                while not await rt.ledger.list(EntryState.RESUMABLE):
                    await rt._lifeline.tick()
            assert [event.type for event in await rt.history("").read()] == ["mine"]
            await rt.history("").append("more")
            assert len(await told(rt)) == 1
            assert (await rt.streams(present.value["log"], reserved=True))[0].closed
            assert rt.health().degraded == ()

    asyncio.run(run())


def _old() -> str:
    """Say which record is that of the last one who entered."""
    return (
        f"kind = '{KIND}' AND written_at = "
        f"(SELECT max(written_at) FROM {{record}} WHERE kind = '{KIND}')"
    )


def test_a_record_whose_key_is_damaged_is_nobody(tmp_path: Path) -> None:
    """F9. It is named, and no runtime is made of it, however often somebody looks."""
    path = tmp_path / "a.db"

    async def run() -> None:
        async with holdfast.open(f"sqlite:///{path}", lease_ttl=SELDOM) as rt:
            with Process(f"sqlite:///{path}") as process:
                process.call("begin_all", keys=["work"])
                process.kill()
            where = _old().format(record="record")
            by_hand(path, f"UPDATE record SET key = CAST('a' || key AS BLOB) WHERE {where}")
            for _ in range(3):
                await rt._lifeline.tick()
            assert await told(rt) == []
            assert [worker.here for worker in await rt.workers.list()] == [True]
            assert rt.health().degraded == ("1 things are damaged; run `holdfast verify`",)

    asyncio.run(run())


def test_a_chronicle_that_cannot_be_shortened_keeps_nobody_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F9, F10. What would be dropped is gone already; it grows, and the damage is named."""
    monkeypatch.setattr(boot, "REPORTS_KEPT", 2)
    monkeypatch.setattr(rescue, "RESCUES_KEPT", 2)
    path = tmp_path / "a.db"
    url = f"sqlite:///{path}"

    def die() -> None:
        with Process(url) as process:
            process.call("begin_all", keys=["work"])
            process.kill()

    for _ in range(4):
        die()
        asyncio.run(open_and_close(url))
    by_hand(path, "DELETE FROM event WHERE type IN ('recovery.finished', 'runtime.rescued')")
    for _ in range(3):
        die()
        asyncio.run(open_and_close(url))


async def open_and_close(url: str) -> None:
    """Open a store and close it."""
    async with holdfast.open(url) as rt:
        assert rt.health().ready
        for info in await rt.ledger.interrupted():
            await rt.ledger.resolve(info.key, "done", by="ann")
