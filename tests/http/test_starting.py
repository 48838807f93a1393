"""Before it is ready the service shows what is durable, says so, and changes nothing."""

import asyncio
from typing import Any

import holdfast
from holdfast.http import Settings, app
from tests.http.conftest import client_of
from tests.http.functions import FUNCTIONS
from tests.http.server import TOKEN
from tests.http.wire import Wire
from tests.runtime.slow import slowed

SHOWN = (
    "/v1/runs",
    "/v1/runs/one",
    "/v1/runs/one/events",
    "/v1/runs/one/questions",
    "/v1/questions",
    "/v1/runs/one/artifacts",
    "/v1/runs/one/checkpoints",
    "/v1/events",
    "/v1/audit",
    "/v1/info",
)
KEPT_BACK = ("/v1/inflight", "/v1/engines", "/v1/workers", "/v1/sessions", "/v1/queues")


def test_what_is_durable_is_shown_and_followed_while_the_service_starts(kept_url: str) -> None:
    """
    X7, section 2.4. Reads are answered and marked with the phase; what recovery makes true is
    not shown and nothing is changed before; a stream that began meanwhile goes on to the end.
    """

    async def leave() -> None:
        async with holdfast.open(kept_url, functions=FUNCTIONS) as rt:
            await rt.runs.start("tests.http.functions.asks", run_id="one")
            while (await rt.runs.get("one")).status != "waiting":  # noqa: ASYNC110 no event tells
                await asyncio.sleep(0.01)

    async def work() -> None:
        opening = holdfast.open(kept_url, functions=FUNCTIONS, wait_ready=False)
        async with opening as rt, client_of(rt) as client:
            part = slowed(rt)
            assert (await client.get("/v1/runs")).status_code == 503
            await part.reached.wait()
            for path in SHOWN:
                answer = await client.get(path)
                assert answer.status_code == 200, (path, answer.text)
                assert answer.headers["holdfast-phase"] == "restoring"
            for path in KEPT_BACK:
                answer = await client.get(path)
                assert (answer.status_code, answer.json()["code"]) == (503, "not_ready"), path
            given = {"value": "this one"}
            question = "/v1/questions/one%3F1/answer"
            assert (await client.post(question, json=given)).status_code == 503
            ready: Any = (await client.get("/readyz")).json()
            assert (ready["status"], ready["reads"]) == ("restoring", True)
            assert not ready.get("accepts")
            served = app(rt, Settings(token=TOKEN))
            async with Wire(served, "/v1/runs/one/events") as wire:
                await wire.until("stream.caught_up")
                assert wire.headers["holdfast-phase"] == "restoring"
                part.go_on.set()
                await rt.ready()
                assert (await client.post(question, json=given)).status_code == 200
                text = await wire.until("stream.end")
                assert text.count("event: run.succeeded") == text.count("event: run.started") == 1
            after = await client.get("/v1/runs/one")
            assert "holdfast-phase" not in after.headers

    asyncio.run(leave())
    asyncio.run(work())


def test_a_browser_that_comes_too_early_is_asked_to_come_again(kept_url: str) -> None:
    """2.4, 2.9. Any status but 200 ends an `EventSource` for good; a program is told with 503."""

    async def work() -> None:
        opening = holdfast.open(kept_url, functions=FUNCTIONS, wait_ready=False)
        async with opening as rt:
            part, served = slowed(rt), app(rt, Settings(token=TOKEN))
            for path in ("/v1/events", "/v1/runs/one/events"):
                async with Wire(served, path) as wire:
                    await wire.end()
                [frame] = wire.frames()
                assert (wire.status, frame["event"]) == (200, "stream.closing")
                assert wire.headers["content-type"].startswith("text/event-stream")
                assert frame["data"]["reason"] == "not_ready"
                assert frame["retry"] == str(frame["data"]["retry_ms"])
                assert 2_000 <= frame["data"]["retry_ms"] < 4_000
                for accept in ("application/x-ndjson", "application/json"):
                    async with Wire(served, path, accept=accept) as wire:
                        await wire.end()
                    assert wire.status == 503
            async with Wire(served, "/v1/runs") as wire:
                await wire.end()
            assert wire.status == 503, "what is no stream is refused"
            await part.reached.wait()
            part.go_on.set()
            await rt.ready()

    asyncio.run(work())
