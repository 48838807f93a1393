"""
One process of the crash lab: it runs the user's functions until something ends it.

A `Life` says what it does (work, check) and what happens to it (killed somewhere, a disk on
which a call fails). It runs in a child that `process.kills.Forks` forks, so a kill, a
hang or a leak of the user's code concerns that child alone. What it has to say lies in its
home folder:

    notes     what was acknowledged, frame by frame; outside the store and every accident
    result    how far it came, what it raised, what it counted; JSON
    sometimes states that the application says it reached, a line each
    log       what it printed
    recording what happened on the disk, if that was asked for

A life that takes longer than its limit is ended by SIGALRM.
"""

import asyncio
import inspect
import os
import signal
import traceback
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.clock import SystemClock
from holdfast.core.failpoint import Failpoints
from holdfast.core.files import Files
from holdfast.core.ids import Ids
from holdfast.core.world import World
from holdfast.runtime.opening import Opening
from holdfast.runtime.opening import open as open_store
from holdfast.store.files import SystemFiles
from holdfast.testing.disk.acts import Recording
from holdfast.testing.disk.disk import CHANGES, Call, Disk
from holdfast.testing.disk.ioerrors import Accident
from holdfast.testing.disk.power import LeanFiles
from holdfast.testing.faults import planted
from holdfast.testing.process.kills import Kill, counting, doomed
from holdfast.testing.trials.reference import Function, referred

__all__ = [
    "CHECK",
    "SOMETIMES",
    "WORK",
    "Lab",
    "Life",
    "Result",
    "imported",
    "live",
    "noted",
    "recorded",
]

WORK: Final = "work"
SOMETIMES: Final = "sometimes"
CHECK: Final = "check"
_FRAME_BYTES: Final = 4


class Lab:
    """
    What the crash lab hands to the functions of an application.

    Attributes:
        url: the store of this case, for an application that opens it itself.
        world: clock, ids, failpoints and disk; hand it to `holdfast.open(lab.url, world=...)`.
        folder: holds the store (on SQLite), and files of the application.
        files: writes small files below `folder` so that the lab can cut their power; files
            written in another way are not there after a power cut.
        seed: decides what the lab draws; draw from it too.
    """

    def __init__(self, life: "Life", world: World, disk: Disk | None) -> None:
        """Take what a process was told."""
        self.url = life.url
        self.world = world
        self.folder = Path(life.folder)
        self.files: Files = world.files or SystemFiles(world.failpoints)
        self.seed = life.seed
        self._disk = disk
        self._home = Path(life.home)
        self._notes = os.open(
            Path(life.home) / "notes", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
        )

    def open(self, **settings: Any) -> Opening:
        """Return what `holdfast.open` returns, on the store of this case."""
        return open_store(self.url, world=self.world, **settings)

    def acknowledged(self, value: object) -> None:
        """
        Note that somebody was told of this; from here on it must not be lost.

        Args:
            value: plain value; the invariant gets all of them, in order.

        Raises:
            EncodeError: the value is not plain.
        """
        encoded = codec.encode(value, "acknowledged")
        os.write(self._notes, frame(encoded))
        if self._disk is not None:
            self._disk.note(encoded)

    def sometimes(self, what: str) -> None:
        """Note that a rare state was reached; the report says how often, so that it shows."""
        with (self._home / SOMETIMES).open("a") as file:
            file.write(f"{what}\n")


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """
    What one process does, and what happens to it.

    Attributes:
        work: reference to the application's function.
        invariant: reference to what has to hold.
        url: the store.
        folder: holds the store and the application's files.
        home: holds what the process has to say.
        seed: of the lab.
        number: which life of the store it is; ids depend on it.
        limit: seconds after which it counts as hanging.
        doing: `WORK` and `CHECK`, one after the other.
        watched: `points` counts failpoints, `disk` records.
        kill: where it is killed: fields of `holdfast.testing.process.kills.Kill`.
        accident: which call to the disk fails.
        plant: a bug that is planted, if any.
    """

    work: str
    invariant: str
    url: str
    folder: str
    home: str
    seed: int
    number: int = 0
    limit: float = 15.0
    doing: tuple[str, ...] = (WORK,)
    watched: str = ""
    kill: dict[str, Any] | None = None
    accident: Accident | None = None
    plant: str = ""


class Result(msgspec.Struct, kw_only=True):
    """
    What one process said before it ended.

    Attributes:
        stage: what it was doing last: `work` or `check`, and how often it had begun something.
        ended: it came to its end.
        error: what its last stage raised, in one line.
        trace: the same as Python shows it.
        points: how often each failpoint was reached.
        calls: how many calls of each kind the disk saw.
        seconds: how long it took.
    """

    stage: tuple[str, int] = ("", 0)
    ended: bool = False
    error: str = ""
    trace: str = ""
    points: dict[str, int] = {}
    calls: dict[Call, int] = {}
    seconds: float = 0.0


def imported(argument: Mapping[str, Any]) -> None:
    """Import the user's functions, once for all children; say what is wrong in `result`."""
    try:
        for reference in argument["references"]:
            referred(reference)
    except Exception as error:
        Path(argument["result"]).write_text(f"{type(error).__name__}: {error}")


def live(argument: Mapping[str, Any]) -> None:
    """Do what a life is for; called in a child."""
    life = msgspec.convert(argument, Life)
    home = Path(life.home)
    _speak_into(home / "log")
    signal.setitimer(signal.ITIMER_REAL, life.limit)
    clock, result = SystemClock(), Result()
    world = World(ids=Ids(Random(f"{life.seed}/{life.number}").randbytes))
    world, disk = _arranged(life, world)
    points = counting(world.failpoints if life.watched == "points" else Failpoints())
    began = clock.monotonic()
    try:
        with planted(life.plant) if life.plant else nullcontext():
            _do_all(life, Lab(life, world, disk), result)
        result.ended = True
    except BaseException as error:
        result.error = _described(error)
        result.trace = f"acknowledged: {noted(home)!r:.500}\n{_traced(error)}"
    result.seconds = clock.monotonic() - began
    result.points = {point: times for point, times in points.items() if times}
    if disk is not None and life.watched:
        result.calls = dict(disk.calls)
        (home / "recording").write_bytes(msgspec.msgpack.encode(disk.recording))
    _say(home, result)


def _arranged(life: Life, world: World) -> tuple[World, Disk | None]:
    """Return the world in which what is planned will happen, and the disk that records it."""
    if life.kill is not None:
        return doomed(Kill(url=life.url, progress="", **life.kill), world), None
    if life.accident is None and life.watched != "disk":
        return world, None
    disk = Disk(Path(life.folder))
    world.vfs, world.files = disk.vfs, LeanFiles(disk)
    if life.accident is not None:
        it = life.accident
        kinds = frozenset({Call.READ}) if it.reads else CHANGES
        disk.fail(it.number, it.fault, on=kinds, lasting=it.lasting)
    return world, disk


def _do_all(life: Life, lab: Lab, result: Result) -> None:
    work, invariant = referred(life.work), referred(life.invariant)
    for number, stage in enumerate(life.doing, 1):
        result.stage = (stage, number)
        _say(Path(life.home), result)
        if stage == WORK:
            _work(work, lab)
        else:
            asyncio.run(_check(invariant, lab, noted(Path(life.home))))


def _work(work: Function, lab: Lab) -> None:
    async def finish() -> None:
        await found

    # A plain function may run a loop of its own, so none runs around it.
    found = work(lab)
    if inspect.isawaitable(found):
        asyncio.run(finish())


async def _check(invariant: Function, lab: Lab, acknowledged: list[Any]) -> None:
    # An application with files of its own asks for the lab as well.
    more = {"lab": lab} if "lab" in inspect.signature(invariant).parameters else {}
    async with lab.open() as rt:
        if inspect.iscoroutinefunction(invariant):
            holds = await invariant(rt, acknowledged, **more)
        else:
            holds = await asyncio.to_thread(invariant, rt, acknowledged, **more)
        if holds is False:
            raise AssertionError("the invariant returned False")


def _described(error: BaseException) -> str:
    """Return an error in one line, with its place, and the code there if it says nothing."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    said = " ".join(str(error).split())[:300]
    name = type(error).__name__
    where = f"{Path(last.filename).name}:{last.lineno}"
    return f"{name}: {said} ({where})" if said else f"{name} ({where}: {last.line})"


def _traced(error: BaseException) -> str:
    """Return the traceback without the frames that are the lab's own."""
    shown = traceback.TracebackException.from_exception(error)
    theirs = [
        frame
        for frame in shown.stack
        if frame.filename != __file__ and "/asyncio/" not in frame.filename
    ]
    shown.stack = traceback.StackSummary.from_list(theirs or shown.stack)
    return "".join(shown.format())


def _speak_into(log: Path) -> None:
    """Let everything this process prints go into a file, and let it read nothing."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)


def _say(home: Path, result: Result) -> None:
    new = home / "result.new"
    new.write_bytes(msgspec.json.encode(result))
    new.replace(home / "result")


def frame(encoded: bytes) -> bytes:
    """Return an acknowledgement as it stands in the notes."""
    return len(encoded).to_bytes(_FRAME_BYTES, "big") + encoded


def noted(home: Path) -> list[Any]:
    """Return what was acknowledged, in order; a frame that a kill cut short does not count."""
    file = home / "notes"
    data = file.read_bytes() if file.exists() else b""
    values: list[Any] = []
    at = 0
    while at + _FRAME_BYTES <= len(data):
        begin = at + _FRAME_BYTES
        at = begin + int.from_bytes(data[at:begin], "big")
        if at <= len(data):
            values.append(codec.decode(data[begin:at]))
    return values


def recorded(home: Path) -> Recording:
    """Return what happened on the disk of a life."""
    return msgspec.msgpack.decode((home / "recording").read_bytes(), type=Recording)
