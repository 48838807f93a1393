"""What grows with work, and what keeps it from growing: the log, trimmed streams, outcomes."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import apsw

import holdfast
from holdfast import Append, Event, TrimStream, Unit
from holdfast.core.world import World
from holdfast.runtime.runtime import Runtime
from holdfast.testing.clock import ManualClock
from tests.store.sample import url_of

PAGE_BYTES = 4_096
CHECKPOINT_PAGES = 50
READ_SECONDS = 0.01
KEPT = 50
RETENTION = 10.0


async def keep_some(rt: Runtime, clock: ManualClock, numbers: range) -> None:
    """Append events one by one and keep only the last ones."""
    for number in numbers:
        clock.advance(0.1)
        event = Event.of("t", "x" * 1_000)
        await rt.commit(Unit((Append("a", (event,)), TrimStream("a", max(1, number - KEPT)))))


@contextmanager
def overlapping_readers(path: Path) -> Iterator[None]:
    """Let there be a reader at every moment: the next one begins before the last one ends."""
    stop = threading.Event()

    def begin() -> apsw.Connection:
        reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        reader.execute("BEGIN; SELECT count(*) FROM event")
        return reader

    def read() -> None:
        reader = begin()
        while not stop.wait(READ_SECONDS):
            ended, reader = reader, begin()
            ended.close(True)
        reader.close(True)

    with ThreadPoolExecutor() as pool:
        reading = pool.submit(read)
        yield
        stop.set()
        reading.result()


def test_readers_that_always_overlap_do_not_keep_the_log_from_beginning_anew(
    tmp_path: Path,
) -> None:
    """X9. A recovery reads the log, so it may not grow with the work done."""
    path = tmp_path / "store.db"
    log = path.with_name("store.db-wal")

    async def work() -> int:
        largest = 0
        async with holdfast.open(url_of(path), checkpoint_pages=CHECKPOINT_PAGES) as rt:
            with overlapping_readers(path):
                for _ in range(400):
                    await rt.history("a").append("t", "x" * 2_000)
                    largest = max(largest, log.stat().st_size)
        return largest

    # It begins anew once it is four times as long as it should be and nobody reads for long.
    assert asyncio.run(work()) < 7 * CHECKPOINT_PAGES * PAGE_BYTES


def test_a_store_that_forgets_as_much_as_it_learns_keeps_its_size(tmp_path: Path) -> None:
    """X9, R9. Trimmed events and outcomes past their retention make room for what comes."""
    path = tmp_path / "store.db"
    clock = ManualClock()
    limits = {"checkpoint_pages": CHECKPOINT_PAGES, "outcome_retention": RETENTION}

    async def work() -> tuple[int, int]:
        async with holdfast.open(url_of(path), world=World(clock=clock), **limits) as rt:
            await keep_some(rt, clock, range(1, 201))
        early = path.stat().st_size
        async with holdfast.open(url_of(path), world=World(clock=clock), **limits) as rt:
            await keep_some(rt, clock, range(201, 1_201))
            assert (await rt.history("a").info()).first_sequence == 1_200 - KEPT
            assert await rt.verify() == []
        return early, path.stat().st_size

    early, late = asyncio.run(work())
    assert late < 1.2 * early


def test_a_trim_in_one_unit_with_what_replaces_it_is_one_step(tmp_path: Path) -> None:
    """X9. Compaction: what goes and what stands for it, both or neither, and never an empty gap."""

    async def work() -> None:
        async with holdfast.open(url_of(tmp_path / "store.db")) as rt:
            history = rt.history("a")
            await history.append_all([history.event("t", n) for n in range(10)])
            summary = Event.of("sum", sum(range(10)))
            await rt.commit(Unit((Append("a", (summary,)), TrimStream("a", 11))))
            assert [event.data for event in await history.read(10)] == [45]
            assert (await history.info()).first_sequence == 11

    asyncio.run(work())
