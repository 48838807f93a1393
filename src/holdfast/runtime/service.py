"""
A duty that runs in the background: the one loop of the runtime.

The contract, for every service:

- `start` begins the loop; starting twice is an error, starting after `stop` begins anew.
- `stop` asks it to end and returns when it has; stopping twice, or before `start`, is fine.
- `tick` does the work once. A tick that raises is logged and counted, and the loop goes on: no
  service can be ended, or another one held up, by a fault in its work.
- Between ticks the loop waits `interval` seconds, or until it is nudged.

Nothing else in the runtime sleeps, makes tasks or swallows cancellation.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
Piece = Callable[[], Coroutine[object, object, object]]
log = logging.getLogger("holdfast")


class Service(ABC):
    """A loop around `tick`."""

    def __init__(self, name: str, interval: float) -> None:
        """Take a name for logs and the seconds between two ticks (0: at once)."""
        self.name = name
        self.interval = interval
        self.ticks = 0
        self.failures = 0
        self._task: asyncio.Task[None] | None = None
        self._nudged = asyncio.Event()

    @abstractmethod
    async def tick(self) -> None:
        """Do the work once."""

    def start(self) -> None:
        """Begin the loop."""
        if self._task is not None:
            raise RuntimeError(f"service {self.name} is running already")
        self._task = asyncio.create_task(self._run(), name=f"holdfast-{self.name}")

    async def stop(self) -> None:
        """End the loop; returns when it has ended."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def nudge(self) -> None:
        """Make the next tick happen now."""
        self._nudged.set()

    async def _run(self) -> None:
        while True:
            if self.interval:
                # Not `wait_for`: before Python 3.12 it loses a cancellation that comes together
                # with what it waits for, and then `stop` would wait for ever.
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.interval):
                        await self._nudged.wait()
                self._nudged.clear()
            else:
                # A tick that does not wait must not keep everybody else from running.
                await asyncio.sleep(0)
            try:
                await self.tick()
                self.ticks += 1
            except Exception:
                self.failures += 1
                log.exception("event=service_failed service=%s", self.name)
                # What fails because it is ended must not go on for ever.
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    return
                # A tick that fails at once must not spin.
                await asyncio.sleep(max(self.interval, 0.1))


class Errand:
    """Work that is done once, beside whoever started it; `stop` ends it, done or not."""

    def __init__(self, name: str) -> None:
        """Take a name for the task."""
        self.name = name
        self._task: asyncio.Task[None] | None = None
        self._begun = False
        self._is_to_end = False

    def start(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Begin; whoever does the work tells its outcome, so that a failure is not lost."""
        self._task = asyncio.create_task(self._run(work), name=f"holdfast-{self.name}")

    async def _run(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        self._begun = True
        if self._is_to_end:
            self.cancel()
        try:
            await work()
        except Exception:
            log.exception("event=errand_failed errand=%s", self.name)

    def cancel(self) -> None:
        """Ask it to end; whoever does the work says what becomes of it, so that begins first."""
        self._is_to_end = True
        if self._task is not None and self._begun:
            self._task.cancel()

    async def stop(self) -> None:
        """End it; returns when it has ended."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def each(work: Iterable[Callable[[], Coroutine[object, object, T]]]) -> list[T]:
    """
    Do pieces of work one after the other; one that fails holds up none of those behind it.

    Raises:
        Exception: what failed first, with a note of whatever else did.
    """
    answers: list[T] = []
    failures: list[Exception] = []
    for piece in work:
        try:
            answers.append(await piece())
        except Exception as error:
            failures.append(error)
    if failures:
        for other in failures[1:]:
            failures[0].add_note(f"failed too: {other}")
        raise failures[0]
    return answers


async def together(*work: Callable[[], Coroutine[object, object, None]]) -> None:
    """Run several pieces of work side by side; the first failure cancels the others."""
    async with asyncio.TaskGroup() as group:
        for piece in work:
            group.create_task(piece())


async def first_of(*work: Callable[[], Coroutine[object, object, object]]) -> None:
    """Run several pieces of work side by side until the first is done; the others are ended."""
    tasks = [asyncio.create_task(piece()) for piece in work]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


def carry_on(
    work: Coroutine[Any, Any, T], then: Callable[[], None] | None = None
) -> "asyncio.Future[T]":
    """
    Begin work that goes on to its end also if whoever waits for it is cancelled.

    Args:
        work: what is done.
        then: called when it has ended, in whatever way.
    """
    task = asyncio.create_task(work)
    if then is not None:
        task.add_done_callback(lambda _: then())
    return asyncio.shield(task)


async def unbroken(work: Coroutine[Any, Any, T]) -> T:
    """Do work to its end; whoever waits and is cancelled meanwhile is cancelled after that."""
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # Read once, so that it is not logged: nobody waits for it any more.
        raise cancelled
    return task.result()


async def breathe() -> None:
    """Let everybody else run before going on with a long piece of work."""
    await asyncio.sleep(0)
