"""Nothing changes before the runtime is ready; what can be read safely can be read."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import holdfast
from holdfast import BUFFERED, Append, Event, Runtime, Unit, field, state
from holdfast.core.recovery import Phase
from holdfast.core.refusal import NotReadyError
from tests.runtime.slow import STEPS, slowed


@state(version=1)
class Talk:
    name: str = ""
    cost: float = field(default=0.0, tier=BUFFERED)


async def edit(rt: Runtime, name: str, value: object) -> None:
    async with rt.session(Talk, "a") as talk, talk.edit() as draft:
        setattr(draft, name, value)


CHANGES: dict[str, Callable[[Runtime], Awaitable[Any]]] = {
    "commit": lambda rt: _commit(rt),
    "append": lambda rt: rt.history("s").append("t"),
    "append_all": lambda rt: rt.history("s").append_all([Event.of("t")]),
    "close_stream": lambda rt: rt.history("s").close(),
    "trim": lambda rt: rt.history("s").trim(1),
    "put": lambda rt: rt.records.put("k", "a", 2),
    "delete": lambda rt: rt.records.delete("k", "a"),
    "grant": lambda rt: rt.leases.grant("l", 10.0),
    "put_blob": lambda rt: rt.blobs.put(b"x"),
    "delete_blob": lambda rt: rt.blobs.delete("0" * 64),
    "put_snapshot": lambda rt: rt.snapshots.put("n", "s", 1, b"x"),
    "edit_durable": lambda rt: edit(rt, "name", "ann"),
    "edit_buffered": lambda rt: edit(rt, "cost", 1.5),
    "find": lambda rt: rt.sessions.find(Talk, ["hdr:1"]),
    "reach": lambda rt: rt.sessions.reach(Talk, ["hdr:1"]),
    "archive": lambda rt: rt.sessions.archive(Talk, "a"),
    "close_session": lambda rt: rt.sessions.close(Talk, "a"),
    "begin": lambda rt: _begin(rt),
    "claim": lambda rt: rt.ledger.claim("turn"),
    "stop": lambda rt: rt.ledger.stop("turn", "enough"),
    "resolve": lambda rt: rt.ledger.resolve("turn", "done", by="ann"),
    "latch": lambda rt: rt.latches.set("breakers", "model", "down"),
    "reset_latch": lambda rt: rt.latches.reset("breakers", "other"),
}


async def _commit(rt: Runtime) -> None:
    await rt.commit(Unit((Append("s", (Event.of("t"),)),)))


async def _begin(rt: Runtime) -> None:
    await rt.ledger.begin("turn")


async def contents(rt: Runtime) -> list[object]:
    """Return what users can see."""
    kinds = ("k", "session.Talk", "session.Talk.durable", "session.Talk.buffered", "holdfast.latch")
    return [
        await rt.feed.read(),
        await rt.streams(),
        [await rt.records.list(kind) for kind in kinds],
        await rt.ledger.list(),
        await rt.leases.find("l"),
    ]


async def prepare(url: str) -> list[object]:
    async with holdfast.open(url) as rt:
        await rt.history("s").append("t", 1)
        await rt.records.put("k", "a", 1)
        await edit(rt, "name", "bob")
        await rt.latches.set("breakers", "other", "was down")
        return await contents(rt)


def test_every_change_is_refused_until_ready_and_leaves_no_trace(kept_url: str) -> None:
    """X7, L3. Each kind of change, and looking for a session, which creates one where none is
    found, names phase and progress; reads show what was there."""

    async def run() -> None:
        before = await prepare(kept_url)
        async with holdfast.open(kept_url, wait_ready=False) as rt:
            part = slowed(rt)
            await part.reached.wait()
            health = rt.health()
            assert (health.phase, health.ready) == (Phase.RESTORING, False)
            assert health.progress["slow"] == (STEPS // 2, STEPS)
            answers = await asyncio.gather(
                *(change(rt) for change in CHANGES.values()), return_exceptions=True
            )
            for name, answer in zip(CHANGES, answers, strict=True):
                assert isinstance(answer, NotReadyError), (name, answer)
                assert answer.phase == "restoring", name
                assert answer.done == STEPS // 2 and answer.total == STEPS, name
            assert await contents(rt) == before
            part.go_on.set()
            await rt.ready()
            assert rt.health().ready and rt.health().progress["slow"] == (STEPS, STEPS)
            assert await contents(rt) == before
            await CHANGES["edit_buffered"](rt)
            await CHANGES["put"](rt)

    asyncio.run(run())


def test_before_the_store_is_open_nothing_can_be_read_either(store_url: str) -> None:
    """X7. The block is entered at once, in phase `opening`."""

    async def run() -> None:
        async with holdfast.open(store_url, wait_ready=False) as rt:
            assert rt.health().phase is Phase.OPENING and not rt.health().ready
            for look in (rt.history("s").read, rt.streams, rt.verify, rt.feed.read):
                with pytest.raises(NotReadyError):
                    await look()
            with pytest.raises(NotReadyError):
                assert rt.opened
            await rt.ready()
            assert rt.opened.epoch and await rt.streams() == []

    asyncio.run(run())


def test_a_block_that_is_left_while_the_boot_goes_on_leaves_nothing_open(kept_url: str) -> None:
    """X7, F19. Also those who wait for ready are told."""

    async def run() -> None:
        async with holdfast.open(kept_url, wait_ready=False) as rt:
            part = slowed(rt)
            await part.reached.wait()
            waiting = asyncio.create_task(rt.ready())
            await asyncio.sleep(0)
        with pytest.raises(NotReadyError):
            await waiting
        assert rt.health().phase is Phase.CLOSED
        async with holdfast.open(kept_url) as rt:
            report = rt.health().report
            assert report is not None and report.clean
            assert len(await rt.records.list("slow")) == STEPS // 2

    asyncio.run(run())
