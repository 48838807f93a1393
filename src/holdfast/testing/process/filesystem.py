"""
Real file systems whose power fails: ext4 and xfs on a loop device, shut down by the kernel.

    found = cut_power(Cuts(kind="ext4", cycles=20, seed=7))
    assert found.sound, found.failures

A process commits to a store on the mounted file system and says what is acknowledged. At a
random moment it is frozen (a sync that races with the shutdown would be a false alarm), the
file system is told to shut down without writing its journal, the process is killed, the file
system unmounted and mounted again, and the store is opened and judged as every crash image is.

It takes root, loop devices, the file system's `mkfs` and its shutdown call; `unavailable` says
what is missing.
"""

import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from holdfast.core.ids import Ids
from holdfast.core.world import World
from holdfast.store.options import Options
from holdfast.store.port import Driver
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.testing.clock import ManualClock
from holdfast.testing.faults import planted
from holdfast.testing.judge import examine
from holdfast.testing.process.storm import Child
from holdfast.testing.workload import perform, states_of, steps_of

__all__ = ["Cuts", "Mount", "Report", "cut_power", "unavailable"]

_SHUTDOWN: Final = 0x8004587D
_WITHOUT_LOG: Final = 2
# xfs is made no smaller than 300 MiB; the file is sparse.
_SIZE_BYTES: Final = 400 * 2**20
_STEPS: Final = 60
_STATES: Final = 5


class Cuts(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is to be done.

    Attributes:
        kind: `ext4` or `xfs`.
        cycles: how often the power fails.
        seed: decides the workloads, and when it fails.
        plant: a bug of `holdfast.testing.faults` that the store has.
    """

    kind: str
    cycles: int
    seed: int
    plant: str = ""


class Report(msgspec.Struct):
    """
    What was found.

    Attributes:
        cycles: power cuts.
        acknowledged: units acknowledged before them.
        lost: cuts after which something acknowledged was gone.
        unsound: cuts that left something else that is not as promised.
        failures: both, in words.
    """

    cycles: int = 0
    acknowledged: int = 0
    lost: int = 0
    unsound: int = 0
    failures: list[str] = []

    @property
    def sound(self) -> bool:
        """Whether everything was as promised."""
        return not self.lost and not self.unsound


class Mount:
    """A file system of its own in a file, mounted and cut off as often as one likes."""

    def __init__(self, kind: str, folder: Path) -> None:
        """Make it; it is not mounted yet."""
        self.path = folder / "mounted"
        self._file = folder / "disk"
        # Asking the path is no use: xfs refuses every look at it once it was shut down.
        self._mounted = False
        self.path.mkdir()
        with self._file.open("wb") as file:
            file.truncate(_SIZE_BYTES)
        _run(f"mkfs.{kind}", "-q", str(self._file))

    def __enter__(self) -> "Mount":
        """Mount it."""
        self.mount()
        return self

    def __exit__(self, *_: object) -> None:
        """Unmount it, if it is mounted."""
        if self._mounted:
            self.unmount()

    def mount(self) -> None:
        """Mount it; what the journal holds is recovered."""
        _run("mount", "-o", "loop", str(self._file), str(self.path))
        self._mounted = True

    def unmount(self) -> None:
        """Unmount it; nobody may have a file of it open."""
        _run("umount", str(self.path))
        self._mounted = False

    def shut_down(self) -> None:
        """Let nothing more reach the disk, not even what is in the journal's memory."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", _WITHOUT_LOG))
        finally:
            os.close(descriptor)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{command[0]} failed with {done.returncode}: {done.stderr.strip()}")


def unavailable(kind: str) -> str:
    """Return why power cannot be cut here on such a file system, or nothing if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "mounting takes root on Linux"
    if shutil.which(f"mkfs.{kind}") is None:
        return f"mkfs.{kind} is missing (Debian: e2fsprogs, xfsprogs)"
    try:
        with _place() as folder, Mount(kind, folder) as mount:
            mount.shut_down()
    except OSError as error:
        return f"this machine does not mount, or does not shut down, {kind}: {error}"
    return ""


@contextmanager
def _place() -> Generator[Path]:
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="holdfast-", dir=memory if memory.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def cut_power(order: Cuts) -> Report:
    """
    Cut the power again and again, in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed; what it said is in the note.
    """
    command = [sys.executable, "-m", "holdfast.testing.process.filesystem"]
    done = subprocess.run(command, input=msgspec.json.encode(order), capture_output=True)
    if done.returncode:
        error = subprocess.CalledProcessError(done.returncode, command)
        error.add_note(done.stderr.decode(errors="replace"))
        raise error
    return msgspec.json.decode(done.stdout, type=Report)


def _cycle_all(order: Cuts) -> Report:
    report = Report()
    plans = [_Plan(order, number) for number in range(min(_STATES, order.cycles))]
    with _place() as folder, Mount(order.kind, folder) as mount:
        for number in range(order.cycles):
            _cycle(order, mount, plans[number % len(plans)], number, report)
    return report


class _Plan:
    """A workload and what the store holds after each of its units."""

    def __init__(self, order: Cuts, number: int) -> None:
        self._steps = steps_of(order.seed + number, _STEPS)
        self.states = states_of(self._steps)
        self._plant = order.plant

    def run(self, path: Path, out: int) -> None:
        """Work and say how far it is; the store may have the planted bug."""
        clock = ManualClock()
        with planted(self._plant) if self._plant else nullcontext():
            perform(self._steps, self.connector(path, clock), clock, lambda note: _say(out, note))

    def connector(self, path: Path, clock: ManualClock) -> Callable[[], Driver]:
        """Return what makes a driver."""
        world = World(clock=clock, ids=Ids())
        return lambda: SqliteDriver(path, Options(checkpoint_pages=12, readers=1), world)


def _say(out: int, note: object) -> None:
    os.write(out, msgspec.json.encode(note) + b"\n")


def _cycle(order: Cuts, mount: Mount, plan: _Plan, number: int, report: Report) -> None:
    """Cut the power once, at a moment that seed and number decide as far as they can."""
    rng = Random(f"{order.seed}/{number}")
    folder = mount.path / str(number)
    folder.mkdir()
    path = folder / "a.db"
    child = Child(lambda out: plan.run(path, out))
    lines = _hear_some(child, rng.randint(3, 2 * _STEPS))
    child.send(signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    mount.shut_down()
    child.send(signal.SIGKILL)
    lines += child.reap()
    mount.unmount()
    mount.mount()
    tried, acknowledged = _promised(lines)
    report.cycles += 1
    report.acknowledged += acknowledged
    found = examine(plan.connector(path, ManualClock(1e6)))
    if not found.wrong and found.content in {plan.states[acknowledged], plan.states[tried]}:
        return
    lost = not found.wrong and found.content in plan.states[:acknowledged]
    report.lost += lost
    report.unsound += not lost
    what = found.wrong or ("acknowledged units are gone" if lost else "no state of the workload")
    report.failures.append(f"{order.kind} seed {order.seed} cut {number}: {what}")


def _hear_some(child: Child, count: int) -> list[bytes]:
    """Listen until the child has said so much, or has ended."""
    lines: list[bytes] = []
    while len(lines) < count and (more := child.read()) is not None:
        lines += more
    return lines


def _promised(lines: list[bytes]) -> tuple[int, int]:
    said = {"tried": 0, "acknowledged": 0}
    for line in lines:
        word, number, *_ = msgspec.json.decode(line)
        if word in said:
            said[word] = number
    return max(said.values()), said["acknowledged"]


if __name__ == "__main__":
    result = _cycle_all(msgspec.json.decode(sys.stdin.buffer.read(), type=Cuts))
    sys.stdout.buffer.write(msgspec.json.encode(result))
