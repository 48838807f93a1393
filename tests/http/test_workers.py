"""Workers that are drained take no runs any more, whichever process was asked (section 2.2)."""

import time
from itertools import count

import pytest

from tests.http.conftest import Served, served
from tests.http.service import Service, until
from tests.http.test_runs import double


def takers(service: Service, run_id: str) -> list[str]:
    """Return who took a run, each time somebody did."""
    events = service.journal(run_id)
    return [one["data"]["runtime"] for one in events if one["type"] == "run.dispatched"]


def id_of(service: Service) -> str:
    """Return the id of the runtime that answers."""
    (found,) = [one["id"] for one in service.get("/v1/workers").json()["items"] if one["here"]]
    return str(found)


def counted(service: Service, name: str, runs: int) -> set[str]:
    """Run some runs to their end, one beside the other; return who took them."""
    ids = [service.begin("count", 1, run_id=f"{name}-{number}") for number in range(runs)]
    for run_id in ids:
        service.ended(run_id)
    return {one for run_id in ids for one in takers(service, run_id)}


def rests(service: Service, run_id: str) -> bool:
    """Start a run; return whether it waits a second later still."""
    service.begin("count", 1, run_id=run_id)
    found = service.get(f"/v1/runs/{run_id}?wait=terminal&timeout=1").json()
    return bool(found["status"] == "queued")


@pytest.mark.timeout(180)
def test_a_runtime_in_another_process_takes_no_runs_within_a_second(kept_url: str) -> None:
    """Section 2.2, F10: asked through one process, obeyed in the other; until it is taken back."""
    with Service(kept_url) as one, Service(kept_url) as two:
        here, there = id_of(one), id_of(two)
        asked_at = time.monotonic()
        answer = one.post(f"/v1/workers/{there}/drain", {"reason": "new machine"})
        assert (answer.status_code, answer.json()["id"]) == (202, there)
        assert answer.json()["drained_at"]
        # A run that takes its time: behind its end the second is over.
        one.ended(one.begin("count", 1, 1.0, run_id="slow"))
        assert time.monotonic() - asked_at >= 1.0
        # It asks twice a second, unless the machine has no time for it.
        tries = count()
        until(lambda: counted(two, f"drained-{next(tries)}", 10) == {here}, "it takes runs still")
        assert counted(two, "drained", 10) == {here}
        listed = two.get("/v1/workers").json()["items"]
        assert {item["id"] for item in listed if item["drained_at"]} == {there}
        # Both: nobody takes anything, and nothing is lost.
        assert two.post(f"/v1/workers/{here}/drain", {}).status_code == 202
        until(lambda: rests(two, f"rests-{next(tries)}"), "somebody takes runs still")
        assert rests(two, "rests")
        assert one.post(f"/v1/workers/{there}/resume", {}).status_code == 202
        two.ended("rests")
        assert takers(two, "rests") == [there]
        # Who is opened anew takes runs.
        two.kill()
        two.start()
        assert one.post(f"/v1/workers/{there}/drain", {}).status_code in (202, 404)
        assert counted(two, "anew", 3) == {id_of(two)}


@pytest.mark.timeout(120)
def test_what_a_drained_runtime_executes_goes_on_there(kept_url: str) -> None:
    """C1, F10: a drain takes nothing away from anybody."""
    with Service(kept_url) as one:
        here = id_of(one)
        one.begin("count", 30, 0.05, run_id="long")
        while one.get("/v1/runs/long").json()["status"] != "running":
            one.get("/v1/runs/long?wait=change&timeout=1")
        assert one.post(f"/v1/workers/{here}/drain", {}).status_code == 202
        assert one.ended("long")["status"] == "succeeded"
        assert takers(one, "long") == [here]


def test_a_drain_is_asked_for_once_noted_and_refused_for_who_is_not_there(store_url: str) -> None:
    """A8, A16: twice is once; 404 for nobody; the audit says who wanted it and why."""

    async def work(site: Served) -> None:
        (worker,) = (await site.get("/v1/workers"))["items"]
        assert worker["drained_at"] is None
        path = f"/v1/workers/{worker['id']}"
        first = await site.post(f"{path}/drain", {"reason": "update"})
        assert (await site.post(f"{path}/drain"))["drained_at"] == first["drained_at"]
        assert (await site.post(f"{path}/resume"))["drained_at"] is None
        problem = await site.refused("POST", "/v1/workers/nobody/drain", 404, json={})
        assert (problem["code"], problem["context"]) == (
            "worker_not_found",
            {"worker_id": "nobody"},
        )
        notes = [
            (one["action"], one["target"], one["reason"])
            for one in (await site.get("/v1/audit"))["items"]
        ]
        assert notes == [
            ("worker_drain", worker["id"], "update"),
            ("worker_resume", worker["id"], ""),
        ]
        run = await site.rt.runs.start(double, 2)
        assert await run.result() == 4

    served(store_url, work, double)
