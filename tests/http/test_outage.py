"""A store that takes nothing: work is refused at once, a probe closes after its grace."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

import holdfast
from holdfast import Runtime
from holdfast.core.errors import StoreUnavailableError
from holdfast.core.world import World
from holdfast.http import Settings, app


def _unavailable() -> None:
    raise StoreUnavailableError(reason="test")


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 no event tells of a heartbeat
            await asyncio.sleep(0.01)


def _beats(rt: Runtime) -> bool:
    return next(gate.ok for gate in rt.health().gates if gate.name == "heartbeat")


@pytest.mark.parametrize(("grace", "probe"), [(0.0, 503), (600.0, 200)])
def test_an_outage_closes_the_gate_for_work_and_the_probe_after_its_grace(
    grace: float, probe: int, kept_url: str
) -> None:
    """F8, X7: the gate says since when; one heartbeat that comes through opens it again."""

    async def run() -> None:
        world = World()
        async with holdfast.open(kept_url, world=world, lease_ttl=1.0) as rt:
            service = httpx.ASGITransport(app(rt, Settings(outage_grace=grace)))
            async with httpx.AsyncClient(transport=service, base_url="http://localhost") as client:

                async def asked(path: str) -> Any:
                    return (await client.get(path)).status_code

                assert await asked("/readyz") == 200
                world.failpoints.arm("commit.begun", _unavailable)
                await _until(lambda: not _beats(rt))
                assert not rt.health().ready
                # What was found is kept for a second, so that probes cost nothing.
                await _until_probed(client, 503, "/readyz?gate=accept")
                assert await asked("/readyz") == probe
                assert await asked("/livez") == 200
                world.failpoints.arm("commit.begun", lambda: None)
                await _until(lambda: _beats(rt))
                await _until_probed(client, 200, "/readyz?gate=accept")

    asyncio.run(run())


async def _until_probed(client: httpx.AsyncClient, status: int, path: str) -> None:
    async with asyncio.timeout(20):
        while (await client.get(path)).status_code != status:  # noqa: ASYNC110 a probe is asked
            await asyncio.sleep(0.01)
