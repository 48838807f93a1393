"""The write queue has a size in units and in bytes, and a limit to how long one waits."""

import asyncio

import pytest

import holdfast
from holdfast import Outcome, Runtime
from holdfast.core.errors import LimitError, QueueFullError
from holdfast.core.unit import UNIT_BYTES_MAX, Append, Unit
from holdfast.core.world import World
from tests.store.gate import LIMIT, Gate

# In units: three small ones fit. In bytes: three of 1,000 bytes fit, with what is counted beside.
LIMITS = [({"queue_items": 3}, b""), ({"queue_bytes": 4_000}, b"x" * 1_000)]


async def fill(rt: Runtime, world: World, data: bytes) -> tuple[Gate, list[asyncio.Task[object]]]:
    """Stop the writer at one unit and fill the queue behind it."""
    gate = Gate(world, "commit.taken")
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(rt.history("s").append("t", data))]
    await gate.reached()
    tasks += [asyncio.create_task(rt.history("s").append("t", data)) for _ in range(3)]
    await asyncio.sleep(0)
    return gate, tasks


@pytest.mark.parametrize(("limit", "data"), LIMITS, ids=["items", "bytes"])
def test_a_full_queue_accepts_nothing_more(
    store_url: str, limit: dict[str, int], data: bytes
) -> None:
    """X16. After the wait limit the caller is told how full it is; nothing of it is written."""

    async def run() -> None:
        world = World()
        async with holdfast.open(store_url, world=world, queue_wait=0.01, **limit) as rt:
            gate, tasks = await fill(rt, world, data)
            unit_id = rt.unit_id()
            with pytest.raises(QueueFullError) as refusal:
                await rt.history("s").append("t", data, unit_id=unit_id)
            assert refusal.value.items == 3
            assert refusal.value.size_bytes >= 3 * len(data)
            assert not any(task.done() for task in tasks)
            gate.open()
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*tasks)
                assert await rt.outcome(unit_id) is Outcome.ABSENT
            assert len(await rt.history("s").read()) == 4

    asyncio.run(run())


@pytest.mark.parametrize(("limit", "data"), LIMITS, ids=["items", "bytes"])
def test_who_waits_for_room_goes_on_when_there_is_some(
    store_url: str, limit: dict[str, int], data: bytes
) -> None:
    """X16. Many more than fit, all in the end answered, each once."""

    async def run() -> None:
        world = World()
        async with holdfast.open(store_url, world=world, queue_wait=LIMIT, **limit) as rt:
            gate, tasks = await fill(rt, world, data)
            tasks += [asyncio.create_task(rt.history("s").append("t", data)) for _ in range(40)]
            await asyncio.sleep(0)
            gate.open()
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*tasks)
            assert len(await rt.history("s").read()) == len(tasks)

    asyncio.run(run())


def test_a_unit_larger_than_the_queue_still_passes_alone(store_url: str) -> None:
    """F22. A bound on the queue is no bound on a unit, or it could never be written."""

    async def run() -> None:
        async with holdfast.open(store_url, queue_bytes=100, queue_wait=LIMIT) as rt:
            writes = (rt.history("s").append("t", b"x" * 5_000) for _ in range(5))
            async with asyncio.timeout(LIMIT):
                await asyncio.gather(*writes)
            assert len(await rt.history("s").read()) == 5

    asyncio.run(run())


def test_a_unit_has_a_largest_size(store_url: str) -> None:
    """F22. A unit that no transaction should hold is refused before it is queued."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            event = rt.history("s").event("t", bytes(UNIT_BYTES_MAX // 4 - 100))
            with pytest.raises(LimitError):
                await rt.commit(Unit((Append("s", (event,) * 5),)))
            assert await rt.history("s").read() == []

    asyncio.run(run())
