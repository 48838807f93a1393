"""Runs on Holdfast: the side of ours in `bench.runs`."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import holdfast
from bench.loop import longest_stall
from bench.measure import rss_mb
from bench.side import Track, between, now, serve
from holdfast import Run, Runtime

CAPACITY = 20_000
CHUNK = 500
track = Track()


async def add(place: int) -> int:
    """Do next to nothing: the body of every step."""
    if track.reach(place):
        await asyncio.Event().wait()
    return place + 1


async def count(run: Run, steps: int) -> int:
    """Do steps, one after the other."""
    track.begin()
    value = 0
    for place in range(steps):
        value = await run.step("add", add, place)
    return value


class Side:
    """What is asked of this side."""

    def __init__(self, rt: Runtime, born: tuple[float, float]) -> None:
        """Take the runtime, and when it began to be opened."""
        self._rt = rt
        self._born = born
        self._ready = now()

    async def steps(self, runs: int, steps: int) -> dict[str, Any]:
        """Start runs and wait for their results."""

        async def one(_: int) -> int:
            return int(await (await self._rt.runs.start(count, steps)).result())

        found = await asyncio.gather(*map(one, range(runs)))
        return {"count": sum(found)}

    async def hold(self, runs: int, steps: int, at: int) -> dict[str, Any]:
        """Start runs that stand still in a step, and return when all do."""
        track.stop_at = at
        # All at once in one process; the option is not public, since nobody should.
        self._rt._executor.capacity = CAPACITY

        async def start(number: int) -> None:
            await self._rt.runs.start(count, steps, run_id=f"r{number}")

        await in_chunks(runs, start)
        await track.stopping(runs)
        return {"count": runs}

    async def recover(self, runs: int) -> dict[str, Any]:
        """Wait until the runs that were held ended; count from the opening of the store."""
        ended = await self._ended(runs)
        return between(self._born, now()) | {"ended": ended}

    async def replay(self, steps: int) -> dict[str, Any]:
        """Wait until the run that was held read back its steps; count from readiness."""
        ended = await self._ended(1)
        if track.passed is None:
            raise RuntimeError(f"the run did not come to step {steps}")
        return between(self._ready, track.passed) | {"ended": ended}

    async def back(self, runs: int) -> dict[str, Any]:
        """Watch the loop until all that was in flight ended."""
        stop = asyncio.Event()
        ticker = asyncio.create_task(longest_stall(stop))
        ended = await self._ended(runs)
        stop.set()
        ready = between(self._born, self._ready)
        return {
            "ended": ended,
            "ready": ready["seconds"],
            "ready_cpu": ready["cpu"],
            "stall_ms": await ticker,
            "rss_mb": rss_mb(),
        }

    async def _ended(self, runs: int) -> int:
        """Return the sum of the results of runs, which is that of their steps."""
        results: list[int] = []

        async def one(number: int) -> None:
            results.append(await self._rt.runs.result(f"r{number}"))

        await in_chunks(runs, one)
        return sum(results)


async def in_chunks(runs: int, work: Callable[[int], Awaitable[object]]) -> None:
    """Do something with each run, some hundred at a time."""
    for first in range(0, runs, CHUNK):
        await asyncio.gather(*map(work, range(first, min(first + CHUNK, runs))))


async def main(given: dict[str, Any]) -> None:
    """Open the store and serve."""
    track.mark = given["mark"]
    born = now()
    async with holdfast.open(given["url"], functions=[count]) as rt:
        side = Side(rt, born)
        await serve(
            {
                "steps": side.steps,
                "hold": side.hold,
                "recover": side.recover,
                "replay": side.replay,
                "back": side.back,
            }
        )


if __name__ == "__main__":
    # The functions belong to the module by its name, as in any program that is imported.
    from bench import side_ours

    asyncio.run(side_ours.main(json.loads(sys.argv[1])))
