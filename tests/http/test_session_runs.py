"""Runs that belong to a session are found by it, here and over the wire (section 2.2)."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

import holdfast
from holdfast import Run, Runtime
from holdfast.client import connect
from holdfast.core.errors import InvalidValueError
from holdfast.core.key import Key
from tests.http.conftest import TOKEN, Served, client_of, served
from tests.http.test_plant import talk
from tests.http.test_runs import double

ODD: Key = ("Chat", "a/b", "50%")
PLAIN: Key = ("Chat", "bob")
DOUBLE = "tests.http.test_runs.double"


async def fails(run: Run) -> None:
    raise ValueError("no paper")


async def found(rt: Runtime, session: Key | None) -> list[str]:
    return [one.id for one in await rt.runs.list(session=session)]


def test_runs_of_a_session_are_found_and_so_are_their_forks(store_url: str) -> None:
    """Section 2.2. By class and key, whether the session is there or not; a retry belongs to it."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            for id, session in (("a", ODD), ("b", PLAIN), ("c", None)):
                await (await rt.runs.start(double, 1, run_id=id, session=session)).ended()
            assert await found(rt, ODD) == ["a"]
            assert await found(rt, PLAIN) == ["b"]
            assert await found(rt, None) == ["a", "b", "c"]
            assert await found(rt, ("Chat", "a", "b", "50%")) == []
            failed = await rt.runs.start(fails, run_id="d", session=PLAIN, labels={"team": "red"})
            await failed.ended()
            again = await rt.runs.retry("d")
            await again.ended()
            assert set(await found(rt, PLAIN)) == {"b", "d", again.id}
            labels = (await again.view()).labels
            assert labels == {"team": "red", "holdfast.session": "Chat/bob"}
            assert len(await rt.runs.list(session=PLAIN, labels={"team": "red"})) == 2

    asyncio.run(run())


@pytest.mark.parametrize("session", [(), ("Chat",), "Chat", ("Chat", "\ud800")])
def test_what_names_no_session_is_refused(session: Any) -> None:
    """A16. Nothing begins, and nothing is looked for."""

    async def run() -> None:
        async with holdfast.open("sqlite:///:memory:") as rt:
            with pytest.raises(InvalidValueError):
                await rt.runs.start(double, 1, session=session)
            with pytest.raises(InvalidValueError):
                await rt.runs.list(session=session)
            assert await rt.runs.list() == []

    asyncio.run(run())


def test_labels_of_holdfast_are_not_given_by_hand(store_url: str) -> None:
    """X15. Runs, graphs and the wire alike; to look for them is free."""

    async def work(site: Served) -> None:
        own = {"holdfast.session": "Chat/bob"}
        with pytest.raises(InvalidValueError, match="for itself"):
            await site.rt.runs.start(double, 1, labels=own)
        body = {"function": DOUBLE, "args": [1], "labels": own}
        await site.refused("POST", "/v1/runs", 422, json=body)
        await site.refused("PUT", "/v1/runs/a", 422, json=body)
        await site.rt.runs.start(double, 1, run_id="b", session=PLAIN)
        page = await site.get("/v1/runs", label="holdfast.session:Chat/bob")
        assert [one["id"] for one in page["items"]] == ["b"]

    served(store_url, work, double)


def test_runs_of_a_session_are_listed_over_the_wire_page_by_page(store_url: str) -> None:
    """Section 2.2. Two addresses, one list: same pages, same cursors, same filters."""

    async def work(site: Served) -> None:
        await talk(site, ODD[1:], "ann")
        id = (await site.get("/v1/sessions"))["items"][0]["id"]
        for n in range(5):
            body = {"function": DOUBLE, "args": [n], "run_id": f"r{n}", "session_id": id}
            await site.post("/v1/runs", body, 201)
            await site.until(f"r{n}", "succeeded")
        await site.post("/v1/runs", {"function": DOUBLE, "args": [9], "run_id": "s"}, 201)
        path = f"/v1/sessions/{quote(id, safe='')}/runs"
        first = await site.get(path, limit=2)
        assert [one["id"] for one in first["items"]] == ["r0", "r1"]
        assert first["items"][0]["labels"] == {"holdfast.session": id}
        rest = await site.get("/v1/runs", session=id, limit=9, cursor=first["next_cursor"])
        assert [one["id"] for one in rest["items"]] == ["r2", "r3", "r4"]
        assert (await site.get(path, count="true"))["count"] == {"value": 5, "relation": "eq"}
        assert (await site.get(path, status="failed"))["items"] == []
        await site.refused("GET", f"{path}?cursor={first['next_cursor']}&status=failed", 400)
        await site.refused("GET", f"{path}?session=Chat/bob", 422)
        transport = client_of(site.rt)._transport
        async with connect("http://localhost", token=TOKEN, transport=transport) as service:
            more = {"run_id": "t", "session_id": id}
            await service.runs.start(DOUBLE, 1, **more)
            ids = [one["id"] async for one in service.sessions.runs(id, limit=2)]
            assert ids == [*(f"r{n}" for n in range(5)), "t"]
        plan = {"action": "cancel", "filter": {"session": id}, "dry_run": True}
        assert (await site.post("/v1/bulk", plan, 200))["plan"]["selected"] == 6

    served(store_url, work, double)


def test_a_session_that_is_not_there_has_no_list_and_its_runs_are_found(store_url: str) -> None:
    """A16. 404 as for the session itself; what was closed has runs that are found by its id."""

    async def work(site: Served) -> None:
        await talk(site, "bob", "bob")
        body = {"function": DOUBLE, "args": [1], "session_id": "Chat/bob"}
        assert (await site.client.put("/v1/runs/a", json=body)).status_code == 201
        assert (await site.client.put("/v1/runs/a", json=body)).status_code == 200
        other = body | {"session_id": "Chat/ann"}
        assert (await site.client.put("/v1/runs/a", json=other)).status_code == 409
        assert len((await site.get("/v1/sessions/Chat%2Fbob/runs"))["items"]) == 1
        assert (await site.client.delete("/v1/sessions/Chat%2Fbob")).status_code == 204
        await site.refused("GET", "/v1/sessions/Chat%2Fbob/runs", 404)
        assert len((await site.get("/v1/runs", session="Chat/bob"))["items"]) == 1
        for path in ("/v1/sessions/Chat/runs", "/v1/sessions/Chat%2F%25FF/runs"):
            await site.refused("GET", path, 422)
        await site.refused("GET", "/v1/runs?session=Chat", 422)
        for wrong in ("Chat", "Chat/%FF"):
            await site.refused("POST", "/v1/runs", 422, json=body | {"session_id": wrong})

    served(store_url, work, double)
