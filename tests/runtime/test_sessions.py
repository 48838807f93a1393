"""Sessions: what an edit writes, what a flush writes, and what neither does."""

import asyncio

import pytest

import holdfast
from holdfast import BUFFERED, EPHEMERAL, Append, Runtime, field, state
from holdfast.core.errors import DecodeError, EncodeError, InvalidValueError, VersionConflictError
from holdfast.core.world import World
from holdfast.runtime.sessions.session import Session
from tests.store.gate import LIMIT, Gate


@state(version=1)
class Chat:
    """A state with a field of each kind."""

    name: str = ""
    turns: list[str] = field(default_factory=list)
    cost: float = field(default=0.0, tier=BUFFERED)
    seen: int = field(default=0, tier=BUFFERED)
    typing: bool = field(default=False, tier=EPHEMERAL)


async def stored(rt: Runtime) -> list[tuple[str, object]]:
    """Return what is stored of sessions: kind and fields, without the class's version."""
    kinds = ("session.Chat.durable", "session.Chat.buffered")
    records = [record for kind in kinds for record in await rt.records.list(kind)]
    return [(r.kind, {k: v for k, v in r.value.items() if k != "@version"}) for r in records]


async def edit(chat: Session[Chat], **changes: object) -> None:
    """Change fields in an edit of their own."""
    async with chat.edit() as draft:
        for name, value in changes.items():
            setattr(draft, name, value)


async def transactions(rt: Runtime) -> int:
    """Return the number of the last transaction."""
    return int.from_bytes(rt.unit_id()[:6], "big")


def test_an_edit_commits_its_durable_fields_with_what_else_shall_be_true(store_url: str) -> None:
    """L1, L6. One unit: the fields and the event are there together, before the block is left."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt, rt.session(Chat, "a") as chat:
            event = rt.history("s").event("turn")
            before = await transactions(rt)
            async with chat.edit(Append("s", (event,))) as draft:
                draft.name = "ann"
                draft.turns.append("hello")
                draft.typing = True
                assert chat.value.turns == [], "a draft showed before it was durable"
            assert await transactions(rt) == before + 1
            assert (chat.value.turns, chat.value.typing) == (["hello"], True)
            expected = {"name": "ann", "turns": ["hello"]}
            assert await stored(rt) == [("session.Chat.durable", expected)]
            assert len(await rt.history("s").read()) == 1

    asyncio.run(run())


def test_an_edit_that_fails_changes_nothing(store_url: str) -> None:
    """L6, C4. By an exception in the block, a value that cannot be stored, or a refused write."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt, rt.session(Chat, "a") as chat:
            await rt.history("s").close()
            late = Append("s", (rt.history("s").event("t"),))
            failures: list[tuple[type[Exception], object, tuple[Append, ...]]] = [
                (ZeroDivisionError, "fine", ()),
                (EncodeError, {1, 2}, ()),
                (EncodeError, [(1,)], ()),
                (holdfast.HoldfastError, "fine", (late,)),
            ]
            for kind, value, also in failures:
                with pytest.raises(kind):
                    async with chat.edit(*also) as draft:
                        draft.name = value  # type: ignore[assignment]
                        draft.turns.append("lost")
                        if kind is ZeroDivisionError:
                            raise ZeroDivisionError
                assert chat.value == Chat()
                assert await stored(rt) == []

    asyncio.run(run())


def test_buffered_fields_are_written_together_by_a_barrier(store_url: str) -> None:
    """L5, L6. Not before, all in one write, and then no more until something changes."""

    async def run() -> None:
        async with (
            holdfast.open(store_url, flush_interval=3_600) as rt,
            rt.session(Chat, "a") as chat,
        ):
            async with chat.edit() as draft:
                draft.cost, draft.seen = 1.5, 2
            assert chat.dirty
            assert await stored(rt) == []
            before = await transactions(rt)
            await rt.flush()
            assert await transactions(rt) == before + 1
            expected = [("session.Chat.buffered", {"cost": 1.5, "seen": 2})]
            assert await stored(rt) == expected
            assert not chat.dirty
            for _ in range(3):
                await rt.flush()
            async with chat.edit() as draft:
                draft.typing = True
            assert await transactions(rt) == before + 1, "an unchanged session was written"

    asyncio.run(run())


def test_buffered_fields_are_written_every_interval(store_url: str) -> None:
    """L1, L4. Without anybody asking: the flusher's own write is waited for, not slept for."""

    async def run() -> None:
        world = World()
        async with (
            holdfast.open(store_url, flush_interval=0.05, world=world) as rt,
            rt.session(Chat, "a") as chat,
        ):
            gate = Gate(world, "commit.written")
            await edit(chat, seen=7)
            await gate.reached()
            gate.open()
            async with asyncio.timeout(LIMIT):
                while chat.dirty:
                    await rt.flush()
            assert await stored(rt) == [("session.Chat.buffered", {"seen": 7})]

    asyncio.run(run())


def test_a_session_changed_during_its_own_flush_is_still_dirty(store_url: str) -> None:
    """L5. What came behind the flush is written by the next one, not forgotten."""

    async def run() -> None:
        world = World()
        async with (
            holdfast.open(store_url, flush_interval=3_600, world=world) as rt,
            rt.session(Chat, "a") as chat,
        ):
            await edit(chat, seen=1)
            gate = Gate(world, "commit.written")
            flushing = asyncio.create_task(rt.flush())
            await gate.reached()

            changing = asyncio.create_task(edit(chat, seen=2))
            await asyncio.sleep(0)
            gate.open()
            await asyncio.gather(flushing, changing)
            assert chat.dirty
            await rt.flush()
            assert (await stored(rt))[0][1] == {"seen": 2}

    asyncio.run(run())


def test_a_session_is_found_again_equal(store_url: str) -> None:
    """L13, L8, C1. Stored fields come back, ephemeral ones do not, never saved is a default."""
    if ":memory:" in store_url:
        pytest.skip("a store in memory ends with its only opening")

    async def run() -> None:
        async with holdfast.open(store_url) as rt, rt.session(Chat, ("a", "b")) as chat:
            await edit(chat, turns=["x", ""], cost=0.25, typing=True)
        async with holdfast.open(store_url) as rt, rt.session(Chat, ("a", "b")) as chat:
            assert chat.value == Chat(turns=["x", ""], cost=0.25)
            async with chat.edit() as draft:
                draft.name = "ann"
        async with holdfast.open(store_url) as rt, rt.session(Chat, ("a", "b")) as chat:
            assert chat.value == Chat(name="ann", turns=["x", ""], cost=0.25)
            async with rt.session(Chat, "a") as other:
                assert other.value == Chat()

    asyncio.run(run())


def test_two_runtimes_cannot_overwrite_each_others_session(store_url: str) -> None:
    """R10. The second writer gets a conflict and no mixture."""
    if ":memory:" in store_url:
        pytest.skip("a store in memory ends with its only opening")

    async def run() -> None:
        async with holdfast.open(store_url) as one, holdfast.open(store_url) as two:
            first, second = one.session(Chat, "a"), two.session(Chat, "a")
            await asyncio.gather(first.load(), second.load())
            await edit(first, name="one")
            with pytest.raises(VersionConflictError):
                await edit(second, name="two")
            assert (await stored(two))[0][1] == {"name": "one"}

    asyncio.run(run())


def test_a_class_without_a_declaration_or_a_default_is_refused(store_url: str) -> None:
    """X16. The mistake is named where it is made."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            with pytest.raises(InvalidValueError):
                rt.session(int, "a")

    asyncio.run(run())
    with pytest.raises(InvalidValueError):

        @state(version=1)
        class Broken:
            needed: int


def test_a_session_that_cannot_be_flushed_keeps_no_other_from_it(store_url: str) -> None:
    """L4, L5. Failed ones stay dirty and are told; all others, a commit each, are written."""

    async def run() -> None:
        async with holdfast.open(store_url, flush_interval=3_600, batch_units=1) as rt:
            sessions = [rt.session(Chat, str(n)) for n in range(20)]
            for one in sessions:
                await one.load()
                await edit(one, seen=1)
            for n in "37":
                await rt.records.put("session.Chat.buffered", n, ["no fields"])
            with pytest.raises(DecodeError):
                await rt.flush()
            assert [n for n, one in enumerate(sessions) if one.dirty] == [3, 7]
            assert len(await rt.records.list("session.Chat.buffered")) == 20
            for n in "37":
                await rt.records.delete("session.Chat.buffered", n)
            await rt.flush()
            assert not sessions[3].dirty and not sessions[7].dirty, "a failed flush is tried again"

    asyncio.run(run())
