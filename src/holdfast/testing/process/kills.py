"""
Killing a process that works on a store, at chosen points and at random, and what it leaves.

A child runs a workload through the store, as an application would, and writes into a file what
it tried and what was acknowledged. SIGKILL ends it: when it reaches a failpoint for the nth
time, before, in the middle of or after a call to the disk, or after some seconds. Children are
forked from a warm process that holds no store (`Forks`), so one costs milliseconds.

Then the store is examined: it holds everything acknowledged, at most the batch under way more,
and is sound as after a power cut.
"""

import asyncio
import gc
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from importlib import import_module
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from holdfast.core.errors import CodecError, ConflictError, FenceError, NotFoundError
from holdfast.core.failpoint import POINTS, Failpoints
from holdfast.core.unit import Unit
from holdfast.core.world import World
from holdfast.store.migrate import Migration, known
from holdfast.store.options import Options, sqlite_path
from holdfast.store.port import Driver
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.store.store import Store
from holdfast.testing.clock import ManualClock
from holdfast.testing.disk.disk import Disk, Moment
from holdfast.testing.faults import planted
from holdfast.testing.judge import Found, Tally, examine, promised
from holdfast.testing.memory import leave_uncounted
from holdfast.testing.workload import Step, states_of, steps_of

__all__ = [
    "RECOVERY",
    "Forks",
    "Kill",
    "Kills",
    "connect",
    "counting",
    "doomed",
    "extra_migration",
    "reaches",
    "serve",
    "work",
]

_OPTIONS: Final = Options(checkpoint_pages=12, readers=1)
_THOROUGH_EVERY: Final = 8
RECOVERY: Final = (
    "boot.locked",
    "boot.guarded",
    "boot.connected",
    "boot.checkpointed",
    "boot.migrated",
    "boot.entered",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """
    Where a child is killed.

    Attributes:
        url: the store.
        progress: file for what was tried and acknowledged.
        seed: decides the workload.
        steps: how many steps it has; 0 only opens the store and closes it.
        point: failpoint at which it is killed, if any.
        nth: which time the point is reached, or which call to the disk, from 1.
        moment: of that call to the disk, if the child is killed at one.
        after: seconds after which it is killed from outside, if any.
        recoveries: failpoints at which the openings after that are killed, one after the other.
        plant: a bug planted in the child, if any.
    """

    url: str
    progress: str
    seed: int = 1
    steps: int = 8
    point: str = ""
    nth: int = 1
    moment: str = ""
    after: float | None = None
    recoveries: Sequence[str] = ()
    plant: str = ""


class Forks:
    """
    A warm process that forks children; close it when done.

    Example:
        with Forks() as forks:
            ended_by = forks.run("holdfast.testing.process.kills:work", {...}, after=0.01)
    """

    def __init__(self, paths: Sequence[str] = ()) -> None:
        """
        Start the process; it imports a module once, for all its children.

        Args:
            paths: where it finds modules, before the usual places.
        """
        found = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([*paths, *([found] if found else [])])
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from holdfast.testing.process.kills import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path} if path else None,
            # Ctrl-C is for whoever asked; the whole group is ended from here.
            start_new_session=True,
        )

    def __enter__(self) -> "Forks":
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process, at once if something went wrong."""
        if kind is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        """End the process; no child is left then, and nothing that children started."""
        if self._process.returncode is not None:
            return
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        # Not reaped yet, so its number cannot be given to another group meanwhile.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def run(self, function: str, argument: Mapping[str, Any], *, after: float | None = None) -> int:
        """
        Call a function in a child and wait for its end.

        Args:
            function: `module:name`; it gets the argument.
            argument: what JSON can hold.
            after: seconds after which the child is killed.

        Returns:
            The signal that ended the child, 0 if it came to its end, -1 if it raised.
        """
        request = {"function": function, "argument": dict(argument), "after": after}
        return self._ask(request)

    def prepare(self, function: str, argument: Mapping[str, Any]) -> None:
        """Call a function in the warm process itself, before it forks; it must not raise."""
        self._ask({"function": function, "argument": dict(argument), "here": True})

    def _ask(self, request: Mapping[str, Any]) -> int:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the process has no pipes")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise ChildProcessError("the warm process ended; what it said last is on stderr")
        return int(answer)


def serve() -> None:
    """Fork a child for each request on standard input; the main loop of `Forks`."""
    leave_uncounted()
    # A store in memory fills what every child would else read and compile for itself, and what is
    # frozen is not copied by a collection in the child.
    states_of(steps_of(1, 2))
    gc.freeze()
    # What a module or a child prints must not be taken for an answer.
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        module, _, name = request["function"].partition(":")
        function = getattr(import_module(module), name)
        if request.get("here"):
            function(request["argument"])
            gc.freeze()
            ended = 0
        else:
            ended = _fork(function, request["argument"], request["after"])
        os.write(answers, f"{ended}\n".encode())


def _fork(function: Callable[[Mapping[str, Any]], None], argument: Any, after: float | None) -> int:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _end_after(function, argument)
    os.close(writing)
    # The pipe is readable when the child is gone; that takes no time from a child that lives.
    if after is not None and not select.select([reading], [], [], after)[0]:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reading)
    return os.WTERMSIG(status) or -os.WEXITSTATUS(status)


def _end_after(function: Callable[[Mapping[str, Any]], None], argument: Any) -> None:
    try:
        function(argument)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def connect(url: str, world: World) -> Driver:
    """Return a driver for a store, not opened yet."""
    path = sqlite_path(url) if url.startswith("sqlite:") else None
    if path is not None:
        return SqliteDriver(path, _OPTIONS, world)
    from holdfast.store.postgres.driver import PostgresDriver

    return PostgresDriver(url, _OPTIONS, world)


def work(argument: Mapping[str, Any]) -> None:
    """Run a workload until something kills this process; called in a child."""
    kill = Kill(**argument)
    if kill.plant:
        with planted(kill.plant):
            _work(kill)
    else:
        _work(kill)


def doomed(kill: Kill, world: World) -> World:
    """Return a world in which this process is killed where it is said."""
    if kill.point:
        die = partial(os.kill, os.getpid(), signal.SIGKILL)
        world.failpoints.arm(kill.point, _nth(kill.nth, die))
    if kill.moment:
        path = sqlite_path(kill.url)
        if path is None:
            raise ValueError("a store in memory has no disk")
        disk = Disk(path.parent)
        disk.kill(kill.nth, Moment(kill.moment))
        return replace(world, vfs=disk.vfs, files=disk.files)
    return world


def _work(kill: Kill) -> None:
    clock = ManualClock()
    world = doomed(kill, World(clock=clock))
    file = os.open(kill.progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(value: object) -> None:
        os.write(file, json.dumps(value).encode() + b"\n")

    steps = steps_of(kill.seed, kill.steps)
    asyncio.run(_live(connect(kill.url, world), world, steps, clock, note))
    note(["ended"])


async def _live(
    driver: Driver,
    world: World,
    steps: Sequence[Step],
    clock: ManualClock,
    note: Callable[[object], None],
) -> None:
    store = Store(driver, _OPTIONS, world)
    opened = await store.open()
    note(["opened", opened.store_id.hex(), opened.epoch])
    number = 0
    for step in steps:
        clock.set(step.at)
        note(["tried", number + len(step.units)])
        await asyncio.gather(*(_submit(store, unit) for unit in step.units))
        number += len(step.units)
        note(["acknowledged", number])
    await store.close()


async def _submit(store: Store, unit: Unit) -> None:
    # A refusal is an answer; that it was right shows in the content.
    with suppress(ConflictError, FenceError, NotFoundError, CodecError):
        await store.commit(unit)


def _nth(number: int, action: Callable[[], None]) -> Callable[[], None]:
    left = count(number, -1)

    def reached() -> None:
        if next(left) == 1:
            action()

    return reached


def reaches(argument: Mapping[str, Any]) -> None:
    """Run a workload undisturbed and write how often it reached each point; called in a child."""
    kill = Kill(**argument)
    clock, failpoints = ManualClock(), Failpoints()
    found = counting(failpoints)
    world = World(clock=clock, failpoints=failpoints)
    steps = steps_of(kill.seed, kill.steps)
    asyncio.run(_live(connect(kill.url, world), world, steps, clock, lambda _: None))
    Path(kill.progress).write_text(json.dumps(found))


def counting(failpoints: Failpoints) -> Mapping[str, int]:
    """Return how often each point was reached; the numbers grow as they are."""
    found: dict[str, int] = {}

    def seen(point: str) -> None:
        found[point] += 1

    for point in POINTS:
        found[point] = 0
        failpoints.arm(point, partial(seen, point))
    return found


class Kills:
    """
    Kills, one after the other, each judged.

    Attributes:
        tally: what they showed; its images are the kills.
        kills: how many children were killed.
        points: at which failpoints, and how often.
    """

    def __init__(self, folder: Path, forks: Forks, *, plant: str = "") -> None:
        """
        Take a folder for stores and a warm process.

        Args:
            folder: holds the stores, one folder each.
            forks: forks the children.
            plant: bug planted in each child.
        """
        self.tally = Tally()
        self.kills = 0
        self.points: Counter[str] = Counter()
        self._folder = folder
        self._forks = forks
        self._plant = plant
        self._numbers = count(1)
        self._states: dict[tuple[int, int], list[bytes]] = {}

    def fresh(self, url: str = "") -> tuple[str, Path]:
        """Return the address of a store of its own, and a file for its progress."""
        number = next(self._numbers)
        home = self._folder / str(number)
        home.mkdir()
        return url or f"sqlite:///{home / 'a.db'}", home / "progress"

    def count(self, url: str = "", *, seed: int, steps: int = 8) -> dict[str, int]:
        """Return how often an undisturbed workload reaches each point."""
        url, progress = self.fresh(url)
        kill = Kill(url=url, progress=str(progress), seed=seed, steps=steps)
        self._run("holdfast.testing.process.kills:reaches", kill)
        return dict(json.loads(progress.read_text()))

    def strike(self, url: str = "", **where: Any) -> Found:
        """
        Kill a child on a store of its own, and judge what it left.

        Args:
            url: an empty store; a new SQLite file if empty.
            where: fields of `Kill`.
        """
        url, progress = self.fresh(url)
        kill = Kill(url=url, progress=str(progress), plant=self._plant, **where)
        self.run(kill)
        again = replace(kill, progress=f"{progress}-again", steps=0, nth=1, moment="", after=None)
        for point in kill.recoveries:
            if self.run(replace(again, point=point, recoveries=())) != signal.SIGKILL:
                break
        return self.judge(kill)

    def struck(self, url: str = "", **where: Any) -> bool:
        """Strike, and return whether the child was killed before it came to its end."""
        before = self.kills
        self.strike(url, **where)
        return self.kills > before

    def run(self, kill: Kill) -> int:
        """Run a child and return the signal that ended it."""
        ended = self._run("holdfast.testing.process.kills:work", kill)
        if ended == signal.SIGKILL:
            self.kills += 1
            self.points[kill.point or kill.moment or "random"] += 1
        return ended

    def judge(self, kill: Kill) -> Found:
        """Examine the store that a killed child left."""
        self.tally.images += 1
        world = World(clock=ManualClock(float(kill.steps)))
        thorough = self.tally.images % _THOROUGH_EVERY == 1
        found = examine(lambda: connect(kill.url, world), thorough=thorough)
        notes = _read_notes(Path(kill.progress))
        acknowledged, tried, store_id, epoch = promised(notes)
        states = self._states_of(kill)
        wrong = found.wrong
        if not wrong and store_id and (found.store_id != store_id or found.epoch <= epoch):
            wrong = f"another store, or epoch {found.epoch} after {epoch}"
        if not wrong and found.content in states[acknowledged : tried + 1]:
            return found
        lost = not wrong and found.content in states[:acknowledged]
        what = wrong or ("acknowledged units are gone" if lost else "no state of the workload")
        self.tally.blame(f"{what}; {_replay(kill)}", lost=lost)
        return found

    def _run(self, function: str, kill: Kill) -> int:
        ended = self._forks.run(function, asdict(kill), after=kill.after)
        if ended not in (0, signal.SIGKILL):
            self.tally.blame(f"the child failed ({ended}); {_replay(kill)}", lost=False)
        return ended

    def _states_of(self, kill: Kill) -> list[bytes]:
        key = (kill.seed, kill.steps)
        if key not in self._states:
            self._states[key] = states_of(steps_of(*key))
        return self._states[key]


def _read_notes(progress: Path) -> tuple[object, ...]:
    if not progress.exists():
        return ()
    # A kill may have cut the last line short.
    lines = progress.read_text().split("\n")[:-1]
    return tuple(tuple(json.loads(line)) for line in lines)


def _replay(kill: Kill) -> str:
    where = {name: value for name, value in asdict(kill).items() if value}
    shown = {name: where[name] for name in where if name not in ("url", "progress")}
    store = "postgresql" if kill.url.startswith("postgres") else "sqlite"
    return f"replay: python -m tests.lab --only kills --store {store} --kill '{json.dumps(shown)}'"


def extra_migration(argument: Mapping[str, Any]) -> None:
    """Be a newer Holdfast with one migration more, until something kills it."""
    kill = Kill(**argument)
    dialect = "sqlite" if kill.url.startswith("sqlite:") else "postgres"
    script = "\n\n".join(f"CREATE TABLE newer_{n} (n INTEGER NOT NULL);" for n in range(3))
    newer = Migration(len(known(dialect)) + 1, "newer", script, sha256(script.encode()).hexdigest())
    module = import_module(f"holdfast.store.{dialect}.driver")

    def more(name: str) -> tuple[Migration, ...]:
        return (*known(name), newer)

    vars(module)["known"] = more
    _work(kill)
