"""Sessions, the ledger, workers and schedules over the wire."""

from urllib.parse import quote

from holdfast import BUFFERED, field, state
from holdfast.core.ledger import REPORT
from tests.http.conftest import Served, served
from tests.http.test_runs import double


@state(version=1)
class Chat:
    name: str = ""
    cost: float = field(default=0.0, tier=BUFFERED)


async def talk(site: Served, key: str | tuple[str, ...], name: str) -> None:
    session = site.rt.session(Chat, key, identities=[f"hdr:{name}"])
    async with session, session.edit() as chat:
        chat.name = name


def test_a_session_is_found_looked_at_put_aside_and_closed(store_url: str) -> None:
    """Section 2.2: sessions, by class and key, with what is stored of each by tier."""

    async def work(site: Served) -> None:
        await talk(site, ("a/b", "c"), "ann")
        await talk(site, "plain", "bob")
        page = await site.get("/v1/sessions", limit=1)
        more = await site.get("/v1/sessions", limit=1, cursor=page["next_cursor"])
        found = [*page["items"], *more["items"]]
        assert [one["key"] for one in found] == [["a/b", "c"], ["plain"]]
        assert found[0]["identities"] == ["hdr:ann"]
        path = "/v1/sessions/" + quote(found[0]["id"], safe="")
        one = await site.get(path)
        assert one["tiers"]["durable"] == {"name": "ann"}
        assert (await site.post(path + "/archive", {"reason": "old"}, 200))["archived"]
        archived = await site.get("/v1/sessions", archived="true")
        assert [one["id"] for one in archived["items"]] == [found[0]["id"]]
        assert "archived" not in await site.post(path + "/restore", {}, 200)
        assert (await site.client.delete(path)).status_code == 204
        await site.refused("GET", path, 404)
        assert len((await site.get("/v1/sessions"))["items"]) == 1

    served(store_url, work)


def test_a_class_that_is_not_in_use_here_is_not_changed_by_guessing(kept_url: str) -> None:
    """A16: the refusal says what is missing."""

    async def put(site: Served) -> None:
        await talk(site, "plain", "bob")

    async def work(site: Served) -> None:
        problem = await site.refused("POST", "/v1/sessions/Chat%2Fplain/archive", 422, json={})
        assert problem["context"]["reason"] == "is not in use in this runtime"
        assert (await site.get("/v1/sessions/Chat%2Fplain"))["identities"] == ["hdr:bob"]

    served(kept_url, put)
    served(kept_url, work)


def test_work_whose_runtime_died_is_listed_and_decided_about(kept_url: str) -> None:
    """Section 2.2: the ledger: owner, attempt, generation, verdict; resolved with a reason."""

    async def begin(site: Served) -> None:
        # It is left in flight: a close with work under way is no goodbye for that work.
        await site.rt.ledger.begin(("turn", "1"), kind="turn", policy=REPORT)

    async def work(site: Served) -> None:
        (one,) = (await site.get("/v1/inflight"))["items"]
        assert (one["key"], one["kind"], one["state"]) == (["turn", "1"], "turn", "interrupted")
        assert (one["generation"], one["attempt"], one["policy"]) == (1, 1, "report")
        body = {"key": ["turn", "1"], "outcome": "lost", "reason": "nobody waits"}
        done = await site.post("/v1/inflight/resolve", body, 200)
        assert (done["state"], done["by"], done["reason"]) == ("settled", "admin", "nobody waits")
        problem = await site.refused("POST", "/v1/inflight/resolve", 409, json=body)
        assert problem["code"] == "entry_state"
        assert problem["context"]["state"] == "settled"
        assert problem["context"]["action"].startswith("resolved")
        await site.refused("POST", "/v1/inflight/resolve", 404, json=body | {"key": ["other"]})

    served(kept_url, begin)
    served(kept_url, work)


def test_who_works_and_by_what_rules_is_listed(store_url: str) -> None:
    """Section 2.2: workers, queues and schedules."""

    async def work(site: Served) -> None:
        (worker,) = (await site.get("/v1/workers"))["items"]
        assert worker["here"]
        assert worker["epoch"] == site.rt.opened.epoch
        await site.rt.runs.queues.limit("slow", concurrency=2)
        await site.rt.runs.schedules.put("nightly", "0 3 * * *", double, 1)
        (queue,) = (await site.get("/v1/queues"))["items"]
        assert (queue["name"], queue["concurrency"]) == ("slow", 2)
        (schedule,) = (await site.get("/v1/schedules"))["items"]
        assert (schedule["name"], schedule["cron"]) == ("nightly", "0 3 * * *")
        assert await site.get("/v1/engines") == {"items": []}
        await site.refused("GET", "/v1/engines/none/keys", 422)

    served(store_url, work, double)
