"""
The service under measurement, in a process of its own: `python -m bench.side_service URL PORT`.

It does what a line on its input says, and answers each with a line of JSON: `one` commits one
event and says when, `many N CALLERS` commits N events of so many callers and says how long that
took, `memory` says its resident size. The events are those of a run's journal.
"""

import asyncio
import json
import resource
import sys
from typing import Any

import uvicorn

import holdfast.http
from bench.measure import Stopwatch, now, rss_mb
from bench.place import opening
from holdfast import Append, Event, Runtime, Unit
from holdfast.http import Settings
from holdfast.http.server import IDLE_SECONDS_MAX

TOKEN = "bench"
RUN = "measured"
STREAM = f"run/{RUN}"


async def waits(run: holdfast.Run) -> Any:
    """Have a journal that does not end."""
    return await run.signal("never")


class Side:
    """What is asked of the service here."""

    def __init__(self, rt: Runtime, commits: list[float]) -> None:
        """Take the runtime, and the moments of its commits."""
        self._rt = rt
        self._commits = commits
        self._event = Event.of("user.measured", {"text": "x" * 40})

    async def do(self, line: str) -> Any:
        """Do as a line says."""
        word, *more = line.split()
        if word == "one":
            self._commits.clear()
            sequence = await self._append()
            return [sequence, self._commits[-1]]
        if word == "many":
            return await self._many(int(more[0]), int(more[1]))
        return rss_mb()

    async def _many(self, count: int, callers: int) -> Any:
        watch = Stopwatch()
        last = 0

        async def call() -> None:
            nonlocal last
            for _ in range(count // callers):
                last = max(last, await self._append())

        await asyncio.gather(*(call() for _ in range(callers)))
        return [last, watch.seconds]

    async def _append(self) -> int:
        # A journal is written by its run alone; this one waits, and is not in our way.
        unit = Unit((Append(STREAM, (self._event,)),))
        committed = await self._rt._store.commit(unit)  # pyright: ignore[reportPrivateUsage]
        return committed.events[0][1].sequence


async def main(url: str, port: int) -> None:
    """Serve until the input ends."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    commits: list[float] = []
    async with opening(url, lambda: commits.append(now())) as rt:
        rt.runs.register(waits, name="waits")
        await rt.runs.start("waits", run_id=RUN)
        async for event in rt.runs.history(RUN).follow():
            if event.type == "run.waiting":
                break
        app = holdfast.http.app(rt, Settings(token=TOKEN))
        config = uvicorn.Config(
            app,
            port=port,
            log_level="warning",
            access_log=False,
            backlog=4_096,
            timeout_keep_alive=IDLE_SECONDS_MAX,
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - uvicorn tells it no other way.
            await asyncio.sleep(0.01)
        side = Side(rt, commits)
        print(json.dumps((await rt.runs.history(RUN).info()).last_sequence), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps(await side.do(line)), flush=True)
        server.should_exit = True
        app.state.site.close_streams()
        await serving


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
