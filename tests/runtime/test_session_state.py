"""What is stored of a session: groups, counters, versions, and what happens to damage."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

import holdfast
from holdfast import BUFFERED, Runtime, field, state
from holdfast.core.errors import DecodeError, InvalidValueError, VersionConflictError
from holdfast.core.refusal import SessionArchivedError, SessionClosedError
from holdfast.core.world import World
from holdfast.runtime.sessions.session import Session
from holdfast.testing.clock import ManualClock
from tests.runtime.behind import damage
from tests.store.gate import Gate


@state(version=1)
class Gauge:
    """A state with groups, a counter and a derived field."""

    name: str = ""
    score: int | None = None
    low: float = field(default=0.0, tier=BUFFERED, group="range")
    high: float = field(default=1.0, tier=BUFFERED, group="range")
    heat: float = field(default=0.0, tier=BUFFERED, group="heat")
    seen: int = field(default=0, tier=BUFFERED, kind="counter")
    width: float = field(derived=lambda gauge: gauge.high - gauge.low)


async def edit(session: Session[Any], **changes: object) -> None:
    """Change fields in an edit of their own."""
    async with session.edit() as draft:
        for name, value in changes.items():
            setattr(draft, name, value)


def two_openings(store_url: str) -> None:
    """Skip what needs a store that is there after its only opening."""
    if ":memory:" in store_url:
        pytest.skip("a store in memory ends with its only opening")


def test_never_saved_saved_as_zero_and_saved_as_null_are_three_things(store_url: str) -> None:
    """L8. For every field, also where zero or null is its default."""
    two_openings(store_url)

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            for key, changes in {"none": {}, "null": {"score": None}, "zero": {"score": 0}}.items():
                session = rt.session(Gauge, key)
                await edit(session, name=key, **changes)
            session = rt.session(Gauge, "low")
            await edit(session, low=0.0)
        async with holdfast.open(store_url) as rt:
            found = {}
            for key in ("none", "null", "zero"):
                async with rt.session(Gauge, key) as session:
                    found[key] = ("score" in session.saved, session.value.score)
            assert found == {"none": (False, None), "null": (True, None), "zero": (True, 0)}
            async with rt.session(Gauge, "low") as session:
                assert session.saved == {"low", "high"}, "a group is saved whole"

    asyncio.run(run())


def test_a_damaged_group_begins_anew_and_the_others_load(store_url: str) -> None:
    """L10. With a warning, a note and a count; and it is written over by the next change."""
    two_openings(store_url)

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            session = rt.session(Gauge, "a")
            await edit(session, name="ann", low=-1.0, high=9.0, heat=3.0, seen=4)
        damage(store_url, "session.Gauge.buffered.range")
        async with holdfast.open(store_url) as rt, rt.session(Gauge, "a") as session:
            assert session.value == Gauge(name="ann", heat=3.0, seen=4)
            assert session.saved == {"name", "heat", "seen"}
            assert rt.sessions.counts["damaged"] == 1
            assert len(await rt.records.list("holdfast.damage")) == 1
            await edit(session, high=5.0)
        async with holdfast.open(store_url) as rt, rt.session(Gauge, "a") as session:
            assert session.value.high == 5.0 and rt.sessions.counts["damaged"] == 0
            assert await rt.verify() == []

    asyncio.run(run())


def test_a_group_that_is_damaged_while_in_use_is_written_again_from_memory(store_url: str) -> None:
    """L10. What is still known is not given up."""
    two_openings(store_url)

    async def run() -> None:
        async with holdfast.open(store_url, flush_interval=3_600) as rt:
            session = rt.session(Gauge, "a")
            await edit(session, name="ann", low=-1.0, seen=4)
            await rt.flush()
            for kind in ("buffered.range", "buffered"):
                damage(store_url, f"session.Gauge.{kind}")
            await edit(session, low=-2.0, seen=5)
            await rt.flush()
            damage(store_url, "session.Gauge.durable")
            with pytest.raises(holdfast.StoreError):
                await edit(session, name="bob")
            await edit(session, name="bob")
            assert session.value == Gauge(name="bob", low=-2.0, seen=5)
        async with holdfast.open(store_url) as rt, rt.session(Gauge, "a") as session:
            assert session.value == Gauge(name="bob", low=-2.0, seen=5)
            assert await rt.verify() == []

    asyncio.run(run())


def test_a_damaged_head_is_made_again(store_url: str) -> None:
    """L10, L2. With the identities that the index knows."""
    two_openings(store_url)

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            session = rt.session(Gauge, "a", identities=["hdr:1", "fp:1"])
            async with session:
                await edit(session, name="ann", seen=1)
        damage(store_url, "holdfast.session")
        async with holdfast.open(store_url) as rt:
            async with rt.session(Gauge, "a") as session:
                assert session.value == Gauge(name="ann", seen=1)
                assert session.head is not None
                assert set(session.head.identities) == {"hdr:1", "fp:1"}
                await edit(session, name="bob", heat=1.0)
            assert (await rt.sessions.find(Gauge, ["hdr:1"])).key == ("a",)
        async with holdfast.open(store_url) as rt, rt.session(Gauge, "a") as session:
            assert session.value == Gauge(name="bob", seen=1, heat=1.0)
            assert await rt.verify() == []

    asyncio.run(run())


def test_a_counter_does_not_go_down(store_url: str) -> None:
    """L7. Refused where it is tried; nothing of the edit is taken over."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            session = rt.session(Gauge, "a")
            await edit(session, seen=3)
            with pytest.raises(InvalidValueError, match=r"Gauge\.seen"):
                await edit(session, seen=2, name="x")
            assert session.value == Gauge(seen=3)

    asyncio.run(run())


def test_what_two_runtimes_flush_is_merged(store_url: str) -> None:
    """L7, L5. Counters add up; what only the other one changed follows, also under a draft."""
    two_openings(store_url)

    async def run() -> None:
        async with (
            holdfast.open(store_url, flush_interval=3_600) as one,
            holdfast.open(store_url, flush_interval=3_600) as two,
        ):
            first, second = one.session(Gauge, "a"), two.session(Gauge, "a")
            await edit(first, seen=10, heat=1.0, low=-1.0)
            await one.flush()
            await edit(second, seen=13, high=7.0)
            await edit(first, seen=11, heat=2.0)
            await one.flush()
            async with second.edit() as draft:
                draft.seen += 1
                await two.flush()
                assert two.sessions.counts["merged"] == 1
                assert second.value.seen == 14
            assert second.value == Gauge(low=-1.0, high=7.0, heat=2.0, seen=15)
            assert second.value.width == 8.0
            await two.flush()
            await edit(first, seen=12)
            await one.flush()
            assert (first.value.seen, first.value.high) == (16, 7.0)

    asyncio.run(run())


def test_a_draft_behind_a_foreign_durable_change_meets_a_conflict(store_url: str) -> None:
    """R10. Also if a flush looked at the store in between."""
    two_openings(store_url)

    async def run() -> None:
        async with holdfast.open(store_url) as one, holdfast.open(store_url) as two:
            first, second = one.session(Gauge, "a"), two.session(Gauge, "a")
            await edit(first, name="one", seen=1)
            await one.flush()
            await edit(second, seen=2)
            with pytest.raises(VersionConflictError):
                async with second.edit() as draft:
                    await edit(first, name="newer", seen=2)
                    await one.flush()
                    await two.flush()
                    assert two.sessions.counts["merged"] == 1
                    draft.score = 1
            assert second.value.name == "newer"
            await edit(second, score=1)
            async with holdfast.open(store_url) as three, three.session(Gauge, "a") as found:
                assert (found.value.name, found.value.score) == ("newer", 1)

    asyncio.run(run())


def test_an_edit_that_stays_open_holds_up_no_flush(store_url: str) -> None:
    """L4. A block may be open for as long as a model needs to answer."""

    async def run() -> None:
        async with holdfast.open(store_url, flush_interval=3_600) as rt:
            session = rt.session(Gauge, "a")
            await edit(session, seen=1)
            async with session.edit() as draft:
                draft.seen = 2
                await rt.flush()
                await session.flush()
                assert not session.dirty and session.value.seen == 1
            assert session.dirty and session.value.seen == 2

    asyncio.run(run())


def test_what_is_cancelled_is_taken_over_once_it_was_begun(store_url: str) -> None:
    """F19, L7. What is known never falls behind what is stored, so nothing counts twice."""

    async def run() -> None:
        world = World()
        async with holdfast.open(store_url, flush_interval=3_600, world=world) as rt:
            session = rt.session(Gauge, "a")
            await edit(session, name="x", seen=1)

            async def cancelled(work: Coroutine[None, None, object]) -> None:
                gate = Gate(world, "commit.begun")
                task = asyncio.create_task(work)
                await gate.reached()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                gate.open()

            await cancelled(edit(session, score=5, seen=2))
            await edit(session, name="y")
            assert session.value == Gauge(name="y", score=5, seen=2)
            await cancelled(rt.flush())
            await edit(session, seen=3)
            await rt.flush()
            assert (await rt.records.get("session.Gauge.buffered", "a")).value["seen"] == 3
            assert rt.sessions.counts["merged"] == 0

    asyncio.run(run())


def test_a_change_is_kept_in_a_history_if_asked_for(store_url: str) -> None:
    """L6. In the unit that changes it, so no event is missing and none is too many."""

    @state(version=1, history=True)
    class Tracked:
        name: str = ""
        seen: int = field(default=0, tier=BUFFERED)

    async def run() -> None:
        async with holdfast.open(store_url, flush_interval=3_600) as rt:
            session = rt.session(Tracked, ("a/b", "c"))
            await edit(session, name="ann", seen=1)
            await edit(session, seen=2)
            await rt.flush()
            events = [event.data for event in await session.history.read()]
            assert events == [{"changed": {"name": "ann"}}, {"changed": {"seen": 2}}]
            assert session.history.name == "holdfast/session/Tracked/a%2Fb/c"
            with pytest.raises(InvalidValueError):
                _ = rt.session(Gauge, "a").history

    asyncio.run(run())


def test_a_session_ends_after_its_time(store_url: str) -> None:
    """X10, L9. Counted from its last change, on store time; it begins anew behind that."""

    @state(version=1, ttl=60.0)
    class Short:
        name: str = ""

    async def run() -> None:
        clock = ManualClock()
        async with holdfast.open(store_url, world=World(clock=clock)) as rt:
            session = rt.session(Short, "a")
            async with session:
                await session.attach(["hdr:1"])
                await edit(session, name="x")
            clock.advance(50.0)
            await edit(session, name="y")
            clock.advance(50.0)
            assert (await rt.sessions.find(Short, ["hdr:1"])).key == ("a",)
            clock.advance(20.0)
            assert (await rt.sessions.find(Short, ["hdr:1"])).key is None
            async with session.edit() as draft:
                assert draft.name == ""
            assert await rt.records.list("session.Short.durable") == []
            assert rt.sessions.counts["expired"] == 1

    asyncio.run(run())


def test_a_session_is_archived_restored_and_closed(store_url: str) -> None:
    """L13, L11. Archived it is read and listed, not found and not changed; closed it is gone."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            async with rt.session(Gauge, "a", identities=["fp:1"]) as session:
                await edit(session, name="ann", seen=2)
            await rt.sessions.archive(Gauge, "a")
            assert [one.key for one in await rt.sessions.list(Gauge)] == []
            assert [one.key for one in await rt.sessions.list(Gauge, archived=True)] == [("a",)]
            assert (await rt.sessions.find(Gauge, ["fp:1"])).key is None
            with pytest.raises(SessionArchivedError):
                await edit(session, name="bob")
            assert session.value.seen == 2
            await rt.sessions.restore(Gauge, "a")
            await edit(session, name="bob")
            await rt.sessions.close(Gauge, "a")
            assert session.value == Gauge()
            for kind in ("holdfast.session", "holdfast.identity", "session.Gauge.durable"):
                assert await rt.records.list(kind) == []
            assert [one.key for one in await rt.sessions.list(Gauge)] == []

    asyncio.run(run())


def test_what_another_runtime_closed_is_not_brought_back(store_url: str) -> None:
    """L13. Neither by an edit nor by a flush; what was not written is counted as lost."""
    two_openings(store_url)

    async def run() -> None:
        async with (
            holdfast.open(store_url, flush_interval=3_600) as one,
            holdfast.open(store_url) as two,
        ):
            for key in "ab":
                await edit(one.session(Gauge, key), name="x", seen=1)
            await one.flush()
            first, second = one.session(Gauge, "a"), one.session(Gauge, "b")
            await edit(first, seen=2)
            for key in "ab":
                await two.sessions.close(Gauge, key)
            await one.flush()
            with pytest.raises(SessionClosedError):
                await edit(second, name="y")
            assert one.sessions.counts["closed"] == 1
            assert await two.sessions.list(Gauge) == []
            await edit(second, name="new")
            assert [info.key for info in await two.sessions.list(Gauge)] == [("b",)]

    asyncio.run(run())


def test_refreshing_takes_over_what_others_wrote_and_keeps_what_is_unwritten(
    store_url: str,
) -> None:
    """L7. Counters add up; a field changed here stays, one changed there alone follows."""
    two_openings(store_url)

    async def run() -> None:
        async with (
            holdfast.open(store_url, flush_interval=3_600) as one,
            holdfast.open(store_url, flush_interval=3_600) as two,
        ):
            here, there = one.session(Gauge, "g"), two.session(Gauge, "g")
            await edit(here, name="first", seen=1, heat=1.0, low=-1.0)
            await one.flush()
            await edit(there, name="second", seen=11, heat=2.0, low=-2.0)
            await two.flush()
            await edit(here, seen=3, low=-3.0)
            await here.refresh()
            value = here.value
            assert (value.name, value.seen, value.heat, value.low) == ("second", 13, 2.0, -3.0)
            assert value.width == 4.0
            await one.flush()
            await there.refresh()
            assert there.value == value

    asyncio.run(run())


async def fill_old(rt: Runtime) -> None:
    """Fill a store with sessions of the first version of a class."""

    @state(version=1)
    class Doc:
        title: str = ""
        pages: int = field(default=0, tier=BUFFERED)
        mark: str = field(default="", tier=BUFFERED, group="marks")

    for key in "ab":
        session = rt.session(Doc, key)
        await edit(session, title=f"T {key}", pages=3, mark="m")
    await rt.flush()


def newer_doc() -> Any:
    """Return the third version of the class: renamed, split, moved to another tier."""

    def second(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "name": fields.pop("title", "")}

    def third(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "pages": [fields["pages"], 0], "mark": fields.get("mark", "") + "!"}

    @state(version=3, upcast={1: second, 2: third})
    class Doc:
        name: str = ""
        mark: str = ""
        pages: tuple[int, int] = field(default=(0, 0), tier=BUFFERED)

    return Doc


def test_an_older_session_is_brought_up_to_date(store_url: str) -> None:
    """L12, X11. In memory at once, in the store with its next change, all of it in one unit."""
    two_openings(store_url)

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            await fill_old(rt)
        doc = newer_doc()
        async with holdfast.open(store_url, flush_interval=3_600) as rt:
            session = rt.session(doc, "a")
            await session.load()
            assert session.value == doc(name="T a", mark="m!", pages=(3, 0))
            assert not session.dirty, "an upcast alone writes nothing"
            await edit(session, pages=(4, 1))
            await rt.flush()
            durable = await rt.records.get("session.Doc.durable", "a")
            assert durable.value == {"name": "T a", "mark": "m!", "@version": 3}
            assert await rt.records.find("session.Doc.buffered.marks", "a") is None
            untouched = await rt.records.get("session.Doc.durable", "b")
            assert untouched.value == {"title": "T b", "@version": 1}
        async with holdfast.open(store_url) as rt:
            for key, pages in {"a": (4, 1), "b": (3, 0)}.items():
                async with rt.session(doc, key) as session:
                    assert session.value == doc(name=f"T {key}", mark="m!", pages=pages)

    asyncio.run(run())


def test_a_newer_session_and_a_missing_upcast_are_refused(store_url: str) -> None:
    """L12, F20. Nothing is written."""
    two_openings(store_url)

    @state(version=2)
    class Doc:
        name: str = ""

    async def run() -> None:
        newer = newer_doc()
        async with holdfast.open(store_url) as rt:
            await fill_old(rt)
            with pytest.raises(InvalidValueError, match="another class"):
                rt.session(newer, "a")
        async with holdfast.open(store_url) as rt:
            await edit(rt.session(newer, "a"), name="x")
        async with holdfast.open(store_url) as rt:
            before = await rt.records.list("session.Doc.durable")
            for key, told in {"a": "version 3", "b": "version 1"}.items():
                with pytest.raises(DecodeError, match=told):
                    await rt.session(Doc, key).load()
            assert await rt.records.list("session.Doc.durable") == before

    asyncio.run(run())
