"""The service about itself: what it is, who did what, what its errors mean."""

from holdfast.core.catalogue import catalogue
from tests.http.conftest import Served, served
from tests.http.test_runs import listens


def test_every_change_is_in_the_audit_with_who_what_and_why(store_url: str) -> None:
    """Section 2.2: who did what, from where, with which reason; page by page."""

    async def work(site: Served) -> None:
        assert (await site.get("/v1/audit"))["items"] == []
        await site.rt.runs.start(listens, run_id="one")
        await site.until("one", "waiting")
        await site.post("/v1/runs/one/pause", {"reason": "lunch"})
        await site.post("/v1/runs/one/cancel", {"reason": "no use"})
        first = await site.get("/v1/audit", limit=1)
        second = await site.get("/v1/audit", limit=1, cursor=first["next_cursor"])
        notes = [*first["items"], *second["items"]]
        assert [(one["seq"], one["action"], one["target"]) for one in notes] == [
            (1, "run_pause", "one"),
            (2, "run_cancel", "one"),
        ]
        assert [(one["actor"], one["reason"]) for one in notes] == [
            ("admin", "lunch"),
            ("admin", "no use"),
        ]
        await site.refused("POST", "/v1/runs/one/pause", 409, json={})
        assert len((await site.get("/v1/audit"))["items"]) == 2

    served(store_url, work, listens)


def test_the_address_of_every_error_leads_to_its_page() -> None:
    """Section 2.5: `type` resolves to a page that is shipped with the package."""

    async def work(site: Served) -> None:
        for code, kind in catalogue().items():
            page = await site.get(f"/v1/problems/{code}")
            assert (page["code"], page["status"]) == (code, kind.status)
        problem = await site.refused("GET", "/v1/runs/none", 404)
        shown = await site.client.get(problem["type"], headers={"Accept": "text/html"})
        assert problem["title"] in shown.text
        assert "<script" not in shown.text
        await site.refused("GET", "/v1/problems/none", 404)

    served("sqlite:///:memory:", work)


def test_it_says_what_it_is_and_what_it_takes(store_url: str) -> None:
    """Section 2.2: version, epoch, limits."""

    async def work(site: Served) -> None:
        info = await site.get("/v1/info")
        assert (info["lineage"], info["epoch"]) == (1, site.rt.opened.epoch)
        assert info["limits"]["body_bytes"] == 8 * 1024 * 1024

    served(store_url, work)
