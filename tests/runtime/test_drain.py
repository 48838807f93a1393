"""The way out: with work under way, out of patience, cancelled, by SIGTERM."""

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast
from holdfast import BUFFERED, Runtime, field, state
from holdfast.core.recovery import Phase
from holdfast.core.refusal import NotReadyError
from holdfast.core.world import World
from holdfast.runtime.work.entry import Entry
from tests.store.gate import Gate

SERVER = """
import asyncio, signal, sys
import holdfast
async def main():
    async with holdfast.open(sys.argv[1], flush_interval=3600) as rt:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        done = await rt.ledger.begin("done")
        await rt.ledger.begin("hangs")
        print("ready", flush=True)
        await stop.wait()
        asyncio.get_running_loop().call_soon(lambda: asyncio.ensure_future(done.settle("done")))
        print((await rt.drain(deadline=0.5)).unfinished, flush=True)
asyncio.run(main())
"""


@state(version=1)
class Talk:
    cost: float = field(default=0.0, tier=BUFFERED)


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.db'}"


async def stage(rt: Runtime, name: str) -> None:
    """Let everybody else run until the drain is at a stage."""
    for _ in range(1_000):
        if rt.health().stage == name:
            return
        await asyncio.sleep(0)
    pytest.fail(f"the drain never came to {name}")


async def interrupted(url: str) -> list[tuple[str, ...]]:
    """Return what the next recovery finds; it has to be all there is to find."""
    async with holdfast.open(url) as rt:
        report = rt.health().report
        assert rt.opened.alone
        found = [info.key for info in await rt.ledger.interrupted()]
        assert report is not None and report.clean is not bool(found)
        return found


def test_a_drain_lets_work_end_and_begins_nothing_new(tmp_path: Path) -> None:
    """H6, X7. Work under way may still change state; afterwards nothing is left to recover."""
    url = url_of(tmp_path)

    async def run() -> None:
        async with holdfast.open(url, flush_interval=3600) as rt:
            entry: Entry = await rt.ledger.begin("turn")
            async with rt.session(Talk, "a") as talk, talk.edit() as draft:
                draft.cost = 2.0
            draining = asyncio.create_task(rt.drain(3600.0))
            await stage(rt, "waiting")
            assert rt.health().phase is Phase.DRAINING and not rt.health().ready
            with pytest.raises(NotReadyError):
                await rt.ledger.begin("other")
            async with rt.session(Talk, "a") as talk, talk.edit() as draft:
                draft.cost += 1.0
            await entry.settle("done")
            assert (await draining).unfinished == ()
            assert rt.health().phase is Phase.CLOSED
        assert await interrupted(url) == []
        async with holdfast.open(url) as rt, rt.session(Talk, "a") as talk:
            assert talk.value.cost == 3.0

    asyncio.run(run())


def test_what_is_unfinished_at_the_deadline_is_what_the_next_start_finds(tmp_path: Path) -> None:
    """H6. Exactly that, and it is named at once."""
    url = url_of(tmp_path)

    async def run() -> None:
        async with holdfast.open(url) as rt:
            await rt.ledger.begin("hangs")
            await (await rt.ledger.begin("ends")).settle("done")
            assert (await rt.drain(0.05)).unfinished == ("hangs",)
            with pytest.raises(holdfast.StateError):
                await rt.history("s").append("late")
        assert await interrupted(url) == [("hangs",)]

    asyncio.run(run())


def test_a_drain_that_is_cancelled_releases_all_the_same(tmp_path: Path) -> None:
    """H6, F19. Nothing stays open, and exactly the unfinished work is left."""
    url = url_of(tmp_path)

    async def run() -> None:
        async with holdfast.open(url) as rt:
            await rt.ledger.begin("hangs")
            draining = asyncio.create_task(rt.drain(3600.0))
            await stage(rt, "waiting")
            draining.cancel()
            with pytest.raises(asyncio.CancelledError):
                await draining
            assert rt.health().phase is Phase.CLOSED
        assert await interrupted(url) == [("hangs",)]

    asyncio.run(run())


def test_leaving_the_block_during_a_drain_waits_for_it(tmp_path: Path) -> None:
    """H6. A signal handler drains, and the program goes on to its end: once is enough."""

    async def run() -> None:
        async with holdfast.open(url_of(tmp_path)) as rt:
            entry: Entry = await rt.ledger.begin("turn")
            draining = asyncio.create_task(rt.drain(3600.0))
            await stage(rt, "waiting")
            settling = asyncio.create_task(entry.settle("done"))
        await settling
        assert (await draining).unfinished == ()
        assert await rt.drain() == await draining
        await rt.close()

    asyncio.run(run())


def test_a_drain_during_the_boot_ends_the_boot(tmp_path: Path) -> None:
    """X7. Whoever stops it while it comes up need not wait, and nothing stays open."""

    async def run() -> None:
        world = World()
        gate, released = Gate(world, "boot.entered"), Gate(world, "close.released")
        async with holdfast.open(url_of(tmp_path), world=world, wait_ready=False) as rt:
            waiting = asyncio.create_task(rt.ready())
            await gate.reached()
            assert (await rt.drain()).unfinished == ()
            assert rt.health().phase is Phase.CLOSED
            gate.open()
            await released.reached()
            released.open()
            with pytest.raises(NotReadyError):
                await waiting

    asyncio.run(run())


def test_a_process_that_gets_sigterm_leaves_only_what_it_could_not_finish(tmp_path: Path) -> None:
    """H6. A real process and a real signal; the exit is clean."""
    url = url_of(tmp_path)
    program = [sys.executable, "-c", SERVER, url]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "('hangs',)\n"
        assert child.wait(30) == 0
    assert asyncio.run(interrupted(url)) == [("hangs",)]
