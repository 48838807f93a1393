"""What is kept of engines over the wire (section 2.2): their snapshots, and which a start takes."""

import asyncio
from functools import partial

import pytest

import holdfast
from holdfast.client import connect
from holdfast.core.errors import (
    DamagedError,
    InvalidValueError,
    LimitError,
    OutcomeUnknownError,
    RecordNotFoundError,
)
from holdfast.core.world import World
from holdfast.runtime.engines.stored import DAMAGED, SUPERSEDED, UNFIT
from holdfast.store.port import CommitFailed
from holdfast.testing.clock import ManualClock
from tests.http.conftest import TOKEN, Served, client_of, served
from tests.runtime.counters import SELDOM, STREAM, add
from tests.runtime.slow import slowed
from tests.runtime.tally import TallyEngine
from tests.runtime.test_engine_snapshots import spoil

PATH = "/v1/engines/counts/snapshots"


async def three(site: Served, *key: str) -> list[int]:
    """Have a memory make three snapshots, a request behind each; return their sequences."""
    engine = await site.rt.engines.attach("counts", TallyEngine(), cadence=SELDOM)
    made = []
    for _ in range(3):
        await engine.request(add, "a", key=key)
        made.append(await engine.snapshot(key))
        await engine.request(add, "b", key=key)
    return made


def test_snapshots_are_listed_newest_first_with_what_lies_behind_each(store_url: str) -> None:
    """N9, section 2.2. Where each stands, when it was made, how large it is, what a start does."""
    clock = ManualClock()

    async def work(site: Served) -> None:
        made = await three(site, "ann", "b/c")
        found = (await site.get(PATH, key=["ann", "b/c"]))["items"]
        assert [one["sequence"] for one in found] == made[::-1]
        head = await site.rt.history(STREAM.replace("/6:counts/", "/6:counts/3:ann/3:b/c/")).info()
        assert [one["tail"] for one in found] == [head.last_sequence - one for one in made[::-1]]
        assert all(one["usable"] and not one["reason"] for one in found)
        assert all(one["size"] and one["stored_size"] for one in found)
        assert {one["written_at"] for one in found} == {"2023-11-14T22:13:20Z"}
        assert (await site.get(PATH, key=["ann", "b/c"], limit=1))["items"] == found[:1]
        transport = client_of(site.rt)._transport
        async with connect("http://localhost", token=TOKEN, transport=transport) as service:
            assert await service.engines.snapshots("counts", ("ann", "b/c")) == found
            assert (await service.engines.list())[0]["name"] == "counts"
            again = await service.engines.snapshot("counts", ("ann", "b/c"))
            assert again["action"] == "snapshot"

    served(store_url, work, world=World(clock=clock), lease_ttl=1e6)


def test_a_memory_that_is_not_kept_is_not_found_and_a_key_that_is_none_is_refused(
    store_url: str,
) -> None:
    """A16. An empty list would say that it is there and has no snapshot yet."""

    async def work(site: Served) -> None:
        await three(site)
        assert len((await site.get(PATH))["items"]) == 3
        problem = await site.refused("GET", f"{PATH}?key=nobody", 404)
        assert problem["code"] == "record_not_found"
        await site.refused("GET", "/v1/engines/none/snapshots", 404)
        for asked in ("limit=0", "limit=101", "keys=a"):
            await site.refused("GET", f"{PATH}?{asked}", 422)
        stored = site.rt.engines.stored
        for limit in (0, 101):
            with pytest.raises(LimitError):
                await stored.snapshots("counts", limit=limit)
        with pytest.raises(RecordNotFoundError):
            await stored.snapshots("counts", "nobody")
        with pytest.raises(InvalidValueError):
            await stored.snapshots("counts", "\ud800")

    served(store_url, work)


def test_a_snapshot_that_a_start_passes_over_says_why(kept_url: str) -> None:
    """N9, F7. Damaged bytes are seen at a look; what did not fit is remembered; rules changed."""

    async def make(site: Served) -> list[int]:
        return await three(site)

    async def reasons(site: Served) -> list[str]:
        return [one["reason"] for one in (await site.get(PATH))["items"]]

    async def tried(site: Served) -> list[str]:
        damage = DamagedError(what="snapshot", name=STREAM, sequence=made[1], reason="private")
        await site.rt._damages.note(damage)
        return await reasons(site)

    async def ruled(site: Served) -> list[str]:
        take = lambda counts: counts  # noqa: E731 a word for a line
        await site.rt.engines.attach("counts", TallyEngine(2), migrate=take)
        return await reasons(site)

    made = served(kept_url, make)
    assert served(kept_url, reasons) == ["", "", ""]
    spoil(kept_url, made[2])
    assert served(kept_url, reasons) == [DAMAGED, "", ""]
    assert served(kept_url, tried) == [DAMAGED, UNFIT, ""]
    assert served(kept_url, ruled) == [DAMAGED, SUPERSEDED, SUPERSEDED]


def test_snapshots_are_shown_while_it_starts_and_after_the_store_stopped(kept_url: str) -> None:
    """X7, section 2.4. They are durable, and need neither the engine nor a recovery."""

    async def work() -> None:
        world = World()
        opening = partial(holdfast.open, kept_url, world=world)
        async with opening(wait_ready=False) as rt, client_of(rt) as client:
            part = slowed(rt)
            await part.reached.wait()
            answer = await client.get(PATH)
            assert (answer.status_code, len(answer.json()["items"])) == (200, 3)
            assert answer.headers["holdfast-phase"] == "restoring"
            part.go_on.set()
            await rt.ready()

            def fail() -> None:
                raise CommitFailed("test")

            world.failpoints.arm("commit.written", fail)
            with pytest.raises(OutcomeUnknownError):
                await rt.history("s").append("t")
            answer = await client.get(PATH)
            assert (answer.status_code, len(answer.json()["items"])) == (200, 3)
            assert answer.headers["holdfast-phase"] == "failed"

    served(kept_url, three)
    asyncio.run(work())
