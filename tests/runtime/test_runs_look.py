"""A look at the store: one fault in what it finds holds up nothing else."""

import asyncio
import subprocess
import sys
from typing import Any

import msgspec
import pytest

import holdfast
from holdfast import Run, Runtime
from holdfast.core import codec
from holdfast.core.deadline import Deadline
from holdfast.core.unit import PutRecord, Unit
from holdfast.core.world import World
from holdfast.runtime.runs import ending, queue, schedule, view
from holdfast.runtime.runs.view import Timer
from holdfast.runtime.work import entry
from holdfast.testing.clock import ManualClock
from tests.runtime.test_runs import until

EXECUTE = "import sys; from tests.runtime.behind import execute; execute(*sys.argv[1:])"
# It also comes under the tag by which the ledger finds what was interrupted.
DAMAGE = "UPDATE {{record}} SET value = digest, tag = 'resumable' WHERE kind = '{kind}'"
DAY = 86_400.0
KEYS = {
    view.TIMER_KIND: ("boot:test", "00000000000001.000000", "r", "timer:1"),
    schedule.KIND: ("daily",),
    queue.KIND: ("slow",),
    view.QUEUED_KIND: (" ", "0", "r"),
    view.CODE_KIND: ("work", "r"),
    ending.ORPHANS_KIND: ("r",),
    entry.KIND: ("holdfast.run", "r"),
}


async def seven(run: Run) -> int:
    return await run.step("seven", lambda: 7)


async def sleeps(run: Run) -> str:
    """Sleep for a hundred seconds."""
    await run.sleep(100)
    return "awake"


def damage(url: str, kind: str) -> None:
    """Damage from another process: closing a file of SQLite drops the locks of this one on it."""
    subprocess.run([sys.executable, "-c", EXECUTE, url, DAMAGE.format(kind=kind)], check=True)


async def put_something(rt: Runtime, kind: str) -> None:
    """Put a record that is not what its kind says."""
    await rt._store.commit(Unit((PutRecord(kind, KEYS[kind], codec.encode("x")),)))


async def looked(rt: Runtime) -> None:
    """Wait until a look of this runtime, for code too, came and went."""
    rt._executor.nudge_for_code()
    async with asyncio.timeout(10):
        assert await (await rt.runs.start(seven)).result() == 7


@pytest.mark.parametrize("kind", KEYS)
def test_a_damaged_record_holds_up_no_run_and_is_noted_once(
    kept_url: str, kind: str, caplog: Any
) -> None:
    """R7, A13. Whatever a look reads; those of a queue with a damaged limit wait."""

    async def work() -> None:
        async with holdfast.open(kept_url, functions=[seven]) as rt:
            await put_something(rt, kind)
            damage(kept_url, kind)
            await rt.runs.start(seven, run_id="queued", queue="slow")
            await looked(rt)
            await looked(rt)
            assert rt.health().degraded == ("1 things are damaged; run `holdfast verify`",)
            status = (await rt.runs.get("queued")).status.value
            assert (status == "queued") == (kind == queue.KIND)

    asyncio.run(work())
    assert caplog.text.count("event=damage ") == 1
    assert "service_failed" not in caplog.text


def test_a_damaged_place_of_a_run_that_cannot_be_read_holds_up_no_run(kept_url: str) -> None:
    """R7, A13. Its view was written by something else, so nobody can put the place back."""

    async def work() -> None:
        async with holdfast.open(kept_url, functions=[seven]) as rt:
            await rt._store.commit(Unit((PutRecord(view.KIND, ("r",), codec.encode("x")),)))
            await put_something(rt, view.QUEUED_KIND)
            damage(kept_url, view.QUEUED_KIND)
            await looked(rt)
            await rt.runs.start(seven, run_id="queued")
            async with asyncio.timeout(10):
                assert await rt.runs.result("queued") == 7

    asyncio.run(work())


def test_a_damaged_place_is_put_back_and_its_run_goes_on(kept_url: str, caplog: Any) -> None:
    """F9, R7. It is what the view says, so nothing is lost, and nothing stays noted."""

    async def work() -> None:
        async with holdfast.open(kept_url) as rt:
            await rt.runs.start(seven, run_id="waits", queue="later")
        damage(kept_url, view.QUEUED_KIND)
        async with holdfast.open(kept_url, functions=[seven]) as rt, asyncio.timeout(20):
            assert await rt.runs.result("waits") == 7
            assert rt.health().degraded == ()

    asyncio.run(work())
    assert "event=place_mended" in caplog.text


@pytest.mark.parametrize("kind", [view.TIMER_KIND, schedule.KIND, queue.KIND])
def test_a_record_that_something_else_wrote_holds_up_no_run(
    store_url: str, kind: str, caplog: Any
) -> None:
    """R7. It is intact, so it is no damage; it is said and left as it is."""

    async def work() -> None:
        async with holdfast.open(store_url, functions=[seven]) as rt:
            await put_something(rt, kind)
            await rt.runs.start(seven, run_id="queued", queue="slow")
            await looked(rt)
            assert rt.health().degraded == ()
            assert await rt.records.get(kind, KEYS[kind]) is not None

    asyncio.run(work())
    assert "code=decode" in caplog.text
    assert "service_failed" not in caplog.text


def test_a_schedule_in_a_zone_that_is_not_known_here_holds_up_no_other_one(
    store_url: str, caplog: Any
) -> None:
    """A8, A13. Put by a process that knows the zone; here the time zones are older, or none."""

    async def work() -> None:
        async with holdfast.open(store_url, functions=[seven]) as rt:
            known = await rt.runs.schedules.put("known", "0 3 * * *", seven)
            known = msgspec.structs.replace(known, due=1.0)
            away = msgspec.structs.replace(known, name="away", zone="Mars/Olympus")
            await rt._store.commit(Unit((away.put(), known.put())))
            await looked(rt)
            assert await rt.runs.result("known@1970-01-01T00:00Z") == 7
            assert (await rt.runs.schedules.get("away")).due == 1.0

    asyncio.run(work())
    assert "event=schedule_not_started name=away code=invalid_value" in caplog.text
    assert "service_failed" not in caplog.text


def test_a_timer_is_seen_behind_many_of_another_time_domain(store_url: str) -> None:
    """A10, F16. It was set in one former boot, and they in another; all others end much later."""
    clock = ManualClock()
    options: dict[str, Any] = {"world": World(clock=clock), "lease_ttl": DAY}

    async def work() -> None:
        async with holdfast.open(store_url, functions=[sleeps], **options) as rt:
            await rt.runs.start(sleeps, run_id="r")
            await until(rt, "r", "run.waiting")
            [(_, _, _, wait)] = [one.key for one in await rt.records.list(view.TIMER_KIND)]
            wall = clock.wall()
            far = [Deadline("b:1", DAY + n, DAY, wall) for n in range(450)]
            others = [Timer("other", f"timer:{n}", one) for n, one in enumerate(far)]
            over = Timer("r", wait, Deadline("b:2", 9.0, 9.0, wall - 10.0))
            await rt._store.commit(Unit(tuple(one.put() for one in (*others, over))))
            rt.runs.look()
            async with asyncio.timeout(10):
                assert await rt.runs.result("r") == "awake"

    asyncio.run(work())
