"""Names that Holdfast keeps for itself: a program reads them and does not write them."""

import asyncio

import pytest

import holdfast
from holdfast import Event, PutRecord, Run, Unit
from holdfast.core.errors import InvalidValueError
from holdfast.core.unit import (
    Append,
    CloseStream,
    DeleteRecord,
    MendRecord,
    PatchRecord,
    TrimStream,
    Write,
)

EVENT = Event.of("t")
WRITES: list[Write] = [
    PutRecord("holdfast.run", ("r",), b"\xc0"),
    PatchRecord("holdfast.question", ("r", "1"), {"state": b"\xc0"}),
    MendRecord("holdfast.pipeline", ("m",), b"\xc0"),
    DeleteRecord("holdfast.runtime", ("i",)),
    Append("holdfast/recovery", (EVENT,)),
    CloseStream("holdfast/recovery"),
    TrimStream("holdfast/recovery", 2),
]


async def quick(run: Run) -> int:
    """Do one step."""
    return await run.step("one", lambda: 1)


def test_a_program_cannot_write_what_holdfast_keeps_for_itself(store_url: str) -> None:
    """X6, X15. By no door; what it may write is written, and reading is free."""

    async def whole() -> None:
        async with holdfast.open(store_url) as rt:
            run = await rt.runs.start(quick, run_id="r")
            await run.ended()
            for write in WRITES:
                with pytest.raises(InvalidValueError, match="Holdfast"):
                    await rt.commit(Unit((PutRecord("mine", ("k",), b"\xc0"), write)))
            journal = rt.history("run/r")
            for refused in (
                rt.records.put("holdfast.run", "r", 1),
                rt.records.delete("holdfast.run", "r"),
                journal.append("step.succeeded"),
                journal.append_all([EVENT]),
                journal.close(),
                journal.trim(2),
                rt.history("holdfast/recovery").append("t"),
            ):
                with pytest.raises(InvalidValueError, match="Holdfast"):
                    await refused
            assert await rt.records.list("mine") == []
            assert (await journal.read())[-1].type == "run.succeeded"
            assert (await rt.records.get("holdfast.run", "r")).value["status"] == "succeeded"
            async with rt.ledger.begin("work") as entry:
                settlement = entry.settlement()
                mine = PutRecord("mine", ("k",), b"\xc0")
                await rt.commit(Unit((mine, *settlement.writes), settlement.expects))
            assert len(await rt.records.list("mine")) == 1
            assert await rt.verify() == []

    asyncio.run(whole())
