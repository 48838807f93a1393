"""
A side of a comparison: a process that does jobs and says how long each took.

Ours and a peer's are the same program as far as this goes, so that both are measured alike. Jobs
come in as lines of JSON, answers go out as such. This file runs in the peer's environment too:
standard library only.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

Job = Callable[..., Awaitable[dict[str, Any]]]
Instant = tuple[float, float]


def now() -> Instant:
    """Return the time, and the CPU time of all threads of this process."""
    return time.perf_counter(), time.process_time()


def between(start: Instant, end: Instant) -> dict[str, float]:
    """Return what passed between two instants."""
    return {"seconds": end[0] - start[0], "cpu": end[1] - start[1]}


class Track:
    """
    How far the runs of this process came, and whether they stand still there.

    Attributes:
        begun: when the function was first called.
        passed: when step `mark` began first; what comes before it is read back by then.
    """

    def __init__(self) -> None:
        """Let every run go on to its end."""
        self.stop_at = -1
        self.mark = -1
        self.begun: Instant | None = None
        self.passed: Instant | None = None
        self._lock = threading.Lock()  # Workflows of the peer run in threads.
        self._stopped = 0
        self._wanted = 0
        self._on_stopped: Callable[[], object] = lambda: None

    def begin(self) -> None:
        """Note that a function was called."""
        self.begun = self.begun or now()

    def reach(self, place: int) -> bool:
        """Note that a step begins; return whether it is to stand still for ever."""
        if place == self.mark:
            self.passed = self.passed or now()
        if place != self.stop_at:
            return False
        with self._lock:
            self._stopped += 1
            if self._stopped == self._wanted:
                self._on_stopped()
        return True

    async def stopping(self, runs: int) -> None:
        """Wait until so many runs stand still."""
        all_do = asyncio.Event()
        loop = asyncio.get_running_loop()
        with self._lock:
            self._wanted = runs
            self._on_stopped = lambda: loop.call_soon_threadsafe(all_do.set)
            if self._stopped >= runs:
                return
        await all_do.wait()


async def serve(jobs: dict[str, Job]) -> None:
    """Do what is asked for on standard input until it ends; say first that this is ready."""
    print(json.dumps({"ready": True}), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        given = json.loads(line)
        start = now()
        said = await jobs[given.pop("job")](**given)
        print(json.dumps(between(start, now()) | said), flush=True)
