"""The service measured: requests by operation, refusals by rule, and the route that is scraped."""

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from holdfast import Run
from holdfast.adapters.prometheus import CONTENT_TYPE, Metrics
from holdfast.http import Settings, app
from tests.http.conftest import TOKEN, Served, client_of, served

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def greets(run: Run) -> str:
    """Take a step."""
    return await run.step("greet", lambda: "hello")


async def scraped(site: Served) -> Samples:
    """Return what the route answers, as Prometheus reads it."""
    answer = await site.client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == CONTENT_TYPE
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name.removeprefix("holdfast_"), frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_requests_are_counted_by_operation(store_url: str) -> None:
    """Issue 7: by path of the operation, method and code; what was done once is a replay."""

    async def work(site: Served) -> None:
        function = f"{__name__}.greets"
        key = {"Idempotency-Key": "k-1"}
        for _ in range(2):
            started = await site.client.post("/v1/runs", json={"function": function}, headers=key)
            assert started.status_code < 300, started.text
        run_id = started.json()["id"]
        await site.rt.runs.handle(run_id).result()
        await site.get(f"/v1/runs/{run_id}")
        await site.refused("GET", "/v1/runs/nobody-knows-it", 404)
        await site.refused("GET", "/nothing/here/7f3a", 404)
        samples = await scraped(site)
        asked = {"route": "/v1/runs/{run_id}", "method": "GET"}
        assert value(samples, "http_requests_total", **asked, code="200") == 1
        assert value(samples, "http_requests_total", **asked, code="404") == 1
        other = {"route": "other", "method": "GET"}
        assert value(samples, "http_requests_total", **other, code="404") == 1
        assert value(samples, "idempotent_replays_total") == 1
        assert value(samples, "http_request_duration_seconds_count", route=asked["route"]) == 2
        assert value(samples, "runs_finished_total", kind=function, outcome="succeeded") == 1
        said = {word for _, labels in samples for _, word in labels}
        assert not any(word in one for one in said for word in (run_id, "7f3a", "nobody", "k-1"))

    served(store_url, work, greets, telemetry=[Metrics()])


def test_refusals_are_counted_by_rule(store_url: str) -> None:
    """Issue 7: no token, a foreign host, another site, too large a body; each under its name."""

    async def work(site: Served) -> None:
        async with client_of(site.rt, token=None) as stranger:
            assert (await stranger.get("/v1/runs")).status_code == 401
        await site.refused("GET", "/v1/runs", 421, headers={"Host": "evil.example"})
        await site.refused("GET", "/nothing", 421, headers={"Host": "evil.example"})
        foreign = {"Sec-Fetch-Site": "cross-site"}
        await site.refused("POST", "/v1/runs", 403, json={}, headers=foreign)
        large = b" " * (Settings().body_bytes_max + 1)
        assert (await site.client.post("/v1/runs", content=large)).status_code in (413, 422)
        samples = await scraped(site)
        assert value(samples, "auth_failures_total", reason="unauthorized") == 1
        assert value(samples, "rejected_requests_total", rule="host_refused") == 2
        assert value(samples, "rejected_requests_total", rule="cross_site") == 1
        assert value(samples, "limit_hits_total", limit="size") == 1

    served(store_url, work, telemetry=[Metrics()])


@pytest.mark.parametrize(("public", "status"), [(False, 401), (True, 200)])
def test_the_route_needs_a_token_unless_it_is_public(
    store_url: str, public: bool, status: int
) -> None:
    """Issue 7: names of functions and versions are nobody's business, unless somebody says so."""

    async def work(site: Served) -> None:
        application = app(site.rt, Settings(token=TOKEN, metrics_public=public))
        transport = httpx.ASGITransport(application)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as nobody:
            assert (await nobody.get("/metrics")).status_code == status
            assert (await nobody.get("/v1/runs")).status_code == 401

    served(store_url, work)


def test_a_request_before_the_runtime_is_there_is_answered_all_the_same() -> None:
    """Issue 7: there is nobody to tell, and nothing breaks."""

    async def run() -> None:
        application = app(settings=Settings(token=TOKEN))
        transport = httpx.ASGITransport(application)
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers
        ) as client:
            assert (await client.get("/metrics")).status_code == 503
            assert (await client.get("/livez")).status_code == 200
            assert (await client.get("/nothing")).status_code == 404

    asyncio.run(run())


def test_readers_of_streams_are_counted(store_url: str) -> None:
    """Issue 7: who follows, what was sent, who had to begin anew; no lineage in a label."""

    async def work(site: Served) -> None:
        run = await site.rt.runs.start(greets, run_id="r")
        await run.result()
        lines = {"Accept": "application/x-ndjson", "Last-Event-ID": "77.1"}
        answer = await site.client.get("/v1/runs/r/events", headers=lines)
        assert answer.status_code == 200, answer.text
        sent = len(await site.rt.runs.history("r").read())
        samples = await scraped(site)
        modes = ("history", "live")
        assert sum(value(samples, "stream_events_total", mode=mode) for mode in modes) == sent
        assert value(samples, "stream_clients", transport="ndjson") == 0
        assert value(samples, "stream_closes_total", reason="end") == 1
        resets = {labels: n for (name, labels), n in samples.items() if "resets" in name}
        assert sum(resets.values()) == 1
        assert all("77" not in word for labels in resets for _, word in labels)

    served(store_url, work, greets, telemetry=[Metrics()])
