"""The flusher: on a schedule of its own, whatever else fails, and what it tells."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import holdfast
from holdfast import BUFFERED, Runtime, field, state
from holdfast.core.errors import CodecError
from holdfast.core.world import World
from holdfast.runtime.service import Service
from holdfast.runtime.sessions.flush import FlushReport, Watchdog
from holdfast.runtime.sessions.session import Session
from holdfast.testing.clock import ManualClock
from tests.store.gate import LIMIT, Gate

HALF_TOO_LARGE = 9 * 2**20


@state(version=1)
class Meter:
    """A state of which only a buffered part changes."""

    name: str = ""
    used: int = field(default=0, tier=BUFFERED, kind="counter")
    note: str = field(default="", tier=BUFFERED, group="notes")


@state(version=1)
class Pages:
    """Buffered fields that go into one record."""

    left: str = field(default="", tier=BUFFERED)
    right: str = field(default="", tier=BUFFERED)


@state(version=1, history=True)
class ToldPages:
    """The same, told in an event too."""

    left: str = field(default="", tier=BUFFERED)
    right: str = field(default="", tier=BUFFERED)


async def use(session: Session[Any], **changes: Any) -> None:
    """Change fields in an edit of their own."""
    async with session.edit() as draft:
        for name, value in changes.items():
            setattr(draft, name, value)


async def failing() -> None:
    """Fail as a tick of another service may."""
    raise ZeroDivisionError


async def hanging() -> None:
    """Never come back."""
    await asyncio.get_running_loop().create_future()


@pytest.mark.parametrize("behave", [failing, hanging])
def test_flushing_goes_on_while_every_other_duty_fails_or_hangs(
    store_url: str, behave: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """L4. All services of a runtime but the flusher are broken; what is buffered is written."""

    async def run() -> None:
        broken: list[Service] = []
        flusher: list[Service] = []
        start = Service.start

        def starting(service: Service) -> None:
            if service.name == "flush":
                flusher.append(service)
            else:
                broken.append(service)
                monkeypatch.setattr(service, "tick", behave)
            start(service)

        monkeypatch.setattr(Service, "start", starting)
        async with holdfast.open(store_url, flush_interval=0.05) as rt:
            assert len(broken) > 2 and len(flusher) == 1
            session = rt.session(Meter, "a")
            for number in (1, 2, 3):
                await use(session, used=number)
                async with asyncio.timeout(LIMIT):
                    while session.dirty:
                        await rt.records.find("session.Meter.buffered", "a")
            assert (await rt.records.get("session.Meter.buffered", "a")).value["used"] == 3

    asyncio.run(run())


def test_a_flush_tells_how_much_was_at_risk(store_url: str) -> None:
    """L1, L4, L5. Sessions, bytes, the age of the oldest change; nothing if nothing changed."""

    async def run() -> None:
        clock = ManualClock()
        world = World(clock=clock)
        async with holdfast.open(store_url, flush_interval=3_600, world=world) as rt:
            await use(rt.session(Meter, "a"), used=1)
            clock.advance(7.0)
            await use(rt.session(Meter, "b"), note="x" * 100)
            clock.advance(3.0)
            report = await rt.flush()
            assert (report.sessions, report.oldest, report.left) == (2, 10.0, 0)
            assert 100 < report.size_bytes < 120
            assert await rt.flush() == FlushReport()

    asyncio.run(run())


def test_a_late_flush_is_counted(
    store_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L4. By a service of its own, once the last one that wrote all is two intervals ago."""

    async def run() -> None:
        started: dict[str, Service] = {}
        start = Service.start

        def starting(service: Service) -> None:
            started[service.name] = service
            start(service)

        monkeypatch.setattr(Service, "start", starting)
        clock = ManualClock()
        world = World(clock=clock)
        async with holdfast.open(store_url, flush_interval=10.0, world=world) as rt:
            watchdog = started["flush-watchdog"]
            assert isinstance(watchdog, Watchdog)
            gate = Gate(world, "commit.begun")
            session = rt.session(Meter, "a")
            await use(session, used=1)
            flushing = asyncio.create_task(rt.flush())
            await gate.reached()
            for seconds, late in ((15.0, 0), (10.0, 1), (10.0, 2)):
                clock.advance(seconds)
                await watchdog.tick()
                assert watchdog.late == late
            assert any("flush_late" in record.message for record in caplog.records)
            gate.open()
            await flushing
            await watchdog.tick()
            assert watchdog.late == 2

    asyncio.run(run())


def test_one_session_that_is_being_written_holds_up_no_other(store_url: str) -> None:
    """L4. Its turn comes when its own commit is through."""

    async def run() -> None:
        world = World()
        async with holdfast.open(store_url, flush_interval=3_600, world=world, batch_units=1) as rt:
            sessions = [rt.session(Meter, str(number)) for number in range(5)]
            for session in sessions:
                await use(session, used=1)
            gate = Gate(world, "commit.begun")
            editing = asyncio.create_task(use(sessions[2], name="x", used=2))
            await gate.reached()
            flushing = asyncio.create_task(rt.flush())
            await asyncio.sleep(0)
            gate.open()
            await asyncio.gather(editing, flushing)
            await rt.flush()
            assert not any(session.dirty for session in sessions)
            assert sum([await used(rt, number) for number in range(5)]) == 6

    asyncio.run(run())


@pytest.mark.parametrize("kind", [Pages, ToldPages])
def test_a_session_too_large_to_be_written_holds_up_no_other_and_not_itself(
    store_url: str, kind: type[Any]
) -> None:
    """L4. Its error is its own: the others are written, and it is as soon as it is smaller."""

    async def run() -> None:
        async with holdfast.open(store_url, flush_interval=3_600) as rt:
            before, large, behind = (rt.session(kind, key) for key in ("1", "2", "3"))
            await use(before, left="a")
            await use(large, left="x" * HALF_TOO_LARGE, right="x" * HALF_TOO_LARGE)
            await use(behind, left="b")
            async with asyncio.timeout(LIMIT):
                with pytest.raises(CodecError):
                    await rt.flush()
                assert (before.dirty, large.dirty, behind.dirty) == (False, True, False)
                await use(before, left="c")
                await use(large, left="")
                assert (await rt.flush()).sessions == 2
            assert not before.dirty and not large.dirty

    asyncio.run(run())


async def used(rt: Runtime, number: int) -> int:
    """Return what is stored of a meter."""
    record = await rt.records.get("session.Meter.buffered", str(number))
    return int(record.value["used"])


@pytest.mark.parametrize("chunk_bytes", [1, 3_000, 2**20])
def test_a_large_flush_is_cut_into_chunks(
    store_url: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L6, F22. However large the chunks are, each session is written whole and once."""
    monkeypatch.setattr("holdfast.runtime.sessions.flush.CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr("holdfast.runtime.sessions.flush.CHUNK_SESSIONS", 16)

    async def run() -> None:
        async with holdfast.open(store_url, flush_interval=3_600) as rt:
            sessions = [rt.session(Meter, str(number)) for number in range(50)]
            for number, session in enumerate(sessions):
                await use(session, used=number, note="x" * 500)
            assert (await rt.flush()).sessions == 50
            for kind in ("session.Meter.buffered", "session.Meter.buffered.notes"):
                records = await rt.records.list(kind)
                assert len(records) == 50 and {record.version for record in records} == {1}

    asyncio.run(run())
