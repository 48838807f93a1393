"""Checkpoints and forks over the wire: what a run had done, what differs, what a fork does."""

from typing import Any

from holdfast import Run
from tests.http.conftest import Served, served

MADE: list[str] = []


def made(what: str) -> str:
    MADE.append(what)
    return what


async def report(run: Run, topic: str) -> str:
    outline = await run.step("outline", made, f"outline of {topic}")
    await run.attach("outline.txt", outline.encode())
    await run.step("mail", made, "mailed", effect="once")
    said = await run.ask("Publish?", choices=["yes", "no"])
    await run.step("publish", made, f"published: {said}", effect="once")
    return await run.step("count", made, "counted")


async def recorded(site: Served, run_id: str, topic: str) -> None:
    await site.rt.runs.start(report, topic, run_id=run_id)
    await site.until(run_id, "waiting")
    await site.rt.runs.answer(f"{run_id}?1", "yes")
    await site.rt.runs.ended(run_id)


def test_a_checkpoint_is_everything_up_to_its_place(store_url: str) -> None:
    """Section 2.2: envelopes as a list, the state on the item, `pointer` for a part of it."""

    async def work(site: Served) -> None:
        await recorded(site, "one", "kelp")
        items: list[Any] = []
        cursor: dict[str, str] = {}
        while True:
            page = await site.get("/v1/runs/one/checkpoints", limit=2, **cursor)
            items += page["items"]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert [one.get("step", one["cause"]) for one in items] == [
            "run.started",
            "outline#1",
            "artifact.attached",
            "mail#1",
            "question.answered",
            "publish#1",
            "count#1",
        ]
        assert [one["parent"] for one in items] == [0, *(one["id"] for one in items[:-1])]
        mail = next(one for one in items if one.get("step") == "mail#1")
        state = (await site.get(f"/v1/runs/one/checkpoints/{mail['id']}"))["state"]
        assert state["steps"] == {"outline#1": "outline of kelp", "mail#1": "mailed"}
        assert (state["run"]["status"], state["answers"]) == ("running", {})
        part = await site.get("/v1/runs/one/checkpoints/latest", pointer="/steps/count#1")
        assert (part["id"], part["state"]) == (items[-1]["id"], "counted")
        await site.refused("GET", "/v1/runs/one/checkpoints/999", 404)
        await site.refused("GET", "/v1/runs/one/checkpoints/two", 400)

    served(store_url, work, report)


def test_two_places_are_compared_also_of_two_runs(store_url: str) -> None:
    """Section 2.2: any two checkpoints, as a patch or a tree, with a limit."""

    async def work(site: Served) -> None:
        await recorded(site, "one", "kelp")
        await recorded(site, "two", "eelgrass")
        ask = {"from": "one@latest", "to": "two@latest", "pointer": "/steps"}
        patch = await site.get("/v1/diff", **ask)
        assert patch == [{"op": "replace", "path": "/outline#1", "value": "outline of eelgrass"}]
        said = await site.get("/v1/diff", format="tree", **ask)
        assert said == {"outline#1": {"from": "outline of kelp", "to": "outline of eelgrass"}}
        problem = await site.refused("GET", "/v1/diff", 413, params={**ask, "max_bytes": 10})
        assert problem["context"]["limit"] == 10
        await site.refused("GET", "/v1/diff", 400, params={"from": "one", "to": "two@1"})
        same = {"from": "one@3", "to": "one@3"}
        assert await site.get("/v1/diff", **same) == []

    served(store_url, work, report)


def test_a_fork_at_every_checkpoint_does_what_its_plan_said(store_url: str) -> None:
    """
    Section 8 test 7: the plan equals what then happens, at every place of a recorded run.

    Reused steps are not made, repeated ones are, and a blocked one waits for somebody.
    """

    async def work(site: Served) -> None:
        await recorded(site, "one", "kelp")
        names = {"outline of kelp": "outline#1", "counted": "count#1"}
        fates: set[str] = set()
        last = len(await site.rt.runs.history("one").read())
        for at in range(1, last + 1):
            plan = await site.post("/v1/runs/one/fork", {"at": at, "dry_run": True}, 200)
            plan = plan["plan"]
            fate = {one["step"]: one["fate"] for one in plan["steps"]}
            fates |= set(fate.values())
            MADE.clear()
            id = f"fork-{at}"
            forked = await site.post("/v1/runs/one/fork", {"at": at, "new_id": id}, 201)
            assert (forked["run"]["origin"], plan["at"]) == ("one", at)
            blocked = await driven(site, id)
            assert blocked == {step for step, what in fate.items() if what == "blocked"}
            assert {names[what] for what in MADE} == {
                step for step, what in fate.items() if what == "repeated"
            }
        assert fates == {"reused", "repeated", "blocked"}
        await site.refused("POST", "/v1/runs/one/fork", 422, json={"at": last + 1})

    served(store_url, work, report)


async def driven(site: Served, run_id: str) -> set[str]:
    """Answer and resolve whatever a run waits for; return the steps that were uncertain."""
    uncertain: set[str] = set()
    while True:
        run = await site.get(f"/v1/runs/{run_id}")
        if run["status"] == "succeeded":
            return uncertain
        for wait in run.get("waits", []):
            if wait["kind"] == "question":
                await site.rt.runs.answer(wait["which"], "yes")
            elif wait["kind"] == "uncertain_effect":
                uncertain.add(wait["which"])
                step = wait["which"].replace("#", "%23")
                body = {"verdict": "done", "value": "resolved"}
                await site.post(f"/v1/runs/{run_id}/steps/{step}/resolve", body)
        seen = {"If-None-Match": f'"{run["revision"]}"'}
        path = f"/v1/runs/{run_id}?wait=change&timeout=5"
        await site.client.get(path, headers=seen)


def test_a_result_that_is_patched_is_taken_in_place_of_the_old_one(store_url: str) -> None:
    """Section 2.2: `patch` replaces results of the origin; the plan says `replaced`."""

    async def work(site: Served) -> None:
        await recorded(site, "one", "kelp")
        ask = {"patch": {"count#1": "other"}}
        plan = await site.post("/v1/runs/one/fork", ask | {"dry_run": True}, 200)
        assert {one["step"]: one["fate"] for one in plan["plan"]["steps"]}["count#1"] == "replaced"
        forked = await site.post("/v1/runs/one/fork", ask, 201, idempotency_key="k")
        done = await site.get(f"/v1/runs/{forked['run']['id']}", wait="terminal")
        assert done["result"] == "other"
        again = await site.post("/v1/runs/one/fork", ask, 201, idempotency_key="k")
        assert again == forked
        unknown = {"patch": {"nothing#1": 1}}
        await site.refused("POST", "/v1/runs/one/fork", 422, json=unknown)

    served(store_url, work, report)
