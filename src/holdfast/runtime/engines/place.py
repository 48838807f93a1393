"""Which working memory is meant, and what keeps it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

from holdfast.core.engine import shown, stream_of
from holdfast.core.key import Key
from holdfast.core.redaction import Redactor
from holdfast.runtime.damage import Damages
from holdfast.runtime.engines.engine import Engine
from holdfast.runtime.engines.post import Post
from holdfast.runtime.engines.turn import SLICE
from holdfast.store.store import Store

T = TypeVar("T")
Migrate = Callable[[list[Any]], list[Any]]
"""Takes the contents of a memory of other rules, and returns those that go on."""


class Place(NamedTuple):
    """
    Which working memory, and what keeps it.

    Attributes:
        store: where it is kept.
        damages: where damage is noted.
        post: by which its requests are written.
        threads: where upkeep works; not those of the loop, which a program may fill with
            threads that wait for a request.
        engine: its rules.
        name: of the engine.
        key: of the memory; empty if the engine has one alone.
        redaction: what is not stored as it is.
        pause: seconds for which upkeep holds up requests at a stretch.
        migrate: what of a memory of other rules is taken over; None refuses such a memory.
        held: is told how long upkeep held up requests at a stretch.
    """

    store: Store
    damages: Damages
    post: Post
    threads: Executor
    engine: Engine
    name: str
    key: Key
    redaction: Redactor
    pause: float = SLICE
    migrate: Migrate | None = None
    held: Callable[[float], None] = lambda _: None

    @property
    def stream(self) -> str:
        """The journal; snapshots have the same name."""
        return stream_of(self.name, self.key)

    @property
    def words(self) -> str:
        """It in words."""
        return shown(self.name, self.key)

    async def aside(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run upkeep in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)
