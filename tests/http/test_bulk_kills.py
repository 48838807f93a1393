"""An operation on many runs, while the service that carries it out is killed again and again."""

import asyncio
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from random import Random

import httpx
import pytest

import holdfast
from holdfast import Run
from holdfast.runtime.requests import Note
from tests.http import bulk_killed
from tests.http.serving import Served

RUNS = 200
KILLS = 3


async def fails(run: Run) -> None:
    raise ValueError("no paper")


async def failed(url: str) -> list[str]:
    """Leave runs that failed; return their ids."""
    ids = [f"r{number:03d}" for number in range(RUNS)]
    async with holdfast.open(url, functions=[fails]) as rt:
        for id in ids:
            await rt.runs.start(fails, run_id=id)
        for id in ids:
            await rt.runs.ended(id)
    return ids


async def left(url: str, ids: list[str], operation: str) -> None:
    """Look at what was left: each run was retried once, by one note, into one new run."""
    async with holdfast.open(url) as rt:
        found = await rt.bulk.get(operation)
        assert found.counts == {"open": 0, "done": RUNS, "refused": 0, "gone": 0}
        became = {one.run_id: one.became for _, one in await rt.bulk.items(operation, limit=RUNS)}
        assert sorted(became) == ids
        for id in ids:
            assert list(await rt.runs.handle(id).forks()) == [became[id]], id
        notes = [one.data_as(Note) for one in await rt.requests.audit.read(0, 10_000)]
        assert sorted(one.target for one in notes if one.action == "run_retry") == ids
        assert not await rt.verify()


@pytest.mark.timeout(240)
def test_killed_in_the_middle_nothing_is_done_twice_and_nothing_left_out(
    kept_url: str, tmp_path: Path
) -> None:
    """Issue 7, X1: by `holdfast serve` without a program, so by a runtime that has no functions."""
    seed = secrets.randbelow(2**32)
    sys.stdout.write(f"seed {seed}\n")
    chance = Random(seed)
    ids = asyncio.run(failed(kept_url))
    operation, kills = "", 0
    for stop in sorted(chance.sample(range(5, RUNS - 20), KILLS)):
        with Served(kept_url, tmp_path) as server:
            server.wait_ready()
            with server.client() as client:
                if not operation:
                    body = {"action": "retry", "filter": {"status": "failed"}}
                    begun = client.post("/v1/bulk", json=body)
                    assert begun.status_code == 202, begun.text
                    operation = begun.json()["operation"]["id"]
                kills += reached(client, operation, stop)
                server.kill()
    assert kills, "it was over before the first kill"
    with Served(kept_url, tmp_path) as server:
        server.wait_ready()
        with server.client() as client:
            path = f"/v1/operations/{operation}?wait=terminal&timeout=50"
            assert client.get(path).json()["status"] == "succeeded"
        server.stop()
    asyncio.run(left(kept_url, ids, operation))


def reached(client: httpx.Client, operation: str, count: int) -> bool:
    """Wait until so many runs were done to; return whether it goes on still."""
    while True:
        found = client.get(f"/v1/operations/{operation}").json()
        if found["done"] >= count or found["ended_at"] is not None:
            return found["ended_at"] is None


@pytest.mark.timeout(120)
def test_killed_at_any_commit_each_run_is_done_to_once(kept_url: str) -> None:
    """Issue 7, X1: between what is done to a run and that it was done there is no place to die."""
    commits = range(1, 7)
    for number in commits:
        child = [sys.executable, "-m", "tests.http.bulk_killed", kept_url, str(number)]
        assert subprocess.run(child, timeout=60, check=False).returncode == -signal.SIGKILL

    async def look() -> None:
        async with holdfast.open(kept_url) as rt:
            found = (await rt.bulk.list()).items
            assert len(found) == len(commits)
            for one in found:
                ended = await rt.runs.ended(one.run.id)
                assert (await rt.bulk.get(ended.id)).counts["done"] == bulk_killed.RUNS
                for _, item in await rt.bulk.items(ended.id):
                    forks = list(await rt.runs.handle(item.run_id).forks())
                    assert forks == [item.became], item.run_id

    asyncio.run(look())
