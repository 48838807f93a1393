"""Equal reads are shared, but never one that began before what its reader has to see."""

import asyncio
import threading
from typing import Any

import pytest

import holdfast
from holdfast.store.reader import Reader
from tests.store.gate import LIMIT


def test_a_follower_does_not_join_a_read_that_is_too_old(
    kept_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A5. A read that began before a commit is still under way when a follower comes after it."""
    looked, go_on = threading.Event(), threading.Event()
    events = Reader.events

    def slow(self: Reader, *place: Any) -> Any:
        page = events(self, *place)
        if not looked.is_set():
            looked.set()
            assert go_on.wait(LIMIT)
        return page

    async def run() -> None:
        async with holdfast.open(kept_url) as rt:
            history = rt.history("s")
            await history.append("t", 1)
            monkeypatch.setattr(Reader, "events", slow)
            old = asyncio.create_task(history.read(1))
            await asyncio.to_thread(looked.wait, LIMIT)
            event = await history.append("t", 2)
            following = asyncio.create_task(anext(history.follow(1)))
            await asyncio.sleep(0)
            go_on.set()
            async with asyncio.timeout(LIMIT):
                assert await old == []
                assert await following == event

    asyncio.run(run())
