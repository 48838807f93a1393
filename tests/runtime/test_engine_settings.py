"""Engines in general: how they are kept, how long their audit is, and what writes share."""

import asyncio
from contextlib import suppress
from typing import Any, cast

import msgspec
import pytest

import holdfast
from holdfast import BUFFERED, EPHEMERAL, Runtime
from holdfast.core.engine import REQUESTED, Audited, stream_of
from holdfast.core.errors import InvalidValueError, TooOldError
from holdfast.core.event import RecordedEvent
from holdfast.core.refusal import EngineBehindError
from holdfast.core.unit import Unit
from holdfast.core.world import World
from holdfast.runtime.engines.attached import AttachedEngine
from holdfast.runtime.engines.audit import AuditKept
from holdfast.runtime.engines.engine import Engine
from holdfast.runtime.engines.settings import EngineSettings, Single
from holdfast.testing.clock import ManualClock
from tests.runtime.counters import SELDOM, add, attach, counts
from tests.runtime.tally import TallyEngine

AUDIT = "holdfast/audit/counts"


def test_an_engine_is_kept_by_one_value_or_by_single_fields(kept_url: str) -> None:
    """N8, N10. Given to the opening beside the engine, or to attach; a field goes before it."""
    kept = EngineSettings(tier=BUFFERED, cadence=SELDOM, in_memory=2, migrate=lambda found: found)

    async def run() -> None:
        async with holdfast.open(kept_url, engines={"a": TallyEngine()}) as rt:
            assert rt.engines["a"].settings == EngineSettings()
            await rt.engines["a"].request(add, "n", 5)
        engines: dict[str, Engine | tuple[Engine, EngineSettings]]
        engines = {"a": (TallyEngine(2), kept), "b": TallyEngine()}
        async with holdfast.open(kept_url, engines=engines, flush_interval=1e6) as rt:
            assert rt.engines["a"].settings is kept
            answer = await rt.engines["a"].request(counts)
            assert (answer.value, answer.tier) == ({"n": 10}, BUFFERED), "migrated, as declared"
            attached = await rt.engines.attach("c", TallyEngine(), kept, in_memory=3)
            assert attached.settings == msgspec.structs.replace(kept, in_memory=3)

    asyncio.run(run())


@pytest.mark.parametrize("single", [{"tier": EPHEMERAL}, {"in_memory": 0}])
def test_settings_that_cannot_work_are_refused(store_url: str, single: Any) -> None:
    """N8. With their name, whichever way they are given; nothing is attached."""

    async def run() -> None:
        with pytest.raises(InvalidValueError, match=next(iter(single))):
            EngineSettings(**single)
        async with holdfast.open(store_url) as rt:
            with pytest.raises(InvalidValueError, match=next(iter(single))):
                await rt.engines.attach("a", TallyEngine(), **cast(Single, single))
            await rt.engines.attach("a", TallyEngine())

    asyncio.run(run())


def test_single_fields_are_those_of_the_settings() -> None:
    """One list of names, whichever way they are given."""
    assert set(Single.__annotations__) == set(EngineSettings.__struct_fields__)
    with pytest.raises(InvalidValueError, match="events"):
        AuditKept(events=0)
    with pytest.raises(InvalidValueError, match="seconds"):
        AuditKept(seconds=-1.0)


# The audit.


async def _agrees(rt: Runtime, attached: AttachedEngine, key: str) -> int:
    """Fold the audit of a memory over its journal; return how many events of it are left."""
    journal = await rt.history(stream_of("counts", (key,))).read(limit=1_000)
    requests = [event.sequence for event in journal if event.type == REQUESTED]
    gone, audit = await _looked(rt, attached, key)
    mine = [event.data for event in audit if event.data["key"] == [key]]
    assert gone.count + len(mine) == len(requests), "one audit event per request"
    assert [one["sequence"] for one in mine] == requests[gone.count :], "and none of another"
    if gone.count:
        assert gone.sequence == requests[gone.count - 1]
    last = mine[-1]["facts"] if mine else gone.facts
    assert last.hex() == (await attached.request(counts, key=key)).facts
    return len(mine)


async def _looked(
    rt: Runtime, attached: AttachedEngine, key: str
) -> tuple[Audited, list[RecordedEvent]]:
    """Return what went of an audit and what is left, from between two trimmings."""
    while True:
        gone, info = await attached.audited(key), await rt.history(AUDIT).info()
        with suppress(TooOldError):
            audit = await rt.history(AUDIT).read(after=info.first_sequence - 1, limit=1_000)
            if gone == await attached.audited(key):
                return gone, audit


def test_an_audit_that_is_trimmed_still_agrees_with_journal_and_memory(kept_url: str) -> None:
    """N14. By count and by age; what went is noted per memory, also over a restart."""

    async def run() -> None:
        clock = ManualClock()
        world = World(clock=clock)
        for kept, left in ((AuditKept(events=10), 10), (AuditKept(seconds=50.0), 4)):
            async with holdfast.open(kept_url, world=world, lease_ttl=1e6) as rt:
                attached = await attach(rt, audit=kept)
                for _ in range(8):
                    for key in ("x", "y"):
                        await attached.request(add, "a", key=key)
                    clock.advance(20.0)
                await attached.keep_up()
                assert await _agrees(rt, attached, "x") + await _agrees(rt, attached, "y") == left
                await attached.keep_up()
                with pytest.raises(TooOldError):
                    await rt.history(AUDIT).read(after=0)
        async with holdfast.open(kept_url, world=world, lease_ttl=1e6) as rt:
            attached = await attach(rt)
            await attached.request(add, "a", key="x")
            await attached.keep_up()
            assert await _agrees(rt, attached, "x") == 3, "all are kept where nothing is said"

    asyncio.run(run())


def test_two_who_trim_an_audit_at_once_count_once(kept_url: str) -> None:
    """N14. Whoever comes second finds what the first noted."""

    async def run() -> None:
        async with holdfast.open(kept_url) as one, holdfast.open(kept_url) as two:
            here = await attach(one, audit=AuditKept(events=3))
            for _ in range(9):
                await here.request(add, "a", key="x")
            there = await attach(two, audit=AuditKept(events=3))
            await asyncio.gather(here.keep_up(), there.keep_up())
            assert await _agrees(one, here, "x") == 3
            assert await _agrees(two, there, "x") == 3

    asyncio.run(run())


# What writes share.


def test_sessions_that_are_asked_at_once_share_a_unit(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """N7, N12. A hundred memories in one; each still has its own journal."""

    async def run() -> None:
        units = list[Unit]()
        async with holdfast.open(store_url) as rt:
            attached = await attach(rt, in_memory=200)
            keys = [f"session-{number}" for number in range(100)]
            await asyncio.gather(*(attached.request(add, "a", key=key) for key in keys))
            store = attached.place().store
            commit = store.commit
            monkeypatch.setattr(store, "commit", lambda unit: units.append(unit) or commit(unit))
            answers = await asyncio.gather(*(attached.request(add, "a", key=key) for key in keys))
            assert len(units) == 1
            assert {(answer.value, answer.sequence) for answer in answers} == {(2, 3)}

    asyncio.run(run())


def test_a_memory_that_is_behind_takes_nobody_down_with_it(kept_url: str) -> None:
    """N12, X5. What was written together and refused is written one by one."""

    async def run() -> None:
        async with holdfast.open(kept_url) as one, holdfast.open(kept_url) as two:
            here, there = await attach(one), await attach(two)
            for key in "abc":
                await here.request(add, "n", key=key)
            await there.request(add, "n", key="b")
            asked = [here.request(add, "n", key=key, id="again") for key in "abc"]
            found = await asyncio.gather(*asked, return_exceptions=True)
            assert isinstance(found[1], EngineBehindError)
            assert [cast(Any, one).value for one in (found[0], found[2])] == [2, 2]
            await here.request(add, "n", key="b", id="again")
            for key, count in (("a", 2), ("b", 3), ("c", 2)):
                assert (await here.request(counts, key=key)).value == {"n": count}
            audit = [event.data for event in await one.history(AUDIT).read()]
            assert sorted(one["key"] for one in audit) == [["a"]] * 2 + [["b"]] * 3 + [["c"]] * 2

    asyncio.run(run())
