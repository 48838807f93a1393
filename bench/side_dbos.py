"""
Runs on DBOS: the side of the peer in `bench.runs`, in an environment of its own.

As its guide has it: workflows are ordinary functions in threads, or async ones; steps are
`DBOS.run_step` and `DBOS.run_step_async`. Its store is as shipped, or (`wal`) an engine handed
over by its option `system_database_engine`, which differs by SQLite's journal alone.
"""

import asyncio
import json
import sqlite3
import sys
import threading
from typing import Any

import sqlalchemy
from dbos import DBOS, DBOSConfig, SetWorkflowID

from bench.side import Instant, Track, between, now, serve

FULL = 2
track = Track()


def add(place: int) -> int:
    """Do next to nothing: the body of every step."""
    if track.reach(place):
        threading.Event().wait()
    return place + 1


async def add_async(place: int) -> int:
    """Do the same in the event loop."""
    return add(place)


@DBOS.workflow()
def count(steps: int) -> int:
    """Do steps, one after the other."""
    track.begin()
    value = 0
    for place in range(steps):
        value = DBOS.run_step({"name": "add"}, add, place)
    return value


@DBOS.workflow()
async def count_async(steps: int) -> int:
    """Do the same in the event loop."""
    track.begin()
    value = 0
    for place in range(steps):
        value = await DBOS.run_step_async({"name": "add"}, add_async, place)
    return value


def _wal_engine(url: str) -> sqlalchemy.Engine:
    """Return an engine with a write-ahead log, synced at every commit."""
    engine = sqlalchemy.create_engine(url)

    @sqlalchemy.event.listens_for(engine, "connect")
    def settle(raw: sqlite3.Connection, _: object) -> None:
        raw.isolation_level = "IMMEDIATE"
        for pragma in (
            "busy_timeout=30000",
            "foreign_keys=ON",
            "journal_mode=WAL",
            "synchronous=FULL",
        ):
            raw.execute(f"PRAGMA {pragma}")

    return engine


class Side:
    """What is asked of this side."""

    def __init__(self, dbos: DBOS, born: Instant, *, in_loop: bool) -> None:
        """Take when it was launched, and which of the two forms of a workflow to use."""
        self._dbos = dbos
        self._born = born
        self._in_loop = in_loop

    async def durability(self) -> dict[str, Any]:
        """Say how its own connections commit, as its database has it."""
        with self._dbos._sys_db.engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one()
                synchronous = int(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
                words = f"journal_mode={journal} synchronous={synchronous}"
                return {"durable": synchronous >= FULL, "words": words}
            commit = connection.exec_driver_sql("SHOW synchronous_commit").scalar_one()
            return {"durable": commit == "on", "words": f"synchronous_commit={commit}"}

    async def steps(self, runs: int, steps: int) -> dict[str, Any]:
        """Start workflows and wait for their results."""
        if self._in_loop:

            async def one(_: int) -> int:
                return await (await DBOS.start_workflow_async(count_async, steps)).get_result()

            return {"count": sum(await asyncio.gather(*map(one, range(runs))))}

        def all_of_them() -> int:
            handles = [DBOS.start_workflow(count, steps) for _ in range(runs)]
            return sum(handle.get_result() for handle in handles)

        return {"count": await asyncio.to_thread(all_of_them)}

    async def hold(self, runs: int, steps: int, at: int) -> dict[str, Any]:
        """Start workflows that stand still in a step, and return when all do."""
        track.stop_at = at

        def start() -> None:
            for number in range(runs):
                with SetWorkflowID(f"r{number}"):
                    DBOS.start_workflow(count, steps)

        await asyncio.to_thread(start)
        await track.stopping(runs)
        return {"count": runs}

    async def recover(self, runs: int) -> dict[str, Any]:
        """Wait until the workflows that were held ended; count from the launch."""
        ended = await asyncio.to_thread(self._ended, runs)
        return between(self._born, now()) | {"ended": ended}

    async def replay(self, steps: int) -> dict[str, Any]:
        """Wait until the workflow that was held read back its steps; count from its first line."""
        ended = await asyncio.to_thread(self._ended, 1)
        if track.begun is None or track.passed is None:
            raise RuntimeError(f"the workflow did not come to step {steps}")
        return between(track.begun, track.passed) | {"ended": ended}

    def _ended(self, runs: int) -> int:
        """Return the sum of the results of workflows, which is that of their steps."""
        handles = [DBOS.retrieve_workflow(f"r{number}") for number in range(runs)]
        return sum(int(handle.get_result(polling_interval_sec=0.05)) for handle in handles)


async def main(given: dict[str, Any]) -> None:
    """Launch and serve."""
    track.mark = given["mark"]
    config = DBOSConfig(
        name="bench",
        system_database_url=given["url"],
        application_version="1",
        log_level="ERROR",
    )
    if given["schema"]:
        config["dbos_system_schema"] = given["schema"]
    if given["form"] == "wal":
        config["system_database_engine"] = _wal_engine(given["url"])
    born = now()
    dbos = DBOS(config=config)
    DBOS.launch()
    side = Side(dbos, born, in_loop=given["form"] == "async")
    await serve(
        {
            "durability": side.durability,
            "steps": side.steps,
            "hold": side.hold,
            "recover": side.recover,
            "replay": side.replay,
        }
    )
    DBOS.destroy()


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
