"""
PostgreSQL that fails: connections cut in COMMIT, servers killed, weaker settings (F13, F17, F18).

Every server is real; what happens to it is SIGKILL, SIGSTOP, or a cut socket.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import Outcome
from holdfast.core.errors import (
    HoldfastError,
    OutcomeUnknownError,
    PoisonedError,
    StoreRefusedError,
    StoreUnavailableError,
    UnsafeStoreError,
)
from holdfast.core.world import World
from holdfast.testing.programs import installation
from holdfast.testing.proxy import Cut, Proxy
from holdfast.testing.server import PostgresServer
from tests.store.conftest import Tell
from tests.store.gate import Gate
from tests.store.sample import EVENTS, NOTES, OTHER, fill, refusal, run

KILLS = int(os.environ.get("HOLDFAST_KILLS", "20"))
FREEZES = 3


@pytest.fixture
def server(postgres_folder: Path) -> Iterator[PostgresServer]:
    """A started server of the test's own."""
    with PostgresServer(postgres_folder) as server:
        server.start()
        yield server


def ask(url: str, text: str, *values: Any) -> list[Any]:
    """Run one statement as the superuser, in Holdfast's schema."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET search_path = holdfast")
        cursor = connection.execute(text, values)
        return cursor.fetchall() if cursor.description else []


def stored(url: str, stream: str) -> int:
    """Return how many events of a stream are in the table."""
    text = "SELECT count(*) FROM event JOIN stream USING (origin) WHERE name = %s"
    return int(ask(url, text, stream.encode())[0][0])


# The connection.


@pytest.mark.parametrize(
    ("cut", "outcome"),
    [(Cut.BEFORE, Outcome.ABSENT), (Cut.AFTER, Outcome.COMMITTED), (Cut.FORWARDED, None)],
)
def test_a_connection_cut_in_commit_is_unknown_until_it_is_asked_for(
    postgres_url: str, cut: Cut, outcome: Outcome | None
) -> None:
    """F17. Unknown, then poisoned; after reopening the answer is what the table says."""
    run(postgres_url, fill)

    async def lose(rt: holdfast.Runtime) -> bytes:
        unit_id = rt.unit_id()
        proxy.arm(cut)
        with pytest.raises(OutcomeUnknownError) as error:
            await rt.history("cut").append("said", 1, unit_id=unit_id)
        assert error.value.unit_id == unit_id.hex()
        with pytest.raises(PoisonedError):
            await rt.history("cut").append("said", 2)
        assert len(await rt.history(NOTES).read()) == EVENTS
        return unit_id

    async def resolve(rt: holdfast.Runtime) -> Outcome:
        return await rt.outcome(unit_id)

    with Proxy(postgres_url) as proxy:
        unit_id = run(proxy.url, lose)
        found = run(proxy.url, resolve)
    assert found == (Outcome.COMMITTED if stored(postgres_url, "cut") else Outcome.ABSENT)
    assert outcome in (None, found)
    assert run(postgres_url, resolve) == found


@pytest.mark.parametrize("ended", [False, True])
def test_an_outcome_waits_for_a_commit_that_is_still_under_way(
    server: PostgresServer, ended: bool
) -> None:
    """F17. The backend has the COMMIT and is frozen; the answer comes when it can be final."""
    idle = "SELECT pid FROM pg_stat_activity WHERE state = 'idle in transaction'"
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'"
    backends: list[int] = []

    def freeze() -> None:
        backends.extend(pid for (pid,) in ask(server.url, idle))
        os.kill(backends[-1], signal.SIGSTOP)

    async def lose(rt: holdfast.Runtime) -> bytes:
        proxy.arm(Cut.FORWARDED, freeze)
        unit_id = rt.unit_id()
        with pytest.raises(OutcomeUnknownError):
            await rt.history("cut").append("said", 1, unit_id=unit_id)
        return unit_id

    async def resolve(rt: holdfast.Runtime) -> Outcome:
        answer = asyncio.ensure_future(rt.outcome(unit_id))
        while not (await asyncio.to_thread(ask, server.url, waiting))[0][0]:
            assert not answer.done(), "it did not wait for the backend"
        assert not answer.done()
        if ended:
            ask(server.url, f"SELECT pg_terminate_backend({backends[0]})")
        os.kill(backends[0], signal.SIGCONT)
        return await answer

    for _ in range(FREEZES):
        backends.clear()
        before = 0
        with Proxy(server.url) as proxy:
            if ask(server.url, "SELECT to_regclass('event')")[0][0]:
                before = stored(server.url, "cut")
            unit_id = run(proxy.url, lose)
        found = run(server.url, resolve)
        assert len(backends) == 1
        assert found == (Outcome.ABSENT if ended else Outcome.COMMITTED)
        assert stored(server.url, "cut") - before == (found == Outcome.COMMITTED)


def test_two_that_make_the_schema_at_once_both_open(postgres_url: str) -> None:
    """F14. The second waits for the first and finds it made."""
    import psycopg

    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"

    async def both() -> None:
        with psycopg.connect(postgres_url) as first:
            first.execute("CREATE SCHEMA holdfast")
            second = asyncio.ensure_future(anext(opened := opening()))
            while not first.execute(waiting).fetchall()[0][0]:
                assert not second.done(), "it did not wait for the one that was first"
                await asyncio.sleep(0)
            first.commit()
            assert await (await second).verify() == []
            await opened.aclose()

    async def opening() -> AsyncGenerator[holdfast.Runtime]:
        async with holdfast.open(postgres_url) as rt:
            yield rt

    asyncio.run(both())


def test_connections_lost_between_batches_are_made_anew(postgres_url: str) -> None:
    """F17. Nothing was under way, so nobody has to hear of it: writing and reading go on."""
    end = (
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    async def work(rt: holdfast.Runtime) -> None:
        for number in range(1, 4):
            assert (await rt.history(OTHER).append("said", number)).sequence == number
            assert len(await rt.history(OTHER).read()) == number
            assert (await asyncio.to_thread(ask, postgres_url, end))[0][0] >= 2
        assert len(await rt.history(OTHER).read()) == 3
        assert rt.poisoned is None

    run(postgres_url, work)


# The server.


def test_a_server_killed_under_load_loses_nothing_that_was_acknowledged(
    server: PostgresServer, tell: Tell
) -> None:
    """F18, F17. kill -9 of every process of the server, again and again, while a process
    writes; what it did not know is as it resolved it."""
    acknowledged: set[int] = set()
    resolved: dict[int, str] = {}
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.store.survivor", server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        for kill in range(KILLS):
            new = 0
            for line in child.stdout:
                word, *rest = line.split()
                if word == "down":
                    break
                if word == "found":
                    resolved[int(rest[0])] = rest[1]
                    continue
                acknowledged.add(int(rest[0]))
                new += 1
                if new == 20 + 7 * kill:
                    server.kill()
            assert new >= 20, f"the process ended before kill {kill + 1}"
            server.start()
            child.stdin.write("stop\n" if kill == KILLS - 1 else "on\n")
            child.stdin.flush()
    assert child.returncode == 0
    written = (
        "SELECT payload FROM event JOIN stream USING (origin)"
        " WHERE starts_with(convert_from(name, 'UTF8'), 'writer/')"
    )
    rows = ask(server.url, written)
    stored = [holdfast.core.codec.decode(payload) for (payload,) in rows]
    found = [number for number in stored if isinstance(number, int)]  # Not what a boot reports.
    assert len(found) == len(set(found)), "an event is there twice"
    lost = acknowledged - set(found)
    assert not lost
    assert {n: said == "committed" for n, said in resolved.items()} == {
        number: number in found for number in resolved
    }
    committed = sum(said == "committed" for said in resolved.values())
    tell(
        f"{KILLS} kills: {len(acknowledged)} acknowledged, 0 lost; "
        f"{len(resolved)} unknown, {committed} of them committed"
    )


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
def test_a_server_that_does_not_sync_is_refused_or_labelled(
    postgres_folder: Path, setting: str
) -> None:
    """F18. Refused at the start, before anything is made; whoever insists is told."""
    with PostgresServer(postgres_folder, settings={setting: "off"}) as server:
        server.start()
        error = refusal(server.url)
        assert isinstance(error, UnsafeStoreError)
        assert (error.setting, error.found) == (setting, "off")
        assert ask(server.url, "SELECT to_regnamespace('holdfast')") == [(None,)]

        async def durability(rt: holdfast.Runtime) -> str:
            return rt.opened.durability

        assert run(server.url, durability, allow_unsafe=True) == f"unsafe: {setting}=off"


@pytest.mark.parametrize(
    "weaken",
    [
        "ALTER SYSTEM SET synchronous_commit = off",
        "ALTER DATABASE postgres SET synchronous_commit = off",
        "ALTER ROLE postgres SET synchronous_commit = off",
    ],
)
def test_every_session_commits_synchronously_whatever_the_default(
    server: PostgresServer, weaken: str
) -> None:
    """F18. The server's log writer is put off for so long that only a synchronous commit can
    explain that nothing is lost when every process is killed at once."""
    from holdfast.store.postgres.connection import PostgresConnection

    ask(server.url, weaken)
    ask(server.url, "ALTER SYSTEM SET wal_writer_delay = '10s'")
    ask(server.url, "ALTER SYSTEM SET wal_writer_flush_after = '2GB'")
    server.restart()
    assert ask(server.url, "SHOW synchronous_commit") == [("off",)]
    with closing(PostgresConnection(server.url, busy_wait=1.0)) as session:
        assert session.raw.execute("SHOW synchronous_commit").fetchall() == [("on",)]

    async def write(rt: holdfast.Runtime) -> None:
        assert rt.opened.durability == "synced"
        for number in range(1, 11):
            await rt.history(OTHER).append("said", number)
        server.kill()

    run(server.url, write)
    server.start()
    assert stored(server.url, OTHER) == 10


def test_a_standby_is_refused_for_writing_and_serves_reading(
    server: PostgresServer, tell: Tell
) -> None:
    """F18. After a failover the old address may lead to a standby."""
    run(server.url, fill)
    server.stop()
    (server.data / "standby.signal").touch()
    server.start()
    assert ask(server.url, "SELECT pg_is_in_recovery()") == [(True,)]
    error = refusal(server.url)
    assert isinstance(error, StoreRefusedError)
    assert "is a standby" in error.reason

    async def read(rt: holdfast.Runtime) -> int:
        return len(await rt.history(NOTES).read())

    assert run(server.url, read, read_only=True) == EVENTS


# Restored.


def restore(server: PostgresServer, dump: str) -> None:
    """Put a plain SQL dump in the place of what is there."""
    programs = installation()
    ask(server.url, "DROP SCHEMA holdfast CASCADE")
    programs.account.run(programs.programs / "psql", "-q", "-d", server.url, "-f", dump)


@pytest.mark.parametrize("how", ["row", "dump"])
def test_a_database_restored_under_a_live_runtime_fences_it(
    server: PostgresServer, how: str
) -> None:
    """F13. The older one is refused at its first write, and nothing of it is stored."""
    programs = installation()
    run(server.url, fill)
    dump = server.data / "backup.sql"
    programs.account.run(
        programs.programs / "pg_dump", "-n", "holdfast", "-d", server.url, "-f", dump
    )

    async def work(rt: holdfast.Runtime) -> None:
        await rt.history("late").append("said", "before")
        if how == "row":
            ask(server.url, "DELETE FROM incarnation WHERE closed_at IS NULL")
        else:
            restore(server, str(dump))
        for _ in range(2):
            with pytest.raises(HoldfastError) as error:
                await rt.history("late").append("said", "after")
            assert error.value.code == "incarnation_fenced"

    run(server.url, work)
    assert stored(server.url, "late") == (how == "row")


def test_a_proxy_that_is_not_armed_changes_nothing(postgres_url: str) -> None:
    """F17. The tool itself: everything passes, also the accident of one COMMIT only."""
    with Proxy(postgres_url) as proxy:
        run(proxy.url, fill)
        called = threading.Event()
        proxy.arm(Cut.BEFORE, called.set)

        async def read(rt: holdfast.Runtime) -> None:
            assert len(await rt.history(NOTES).read()) == EVENTS
            assert await rt.verify() == []

        run(proxy.url, read, read_only=True)
        assert not called.is_set()


def test_a_process_frozen_inside_a_transaction_holds_nobody_up_for_long(postgres_url: str) -> None:
    """F15. The server ends its transaction before others lose patience; what it had not
    committed is not there, and it may go on."""

    async def both() -> None:
        world = World()
        async with holdfast.open(postgres_url, world=world, busy_wait=2.0) as frozen:
            await frozen.history("cut").append("said", 1)
            gate = Gate(world, "commit.written")
            late = asyncio.ensure_future(frozen.history("cut").append("said", "frozen"))
            await gate.reached()
            async with holdfast.open(postgres_url, busy_wait=2.0) as other:
                assert (await other.history("cut").append("said", 2)).sequence == 2
                gate.open()
                with pytest.raises(StoreUnavailableError):
                    await late
                assert (await frozen.history("cut").append("said", 3)).sequence == 3
                assert [event.data for event in await other.history("cut").read()] == [1, 2, 3]

    asyncio.run(both())
