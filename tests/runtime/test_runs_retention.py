"""What ended is kept as long as was said, and no longer."""

import asyncio
from typing import Any

import pytest

import holdfast
from holdfast import Machine, Run, Runtime
from holdfast.core.errors import DamagedError, InvalidValueError
from holdfast.core.refusal import PipelineNotFoundError
from holdfast.core.world import World
from holdfast.testing.clock import ManualClock
from tests.runtime import behind


async def quick(run: Run) -> None:
    """End at once."""


async def attaches(run: Run) -> None:
    """Attach something."""
    await run.attach("note", b"note")


async def quiet(run: Run) -> Any:
    """Wait for what never comes."""
    return await run.signal("never")


async def ids(rt: Runtime) -> set[str]:
    """Return the ids of all runs."""
    return {info.id for info in await rt.runs.list()}


async def some(rt: Runtime, clock: ManualClock) -> None:
    """Leave a run that waits, and three that ended ten seconds apart."""
    await rt.runs.start(quiet, run_id="open")
    for id in ("first", "second", "third"):
        clock.advance(10)
        await (await rt.runs.start(quick, run_id=id)).ended()


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, {"open", "first", "second", "third"}),
        ({"runs_kept": 1}, {"open", "third"}),
        ({"runs_kept_for": 15.0}, {"open", "second", "third"}),
        ({"runs_kept_for": 15.0, "runs_kept": 1}, {"open", "third"}),
    ],
)
def test_what_is_not_to_be_kept_is_removed_by_itself(
    store_url: str, options: dict[str, Any], left: set[str]
) -> None:
    """X9. By age, by number, by both; by default nothing; what may change always stays."""
    clock = ManualClock()

    async def whole() -> None:
        async with holdfast.open(store_url, world=World(clock=clock), **options) as rt:
            await some(rt, clock)
            rt.runs.retention.nudge()
            async with asyncio.timeout(20):
                while await ids(rt) != left:
                    await rt.flush()
            assert await rt.runs.retain() == 0
            assert await rt.runs.retain(newest=0, limit=1) == 1
            assert await rt.runs.retain(newest=0) == len(left) - 2
            assert await ids(rt) == {"open"}
            assert await rt.verify() == []

    asyncio.run(whole())
    with pytest.raises(InvalidValueError):
        holdfast.open(store_url, runs_kept=-1)


def test_a_run_of_which_something_is_damaged_stays_and_holds_up_no_other(kept_url: str) -> None:
    """F9, X9. It is named; who removes just that one is told."""

    async def work() -> None:
        async with holdfast.open(kept_url) as rt:
            await (await rt.runs.start(attaches, run_id="a")).ended()
            await (await rt.runs.start(quick, run_id="b")).ended()
            behind.damage(kept_url, "holdfast.artifact")
            assert await rt.runs.retain(newest=0) == 1
            assert await ids(rt) == {"a"}
            assert rt.health().degraded == ("1 things are damaged; run `holdfast verify`",)
            with pytest.raises(DamagedError, match="artifact"):
                await rt.runs.retention.remove("a")

    asyncio.run(work())


def test_old_versions_of_a_pipeline_go_with_their_runs_and_the_newest_stays(
    store_url: str,
) -> None:
    """R9. Content that is done is not worked on again, and numbers are not used again."""
    machine = Machine("count", initial="read", final={"done"})
    visits: list[str] = []

    @machine.on("read", to="done")
    def read(step: Any, ctx: Any) -> None:
        visits.append(ctx.input)

    async def whole() -> None:
        async with holdfast.open(store_url) as rt:
            pipeline = rt.pipeline(machine, ("a/b", "c"))
            for content in ("one", "two", "three"):
                await pipeline.run(content)
            assert await rt.runs.retain(0.0) == 2
            assert [one.version for one in await pipeline.versions()] == [3]
            with pytest.raises(PipelineNotFoundError):
                await pipeline.checkpoint(1)
            await pipeline.run("three")
            await pipeline.run("one")
            assert visits == ["one", "two", "three", "one"]
            assert (await pipeline.newest()).version == 4
            assert await rt.verify() == []

    asyncio.run(whole())
