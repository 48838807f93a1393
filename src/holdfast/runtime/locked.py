"""Checking a store that is encrypted, without its key: digests and chains, which need none."""

from collections.abc import Sequence

from holdfast.core.world import World
from holdfast.runtime.runtime import make_driver
from holdfast.store.options import Options
from holdfast.store.port import ALL, Depth, Finding
from holdfast.store.port import Opened as Opened
from holdfast.store.store import Store


async def verify_locked(url: str, depth: Depth = ALL) -> tuple[Sequence[Finding], Opened]:
    """
    Return what does not match its digest, and what was opened.

    What is sealed is not opened, so it is not found out whether it was put in another's place
    by somebody who made the digests anew.

    Raises:
        StoreError: the store is refused, or cannot be reached.
    """
    options, world = Options(read_only=True), World()
    store = Store(make_driver(url, options, world), options, world)
    opened = await store.open(locked=True)
    try:
        return await store.verify(depth), opened
    finally:
        await store.close()
