"""How many sessions are held in memory, and what becomes of those that fall out of it."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import holdfast
from tests.runtime.test_session_state import Gauge, edit


def test_what_falls_out_of_memory_was_written_and_is_read_again_equal(store_url: str) -> None:
    """L13. The least recently used ones; while somebody holds one, it is the same object."""

    async def run() -> None:
        async with holdfast.open(store_url, flush_interval=3_600, sessions_in_memory=3) as rt:
            held = rt.session(Gauge, "0")
            for number in range(8):
                await edit(rt.session(Gauge, str(number)), seen=number, low=-1.0 * number)
            written = await rt.records.list("session.Gauge.buffered.range")
            assert [record.key for record in written] == [(str(n),) for n in range(5)]
            assert rt.sessions.counts["evicted"] == 5
            assert rt.session(Gauge, "0") is held
            for number in range(8):
                async with rt.session(Gauge, str(number)) as session:
                    assert session.value.seen == number
                    assert session.value.low == -1.0 * number

    asyncio.run(run())


def test_many_at_once_are_let_go_of_once_each(store_url: str) -> None:
    """L13. Room is made by as many steps as there are sessions too many, not by their square."""
    many, tasks = 200, 0

    def count(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> Any:
        nonlocal tasks
        tasks += 1
        return asyncio.Task(work, loop=loop)

    async def run() -> None:
        nonlocal tasks
        async with holdfast.open(store_url, flush_interval=3_600, sessions_in_memory=10) as rt:
            asyncio.get_running_loop().set_task_factory(count)
            tasks = 0
            await asyncio.gather(*(edit(rt.session(Gauge, str(n)), seen=n) for n in range(many)))
            assert rt.sessions.counts["evicted"] == many - 10
            assert tasks < 10 * many

    asyncio.run(run())
