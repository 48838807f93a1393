"""Operations on many runs: one selection, frozen; one run that does it; an outcome for each."""

from typing import Any

from holdfast import Run
from tests.http.conftest import Served, served

WORD = "What now?"


async def asks(run: Run) -> Any:
    return await run.ask(WORD)


async def fails(run: Run) -> None:
    raise ValueError("no paper")


async def double(run: Run, number: int) -> int:
    return await run.step("double", lambda: number * 2)


ALL = (asks, fails, double)


async def waiting(site: Served, *ids: str, **labels: str) -> None:
    """Leave runs that wait for an answer."""
    for id in ids:
        await site.rt.runs.start(asks, run_id=id, labels=labels)
    for id in ids:
        await site.until(id, "waiting")


async def ordered(site: Served, **body: Any) -> dict[str, Any]:
    """Order an operation and return it once it is over."""
    begun = await site.post("/v1/bulk", body)
    return await over(site, begun["operation"]["id"])


async def over(site: Served, id: str) -> dict[str, Any]:
    """Return an operation once it is over."""
    found = await site.get(f"/v1/operations/{id}", wait="terminal", timeout=20)
    assert found["ended_at"] is not None, found
    return dict(found)


async def statuses(site: Served, *ids: str) -> list[str]:
    """Return where runs are."""
    return [(await site.rt.runs.get(id)).status.value for id in ids]


async def items(site: Served, id: str, **query: Any) -> list[tuple[str, str, str]]:
    """Return what became of each run of an operation: its id, the outcome, the code."""
    page = await site.get(f"/v1/operations/{id}/items", limit=500, **query)
    return [(one["run_id"], one["outcome"], one.get("code", "")) for one in page["items"]]


def test_what_a_filter_selects_is_done_to_and_nothing_else(store_url: str) -> None:
    """2.2, `POST /bulk`: 202 with the address of the operation, which counts what it did."""

    async def work(site: Served) -> None:
        await waiting(site, "a", "b", "c", kind="old")
        await waiting(site, "d", kind="new")
        body = {"action": "cancel", "filter": {"label": ["kind:old"]}, "reason": "too old"}
        answer = await site.client.post("/v1/bulk", json=body)
        assert answer.status_code == 202
        begun = answer.json()["operation"]
        assert answer.headers["location"] == f"/v1/operations/{begun['id']}"
        assert (begun["selected"], begun["action"], begun["reason"]) == (3, "cancel", "too old")
        found = await over(site, begun["id"])
        assert (found["status"], found["done"], found["open"]) == ("succeeded", 3, 0)
        assert found["filter"] == {"label": ["kind:old"]}
        assert await statuses(site, "a", "b", "c", "d") == ["cancelled"] * 3 + ["waiting"]
        info = await site.rt.runs.get("a")
        assert (info.why, info.by) == ("too old", found["by"])

    served(store_url, work, *ALL)
