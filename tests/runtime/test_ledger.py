"""Work in flight, on every store: begun before it begins, settled once, by its owner alone."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

import holdfast
from holdfast import Append, Fence, Runtime, Unit
from holdfast.core.errors import (
    LimitError,
    OutcomeForgottenError,
    StaleGenerationError,
    StoreFullError,
)
from holdfast.core.ledger import Terms
from holdfast.core.refusal import (
    EntryNotFoundError,
    EntryStateError,
    EntrySupersededError,
    NotReadyError,
)
from holdfast.core.world import World


def run(url: str, work: Callable[[Runtime], Awaitable[None]], world: World | None = None) -> None:
    """Open a store, work, close it, and see that nothing is damaged."""

    async def whole() -> None:
        async with holdfast.open(url, world=world) as rt:
            await work(rt)
            assert await rt.verify() == []

    asyncio.run(whole())


async def running(rt: Runtime) -> list[str]:
    """Return what is in flight by the store."""
    return [info.key[0] for info in await rt.ledger.list("running")]


def test_work_is_listed_from_its_begin_to_its_end(store_url: str) -> None:
    """H2, X16. As a block, or as an object; with what was said of it."""

    async def work(rt: Runtime) -> None:
        async with rt.ledger.begin("a", kind="turn", note={"text": "hello"}) as entry:
            assert await running(rt) == ["a"]
            info = await rt.ledger.find("a")
            assert info is not None
            assert (info.terms.kind, info.note, info.generation) == ("turn", {"text": "hello"}, 1)
            await entry.renew(note={"text": "half"})
            info = await rt.ledger.find("a")
            assert info is not None and info.note == {"text": "half"}
            await entry.settle({"said": "goodbye"})
            await entry.settle("a second time changes nothing")
        info = await rt.ledger.find("a")
        assert info is not None
        assert (info.state, info.outcome) == ("settled", {"said": "goodbye"})
        entry = await rt.ledger.begin(("b", "c"))
        assert rt.ledger.running() == ["b/c"]
        await entry.settle()
        assert await running(rt) == [] == rt.ledger.running()
        assert await rt.ledger.find("never") is None

    run(store_url, work)


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_leaving_a_block_settles_the_work(store_url: str, error: type[BaseException]) -> None:
    """H6. With `done`, or with `failed` if it raised or was cancelled."""

    async def work(rt: Runtime) -> None:
        async with rt.ledger.begin("a"):
            pass
        with pytest.raises(error):
            async with rt.ledger.begin("b"):
                raise error
        outcomes = [info.outcome for info in await rt.ledger.list()]
        assert outcomes == ["done", "failed"]
        assert await running(rt) == []

    run(store_url, work)


def test_older_work_on_a_key_cannot_touch_newer_work(store_url: str) -> None:
    """H3. Not clear it, not overwrite it, not complete it; generations are never used again."""

    async def work(rt: Runtime) -> None:
        old = await rt.ledger.begin("a")
        new = await rt.ledger.begin("a")
        assert (old.generation, new.generation) == (1, 2)
        for act in (lambda: old.settle("old"), lambda: old.renew()):
            with pytest.raises(EntrySupersededError) as refusal:
                await act()
            assert (refusal.value.generation, refusal.value.actual) == (1, 2)
        assert issubclass(EntrySupersededError, StaleGenerationError)
        assert await running(rt) == ["a"]
        await new.settle("new")
        newest = await rt.ledger.begin("a")
        assert newest.generation == 3
        await newest.settle()
        assert rt.ledger.running() == []

    run(store_url, work)


def test_work_is_settled_together_with_something_else(store_url: str) -> None:
    """H3, R2. Both or neither; the entry learns of it."""

    async def work(rt: Runtime) -> None:
        entry = await rt.ledger.begin("a")
        event = Append("chat", (rt.history("chat").event("replied", "hello"),))
        settlement = entry.settlement("replied")
        await rt.commit(Unit((event, *settlement.writes), settlement.expects))
        info = await rt.ledger.find("a")
        assert info is not None and info.outcome == "replied"
        await entry.settle("later")
        assert rt.ledger.running() == []
        old = await rt.ledger.begin("a")
        late = old.settlement("late")
        await (await rt.ledger.begin("a")).settle("newer")
        with pytest.raises(holdfast.ConflictError):
            await rt.commit(Unit((event, *late.writes), late.expects))
        assert len(await rt.history("chat").read()) == 1

    run(store_url, work)


def test_what_only_the_owner_may_write_carries_its_fence(store_url: str) -> None:
    """F15, H3. The token of a runtime that is not here passes nothing."""

    async def work(rt: Runtime) -> None:
        async with rt.ledger.begin("a") as entry:
            event = Append("s", (rt.history("s").event("t"),))
            await rt.commit(Unit((event,), entry.expects))
            token = entry.fence
            stale = Fence(token.key, token.generation + 1, token.incarnation)
            with pytest.raises(StaleGenerationError):
                await rt.commit(Unit((event,), (stale,)))

    run(store_url, work)


@pytest.mark.parametrize("point", ["commit.begun", "commit.written"])
def test_a_disk_that_fails_starts_nothing_and_leaves_a_settlement_owed(
    store_url: str, point: str
) -> None:
    """H4. No begin without its marker; a settlement is tried again until it is written."""
    world = World()
    failing = True

    def fail() -> None:
        if failing:
            raise StoreFullError(reason="no space left")

    async def work(rt: Runtime) -> None:
        nonlocal failing
        entry = await rt.ledger.begin("a")
        world.failpoints.arm(point, fail)
        with pytest.raises(StoreFullError):
            await rt.ledger.begin("b")
        with pytest.raises(StoreFullError):
            await entry.settle("said")
        assert rt.ledger.running() == ["a"]
        failing = False
        assert await running(rt) == ["a"]
        assert await rt.ledger.find("b") is None
        await rt.ledger.clear()
        info = await rt.ledger.find("a")
        assert info is not None and (info.state, info.outcome) == ("settled", "said")
        assert rt.ledger.running() == []

    run(store_url, work, world)


async def begin_for_nobody(rt: Runtime, world: World) -> bytes:
    """Begin work and be cancelled just as it is written; return the id of its unit."""
    loop = asyncio.get_running_loop()
    begin = asyncio.ensure_future(rt.ledger.start(("a",), Terms(), None))
    world.failpoints.arm("commit.written", lambda: loop.call_soon_threadsafe(begin.cancel))
    with pytest.raises(asyncio.CancelledError):
        await begin
    world.failpoints.arm("commit.written", lambda: None)
    return rt.ledger.book.unsure[0].unit_id


def test_work_whose_begin_was_cancelled_is_not_in_flight_for_ever(store_url: str) -> None:
    """F19, H3. What was begun for nobody is settled as failed."""
    world = World()

    async def work(rt: Runtime) -> None:
        await begin_for_nobody(rt, world)
        await rt.ledger.clear()
        info = await rt.ledger.find("a")
        assert info is not None and (info.state, info.outcome) == ("settled", "failed")
        assert rt.ledger.running() == []

    run(store_url, work, world)


async def forget(rt: Runtime, unit_id: bytes) -> None:
    """Commit until the outcome of a unit is not kept any more."""
    with pytest.raises(OutcomeForgottenError):
        while await rt.outcome(unit_id):
            await rt.history("s").append("t")


@pytest.mark.parametrize("since", ["nothing", "begun anew"])
def test_work_begun_for_nobody_is_let_go_of_by_its_record_once_its_outcome_is_forgotten(
    store_url: str, since: str
) -> None:
    """F19, H3. As a machine that slept finds it; what was begun anew since is left alone."""
    world = World()

    async def whole() -> None:
        async with holdfast.open(store_url, world=world, outcome_retention=0.0) as rt:
            unit_id = await begin_for_nobody(rt, world)
            if since == "begun anew":
                await rt.ledger.begin("a")
            await forget(rt, unit_id)
            await rt.ledger.clear()
            assert rt.ledger.book.unsure == []
            assert await running(rt) == ([] if since == "nothing" else ["a"])

    asyncio.run(whole())


def test_a_short_promise_is_kept_by_the_heartbeat(store_url: str) -> None:
    """H1, H10. The lease is as short as the shortest promise, and long again behind it."""

    async def work(rt: Runtime) -> None:
        async with rt.ledger.begin("a", ttl=3.0) as entry:
            key = entry.fence.key
            row = await rt.leases.find(key)
            assert row is not None
            first = row.expires_at
            async with asyncio.timeout(20):
                while row.expires_at < first + 0.5:
                    row = await rt.leases.find(key)
                    assert row is not None and row.incarnation == rt.opened.incarnation
            await entry.renew()

    run(store_url, work)


def test_nothing_begins_while_a_runtime_drains(store_url: str) -> None:
    """X8, H6. Work under way ends first."""

    async def whole() -> None:
        async with holdfast.open(store_url) as rt:
            entry = await rt.ledger.begin("a")
            draining = asyncio.ensure_future(rt.drain(30.0))
            await asyncio.sleep(0)
            with pytest.raises(NotReadyError):
                await rt.ledger.begin("b")
            await entry.settle()
            assert (await draining).unfinished == ()

    asyncio.run(whole())


def test_only_what_is_there_is_stopped_resolved_or_claimed(store_url: str) -> None:
    """H7. By name and state."""

    async def work(rt: Runtime) -> None:
        for act in (
            lambda: rt.ledger.claim("a"),
            lambda: rt.ledger.stop("a", "enough"),
            lambda: rt.ledger.resolve("a", "resume"),
        ):
            with pytest.raises(EntryNotFoundError):
                await act()
        entry = await rt.ledger.begin("a")
        with pytest.raises(EntryStateError):
            await rt.ledger.resolve("a", "resume")
        await rt.ledger.stop("a", "enough", by="ann")
        assert entry.stopped == "enough"
        await entry.settle()
        with pytest.raises(EntryStateError):
            await rt.ledger.stop("a", "again")
        anew = await rt.ledger.begin("a")
        await anew.renew()
        assert anew.stopped is None
        await anew.settle()
        with pytest.raises(LimitError):
            await rt.ledger.list(limit=0)

    run(store_url, work)


def test_listings_page_through_states_and_kinds(store_url: str) -> None:
    """X5. In key order, without gaps, whoever works on it."""

    async def work(rt: Runtime) -> None:
        for number in range(7):
            entry = await rt.ledger.begin(f"{number}", kind="even" if number % 2 == 0 else "odd")
            if number < 4:
                await entry.settle()
        pages: list[list[str]] = []
        after: tuple[str, ...] | None = None
        while page := await rt.ledger.list(kind="even", after=after, limit=2):
            pages.append([info.key[0] for info in page])
            after = page[-1].key
        assert pages == [["0", "2"], ["4", "6"]]
        assert await running(rt) == ["4", "5", "6"]
        assert [info.key[0] for info in await rt.ledger.list("settled", kind="odd")] == ["1", "3"]

    run(store_url, work)


def test_a_log_is_trimmed_behind_what_is_in_flight(store_url: str) -> None:
    """H11, X5. It holds what a rescue needs, not what ever was."""

    async def work(rt: Runtime) -> None:
        held = await rt.ledger.begin("held")
        log = held.row.owner.log
        for number in range(200):
            async with rt.ledger.begin(f"{number % 5}"):
                pass
        assert rt.ledger.trimming() is None
        await held.settle()
        trimming = rt.ledger.trimming()
        assert trimming is not None
        await rt.commit(trimming)
        info = await rt.history(log).info()
        assert info.first_sequence == info.last_sequence + 1

    run(store_url, work)
