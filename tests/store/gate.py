"""Stopping the writer at a point until the test lets it go on."""

import asyncio
from collections.abc import Callable
from threading import Event

from holdfast.core.world import World

LIMIT = 30.0


class Gate:
    """Stops the writer once at a point."""

    def __init__(self, world: World, point: str, then: Callable[[], None] | None = None) -> None:
        """Arm the point; `then` happens in the writer's thread when the gate opens."""
        self._reached = Event()
        self._open = Event()
        self._then = then
        world.failpoints.arm(point, self._stop)

    async def reached(self) -> None:
        """Wait until the writer stands at the gate."""
        assert await asyncio.to_thread(self._reached.wait, LIMIT), "the point was never reached"

    def open(self) -> None:
        """Let the writer go on."""
        self._open.set()

    def _stop(self) -> None:
        if self._reached.is_set():
            return
        self._reached.set()
        assert self._open.wait(LIMIT), "the gate was never opened"
        if self._then is not None:
            self._then()
