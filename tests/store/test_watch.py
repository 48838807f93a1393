"""What other openings commit is noticed, so that who follows a stream is woken."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import holdfast
from holdfast import Runtime
from holdfast.core.event import Event
from holdfast.core.unit import Append, CloseStream, Unit
from holdfast.core.world import World
from holdfast.runtime.runtime import make_driver
from holdfast.store.options import Options
from holdfast.store.port import Driver
from holdfast.store.sqlite.driver import SqliteDriver
from tests.store.gate import LIMIT


def _said(stream: str) -> Append:
    return Append(stream, (Event.of("said"),))


def _append(driver: Driver, stream: str) -> None:
    unit_id = World().ids.unit(driver.last_number())
    driver.commit([Unit((_said(stream),), (), unit_id)])


def test_what_came_between_opening_and_the_first_own_commit_is_told(tmp_path: Path) -> None:
    """C1. Found by seed 491 of the simulation: a follower waited for events that were there."""
    one, two = (SqliteDriver(tmp_path / "a.db", Options(), World()) for _ in range(2))
    one.open()
    try:
        two.open()
        two.wait_foreign(0.0)
        _append(one, "theirs")
        _append(two, "ours")
        told = two.wait_foreign(0.0)
        assert told.foreign
        assert "theirs" in told.streams
    finally:
        two.close()
        one.close()


def test_what_we_committed_ourselves_is_no_news(kept_url: str) -> None:
    """C1, A4. Among the events of others too; ours were told when they were committed."""
    one, two = (make_driver(kept_url, Options(), World()) for _ in range(2))
    one.open()
    try:
        two.open()
        two.wait_foreign(0.0)
        _append(two, "ours")
        assert two.wait_foreign(0.0).streams == ()
        _append(two, "ours")
        _append(one, "theirs")
        _append(two, "ours")
        _append(one, "shared")
        _append(two, "shared")
        assert sorted(two.wait_foreign(0.0).streams) == ["shared", "theirs"]
        assert two.wait_foreign(0.0).streams == ()
        assert sorted(one.wait_foreign(0.0).streams) == ["ours", "shared"]
    finally:
        two.close()
        one.close()


def test_what_has_no_event_is_news_also_behind_a_commit_of_ours(kept_url: str) -> None:
    """A4, C1. A closed stream; who follows it ends. On PostgreSQL also if no hint came of it."""
    one, two = (make_driver(kept_url, Options(), World()) for _ in range(2))
    one.open()
    try:
        two.open()
        _append(one, "theirs")
        two.wait_foreign(0.0)
        one.commit([Unit((CloseStream("theirs"),), (), World().ids.unit(one.last_number()))])
        _append(two, "ours")
        told = two.wait_foreign(0.0)
        assert told.foreign
        assert told.streams == ()
        assert not two.wait_foreign(0.0).foreign
    finally:
        two.close()
        one.close()


@asynccontextmanager
async def _busy(rt: Runtime) -> AsyncGenerator[None]:
    """Have an opening commit steadily, so that there is no quiet moment."""

    async def commit() -> None:
        while True:
            await rt.commit(Unit((_said("busy"),)))

    committing = asyncio.create_task(commit())
    try:
        yield
    finally:
        committing.cancel()


async def _follow(rt: Runtime, stream: str, until: int, waits: asyncio.Event) -> None:
    """Read until so many events are there or the stream ends; tell when there is but waiting."""
    with rt.history(stream).attach() as reader:
        page = await reader.read(0)
        while not page.ended and page.reached < until:
            waits.set()
            await reader.wait()
            page = await reader.read(page.reached)


def test_who_follows_a_closed_stream_ends_while_others_are_written_to(kept_url: str) -> None:
    """A4, C1. What has no event is told within a second, however much there is to tell."""

    async def run() -> None:
        async with holdfast.open(kept_url) as ours, holdfast.open(kept_url) as theirs:
            await theirs.commit(Unit((_said("followed"),)))
            waits = asyncio.Event()
            following = asyncio.create_task(_follow(ours, "followed", 2, waits))
            await waits.wait()
            async with _busy(theirs), asyncio.timeout(LIMIT):
                await theirs.commit(Unit((_said("busy"), CloseStream("followed"))))
                await following

    asyncio.run(run())


def test_of_more_streams_than_are_named_at_once_each_is_told(
    kept_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C1. Those that had no place in the answer too, while others are written to."""
    monkeypatch.setattr("holdfast.store.reader.PAGE_ROWS", 3)

    async def run() -> None:
        async with holdfast.open(kept_url) as ours, holdfast.open(kept_url) as theirs:
            names = [f"s{number}" for number in range(8)]
            waits = {name: asyncio.Event() for name in names}
            following = [asyncio.create_task(_follow(ours, name, 1, waits[name])) for name in names]
            for each in waits.values():
                await each.wait()
            async with _busy(theirs), asyncio.timeout(LIMIT):
                await theirs.commit(Unit(tuple(_said(name) for name in (*names, "busy"))))
                await asyncio.gather(*following)

    asyncio.run(run())
