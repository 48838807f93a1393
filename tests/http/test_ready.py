"""Nothing is changed over the wire before the runtime is ready."""

import asyncio
import re

import holdfast
from holdfast.http.app import OPERATIONS
from tests.http.conftest import client_of
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
