"""Nothing is changed over the wire before the runtime is ready."""

import asyncio
import re
from pathlib import Path

import holdfast
from holdfast.core.world import World
from holdfast.http.app import OPERATIONS
from holdfast.testing.clock import ManualClock
from tests.http.conftest import Served, client_of, served
from tests.http.test_runs import double
from tests.runtime.slow import slowed


def test_every_operation_that_changes_something_is_refused_until_it_is_ready(
    store_url: str,
) -> None:
    """X7: 503 with Retry-After and the phase; read from the table, so none can be forgotten."""
    changing = [one for one in OPERATIONS if one.changes]
    assert len(changing) >= 15

    async def work() -> None:
        async with holdfast.open(store_url, wait_ready=False) as rt, client_of(rt) as client:
            part = slowed(rt)
            await part.reached.wait()
            for one in changing:
                path = re.sub(r"{(\w+)(:int)?}", "1", one.path)
                # Nothing of a body that cannot be done is looked at, so any will do.
                sent = {"Content-Type": (*one.takes, "application/json")[0]}
                answer = await client.request(one.method, path, content=b"no", headers=sent)
                assert answer.status_code == 503, (one.name, answer.text)
                assert answer.headers["retry-after"] == "1"
                problem = answer.json()
                assert (problem["code"], problem["retryable"]) == ("not_ready", True), one.name
                assert problem["context"]["phase"] == "restoring"
            assert (await client.get("/livez")).status_code == 200
            part.go_on.set()
            await rt.ready()
            assert (await client.post("/v1/runs", json={"function": "none"})).status_code == 422

    asyncio.run(work())


def test_a_wrong_clock_is_told_by_its_name_and_takes_no_work_away(tmp_path: Path) -> None:
    """X10, section 3: seen in every probe and in the metrics; only who asks for it is sent away."""
    clock = ManualClock()

    async def work(site: Served) -> None:
        clock.wall_time += 3_600.0
        assert (await site.client.get("/readyz")).status_code == 200
        assert (await site.client.get("/readyz?gate=accept")).status_code == 200
        assert (await site.client.get("/readyz?gate=clock")).status_code == 503
        for path in ("/readyz", "/healthz"):
            found = await site.get(path)
            assert "the wall clock was set forward by 3600.0 s" in str(found)
        async with client_of(site.rt, None) as stranger:
            said = (await stranger.get("/readyz")).text
            assert "the wall clock is off" in said and "3600" not in said
        assert 'holdfast_ready{gate="clock"} 0.0' in (await site.client.get("/metrics")).text
        run = await site.rt.runs.start(double, 2)
        assert await run.result() == 4

    url = f"sqlite:///{tmp_path / 'store.db'}"
    served(url, work, double, world=World(clock=clock))
