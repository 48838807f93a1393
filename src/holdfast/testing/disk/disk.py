"""
A disk that remembers: every change SQLite or Holdfast makes to files, in order.

`Disk` wraps one folder. Databases opened with `vfs=disk.vfs` and small files written through
`disk.files` reach real files there, and each change is noted in `disk.recording`. The module
`holdfast.testing.disk.images` turns a recording into what a power cut may leave behind.

Promises:
- An act is recorded after it happened, in the order in which it happened, also when several
  connections or threads write; a failed act is not recorded (a failed write by its half).
- A sync is recorded only if it succeeded and was not swallowed; a failed one is recorded as
  `SyncFailed`, because what was written before it stays doubtful even after a later sync.
- The unix VFS syncs the folder inside the first sync of a journal or WAL that was opened with
  the create flag. That call cannot be seen from here, so it is inferred.
- An arranged fault reaches the caller even where SQLite alone would hide it, as it does when an
  automatic checkpoint fails after a commit: APSW raises every error that passed through Python.
- Temporary files and the -shm file are no part of the recording; a crash forgets both.
"""

import errno
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from itertools import count
from pathlib import Path
from random import Random
from types import TracebackType
from typing import NoReturn

import apsw

from holdfast.core.files import Files
from holdfast.store.files import TEMPORARY
from holdfast.testing.disk.acts import (
    Act,
    Created,
    FolderMade,
    FolderSynced,
    Noted,
    Recording,
    Removed,
    Renamed,
    Synced,
    SyncFailed,
    Truncated,
    Written,
    read_image,
)

__all__ = ["CHANGES", "Call", "Disk", "Fault", "Moment", "RecordingFiles"]


class Call(StrEnum):
    """Kinds of calls that can be counted, failed and killed at."""

    READ = "read"
    WRITE = "write"
    SYNC = "sync"
    TRUNCATE = "truncate"
    REMOVE = "remove"
    RENAME = "rename"


CHANGES = frozenset(Call) - {Call.READ}


class Fault(StrEnum):
    """Ways in which a call can fail."""

    EIO = "eio"
    ENOSPC = "enospc"
    SHORT = "short"  # half the bytes are written, then there is no space left


class Moment(StrEnum):
    """When the process is killed, seen from the call."""

    BEFORE = "before"
    HALF = "half"  # of a write, half the bytes are there; other calls have not happened
    AFTER = "after"


@dataclass(slots=True)
class _Plan:
    """One arranged accident; it counts the calls of its own kinds."""

    number: int
    what: Fault | Moment
    on: frozenset[Call]
    lasting: bool
    seen: int = 0

    def due(self, call: Call) -> bool:
        if call not in self.on:
            return False
        self.seen += 1
        return self.seen == self.number or (self.lasting and self.seen > self.number)


_disk_numbers = count(1)


class Disk:
    """
    One recorded folder.

    Example:
        with Disk(folder) as disk:
            db = apsw.Connection(str(folder / "a.db"), vfs=disk.vfs)
            disk.note(("tried", 1))
            ...

    Attributes:
        vfs: name under which SQLite finds this disk.
        files: the port for plain files, recorded in the same order.
        recording: all that happened so far.
        calls: how many calls of each kind were made, for choosing where to fail.
    """

    def __init__(self, folder: Path, *, swallow: float = 0.0, seed: int = 0) -> None:
        """
        Take an existing folder as it is; its content counts as certain.

        Args:
            folder: root of all recorded names.
            swallow: fraction of syncs that the disk reports as done and does not do.
            seed: decides which syncs are swallowed.
        """
        self.recording = Recording(start=read_image(folder), acts=[])
        self.calls: Counter[Call] = Counter()
        self.files: Files = RecordingFiles(self)
        self.vfs = f"holdfast-disk-{os.getpid()}-{next(_disk_numbers)}"
        self._root = os.path.realpath(folder) + "/"
        self._plans: list[_Plan] = []
        self._swallow = swallow
        self._rng = Random(seed)
        self._lock = threading.RLock()
        self._vfs = _DiskVfs(self)

    def __enter__(self) -> "Disk":
        """Return the disk itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the disk."""
        self.close()

    def close(self) -> None:
        """Take the VFS away; open connections keep working, new ones do not find it."""
        self._vfs.unregister()

    def note(self, value: object) -> None:
        """Put a mark into the recording, so that every later cut knows it was reached."""
        self.record(Noted(value))

    def fail(
        self, number: int, what: Fault, *, on: frozenset[Call] = CHANGES, lasting: bool = False
    ) -> None:
        """
        Arrange that a coming call fails.

        Args:
            number: which of the coming calls of the kinds `on`, from 1.
            what: how it fails.
            on: kinds of calls that count and can fail.
            lasting: all later calls of these kinds fail too.
        """
        self._plans.append(_Plan(number, what, on, lasting))

    def kill(self, number: int, when: Moment, *, on: frozenset[Call] = CHANGES) -> None:
        """Arrange that SIGKILL ends this process at a coming call, counted from 1."""
        self._plans.append(_Plan(number, when, on, lasting=False))

    def name_of(self, path: str) -> str | None:
        """Return the recorded name of an absolute path, or None if it is not recorded."""
        if not path.startswith(self._root) or path.endswith("-shm"):
            return None
        return path[len(self._root) :]

    def lock(self) -> AbstractContextManager[object]:
        """Return the lock under which acts happen and are recorded."""
        return self._lock

    def record(self, *acts: Act) -> None:
        """Append acts that have just happened; called by the files of this disk."""
        self.recording.acts.extend(acts)

    def record_sync(self, *acts: Act) -> None:
        """Append what one sync made certain, unless this disk swallows it."""
        if not self._swallow or self._rng.random() >= self._swallow:
            self.record(*acts)

    def step(
        self, call: Call, whole: Callable[[], None], half: Callable[[], None] | None = None
    ) -> Fault | None:
        """
        Make one call, unless an accident was arranged for it; called by the files of this disk.

        Args:
            call: the kind of the call.
            whole: makes the call and records it.
            half: makes and records half of it, if halves exist.

        Returns:
            The fault with which the call has to fail, or None if it was made.
        """
        with self._lock:
            self.calls[call] += 1
            what = self._accident(call)
            if what in (Moment.HALF, Fault.SHORT) and half is not None:
                half()
            elif what is None or what is Moment.AFTER:
                whole()
            if isinstance(what, Moment):
                _die()
            return what

    def _accident(self, call: Call) -> Fault | Moment | None:
        # Every plan has to count the call, so no short cut after the first that is due.
        due = [plan.what for plan in self._plans if plan.due(call)]
        return due[0] if due else None


class _DiskVfs(apsw.VFS):
    """The default VFS with files that record."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk.vfs, "")
        self._disk = disk

    def xOpen(  # noqa: N802 - SQLite's own name
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        recorded = None if path is None else self._disk.name_of(path)
        if path is None or recorded is None or flags[0] & apsw.SQLITE_OPEN_DELETEONCLOSE:
            return apsw.VFSFile("", name, flags)
        with self._disk.lock():
            existed = Path(path).exists()
            file = _DiskFile(self._disk, recorded, name, flags)
            if not existed:
                self._disk.record(Created(recorded))
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        name = self._disk.name_of(filename)
        if name is None:
            super().xDelete(filename, syncdir)
            return

        def whole() -> None:
            super(_DiskVfs, self).xDelete(filename, syncdir)
            self._disk.record(Removed(name))
            if syncdir:
                self._disk.record_sync(FolderSynced(_folder_of(name)))

        fault = self._disk.step(Call.REMOVE, whole)
        if fault:
            raise _sqlite_error(Call.REMOVE, fault)


_SYNCS_FOLDER = (
    apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL
)


class _DiskFile(apsw.VFSFile):
    """A database, journal or WAL whose changes are recorded."""

    def __init__(
        self, disk: Disk, recorded: str, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._name = recorded
        self._folder_due = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _SYNCS_FOLDER)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        result = b""

        def whole() -> None:
            nonlocal result
            result = super(_DiskFile, self).xRead(amount, offset)

        self._make(Call.READ, whole)
        return result

    def xWrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:  # noqa: N802
        content = bytes(data)

        def put(part: bytes) -> None:
            # The stub names a Buffer that Python 3.11 does not have.
            super(_DiskFile, self).xWrite(part, offset)  # pyright: ignore[reportUnknownMemberType]
            self._disk.record(Written(self._name, offset, part))

        half = content[: len(content) // 2]
        self._make(Call.WRITE, lambda: put(content), lambda: put(half))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        def whole() -> None:
            super(_DiskFile, self).xTruncate(newsize)
            self._disk.record(Truncated(self._name, newsize))

        self._make(Call.TRUNCATE, whole)

    def xSync(self, flags: int) -> None:  # noqa: N802
        def whole() -> None:
            super(_DiskFile, self).xSync(flags)
            made_certain: list[Act] = [Synced(self._name)]
            if self._folder_due:
                made_certain.append(FolderSynced(_folder_of(self._name)))
                self._folder_due = False
            self._disk.record_sync(*made_certain)

        self._make(Call.SYNC, whole)

    def _make(
        self, call: Call, whole: Callable[[], None], half: Callable[[], None] | None = None
    ) -> None:
        fault = self._disk.step(call, whole, half)
        if fault is None:
            return
        if call is Call.SYNC:
            self._disk.record(SyncFailed(self._name))
        raise _sqlite_error(call, fault)


class RecordingFiles:
    """
    The port for plain files, on a recorded disk; all paths lie below its folder.

    It takes the steps of `SystemFiles` one by one, so that each can be recorded and failed.
    """

    def __init__(self, disk: Disk) -> None:
        """Write through to the folder of `disk` and into its recording."""
        self._disk = disk
        self._numbers = count()

    def read(self, path: Path) -> bytes | None:
        """Return the content, or None when there is no such file."""
        content: bytes | None = None

        def whole() -> None:
            nonlocal content
            content = path.read_bytes() if path.exists() else None

        self._make(Call.READ, path, whole)
        return content

    def write_at(self, path: Path, offset: int, data: bytes, *, sync: bool) -> None:
        """Write bytes at a place, making the file if needed; `sync` makes them certain."""
        fd = self._open(path, os.O_RDWR | os.O_CREAT)
        try:
            self._write(fd, path, offset, data)
            if sync:
                self._sync(fd, path)
        finally:
            os.close(fd)

    def replace(self, path: Path, data: bytes) -> None:
        """Put new content in the place of the old so that always one of the two is there."""
        names = (f"{path.name}{TEMPORARY}{number}" for number in self._numbers)
        new = next(new for name in names if not (new := path.with_name(name)).exists())

        def whole() -> None:
            new.rename(path)
            self._disk.record(Renamed(self._name(new), self._name(path)))

        try:
            self._fill(new, data)
            self._make(Call.RENAME, path, whole)
        except OSError:
            with self._disk.lock():
                new.unlink(missing_ok=True)
                self._disk.record(Removed(self._name(new)))
            raise
        self._sync_folder(path.parent)

    def make_folder(self, path: Path) -> None:
        """Make a folder, if it is missing, and make its name certain in any case."""
        with self._disk.lock():
            if not path.is_dir():
                path.mkdir(mode=0o700)
                self._disk.record(FolderMade(self._name(path)))
        self._sync_folder(path.parent)

    def remove(self, path: Path) -> None:
        """Take a file away if it is there, and make that certain."""

        def whole() -> None:
            if path.exists():
                path.unlink()
                self._disk.record(Removed(self._name(path)))

        self._make(Call.REMOVE, path, whole)
        self._sync_folder(path.parent)

    def close(self) -> None:
        """Do nothing: nothing stays open between calls."""

    def _name(self, path: Path) -> str:
        name = self._disk.name_of(str(path.parent.resolve() / path.name))
        if name is None:
            raise ValueError(f"{path} is outside the recorded folder")
        return name

    def _open(self, path: Path, flags: int) -> int:
        with self._disk.lock():
            existed = path.exists()
            fd = os.open(path, flags | os.O_CLOEXEC, 0o600)
            if not existed:
                self._disk.record(Created(self._name(path)))
        return fd

    def _fill(self, path: Path, data: bytes) -> None:
        fd = self._open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            self._write(fd, path, 0, data)
            self._sync(fd, path)
        finally:
            os.close(fd)

    def _write(self, fd: int, path: Path, offset: int, data: bytes) -> None:
        def put(part: bytes) -> None:
            os.pwrite(fd, part, offset)
            self._disk.record(Written(self._name(path), offset, part))

        half = data[: len(data) // 2]
        self._make(Call.WRITE, path, lambda: put(data), lambda: put(half))

    def _sync(self, fd: int, path: Path) -> None:
        def whole() -> None:
            os.fsync(fd)
            self._disk.record_sync(Synced(self._name(path)))

        try:
            self._make(Call.SYNC, path, whole)
        except OSError:
            self._disk.record(SyncFailed(self._name(path)))
            raise

    def _sync_folder(self, folder: Path) -> None:
        def whole() -> None:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
            self._disk.record_sync(FolderSynced(_folder_of(self._name(folder / "any"))))

        self._make(Call.SYNC, folder, whole)

    def _make(
        self,
        call: Call,
        path: Path,
        whole: Callable[[], None],
        half: Callable[[], None] | None = None,
    ) -> None:
        fault = self._disk.step(call, whole, half)
        if fault:
            code = errno.EIO if fault is Fault.EIO else errno.ENOSPC
            raise OSError(code, os.strerror(code), str(path))


_CODES = {
    Call.READ: apsw.SQLITE_IOERR_READ,
    Call.WRITE: apsw.SQLITE_IOERR_WRITE,
    Call.SYNC: apsw.SQLITE_IOERR_FSYNC,
    Call.TRUNCATE: apsw.SQLITE_IOERR_TRUNCATE,
    Call.REMOVE: apsw.SQLITE_IOERR_DELETE,
}


def _sqlite_error(call: Call, fault: Fault) -> Exception:
    """Return the error the unix VFS would give; only a write can say that the disk is full."""
    full = call is Call.WRITE and fault is not Fault.EIO
    return apsw.exception_for(apsw.SQLITE_FULL if full else _CODES[call])


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemError("SIGKILL returned")
