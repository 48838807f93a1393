"""Runs over the wire: started, found, looked at, changed, removed."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from holdfast import Run
from tests.http.conftest import Served, served

ANSWER = "What now?"


async def double(run: Run, number: int) -> int:
    return await run.step("double", lambda: number * 2)


async def asks(run: Run) -> Any:
    return await run.ask(ANSWER)


async def listens(run: Run) -> Any:
    return await run.signal("go")


async def fails(run: Run) -> None:
    raise ValueError("a secret that was in the input")


DOUBLE, ASKS, LISTENS, FAILS = [
    f"{one.__module__}.{one.__qualname__}" for one in (double, asks, listens, fails)
]
ALL = (double, asks, listens, fails)


def test_the_same_put_twice_makes_one_run_and_another_content_is_a_conflict(
    store_url: str,
) -> None:
    """A8: create with an existing id is a conflict; the same once more is no second run."""

    async def work(site: Served) -> None:
        body = {"function": DOUBLE, "args": [21], "labels": {"a": "b"}}
        first = await site.client.put("/v1/runs/mine", json=body)
        assert first.status_code == 201
        assert first.headers["location"] == "/v1/runs/mine"
        await site.rt.runs.ended("mine")
        again = await site.client.put("/v1/runs/mine", json=body)
        assert (again.status_code, again.json()["status"]) == (200, "succeeded")
        for other in ({"args": [22]}, {"labels": {}}, {"priority": 1}, {"function": ASKS}):
            problem = await site.refused("PUT", "/v1/runs/mine", 409, json=body | other)
            assert problem["code"] == "run_exists"
        assert len((await site.get("/v1/runs"))["items"]) == 1

    served(store_url, work, *ALL)


@pytest.mark.parametrize("id", ["a/b", "..", "a?b", "Ä", "a%2Fb", "x" * 900, "\ue02f0", "A"])
def test_an_id_leads_to_its_run_whatever_it_holds(id: str, store_url: str) -> None:
    """A8: ids like `..`, `a/b`, very long, or differing only in case never escape or collide."""

    async def work(site: Served) -> None:
        address = "/v1/runs/" + quote(id, safe="").replace(".", "%2E")
        await site.rt.runs.start(asks, run_id="a")
        made = await site.client.put(address, json={"function": DOUBLE, "args": [1]})
        assert (made.status_code, made.json()["id"]) == (201, id)
        assert made.headers["location"] == "/v1/runs/" + quote(id, safe="")
        assert (await site.get(address))["id"] == id
        assert len((await site.get("/v1/runs"))["items"]) == 2

    served(store_url, work, *ALL)


def test_a_run_says_why_it_is_where_it_is(store_url: str) -> None:
    """Section 2.3: a machine reason and a sentence; `attention` finds those that need somebody."""

    async def work(site: Served) -> None:
        await site.rt.runs.start(asks, run_id="asks")
        await site.rt.runs.start(listens, run_id="listens")
        found = await site.until("asks", "waiting")
        assert found["explanation"] == "It waits for an answer to question asks?1."
        assert found["waits"] == [{"kind": "question", "which": "asks?1"}]
        found = await site.until("listens", "waiting")
        assert found["explanation"] == "It waits for a signal 'go' from outside."
        page = await site.get("/v1/runs", attention="true", count="true")
        assert [one["id"] for one in page["items"]] == ["asks"]
        assert page["count"] == {"value": 1, "relation": "eq"}

    served(store_url, work, *ALL)


def test_a_run_that_was_seen_is_not_sent_again_and_a_change_is_waited_for(store_url: str) -> None:
    """Section 2.2: `ETag` = run version, 304, `wait=change`."""

    async def work(site: Served) -> None:
        await site.rt.runs.start(listens, run_id="one")
        await site.until("one", "waiting")
        seen = await site.client.get("/v1/runs/one")
        tag = {"If-None-Match": seen.headers["etag"]}
        assert (await site.client.get("/v1/runs/one", headers=tag)).status_code == 304
        path = "/v1/runs/one?wait=change&timeout=30"
        waiting = asyncio.ensure_future(site.client.get(path, headers=tag))
        while not waiting.done():
            # Signals are put in until one falls behind the look with which the wait began.
            await site.rt.runs.pause("one")
            await asyncio.wait([waiting], timeout=0.01)
        changed = await waiting
        assert changed.status_code == 200
        assert changed.headers["etag"] != seen.headers["etag"]
        nothing = await site.client.get(
            "/v1/runs/one?wait=change&timeout=0", headers={"If-None-Match": changed.headers["etag"]}
        )
        assert nothing.status_code == 304

    served(store_url, work, *ALL)


def test_pause_resume_signal_and_end_over_the_wire(store_url: str) -> None:
    """Section 2.2: 202 with the resulting run; a signal answers with its place in the journal."""

    async def work(site: Served) -> None:
        await site.rt.runs.start(listens, run_id="one")
        await site.until("one", "waiting")
        paused = await site.post("/v1/runs/one/pause", {"reason": "lunch"})
        assert (paused["status"], paused["why"], paused["by"]) == ("paused", "lunch", "admin")
        assert paused["explanation"] == "It was paused by admin and rests until it is resumed."
        await site.post("/v1/runs/one/resume")
        sent = await site.post("/v1/runs/one/signals/go", {"value": 7})
        event = await site.get(f"/v1/runs/one/events/{sent['seq']}")
        assert (event["type"], event["id"]) == ("signal.received", sent["id"])
        done = await site.get("/v1/runs/one", wait="terminal")
        assert (done["status"], done["result"]) == ("succeeded", 7)

    served(store_url, work, *ALL)


def test_a_signal_with_a_key_arrives_once(store_url: str) -> None:
    """A8, section 2.6: the same key twice has one effect, and the same answer."""

    async def work(site: Served) -> None:
        await site.rt.runs.start(listens, run_id="one")
        await site.until("one", "waiting")
        path = "/v1/runs/one/signals/other"
        first = await site.post(path, {"value": 1}, idempotency_key="k")
        assert await site.post(path, {"value": 1}, idempotency_key="k") == first
        types = [event.type for event in await site.rt.runs.history("one").read()]
        assert types.count("signal.received") == 1
        key = {"Idempotency-Key": "k"}
        problem = await site.refused("POST", path, 422, json={"value": 2}, headers=key)
        assert problem["code"] == "idempotency_key_reused"

    served(store_url, work, *ALL)


def test_a_refusal_says_state_action_reason_and_limit(store_url: str) -> None:
    """A16: refusals are machine-readable."""

    async def work(site: Served) -> None:
        await site.rt.runs.start(double, 1, run_id="over")
        await site.rt.runs.ended("over")
        for action, path in {
            "cancelled": "cancel",
            "paused": "pause",
            "resumed": "resume",
            "given signal.received": "signals/go",
            "resolved": "steps/double%231/resolve",
        }.items():
            body = {"verdict": "again"} if action == "resolved" else {}
            problem = await site.refused("POST", f"/v1/runs/over/{path}", 409, json=body)
            said = problem["context"]
            assert (said["state"], said["action"]) == ("succeeded", action)
            assert said["reason"]
        too_long = {"function": DOUBLE, "args": ["x" * 9_000_000]}
        problem = await site.refused("POST", "/v1/runs", 413, json=too_long)
        assert problem["context"]["limit"] == 8 * 1024 * 1024
        assert problem["context"]["size"] > problem["context"]["limit"]

    served(store_url, work, *ALL)


def test_a_run_is_removed_only_as_it_was_seen_and_only_when_it_ended(store_url: str) -> None:
    """Section 2.2: `DELETE` needs `If-Match`; 428, 412, 409, then 204 and 404."""

    async def work(site: Served) -> None:
        await site.rt.runs.start(listens, run_id="one")
        waiting = await site.until("one", "waiting")
        tag = {"If-Match": f'"{waiting["revision"]}"'}
        problem = await site.refused("DELETE", "/v1/runs/one", 428)
        assert problem["code"] == "precondition_required"
        problem = await site.refused("DELETE", "/v1/runs/one", 409, headers=tag)
        assert problem["context"]["action"] == "removed"
        await site.rt.runs.signal("one", "go")
        await site.rt.runs.ended("one")
        problem = await site.refused("DELETE", "/v1/runs/one", 412, headers=tag)
        assert problem["context"]["expected"] == str(waiting["revision"])
        now = (await site.client.get("/v1/runs/one")).headers["etag"]
        gone = await site.client.delete("/v1/runs/one", headers={"If-Match": now})
        assert (gone.status_code, gone.content) == (204, b"")
        await site.refused("GET", "/v1/runs/one", 404)

    served(store_url, work, *ALL)


def test_a_failed_run_is_tried_again_as_a_new_one(store_url: str) -> None:
    """Section 2.2: `retry` of a run that failed is a fork; 201 with where it is."""

    async def work(site: Served) -> None:
        await site.rt.runs.start(fails, run_id="one")
        await site.rt.runs.ended("one")
        forked = await site.post("/v1/runs/one/retry", status=201)
        assert forked["origin"] == "one"
        await site.rt.runs.ended(forked["id"])
        page = await site.get("/v1/runs", origin="one")
        assert [run["id"] for run in page["items"]] == [forked["id"]]

    served(store_url, work, *ALL)


def test_runs_are_listed_page_by_page_by_when_they_changed(store_url: str) -> None:
    """Section 2.7: opaque cursors that belong to their filters; null at the end."""

    async def work(site: Served) -> None:
        for number in range(5):
            await site.rt.runs.start(double, number, run_id=f"run-{number}")
            await site.rt.runs.ended(f"run-{number}")
        seen: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await site.get("/v1/runs", limit=2, function=DOUBLE, **cursor)
            seen += [run["id"] for run in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert seen == [f"run-{number}" for number in range(5)]
        problem = await site.refused("GET", "/v1/runs", 400, params={"limit": 2, **cursor})
        assert problem["code"] == "bad_cursor"
        third = await site.get("/v1/runs/run-2")
        later = await site.get("/v1/runs", created_after=third["created_at"])
        assert [run["id"] for run in later["items"]] == ["run-3", "run-4"]
        before = await site.get("/v1/runs", created_before=third["created_at"])
        assert [run["id"] for run in before["items"]] == ["run-0", "run-1"]

    served(store_url, work, *ALL)
