"""
Worker processes for the jobs of all layers: one queue, every core busy to the end.

Each worker is a process group of its own. A job that takes too long is cut off with all that it
started, a worker that dies takes its job along, and a job that raises is over; each of these
counts as broken, and the others go on. When the caller stops asking, the workers are ended.

A worker keeps to one core, with all that it starts, unless a job wants to be spread. Threads that
hand work to each other wake each other on another core otherwise, which costs a virtual machine a
trip through its host each time: up to a quarter of what has threads, less if all cores are busy.
"""

import gc
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path

from holdfast.testing.memory import leave_uncounted
from holdfast.testing.server import PostgresUnavailableError
from tests.lab.layers import Job, Outcome

COMMAND = "python -m tests.lab"
_SPAWN = get_context("spawn")
_LOOK_EVERY = 1.0
_GRACE = 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """
    A job in the queue.

    Attributes:
        layer: to which it belongs.
        job: what a worker calls.
        again: the options that repeat it.
        spread: its processes may run on every core at once.
    """

    layer: str
    job: Job
    again: str
    spread: bool = False

    def named(self, failure: str) -> str:
        """Return a failure with the command that repeats it, if it does not name a closer one."""
        if "; replay: " in failure:
            return failure
        return f"{failure}; replay: {COMMAND} {self.again}"


@dataclass(frozen=True, slots=True)
class Done:
    """
    A job that is over.

    Attributes:
        task: which one.
        outcome: what it found; nothing if it broke.
        broken: why it did not end as it should, or empty.
        seconds: how long it took.
        cpu_seconds: of it and of the processes it started and waited for.
    """

    task: Task
    outcome: Outcome = field(default_factory=Outcome)
    broken: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0


class _Worker:
    """A process that does one job after the other."""

    def __init__(self, log: str, core: int) -> None:
        self.core = core
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_work, args=(theirs, log), daemon=True)
        self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self._number = self._process.pid
        self.task: Task | None = None
        self.over = False
        self._began = 0.0

    @property
    def pipe(self) -> Connection:
        return self._pipe

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began if self._began else 0.0

    def begin(self, task: Task) -> None:
        self.task, self._began = task, 0.0
        with suppress(BrokenPipeError):  # It died; whoever waits for the answer is told.
            self._pipe.send((task.job, every_core() if task.spread else {self.core}))

    def answer(self) -> Done | None:
        """Return the job that is over, or None if the process said that it begins with it."""
        assert self.task is not None
        try:
            said = self._pipe.recv()
        except EOFError:
            self.end()
            ended = self._process.exitcode
            return Done(self.task, broken=f"its process ended ({ended})", seconds=self.seconds)
        if said is None:
            self._began = time.monotonic()
            return None
        outcome, broken, cpu_seconds = said
        return Done(self.task, outcome, broken, self.seconds, cpu_seconds)

    def ask_to_end(self) -> None:
        self._pipe.close()
        self._process.terminate()

    def end(self) -> None:
        """End the process and all that it started."""
        if self.over:
            return
        self.over = True
        self.ask_to_end()
        wait([self._process.sentinel], _GRACE)
        # Not reaped yet, so its number cannot be given to another group meanwhile.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._number, signal.SIGKILL)
        self._process.kill()
        self._process.join()


def work_off(
    more: Callable[[], Task | None],
    *,
    workers: int,
    limit: float,
    log: Path,
) -> Iterator[Done | None]:
    """
    Do jobs until there are no more; give each when it is over, and None every second.

    Args:
        more: gives the next job, or None if there is none.
        workers: how many at a time.
        limit: seconds after which a job is cut off.
        log: takes what the jobs, and what they start, write as errors.
    """
    log.write_bytes(b"")
    cores = sorted(every_core())
    crew = [_Worker(str(log), cores[number % len(cores)]) for number in range(workers)]
    try:
        while True:
            for worker in crew:
                if worker.task is None and (task := more()) is not None:
                    worker.begin(task)
            busy = {worker.pipe: worker for worker in crew if worker.task is not None}
            if not busy:
                return
            ready = wait(list(busy), _LOOK_EVERY)
            for pipe, worker in busy.items():
                done = worker.answer() if pipe in ready else _cut_off(worker, limit)
                if done is None:
                    continue
                worker.task = None
                if worker.over:
                    crew[crew.index(worker)] = _Worker(str(log), worker.core)
                yield done
            yield None
    finally:
        for worker in crew:
            worker.ask_to_end()
        for worker in crew:
            worker.end()


def _cut_off(worker: _Worker, limit: float) -> Done | None:
    seconds = worker.seconds
    if worker.task is None or seconds <= limit:
        return None
    worker.end()
    return Done(worker.task, broken=f"cut off after {seconds:.0f} s", seconds=seconds)


def _work(pipe: Connection, log: str) -> None:
    """Do jobs as they come, in a process of its own."""
    os.setsid()
    # What is imported stays; looking at it again and again took a twentieth of the time.
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)
    leave_uncounted()
    with Path(log).open("ab") as errors:
        os.dup2(errors.fileno(), sys.stderr.fileno())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with suppress(EOFError, BrokenPipeError):
        while True:
            job, cores = pipe.recv()
            keep_to(cores)
            pipe.send(None)
            before = _cpu_seconds()
            outcome, broken = _attempt(job)
            pipe.send((outcome, broken, _cpu_seconds() - before))


def every_core() -> set[int]:
    """Return the cores that this process may use, by number."""
    return os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))


def keep_to(cores: set[int]) -> None:
    """Run on these cores alone, where the system can be told so; what is started inherits it."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, cores)


def _attempt(job: Job) -> tuple[Outcome, str]:
    try:
        return job(), ""
    except PostgresUnavailableError as error:
        if os.environ.get("CI"):
            return Outcome(), f"PostgreSQL is missing: {error}"
        return Outcome(notes=[f"nothing was done on PostgreSQL: {error}"]), ""
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(), f"{type(error).__name__}: {error} ({last.name}, line {last.lineno})"


def _cpu_seconds() -> float:
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    found = [resource.getrusage(kind) for kind in kinds]
    return sum(one.ru_utime + one.ru_stime for one in found)
