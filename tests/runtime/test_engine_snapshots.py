"""Engines in general: snapshots, their damage, other rules; shown with counters."""

import asyncio

import pytest

import holdfast
from holdfast.core.engine import stream_of
from holdfast.core.refusal import (
    EngineLostError,
    NotCapturedError,
    NotReadyError,
    RulesChangedError,
)
from holdfast.core.world import World
from holdfast.runtime.engines.snapshot import Cadence
from holdfast.testing.clock import ManualClock
from tests.runtime.counters import SELDOM, STREAM, add, attach, counts, only
from tests.runtime.tally import TallyEngine


def test_other_rules_are_refused_or_migrated_by_what_was_declared(kept_url: str) -> None:
    """N10. At attach, at the boot (not ready, and why), with a declared migration, hot."""

    async def run() -> None:
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt)
            await attached.request(add, "a", 5)
            await attached.request(add, "a", 6, key="k")
            assert await attached.keys() == [(), ("k",)]
            assert await attached.keys(after=(), limit=5) == [("k",)]
        async with holdfast.open(kept_url) as rt:
            with pytest.raises(RulesChangedError, match="made by rules tally 1, these are tally 2"):
                await attach(rt, TallyEngine(2))
            attached = await attach(rt)
            assert (await attached.request(counts)).value == {"a": 5}
        opening = holdfast.open(kept_url, engines={"counts": TallyEngine(2)}, wait_ready=False)
        async with opening as rt:
            with pytest.raises(NotReadyError, match="RulesChangedError") as refused:
                await rt.ready()
            assert isinstance(refused.value.__cause__, RulesChangedError)
            assert not rt.health().ready and "tally 2" in rt.health().reason
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt, TallyEngine(2), migrate=lambda counts: counts)
            assert (await attached.request(counts)).value == {"a": 10}
            assert (await attached.request(counts, key="k")).value == {"a": 12}
            await attached.request(add, "b", 1)
            await attached.reload(TallyEngine(3), migrate=lambda counts: counts[:1])
            assert (await attached.request(counts)).value == {"a": 30}
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt, TallyEngine(3))
            assert (await attached.request(counts)).value == {"a": 30}

    asyncio.run(run())


def test_other_rules_of_memories_with_keys_are_noticed_before_anybody_asks(kept_url: str) -> None:
    """N10. Also when the engine has no memory without a key."""

    async def run() -> None:
        async with holdfast.open(kept_url, engines={"counts": TallyEngine()}) as rt:
            await rt.engines["counts"].request(add, "a", key="k")
        with pytest.raises(RulesChangedError, match="'counts' of 'k'"):
            async with holdfast.open(kept_url, engines={"counts": TallyEngine(2)}):
                pass

    asyncio.run(run())


def test_a_snapshot_that_would_lose_something_is_not_made(store_url: str) -> None:
    """N3, N9, C4. What cannot be captured, or comes back as something else: the journal goes on."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            attached = await attach(rt)
            with pytest.raises(NotCapturedError, match="nothing was done"):
                await attached.snapshot()
            await attached.request(add, "secret")
            with pytest.raises(NotCapturedError, match="there is a secret"):
                await attached.snapshot()
            assert "there is a secret" in only(attached).reason
            assert "there is a secret" in " ".join(rt.health().degraded)
            forgetful = await rt.engines.attach("f", TallyEngine(forgets=1), cadence=SELDOM)
            await forgetful.request(add, "a")
            with pytest.raises(NotCapturedError, match="restoring it gave another one"):
                await forgetful.snapshot()
            assert (await forgetful.request(counts)).value == {"a": 1}
            assert await rt.snapshots.latest(stream_of("f", ())) is None

    asyncio.run(run())


def test_requests_go_on_while_a_snapshot_is_made(store_url: str) -> None:
    """N13, N9. What is done meanwhile is done to the copy too, before it takes over."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            attached = await attach(rt)
            await attached.request(add, "a")
            making = asyncio.create_task(attached.snapshot())
            done = 0
            while not making.done():
                await attached.request(add, "a")
                done += 1
            assert await making >= 2 and done
            assert len(set(await asyncio.gather(*(attached.snapshot() for _ in range(3))))) == 3
            assert (await attached.request(counts)).value == {"a": done + 1}
            status = only(attached)
            assert status.snapshot and status.tail <= done

    asyncio.run(run())


def test_a_damaged_snapshot_is_passed_over_and_the_journal_is_longer(kept_url: str) -> None:
    """N9, N11, F7. The one before it, then the whole journal; each gives the same memory."""

    async def run() -> None:
        cadence = Cadence(requests=10**6, seconds=1e9, idle=1e9, on_close=False, journal=True)
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt, cadence=cadence)
            for _ in range(3):
                for name in "abc":
                    await attached.request(add, name)
                await attached.snapshot()
            await attached.request(add, "a")
            expected = await attached.request(counts)
            newest = only(attached).snapshot
        for sequence in (newest, newest - 4, newest - 8, 0):
            async with holdfast.open(kept_url) as rt:
                attached = await attach(rt, cadence=cadence)
                assert only(attached).snapshot in (sequence, newest), "the journal says rebase"
                found = await attached.request(counts)
                assert (found.value, found.facts) == (expected.value, expected.facts)
            spoil(kept_url, sequence)

    asyncio.run(run())


def spoil(url: str, sequence: int) -> None:
    """Damage the snapshot at a sequence, behind the store's back."""
    if url.startswith("sqlite"):
        import apsw

        connection = apsw.Connection(url.removeprefix("sqlite:///"))
        connection.execute("UPDATE snapshot SET stored = x'00' WHERE sequence = ?", (sequence,))
        connection.close()
        return
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        statement = "UPDATE holdfast.snapshot SET stored = '\\x00' WHERE sequence = %s"
        connection.execute(statement, (sequence,))


def test_the_journal_is_trimmed_behind_the_oldest_snapshot_that_stays(kept_url: str) -> None:
    """X9, N11. Bounded; with no snapshot left to use it fails closed and says what to do."""

    async def run() -> None:
        cadence = Cadence(requests=10**6, seconds=1e9, idle=1e9, on_close=False, kept=2)
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt, cadence=cadence)
            made = []
            for number in range(4):
                for name in "ab":
                    await attached.request(add, name, id=f"{number}{name}")
                made.append(await attached.snapshot())
            info = await rt.history(STREAM).info()
            assert info.first_sequence == made[-2] + 1
            assert (await attached.request(add, "a", id="3a")).repeated
            await attached.evict(())
            kept = await attached.request(add, "a", id="3b")
            gone = await attached.request(add, "a", id="0a")
            assert kept.repeated and not gone.repeated
        for sequence in made:
            spoil(kept_url, sequence)
        async with holdfast.open(kept_url) as rt:
            with pytest.raises(EngineLostError, match="2 snapshots do not fit"):
                await attach(rt, cadence=cadence)
            assert "damaged" in " ".join(rt.health().degraded)

    asyncio.run(run())


def test_snapshots_are_made_when_they_are_due(store_url: str) -> None:
    """X9. By requests, by age, when idle; with a clock that is set by hand."""

    async def run() -> None:
        clock = ManualClock()
        cadence = Cadence(requests=5, seconds=100.0, idle=10.0, least=2)
        async with holdfast.open(store_url, world=World(clock=clock), lease_ttl=1e6) as rt:
            attached = await attach(rt, cadence=cadence)

            async def snapshot_after(requests: int, seconds: float) -> int:
                for _ in range(requests):
                    await attached.request(add, "a")
                clock.advance(seconds)
                await attached.keep_up()
                return only(attached).tail

            assert await snapshot_after(4, 1.0) == 4
            assert await snapshot_after(1, 1.0) == 0
            assert await snapshot_after(1, 20.0) == 1, "one request is not worth it when idle"
            assert await snapshot_after(1, 20.0) == 0
            assert await snapshot_after(1, 99.0) == 1
            assert await snapshot_after(0, 2.0) == 0

    asyncio.run(run())


def test_a_damaged_event_that_nobody_needs_stops_no_snapshot(kept_url: str) -> None:
    """X9, F10. It is trimmed with the rest, and noted; the answers behind it stay."""

    async def run() -> None:
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt)
            for number in range(3):
                await attached.request(add, "a", id=f"r{number}")
            await attached.snapshot()
        change(kept_url, "UPDATE event SET payload = %s WHERE sequence = 2 AND type = %s")
        once = Cadence(requests=10**6, seconds=1e9, idle=1e9, on_close=False, kept=1)
        async with holdfast.open(kept_url) as rt:
            attached = await attach(rt, cadence=once)
            await attached.request(add, "a")
            made = await attached.snapshot()
            assert (await rt.history(STREAM).info()).first_sequence == made + 1
            assert only(attached).reason == "" and "damaged" in " ".join(rt.health().degraded)
            assert (await attached.request(counts)).value == {"a": 4}

    asyncio.run(run())


def change(url: str, statement: str) -> None:
    """Damage an event behind the store's back."""
    values = (b"\x00", "engine.requested")
    if url.startswith("sqlite"):
        import apsw

        connection = apsw.Connection(url.removeprefix("sqlite:///"))
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        connection.execute(statement.replace("%s", "?"), values)
        connection.close()
        return
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute(statement.replace("event", "holdfast.event", 1).encode(), values)
