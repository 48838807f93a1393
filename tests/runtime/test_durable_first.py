"""Nothing is shown before it is durable: not to followers, readers, or other units' callers."""

import asyncio

import pytest

import holdfast
from holdfast.core.world import World
from tests.store.gate import LIMIT, Gate

BEFORE_COMMIT = ("commit.begun", "commit.loaded", "commit.decided", "commit.written")


@pytest.mark.parametrize("point", BEFORE_COMMIT)
def test_nobody_sees_an_event_that_is_not_committed(kept_url: str, point: str) -> None:
    """A4, X2. Held at each step up to COMMIT: no answer, nothing read, nothing followed."""

    async def run() -> None:
        world = World()
        async with holdfast.open(kept_url, world=world) as rt:
            history = rt.history("s")
            first = await history.append("t", 1)
            gate = Gate(world, point)
            following = asyncio.create_task(anext(history.follow(1)))
            feeding = asyncio.create_task(anext(rt.feed.follow(first.position)))
            appending = asyncio.create_task(history.append("t", 2))
            await gate.reached()
            rt._store.wakes.wake_all()
            assert len(await history.read()) == len(await rt.feed.read()) == 1
            assert await rt.records.find("k", "a") is None
            assert not (following.done() or feeding.done() or appending.done())
            gate.open()
            async with asyncio.timeout(LIMIT):
                event = await appending
                assert await following == await feeding == event

    asyncio.run(run())
