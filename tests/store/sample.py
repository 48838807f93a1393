"""A store with some of everything, and ways to look at it from outside; for several tests."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw

import holdfast
from holdfast import PutRecord, Unit
from holdfast.core import codec
from holdfast.core.errors import HoldfastError
from holdfast.core.world import World
from holdfast.runtime.runtime import Runtime, make_driver
from holdfast.store.options import Options
from holdfast.store.port import Driver, Finding

T = TypeVar("T")
NOTES, OTHER, TRIMMED, CLOSED = "notes", "other", "trimmed", "closed/for good"
EVENTS = 8
STREAMS = {NOTES: 0, OTHER: 0, TRIMMED: 3, CLOSED: 0}
TABLES = (
    "store",
    "stream",
    "event",
    "record",
    "lease",
    "blob",
    "snapshot",
    "outcome",
    "incarnation",
    "migration",
    "sqlite_schema",
)


def url_of(path: Path) -> str:
    """Return the address of an SQLite store."""
    return f"sqlite:///{path}"


def run(url: str, work: Callable[[Runtime], Awaitable[T]], **options: Any) -> T:
    """Open a store, do something with it, close it."""

    async def whole() -> T:
        async with holdfast.open(url, **options) as rt:
            return await work(rt)

    return asyncio.run(whole())


def payload_of(stream: str, number: int) -> dict[str, object]:
    """Return the data of an event of the sample."""
    return {"n": number, "text": f"{stream} {number:04d} {'-' * 8}"}


async def fill(rt: Runtime) -> None:
    """Write some of everything."""
    for stream in STREAMS:
        for number in range(1, EVENTS + 1):
            meta: dict[str, object] = {"by": f"{stream}-writer-{number}"}
            await rt.history(stream).append("noted", payload_of(stream, number), meta=meta)
    await rt.history(TRIMMED).trim(STREAMS[TRIMMED] + 1)
    await rt.history(CLOSED).close()
    for number in range(4):
        value = codec.encode({"value": number, "pad": "=" * 40})
        await rt.commit(Unit((PutRecord("note", ("k", str(number)), value, f"tag{number % 2}"),)))
    await rt.records.delete("note", ("k", "3"))
    await rt.leases.grant("held", 3600.0, holder="somebody")
    await (await rt.leases.grant("given back", 60.0, holder="nobody")).release()
    await rt.blobs.put(b"a small blob")
    await rt.blobs.put(b"a larger blob " * 400)
    for sequence in (2, 5):
        await rt.snapshots.put("state", NOTES, sequence, b"state %d " % sequence * 300)


async def contents(rt: Runtime) -> dict[str, Any]:
    """Return what `fill` wrote, as ordinary reads give it."""
    streams = {name: await rt.history(name).read(after) for name, after in STREAMS.items()}
    snapshot = await rt.snapshots.latest("state")
    held = await rt.leases.find("held")
    return {
        "streams": {
            name: [(event.sequence, event.type, event.data, event.metadata) for event in page]
            for name, page in streams.items()
        },
        "listed": [(info.name, info.last_sequence, info.closed) for info in await rt.streams()],
        "records": {
            key: None
            if (found := await rt.records.find("note", ("k", key))) is None
            else found.value
            for key in "0123"
        },
        "lease": held and (held.key, held.generation, held.holder),
        "blobs": [
            await rt.blobs.get(codec.content_digest(data).hex())
            for data in (b"a small blob", b"a larger blob " * 400)
        ],
        "snapshot": snapshot and (snapshot.stream, snapshot.sequence, snapshot.data),
    }


@contextmanager
def opened(url: str, world: World | None = None, **options: Any) -> Iterator[Driver]:
    """Lend an open driver."""
    driver = make_driver(url, Options(**options), world or World())
    driver.open()
    try:
        yield driver
    finally:
        driver.close()


def verified(url: str) -> list[Finding]:
    """Open a store and return what `verify` finds."""
    with opened(url) as driver:
        return list(driver.verify())


def refusal(url: str, **options: Any) -> HoldfastError | None:
    """Return the error with which a store is refused, or None if it opens."""
    try:
        with opened(url, **options):
            return None
    except HoldfastError as error:
        return error


def dump(path: Path) -> dict[str, list[Any]] | None:
    """
    Return every row SQLite gives for a closed main file, or None if it gives an error.

    When a migration was applied is nobody's data, so it is left out.
    """
    found: dict[str, list[Any]] = {}
    try:
        db = apsw.Connection(f"file:{path}?immutable=1", flags=apsw.SQLITE_OPEN_READONLY | 64)
        for table in TABLES:
            shown = "number, name, checksum" if table == "migration" else "*"
            found[table] = [tuple(row) for row in db.execute(f"SELECT {shown} FROM {table}")]
        db.close()
    except (apsw.Error, UnicodeDecodeError):
        return None
    return found
