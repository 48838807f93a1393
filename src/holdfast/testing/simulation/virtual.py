"""
An event loop without threads, without waiting, and with an order of its own for each seed.

Time is a number that jumps to the next timer when nothing is ready. Of what is ready, any may
come next; a callback may stall for seconds; a function for an executor runs in the loop itself,
some virtual time after it was handed over, and its result arrives some time after that. All of
it is drawn from one source of randomness, so that the same seed gives the same order.

What runs belongs to an *owner*, a name that is kept in the context and therefore inherited by
every task, callback and executor function. An owner can be frozen for a while, or killed: then
nothing of it ever runs again, no `finally`, no callback, as after SIGKILL.
"""

import asyncio
import contextvars
import heapq
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import Executor
from contextlib import suppress
from random import Random
from typing import Any, Final, TypeVar, TypeVarTuple, Unpack

__all__ = ["OWNER", "BrokenError", "Killed", "VirtualLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
OWNER: Final = contextvars.ContextVar("owner", default="")
STALLED_SHARE: Final = 0.01
STALL_MAX: Final = 6.0
HAND_OVER_MAX: Final = 0.01
SECONDS_MAX: Final = 1_000.0


class BrokenError(Exception):
    """A promise was broken, or nothing can go on any more."""


class Killed(BaseException):
    """Raised where an owner was killed within a callback, to leave it."""


class _Call:
    """A callback that waits for its turn; what asyncio calls a handle."""

    __slots__ = ("args", "context", "dropped", "owner", "run")

    def __init__(
        self,
        run: Callable[..., object],
        args: tuple[Any, ...],
        context: contextvars.Context | None,
    ) -> None:
        self.run = run
        self.args = args
        self.context = contextvars.copy_context() if context is None else context
        self.owner = self.context.get(OWNER, "")
        self.dropped = False

    def cancel(self) -> None:
        self.dropped = True

    def cancelled(self) -> bool:
        return self.dropped


class VirtualLoop(asyncio.BaseEventLoop):
    """
    Runs callbacks in a seeded order at virtual times.

    Attributes:
        random: the only source of chance.
        stalling: whether callbacks of owners may stall.
        writes: how often anybody may have written to what all share; who writes counts.
        steps: callbacks that ran.
        stalls: callbacks that stalled.
    """

    def __init__(self, random: Random) -> None:
        """Take the source of chance; time begins at 0."""
        super().__init__()
        self.random = random
        self.stalling = False
        self.writes = 0
        self.steps = 0
        self.stalls = 0
        self._now = 0.0
        self._number = 0
        self._calls: list[_Call] = []
        self._timers: list[tuple[float, int, _Call]] = []
        self._frozen: dict[str, float] = {}
        self._dead: set[str] = set()
        self._tasks: list[asyncio.Task[Any]] = []
        self._failure: BaseException | None = None
        self._over = False

    # What asyncio and the product ask for.

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Any:
        """Run a callback among those that are ready."""
        call = _Call(callback, args, context)
        if not self._over:
            self._calls.append(call)
        return call

    call_soon_threadsafe = call_soon

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Any:
        """Run a callback at a virtual time."""
        call = _Call(callback, args, context)
        if not self._over:
            self._at(when, call)
        return call

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Any:
        """Run a callback after some virtual time."""
        call = _Call(callback, args, context)
        if not self._over:
            self._at(self._now + delay, call)
        return call

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Run a function in the loop, later, and hand over its result later still."""
        if getattr(executor, "_shutdown", False):
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: asyncio.Future[T] = self.create_future()
        self.call_later(self.hand_over(), self._execute, future, func, args)
        return future

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        """Start a task and remember it."""
        return self._begin(coro, name, context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Let what nobody handled end the simulation, unless it is over or its owner dead."""
        if not self._over and OWNER.get() not in self._dead:
            error = context.get("exception")
            self.fail(error if isinstance(error, BaseException) else BrokenError(str(context)))

    # What a simulation asks for.

    def hand_over(self) -> float:
        """Return how long something takes from one thread to another."""
        return self.random.random() * HAND_OVER_MAX

    def pause(self, seconds: float) -> asyncio.Future[None]:
        """Return a future that is done after some virtual time."""
        future: asyncio.Future[None] = self.create_future()
        self.call_later(seconds, _finish, future)
        return future

    def spawn(self, owner: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start a task of an owner; if it fails, so does the simulation."""
        context = contextvars.copy_context()
        context.run(OWNER.set, owner)
        task = self._begin(work, None, context)
        task.add_done_callback(self._look_at, context=contextvars.Context())
        return task

    def freeze(self, owner: str, seconds: float) -> None:
        """Let nothing of an owner run for a while."""
        self._frozen[owner] = self._now + seconds

    def kill(self, owner: str) -> None:
        """Let nothing of an owner run any more."""
        self._dead.add(owner)

    def is_dead(self, owner: str) -> bool:
        """Return whether an owner was killed."""
        return owner in self._dead

    def fail(self, error: BaseException) -> None:
        """End the simulation with an error."""
        self._failure = self._failure or error

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """
        Run until a coroutine is done, then drop everything else.

        Raises:
            BrokenError: nothing is left that could ever run, or it does not end.
        """
        # The running loop is a global of asyncio; tasks look for it there.
        asyncio._set_running_loop(self)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType]
        try:
            task = self._begin(main, None, None)
            self._go_on(task.done)
            return task.result()
        finally:
            self._end()
            asyncio._set_running_loop(None)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue, reportUnknownMemberType]

    def _begin(
        self,
        work: Coroutine[Any, Any, T] | Generator[Any, None, T],
        name: str | None,
        context: contextvars.Context | None,
    ) -> asyncio.Task[T]:
        task: asyncio.Task[T] = asyncio.Task(work, loop=self, name=name, context=context)
        self._tasks.append(task)
        return task

    def _go_on(self, done: Callable[[], bool]) -> None:
        """Run callbacks until something is done; the hot path of every simulation."""
        random, calls, dead, frozen = self.random.random, self._calls, self._dead, self._frozen
        while not done():
            if not calls:
                self._pass_time()
            index = int(random() * len(calls))
            call, calls[index] = calls[index], calls[-1]
            calls.pop()
            owner = call.owner
            if call.dropped or owner in dead:
                continue
            if owner:
                until = frozen.get(owner, 0.0)
                if until <= self._now and self.stalling and random() < STALLED_SHARE:
                    self.stalls += 1
                    until = self._now + random() * STALL_MAX
                if until > self._now:
                    self._at(until, call)
                    continue
            self.steps += 1
            # Not with `suppress`, which costs as much as a short callback.
            try:
                call.context.run(call.run, *call.args)
            except Killed:
                continue
            if self._failure is not None:
                raise self._failure

    def _pass_time(self) -> None:
        if not self._timers:
            raise BrokenError("nothing can go on: no callback is ready, and no timer is set")
        timers = self._timers
        self._now = max(self._now, timers[0][0])
        if self._now > SECONDS_MAX:
            raise BrokenError(f"it does not end within {SECONDS_MAX:g} virtual seconds")
        while timers and timers[0][0] <= self._now:
            self._calls.append(heapq.heappop(timers)[2])

    def _at(self, when: float, call: _Call) -> None:
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, call))

    def _execute(
        self, future: asyncio.Future[T], function: Callable[..., T], args: tuple[Any, ...]
    ) -> None:
        if future.cancelled():
            return
        try:
            result = function(*args)
        except Exception as error:
            self.call_later(self.hand_over(), _refuse, future, error)
        else:
            self.call_later(self.hand_over(), _finish, future, result)

    def _look_at(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def _end(self) -> None:
        """Unwind what is left; nothing that it asks for is done any more."""
        self._over = True
        self._calls.clear()
        self._timers.clear()
        for task in self._tasks:
            work = task.get_coro()
            if not task.done():
                with suppress(RuntimeError):
                    work.close()
        self._tasks.clear()
        self.close()


def _finish(future: asyncio.Future[Any], result: object = None) -> None:
    if not future.done():
        future.set_result(result)


def _refuse(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
