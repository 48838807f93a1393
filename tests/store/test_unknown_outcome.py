"""
A COMMIT that fails leaves open whether it happened. Everybody is told so, nothing more is
accepted, and after opening again each unit can be asked for by its id (F8, F17).
"""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

import holdfast
from holdfast import Append, AtSequence, Outcome, Runtime, Unit
from holdfast.core.errors import OutcomeUnknownError, PoisonedError
from holdfast.core.world import World
from holdfast.testing.disk.disk import Call, Disk, Fault
from holdfast.testing.proxy import Cut, Proxy
from holdfast.testing.server import PostgresServer
from tests.store.gate import LIMIT, Gate

REFUSED = 2  # Index of the unit that is refused, among those of the failing batch.


def unit(rt: Runtime, data: int, *, expected: int | None = None) -> Unit:
    """Return a unit with an id of its own that appends a number."""
    expects = () if expected is None else (AtSequence("s", expected),)
    return Unit((Append("s", (rt.history("s").event("t", data),)),), expects, rt.unit_id())


async def fail_a_commit(rt: Runtime, world: World, fault: Callable[[], None]) -> list[Unit]:
    """Let the COMMIT of a batch fail and check what everybody is told; return its units."""
    batch = [unit(rt, 1), unit(rt, 2), unit(rt, 3, expected=77), unit(rt, 4)]
    late = unit(rt, 5)
    first = Gate(world, "commit.written")
    before = asyncio.gather(rt.commit(unit(rt, 0)))
    await first.reached()
    together = asyncio.gather(*map(rt.commit, batch), return_exceptions=True)
    await asyncio.sleep(0)  # The tasks submit; the writer, still at the gate, takes them as one.
    second = Gate(world, "commit.written", fault)
    first.open()
    await before
    await second.reached()
    behind = asyncio.gather(rt.commit(late), return_exceptions=True)
    await asyncio.sleep(0)
    second.open()
    async with asyncio.timeout(LIMIT):
        answers = [*await together, *await behind]
    for one, answer in zip(batch, answers, strict=False):
        assert isinstance(answer, OutcomeUnknownError), answers
        assert answer.unit_id == one.id.hex()
    assert isinstance(answers[-1], PoisonedError)
    return [*batch, late]


async def check_poisoned(rt: Runtime, lost: Unit) -> None:
    """Nothing more is accepted, and nothing is claimed that may turn out otherwise."""
    assert rt.poisoned
    with pytest.raises(PoisonedError):
        await rt.history("s").append("late")
    with pytest.raises(PoisonedError):
        await rt.outcome(lost.id)


async def check_resolved(url: str, units: list[Unit]) -> set[Outcome]:
    """Each unit is there whole or not at all, as its outcome says; also the next time."""
    found: list[list[Outcome]] = []
    for _ in range(2):
        async with holdfast.open(url) as rt:
            outcomes = [await rt.outcome(one.id) for one in units]
            assert outcomes[REFUSED] is outcomes[-1] is Outcome.ABSENT
            data = [n + 1 for n, one in enumerate(outcomes) if one is Outcome.COMMITTED]
            assert [event.data for event in await rt.history("s").read()] == [0, *data]
            assert await rt.verify() == []
            found.append(outcomes)
    assert found[0] == found[1]
    async with holdfast.open(url) as rt:
        await rt.history("s").append("again")
    of_batch = {one for n, one in enumerate(found[0][:-1]) if n != REFUSED}
    assert len(of_batch) == 1, "half a batch was committed"
    return of_batch


@pytest.mark.parametrize("call", [Call.SYNC, Call.WRITE])
@pytest.mark.parametrize("fault", [Fault.EIO, Fault.ENOSPC, Fault.SHORT])
@pytest.mark.parametrize("lasting", [False, True])
def test_a_disk_that_fails_in_commit_leaves_it_open_and_opening_again_tells(
    tmp_path: Path, call: Call, fault: Fault, lasting: bool
) -> None:
    """F8, F7. The same question has an answer on the store and on what a crash would leave."""
    folder = tmp_path / "live"
    folder.mkdir()
    url = f"sqlite:///{folder / 'store.db'}"

    async def run() -> list[Unit]:
        with Disk(folder) as disk:
            world = World(vfs=disk.vfs)

            def break_disk() -> None:
                disk.fail(1, fault, on=frozenset({call}), lasting=lasting)

            async with holdfast.open(url, world=world) as rt:
                units = await fail_a_commit(rt, world, break_disk)
                await check_poisoned(rt, units[0])
                # Another process copies: closing the files here would drop SQLite's locks.
                copy = ["cp", "-r", folder, tmp_path / "crashed"]
                await asyncio.to_thread(subprocess.run, copy, check=True)
        return units

    units = asyncio.run(run())
    asyncio.run(check_resolved(url, units))
    crashed = f"sqlite:///{tmp_path / 'crashed' / 'store.db'}"
    after_crash = asyncio.run(check_resolved(crashed, units))
    if call is Call.SYNC:
        # Everything was written, only not known to be safe: "failed" would have been a lie.
        assert after_crash == {Outcome.COMMITTED}


def test_reads_go_on_after_a_failed_commit(tmp_path: Path) -> None:
    """F8. What is durable is served; what is open is not shown."""

    async def run() -> None:
        with Disk(tmp_path) as disk:
            world = World(vfs=disk.vfs)
            async with holdfast.open(f"sqlite:///{tmp_path / 'a.db'}", world=world) as rt:
                await fail_a_commit(
                    rt, world, lambda: disk.fail(1, Fault.EIO, on=frozenset({Call.SYNC}))
                )
                assert [event.data for event in await rt.history("s").read()] == [0]

    asyncio.run(run())


def test_a_connection_lost_before_commit_is_told_and_resolved(postgres_url: str) -> None:
    """F17. The server ends the session: unknown to the caller, absent when asked."""

    def end_sessions() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
                " WHERE state = 'idle in transaction' AND datname = current_database()"
            )

    units = asyncio.run(_fail_on(postgres_url, end_sessions))
    assert asyncio.run(check_resolved(postgres_url, units)) == {Outcome.ABSENT}


def test_a_connection_lost_behind_commit_is_told_and_resolved(postgres_url: str) -> None:
    """F17. The server commits, the answer is lost: unknown to the caller, there when asked."""
    with Proxy(postgres_url) as proxy:
        units = asyncio.run(_fail_on(proxy.url, lambda: proxy.arm(Cut.AFTER)))
    assert asyncio.run(check_resolved(postgres_url, units)) == {Outcome.COMMITTED}


def test_a_server_killed_in_commit_is_told_and_resolved(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    """F18, F17. kill -9 of every process of the server: nothing acknowledged is lost."""
    units = asyncio.run(_fail_on(postgres_url, postgres_server.kill))
    postgres_server.start()
    assert asyncio.run(check_resolved(postgres_url, units)) == {Outcome.ABSENT}


async def _fail_on(url: str, fault: Callable[[], None]) -> list[Unit]:
    world = World()
    async with holdfast.open(url, world=world) as rt:
        units = await fail_a_commit(rt, world, fault)
        await check_poisoned(rt, units[0])
    return units
