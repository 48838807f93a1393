"""Operations on many runs: one selection, frozen; one run that does it; an outcome for each."""

from typing import Any

import httpx
import msgspec
import pytest

import holdfast.client
import holdfast.http
from holdfast import Run
from holdfast.core.bulk import ITEM_KIND, KIND, Order
from holdfast.core.denial import OperationNotFoundError
from holdfast.core.errors import LimitError
from holdfast.core.key import prefix_end
from holdfast.core.run import Status
from holdfast.core.unit import PutRecord, Unit
from holdfast.http import Settings
from holdfast.runtime.requests import KIND as REQUEST_KIND
from holdfast.runtime.runs import bulk
from holdfast.runtime.runs.search import Sought
from tests.http.conftest import TOKEN, Served, client_of, served

WAITING = Sought(status=Status.WAITING)


async def asks(run: Run) -> Any:
    return await run.ask("What now?")


async def fails(run: Run) -> None:
    raise ValueError("no paper")


ALL = (asks, fails)


async def waiting(site: Served, *ids: str, **labels: str) -> None:
    """Leave runs that wait for an answer."""
    for id in ids:
        await site.rt.runs.start(asks, run_id=id, labels=labels)
    for id in ids:
        await site.until(id, "waiting")


async def begun(site: Served, action: str, **body: Any) -> str:
    """Order an operation; return its id."""
    answer = await site.post("/v1/bulk", {"action": action, **body})
    return str(answer["operation"]["id"])


async def over(site: Served, id: str) -> dict[str, Any]:
    """Return an operation once it is over."""
    found = await site.get(f"/v1/operations/{id}", wait="terminal", timeout=20)
    assert found["ended_at"] is not None, found
    return dict(found)


async def ordered(site: Served, action: str, **body: Any) -> dict[str, Any]:
    """Order an operation and return it once it is over."""
    return await over(site, await begun(site, action, **body))


async def statuses(site: Served, *ids: str) -> list[str]:
    """Return where runs are."""
    return [(await site.rt.runs.get(id)).status.value for id in ids]


async def outcomes(site: Served, id: str, **query: Any) -> list[tuple[str, str, str]]:
    """Return what became of each run of an operation: its id, the outcome, the code."""
    page = await site.get(f"/v1/operations/{id}/items", limit=500, **query)
    return [(one["run_id"], one["outcome"], one.get("code", "")) for one in page["items"]]


def counts(found: dict[str, Any]) -> tuple[int, int, int, int]:
    """Return how many runs are open, done, refused and gone."""
    return found["open"], found["done"], found["refused"], found["gone"]


def test_what_a_filter_selects_is_done_to_and_nothing_else(store_url: str) -> None:
    """Issue 7: 202 with the address of the operation, which counts what it did."""

    async def work(site: Served) -> None:
        await waiting(site, "a", "b", "c", kind="old")
        await waiting(site, "d", kind="new")
        body = {"action": "cancel", "filter": {"label": ["kind:old"]}, "reason": "too old"}
        answer = await site.client.post("/v1/bulk", json=body)
        assert answer.status_code == 202
        made = answer.json()["operation"]
        assert answer.headers["location"] == f"/v1/operations/{made['id']}"
        assert (made["selected"], made["action"], made["reason"]) == (3, "cancel", "too old")
        found = await over(site, made["id"])
        assert (found["status"], counts(found)) == ("succeeded", (0, 3, 0, 0))
        assert found["filter"] == {"label": ["kind:old"]}
        assert await statuses(site, "a", "b", "c", "d") == ["cancelled"] * 3 + ["waiting"]
        info = await site.rt.runs.get("a")
        assert (info.why, info.by) == ("too old", found["by"])

    served(store_url, work, *ALL)


def test_every_action_does_what_it_does_to_one_run(store_url: str) -> None:
    """Issue 7: pause, resume, retry, which makes a new run of one that failed, and remove."""

    async def work(site: Served) -> None:
        await waiting(site, "w")
        for one in ("f", "g"):
            await (await site.rt.runs.start(fails, run_id=one)).ended()
        await ordered(site, "pause", ids=["w"])
        assert await statuses(site, "w") == ["paused"]
        await ordered(site, "resume", filter={"status": "paused"})
        await site.until("w", "waiting")
        retried = await ordered(site, "retry", filter={"status": "failed"})
        page = await site.get(f"/v1/operations/{retried['id']}/items")
        made = {one["run_id"]: one["became"] for one in page["items"]}
        for one in ("f", "g"):
            assert list(await site.rt.runs.handle(one).forks()) == [made[one]]
            await site.rt.runs.ended(made[one])
        removed = await ordered(site, "remove", ids=["f", "g"])
        assert counts(removed) == (0, 2, 0, 0)
        assert [one.id for one in await site.rt.runs.list(function=asks)] == ["w"]
        for one in ("f", "g"):
            await site.refused("GET", f"/v1/runs/{one}", 404)

    served(store_url, work, *ALL)


def test_what_comes_after_the_order_is_not_of_the_selection(kept_url: str) -> None:
    """Decision 10: frozen, also where most of it is done by a later life of the runtime."""
    ids = [f"a{number:02d}" for number in range(99)]

    async def order(site: Served) -> str:
        await waiting(site, *ids)
        id = await begun(site, "cancel", filter={"status": "waiting"})
        while not (await site.rt.bulk.get(id)).counts["done"]:
            pass  # Each look awaits the store, so the operation goes on beside it.
        return id

    async def go_on(site: Served) -> None:
        await waiting(site, "b")
        found = await over(site, id)
        assert (found["status"], counts(found)) == ("succeeded", (0, 99, 0, 0))
        assert set(await statuses(site, *ids)) == {"cancelled"}
        assert await statuses(site, "b") == ["waiting"]
        assert (await site.rt.runs.get(id)).attempt > 1

    id = served(kept_url, order, *ALL)
    served(kept_url, go_on, *ALL)


def test_a_dry_run_says_what_it_would_be_and_changes_nothing(store_url: str) -> None:
    """Issue 7: the count, where they are, the first of them; not an event more in the store."""

    async def work(site: Served) -> None:
        await waiting(site, *[f"r{number:02d}" for number in range(12)])
        await (await site.rt.runs.start(fails, run_id="z")).ended()
        head = await site.rt.feed.head()
        asked: dict[str, Any] = {"action": "cancel", "filter": {}, "dry_run": True}
        plan = (await site.post("/v1/bulk", asked, 200))["plan"]
        assert (plan["selected"], plan["by_status"]) == (13, {"waiting": 12, "failed": 1})
        assert [one["id"] for one in plan["sample"]] == [f"r{number:02d}" for number in range(10)]
        named = {"action": "cancel", "ids": ["z", "nobody", "z"], "dry_run": True}
        plan = (await site.post("/v1/bulk", named, 200))["plan"]
        assert (plan["selected"], plan["by_status"]) == (2, {"failed": 1, "gone": 1})
        none = {"action": "cancel", "ids": [], "dry_run": True}
        assert (await site.post("/v1/bulk", none, 200))["plan"]["selected"] == 0
        assert await site.rt.feed.head() == head
        assert (await site.get("/v1/operations"))["items"] == []

    served(store_url, work, *ALL)


def test_what_refused_is_told_with_the_code_of_its_problem(store_url: str) -> None:
    """Issue 7: an outcome for each run; one that refuses holds up none of the others."""

    async def work(site: Served) -> None:
        await waiting(site, "w")
        await (await site.rt.runs.start(fails, run_id="f")).ended()
        found = await ordered(site, "pause", ids=["f", "nobody", "w", "f"])
        assert counts(found) == (0, 1, 1, 1)
        (failure,) = found["failures"]
        assert (failure["run_id"], failure["code"]) == ("f", "run_state")
        assert "failed" in failure["reason"]
        assert await outcomes(site, found["id"]) == [
            ("f", "refused", "run_state"),
            ("nobody", "gone", ""),
            ("w", "done", ""),
        ]
        assert await outcomes(site, found["id"], outcome="gone") == [("nobody", "gone", "")]
        page = await site.get(f"/v1/operations/{found['id']}/items", limit=2)
        more = await site.get(
            f"/v1/operations/{found['id']}/items", limit=2, cursor=page["next_cursor"]
        )
        assert [one["number"] for one in more["items"]] == [2]

    served(store_url, work, *ALL)


def test_who_may_not_do_it_to_one_run_may_not_to_many(store_url: str) -> None:
    """Section 7: operate, admin for what removes, payloads for what looks into content."""

    async def work(site: Served) -> None:
        await waiting(site, "w")
        orders: list[tuple[dict[str, Any], str]] = [
            ({"action": "cancel", "ids": ["w"]}, "operate"),
            ({"action": "remove", "ids": ["w"]}, "admin"),
            ({"action": "cancel", "filter": {"q": "x"}}, "payloads"),
        ]
        for role, payloads, refused in (
            ("viewer", False, {"operate", "admin", "payloads"}),
            ("operator", False, {"admin", "payloads"}),
            ("operator", True, {"admin"}),
            ("admin", True, set[str]()),
        ):
            text, _ = await site.rt.tokens.create(role, payloads=payloads)
            async with client_of(site.rt, text) as client:
                for body, right in orders:
                    answer = await client.post("/v1/bulk", json={**body, "dry_run": True})
                    expected = 403 if right in refused else 200
                    assert answer.status_code == expected, (role, body, answer.text)

    served(store_url, work, *ALL)


def test_asked_twice_with_a_key_there_is_one_operation(store_url: str) -> None:
    """A8: also where the answer of the first request was lost with the process."""

    async def work(site: Served) -> None:
        await waiting(site, "a", "b")
        body = {"action": "cancel", "filter": {"status": "waiting"}}
        keyed = {"Idempotency-Key": "one"}
        answers = [await site.client.post("/v1/bulk", json=body, headers=keyed)]
        await over(site, answers[0].json()["operation"]["id"])
        answers.append(await site.client.post("/v1/bulk", json=body, headers=keyed))
        assert answers[1].headers["idempotency-replayed"] == "true"
        await _forget_answers(site)
        answers.append(await site.client.post("/v1/bulk", json=body, headers=keyed))
        assert [one.status_code for one in answers] == [202] * 3
        assert len({one.headers["location"] for one in answers}) == 1
        assert len({one.json()["operation"]["id"] for one in answers}) == 1
        assert len((await site.get("/v1/operations"))["items"]) == 1
        other = {**body, "reason": "another"}
        problem = await site.refused("POST", "/v1/bulk", 422, json=other, headers=keyed)
        assert problem["code"] == "idempotency_key_reused"

    served(store_url, work, *ALL)


async def _forget_answers(site: Served) -> None:
    """Leave the keys of requests as a crash does that comes between the effect and the answer."""
    store = site.rt._store
    rows = await store.read(
        lambda reader: reader.records(REQUEST_KIND, b"", prefix_end(b""), 9, None)
    )
    for row in rows:
        kept = msgspec.msgpack.decode(row.value or b"")
        left = {name: kept[name] for name in ("fingerprint", "at")}
        put = PutRecord(REQUEST_KIND, row.key, msgspec.msgpack.encode(left), "day-1")
        await store.commit(Unit((put,)))


def test_a_selection_has_limits_and_may_be_expected(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 7: more than one operation takes is refused, and so is another count than expected."""
    monkeypatch.setattr(bulk, "SELECTED_MAX", 3)

    async def work(site: Served) -> None:
        await waiting(site, "a", "b", "c", "d")
        body: dict[str, Any] = {"action": "pause", "filter": {}}
        for asked in (body, {**body, "dry_run": True}):
            problem = await site.refused("POST", "/v1/bulk", 413, json=asked)
            assert (problem["code"], problem["context"]["limit"]) == ("limit", 3)
        named = {"action": "pause", "ids": [f"r{number}" for number in range(10_001)]}
        await site.refused("POST", "/v1/bulk", 422, json=named)
        for wrong in ({"action": "pause"}, {**body, "ids": ["a"]}, {**body, "limit": 0}):
            problem = await site.refused("POST", "/v1/bulk", 422, json=wrong)
            assert problem["code"] == "invalid_request"
        for dry_run in (True, False):
            expected = {**body, "limit": 2, "expected_count": 3, "dry_run": dry_run}
            problem = await site.refused("POST", "/v1/bulk", 409, json=expected)
            assert problem["code"] == "bulk_count"
            assert problem["context"] == {"expected": 3, "count": 2}
        assert (await site.get("/v1/operations"))["items"] == []
        assert set(await statuses(site, "a", "b", "c", "d")) == {"waiting"}
        await ordered(site, "pause", filter={}, limit=2, expected_count=2)
        assert await statuses(site, "a", "b", "c", "d") == ["paused"] * 2 + ["waiting"] * 2

    served(store_url, work, *ALL)


def test_a_cancelled_operation_leaves_the_rest_as_it_is(store_url: str) -> None:
    """Issue 7: what was done stays done, what is open stays open, and both are counted."""

    async def work(site: Served) -> None:
        ids = [f"r{number:03d}" for number in range(120)]
        await waiting(site, *ids)
        id = await begun(site, "cancel", filter={"status": "waiting"})
        answer = await site.client.post(f"/v1/operations/{id}/cancel", json={"reason": "wrong"})
        assert answer.status_code == 202
        found = await over(site, id)
        left, done, refused, gone = counts(found)
        assert (found["status"], left + done, refused + gone) == ("cancelled", 120, 0)
        assert left > 0
        now = await statuses(site, *ids)
        assert (now.count("cancelled"), now.count("waiting")) == (done, left)
        assert (await site.client.post(f"/v1/operations/{id}/cancel", json={})).status_code == 200
        whole = await ordered(site, "cancel", ids=["r119"])
        path = f"/v1/operations/{whole['id']}/cancel"
        assert (await site.refused("POST", path, 409, json={}))["code"] == "run_state"

    served(store_url, work, *ALL)


def test_operations_are_listed_newest_first_and_are_found_by_their_ids_alone(
    store_url: str,
) -> None:
    """Issue 7: a keyset cursor; no filter selects an operation unless it asks for them."""

    async def work(site: Served) -> None:
        await waiting(site, "w")
        ids = [(await ordered(site, "pause", ids=["w"]))["id"] for _ in range(3)]
        first = await site.get("/v1/operations", limit=2)
        second = await site.get("/v1/operations", limit=2, cursor=first["next_cursor"])
        listed = [one["id"] for one in (*first["items"], *second["items"])]
        assert (listed, second["next_cursor"]) == (ids[::-1], None)
        for unknown in ("w", "nobody"):
            for path in (f"/v1/operations/{unknown}", f"/v1/operations/{unknown}/items"):
                assert (await site.refused("GET", path, 404))["code"] == "operation_not_found"
        assert [one.id for one in await site.rt.bulk.select(Sought())] == ["w"]
        sought = Sought(function="holdfast.bulk")
        assert sorted(one.id for one in await site.rt.bulk.select(sought)) == sorted(ids)

    served(store_url, work, *ALL)


def test_an_operation_goes_with_its_run(store_url: str) -> None:
    """Issue 7: removed as a run is, with all that was kept of it."""

    async def work(site: Served) -> None:
        await waiting(site, "w")
        found = await ordered(site, "pause", ids=["w"])
        await site.rt.runs.retention.remove(found["id"])
        assert (await site.get("/v1/operations"))["items"] == []
        for kind in (KIND, ITEM_KIND):
            rows = await site.rt._store.read(
                lambda reader, kind=kind: reader.records(kind, b"", prefix_end(b""), 9, None)
            )
            assert not rows
        with pytest.raises(OperationNotFoundError):
            await site.rt.bulk.get(found["id"])

    served(store_url, work, *ALL)


def test_the_audit_names_who_did_it_to_each_run(store_url: str) -> None:
    """Section 7 point 15: a note for the order, and one for each run it was done to."""

    async def work(site: Served) -> None:
        await waiting(site, "a", "b")
        found = await ordered(site, "cancel", ids=["a", "nobody", "b"], reason="too old")
        notes = (await site.get("/v1/audit"))["items"]
        told = [(one["action"], one["target"], one["actor"], one["reason"]) for one in notes]
        who = found["by"]
        assert told == [
            ("bulk_start", "", who, "too old"),
            ("run_cancel", "a", who, "too old"),
            ("run_cancel", "b", who, "too old"),
        ]
        assert [one["request"] for one in notes[1:]] == [found["id"]] * 2

    served(store_url, work, *ALL)


def test_its_function_started_by_name_does_nothing(store_url: str) -> None:
    """Section 7: there is no way around the order, which says what the caller may do."""

    async def work(site: Served) -> None:
        await waiting(site, "w")
        begun = await site.post("/v1/runs", {"function": "holdfast.bulk", "args": []}, 201)
        run = await site.get(f"/v1/runs/{begun['id']}", wait="terminal")
        assert (run["status"], run["error"]["code"]) == ("failed", "operation_not_found")

    served(store_url, work, *ALL)


def test_an_operation_that_was_begun_in_process_is_the_same(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 7: `rt.bulk` and the service are one; what is too many is refused here too."""
    monkeypatch.setattr(bulk, "SELECTED_MAX", 3)

    async def work(site: Served) -> None:
        await waiting(site, "w")
        order = Order(action="pause", by="ann")
        id = await site.rt.bulk.begin(order, ["w"], key="k")
        assert await site.rt.bulk.begin(order, ["w"], key="k") == id
        assert (await over(site, id))["by"] == "ann"
        with pytest.raises(LimitError, match="runs selected"):
            await site.rt.bulk.begin(order, ["a", "b", "c", "d"])
        twice = await site.rt.bulk.begin(order, ["a", "b", "a", "b"])
        assert (await over(site, twice))["selected"] == 2, "each counts once"

    served(store_url, work, *ALL)


def test_a_client_orders_follows_and_reads_what_became_of_each(store_url: str) -> None:
    """Issue 7: `holdfast.client`, by the same names."""

    async def work(site: Served) -> None:
        await waiting(site, "a", "b", "c")
        transport = httpx.ASGITransport(holdfast.http.app(site.rt, Settings(token=TOKEN)))
        async with holdfast.client.connect(
            "http://localhost", token=TOKEN, transport=transport
        ) as service:
            many = service.operations
            plan = await many.plan("pause", filter={"status": "waiting"})
            assert plan["selected"] == 3
            made = await many.begin("pause", ids=["a", "b", "nobody"], expected_count=3)
            seen = [one async for one in many.follow(made["id"])]
            assert counts(seen[-1]) == (0, 2, 0, 1)
            assert (await many.ended(made["id"]))["status"] == "succeeded"
            assert [one["id"] async for one in many.list()] == [made["id"]]
            done = [one["run_id"] async for one in many.items(made["id"], outcome="done")]
            assert done == ["a", "b"]
            assert (await many.get(made["id"]))["action"] == "pause"

    served(store_url, work, *ALL)


def test_the_counts_add_up_whenever_they_are_looked_at(store_url: str) -> None:
    """Issue 7: progress; no run is counted twice, or not at all, while the operation goes on."""

    async def work(site: Served) -> None:
        id = await begun(site, "pause", ids=[f"nobody-{number}" for number in range(300)])
        looks = 0
        while (found := await site.get(f"/v1/operations/{id}"))["ended_at"] is None:
            assert sum(counts(found)) == 300, found
            looks += 1
        assert counts(found) == (0, 0, 0, 300)
        assert looks

    served(store_url, work, *ALL)
