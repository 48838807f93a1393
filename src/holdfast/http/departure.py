"""
The way out when somebody else's server runs the application.

A server such as uvicorn waits for open connections before it tells an application that it ends, and
a stream does not end by itself: both would wait for ever. So while streams are open, a signal
that ends the process is heard here too, before whoever handled it so far.

Invariants: whoever handled the signal before still does; nothing is changed where nobody handles
it, outside the main thread, or while no stream is open.
"""

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

Handler = Callable[[int, FrameType | None], object]
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Departure:
    """Hears that a process is told to end."""

    def __init__(self, leave: Callable[[], None]) -> None:
        """Take what is done then, in the event loop."""
        self._leave = leave
        self._heard: dict[int, tuple[Handler, Handler]] = {}

    def listen(self) -> None:
        """Hear signals from now on; a second call does nothing."""
        if self._heard or threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        for one in _SIGNALS:
            before = signal.getsignal(one)
            if callable(before):
                ours = self._chained(loop, before)
                signal.signal(one, ours)
                self._heard[one] = (ours, before)

    def forget(self) -> None:
        """Leave signals to whoever handled them before."""
        heard, self._heard = self._heard, {}
        for one, (ours, before) in heard.items():
            if signal.getsignal(one) is ours:
                signal.signal(one, before)

    def _chained(self, loop: asyncio.AbstractEventLoop, before: Handler) -> Handler:
        def heard(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._leave)
            before(number, frame)

        return heard
