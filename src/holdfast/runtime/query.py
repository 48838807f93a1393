"""Queries of people: SQL that only reads, over a store that may be in use, with two limits."""

import asyncio

from holdfast.core.world import World
from holdfast.runtime.runtime import make_driver
from holdfast.store.archive import Answer as Answer  # For who shows it.
from holdfast.store.options import Options

LIMIT = 1_000
SECONDS = 10.0


async def query(
    url: str, text: str, *, limit: int = LIMIT, seconds: float = SECONDS, world: World | None = None
) -> Answer:
    """
    Run one query in the SQL of the store's database; it can change nothing.

    Args:
        url: of the store.
        text: one statement.
        limit: how many rows at most.
        seconds: how long it may take.
        world: clock and failpoints, for tests.

    Raises:
        TimeoutError: it took longer.
        InvalidValueError: the database does not understand it, or it would change something.
        StoreError: the store cannot be read.
    """
    return await asyncio.to_thread(_query, url, text, limit, seconds, world or World())


def _query(url: str, text: str, limit: int, seconds: float, world: World) -> Answer:
    driver = make_driver(url, Options(read_only=True), world)
    driver.open()
    try:
        return driver.archive().query(text, limit, seconds)
    finally:
        driver.close()
