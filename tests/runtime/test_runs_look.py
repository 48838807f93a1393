"""A look at the store: one fault in what it finds holds up nothing else."""

import asyncio
from typing import Any

import msgspec

import holdfast
from holdfast import Run, Runtime
from holdfast.core.unit import Unit


async def seven(run: Run) -> int:
    return await run.step("seven", lambda: 7)


async def looked(rt: Runtime) -> None:
    """Wait until a look of this runtime, for code too, came and went."""
    rt._executor.nudge_for_code()
    async with asyncio.timeout(10):
        assert await (await rt.runs.start(seven)).result() == 7


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
