"""Cancelling whoever waits: the unit is there whole or not at all, and its outcome is final."""

import asyncio

import pytest

import holdfast
from holdfast import Append, Outcome, PatchRecord, Runtime, Unit
from holdfast.core.world import World
from tests.store.gate import LIMIT, Gate

TAKEN = (
    "commit.taken",
    "commit.begun",
    "commit.loaded",
    "commit.decided",
    "commit.written",
    "commit.committed",
    "commit.answered",
)


def unit(rt: Runtime) -> Unit:
    """Return a unit with an event and a record, so that half of it would show."""
    event = rt.history("s").event("t")
    return Unit((Append("s", (event,)), PatchRecord("k", ("n",), add={"n": 1})), id=rt.unit_id())


async def content(rt: Runtime) -> tuple[int, int]:
    """Return how many events there are, and what the record counted."""
    record = await rt.records.find("k", "n")
    return len(await rt.history("s").read()), record.value["n"] if record else 0


async def check_final(rt: Runtime, one: Unit, before: int) -> Outcome:
    """The outcome says what is there, at once, and stays when more was committed behind it."""
    async with asyncio.timeout(LIMIT):
        outcome = await rt.outcome(one.id)
        there = before + (outcome is Outcome.COMMITTED)
        assert await content(rt) == (there, there)
        await rt.commit(unit(rt))
        assert await content(rt) == (there + 1, there + 1)
        assert await rt.outcome(one.id) is outcome
    return outcome


async def cancel(waiting: "asyncio.Task[object]") -> None:
    """Cancel a task and see it end so."""
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize("point", TAKEN)
def test_a_commit_cancelled_when_it_was_taken_is_committed_whole(
    store_url: str, point: str
) -> None:
    """F19. Its caller is gone, its batch goes on; the outcome waits for the batch and tells."""

    async def run() -> None:
        world = World()
        async with holdfast.open(store_url, world=world) as rt:
            first, one = unit(rt), unit(rt)
            await rt.commit(first)
            await rt.outcome(first.id)  # Only now the writer is past every point of its batch.
            gate = Gate(world, point)
            waiting: asyncio.Task[object] = asyncio.create_task(rt.commit(one))
            await gate.reached()
            if point == "commit.answered":
                await waiting
            else:
                await cancel(waiting)
            asking = asyncio.create_task(rt.outcome(one.id))
            await asyncio.sleep(0)
            assert not asking.done(), "an outcome was told while it was open"
            gate.open()
            assert await asking is Outcome.COMMITTED
            assert await check_final(rt, one, before=1) is Outcome.COMMITTED

    asyncio.run(run())


def test_a_commit_cancelled_before_it_was_taken_is_absent(store_url: str) -> None:
    """F19. What still waits in the queue is dropped, and nothing of it is ever written."""

    async def run() -> None:
        world = World()
        async with holdfast.open(store_url, world=world) as rt:
            gate = Gate(world, "commit.taken")
            first = asyncio.create_task(rt.commit(unit(rt)))
            await gate.reached()
            one = unit(rt)
            waiting: asyncio.Task[object] = asyncio.create_task(rt.commit(one))
            beside = asyncio.create_task(rt.commit(unit(rt)))
            await asyncio.sleep(0)
            await cancel(waiting)
            gate.open()
            await asyncio.gather(first, beside)
            assert await check_final(rt, one, before=2) is Outcome.ABSENT

    asyncio.run(run())


def test_a_commit_cancelled_while_it_waits_for_room_is_absent(store_url: str) -> None:
    """F19. It was never accepted; the queue is not left smaller than it was."""

    async def run() -> None:
        world = World()
        async with holdfast.open(store_url, world=world, queue_items=1) as rt:
            gate = Gate(world, "commit.taken")
            first = asyncio.create_task(rt.commit(unit(rt)))
            await gate.reached()
            queued = asyncio.create_task(rt.commit(unit(rt)))
            await asyncio.sleep(0)
            one = unit(rt)
            waiting: asyncio.Task[object] = asyncio.create_task(rt.commit(one))
            await asyncio.sleep(0)
            await cancel(waiting)
            gate.open()
            await asyncio.gather(first, queued)
            assert await check_final(rt, one, before=2) is Outcome.ABSENT

    asyncio.run(run())


def test_a_commit_cancelled_after_any_number_of_turns_of_the_loop_is_whole(
    store_url: str,
) -> None:
    """F19. Cancelled at every await there is, until one run gets its answer first."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            outcomes: list[Outcome] = []
            committed = 0
            for turns in range(60):
                one = unit(rt)
                waiting: asyncio.Task[object] = asyncio.create_task(rt.commit(one))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if waiting.done():
                    break
                await cancel(waiting)
                outcomes.append(await check_final(rt, one, committed))
                committed += 1 + (outcomes[-1] is Outcome.COMMITTED)
            assert outcomes[0] is Outcome.ABSENT, "cancelled before the first step"

    asyncio.run(run())


def test_cancelling_an_append_or_a_follower_harms_nobody_else(store_url: str) -> None:
    """F19, A5. Others that share the same read or the same batch get theirs."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            history = rt.history("s")
            followers = [asyncio.create_task(anext(history.follow())) for _ in range(20)]
            appends = [asyncio.create_task(history.append("t", n)) for n in range(20)]
            async with asyncio.timeout(LIMIT):
                for task in (*followers[::2], *appends[::2]):
                    await asyncio.sleep(0)
                    task.cancel()
                await asyncio.gather(*appends, *followers, return_exceptions=True)
                events = await history.read()
                for task in appends[1::2]:
                    assert await task in events
                assert [await task for task in followers[1::2]] == [events[0]] * 10

    asyncio.run(run())


def test_an_opening_that_is_cancelled_leaves_nothing_open(store_url: str) -> None:
    """F19. The thread that is still at it closes what nobody waits for any more."""

    async def run() -> None:
        world = World()
        gate, released = Gate(world, "boot.entered"), Gate(world, "close.released")
        opening: asyncio.Task[object] = asyncio.create_task(
            holdfast.open(store_url, world=world).__aenter__()
        )
        await gate.reached()
        await cancel(opening)
        gate.open()
        await released.reached()
        released.open()
        async with holdfast.open(store_url) as rt:
            await rt.commit(unit(rt))

    asyncio.run(run())


def test_a_closing_that_is_cancelled_goes_on_to_its_end(store_url: str) -> None:
    """F19. Also what is being committed then is committed, and nothing stays open."""

    async def run() -> None:
        world = World()
        rt = await holdfast.open(store_url, world=world).__aenter__()
        gate, released = Gate(world, "commit.begun"), Gate(world, "close.released")
        committing = asyncio.create_task(rt.commit(unit(rt)))
        await gate.reached()
        closing: asyncio.Task[object] = asyncio.create_task(rt._store.close())
        await asyncio.sleep(0)
        assert rt._store.closed and not closing.done()
        await cancel(closing)
        gate.open()
        await committing
        await released.reached()
        released.open()
        await rt.close()

    asyncio.run(run())
