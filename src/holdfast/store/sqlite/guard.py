"""
What is checked before an SQLite store is opened, and what is held while it is.

SQLite trusts what it finds: an empty main file is an empty database, and the log beside it,
which may hold everything, is then deleted. So the guard looks first, and refuses.

    agent.db            main file
    agent.db-wal        write-ahead log, SQLite's
    agent.db-holdfast/  ours: gate, life, mark, ballast, kept/

Order of an opening:

1. take the *gate* (exclusive): one opening at a time looks and decides;
2. try the *life* lock exclusively. It is held shared by every process that has the store
   open. If we get it, nobody else has it open, and we may read the files ourselves. If not,
   the others have looked already, and we must not touch the files: opening and closing them
   in a process that uses the database drops SQLite's locks. But the file they have open, as
   the first of them has written into `life`, must still be the one at our path;
3. alone: look at the main file and the log, refuse or go on;
4. hold the life lock shared, release the gate once the store is open.

Locks are `flock` on files of our own: they end with the process, also when it is killed, and
no process id is written anywhere.

Refusing leaves the files as they are and keeps a copy of them under `kept/`, so that nothing
that is tried later can make it worse.

Invariants: the guard never writes to the database files; it never opens them while anyone,
this process included, has the store open; it never lets a store begin afresh where a mark or
a log says that there was one.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Final

from holdfast.core.errors import (
    StoreBusyError,
    StoreError,
    StoreExistsError,
    StoreFullError,
    StoreRefusedError,
    UnsafeStoreError,
)
from holdfast.core.failpoint import Failpoints
from holdfast.core.files import Files
from holdfast.store.files import TEMPORARY, remove_leftovers, sync_folder
from holdfast.store.sqlite.mark import Mark
from holdfast.store.sqlite.wal import HEADER_BYTES, examine

APPLICATION_ID: Final = 0x484F4C44
BALLAST_BYTES: Final = 256 * 1024
_LOOK_AGAIN: Final = 0.02
_SHOWN_BYTES_MAX: Final = 64
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")
_SQLITE_MAGIC: Final = b"SQLite format 3\0"
# By device number, for all openings of a process.
_SYSTEMS: Final[dict[int, str]] = {}
_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "fuse.sshfs"}
)


class Guard:
    """
    The locks and the small files of one SQLite store.

    Attributes:
        durability: `synced`, or what is weaker about the place.
        suspicion: what may be wrong with the files, if only SQLite can tell; else empty.
        home: how often the log was brought home, as the main file's header says; None if
            nobody looked.
        has_log: there was a log when the files were looked at.
    """

    def __init__(self, path: Path, files: Files, failpoints: Failpoints, *, strict: bool) -> None:
        """
        Take the store's path.

        Args:
            path: the main file, absolute.
            files: how small files are written.
            failpoints: places for tests.
            strict: sync the mark with each commit.
        """
        self.path = path
        self._name = str(path)
        self.wal = path.with_name(path.name + "-wal")
        self.folder = path.with_name(path.name + "-holdfast")
        self.mark = Mark(self.folder / "mark", files, sync=strict)
        self._journal = path.with_name(path.name + "-journal")
        self._ballast = self.folder / "ballast"
        self._files = files
        self._failpoints = failpoints
        self._gate = -1
        self._life = -1
        self._alone = False
        self.durability = "synced"
        self.suspicion = ""
        self.home: int | None = None
        self.has_log = False

    def enter(self, wait: float, *, allow_unsafe: bool) -> bool:
        """
        Take the gate and the life lock, and look at the files if nobody has the store open.

        Args:
            wait: seconds to wait for another opening.
            allow_unsafe: accept a network file system.

        Returns:
            Whether this is the only opening right now.

        Raises:
            StoreBusyError: another opening held the gate for the whole wait.
            StoreRefusedError: the files are not what was left behind.
            UnsafeStoreError: the file system gives no working locks.
        """
        self._check_place(allow_unsafe=allow_unsafe)
        try:
            self._enter(wait)
        except OSError as error:
            raise self.as_store_error(error) from error
        self._failpoints.reach("boot.guarded")
        return self._alone

    def _enter(self, wait: float) -> None:
        self._files.make_folder(self.folder)
        self._gate = self._lock_file("gate")
        _lock_within(self._gate, wait)
        self._life = self._lock_file("life")
        self._alone = _try_lock(self._life, fcntl.LOCK_EX)
        self._failpoints.reach("boot.locked")
        if self._alone:
            for replaced in (self.path, self.mark.path, self._ballast):
                remove_leftovers(replaced)
            self._look()
        elif os.pread(self._life, _SHOWN_BYTES_MAX, 0) != self._shown_identity():
            raise self._unopened(
                "the main file was replaced while another process has the store open; "
                "stop that process first"
            )
        fcntl.flock(self._life, fcntl.LOCK_SH)

    @contextmanager
    def building(self, wait: float) -> Generator[tuple[Path, Callable[[bytes, int], None]]]:
        """
        Keep the place to ourselves while a store is made for it.

        Lends a path beside it, where the file is to be built and synced, and what puts it into
        its place and marks it. Remains of a former store, such as its log, are put aside first:
        SQLite would take them for those of the new one.

        Raises:
            StoreExistsError: there is a store.
            StoreBusyError: somebody has one open here, or is about to.
        """
        if not self.path.parent.is_dir():
            raise self._unopened(f"the folder {self.path.parent} does not exist; create it first")
        self._files.make_folder(self.folder)
        self._gate = self._lock_file("gate")
        try:
            _lock_within(self._gate, wait)
            self._life = self._lock_file("life")
            if not _try_lock(self._life, fcntl.LOCK_EX):
                raise StoreBusyError(waited=0.0)
            if self.path.exists():
                raise StoreExistsError(store=str(self.path))
            remove_leftovers(self.path)
            path = self.path.with_name(f"{self.path.name}{TEMPORARY}{secrets.token_hex(8)}")
            try:
                yield path, partial(self._place, path)
            finally:
                path.unlink(missing_ok=True)
                path.with_name(path.name + "-journal").unlink(missing_ok=True)
        finally:
            self._files.close()
            self.leave()

    def _place(self, built: Path, store_id: bytes, number: int) -> None:
        """Give a file that is durable its name, unless the name is taken."""
        self._put_aside()
        sync_folder(built.parent)
        try:
            os.link(built, self.path)
        except FileExistsError as error:
            raise StoreExistsError(store=str(self.path)) from error
        built.unlink()
        sync_folder(self.path.parent)
        self.mark.start(store_id, number)

    def _put_aside(self) -> None:
        """Keep what is left of a former store where nothing takes it for the new one's."""
        siblings = [self.path.with_name(f"{self.path.name}-{end}") for end in ("wal", "shm")]
        siblings += [self.path.with_name(f"{self.path.name}-journal"), self.mark.path]
        there = [one for one in siblings if one.exists()]
        if not there:
            return
        kept = self.folder / "kept"
        self._files.make_folder(kept)
        target = kept / f"replaced-{1 + sum(1 for _ in kept.iterdir()):04d}"
        self._files.make_folder(target)
        for one in there:
            one.rename(target / one.name)
            sync_folder(one.parent)
        sync_folder(target)

    def found(self) -> bool:
        """Return whether anything of a store is there."""
        return any(path.exists() for path in (self.path, self.wal, self.folder))

    def open_gate(self) -> None:
        """Show which file is open and let the next opening look; called when this one is done."""
        if self._alone:
            os.ftruncate(self._life, 0)
            os.pwrite(self._life, self._shown_identity(), 0)
        self._close_gate()

    def leave(self) -> None:
        """Release every lock; called after the last connection is closed."""
        self._close_gate()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1

    def identity(self) -> tuple[int, int] | None:
        """Return device and inode of the main file; `stat` opens nothing."""
        try:
            found = os.stat(self._name)  # noqa: PTH116 once per commit; half the cost of Path.stat
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def hold_ballast(self) -> bool:
        """Keep some space that a full disk can be given back; return whether it is there."""
        if self._ballast.exists():
            return True
        try:
            self._files.replace(self._ballast, _incompressible())
        except OSError:
            return False
        return True

    def drop_ballast(self) -> None:
        """Give the space back, so that recovery and deletion work on a full disk."""
        self._files.remove(self._ballast)

    def as_store_error(self, error: OSError) -> StoreError:
        """Return Holdfast's error for one that a file of the store met while it was opened."""
        if error.errno == errno.ENOSPC:
            return StoreFullError(reason=str(error.strerror))
        place = error.filename or self.folder
        return self._unopened(f"{place} cannot be used ({error.strerror})")

    def refuse(self, reason: str) -> StoreRefusedError:
        """Keep a copy of the files as found and return the error to raise."""
        return StoreRefusedError(store=str(self.path), reason=reason, report=self._keep_copy())

    def _close_gate(self) -> None:
        if self._gate >= 0:
            os.close(self._gate)
            self._gate = -1

    def _shown_identity(self) -> bytes:
        return repr(self.identity()).encode()

    def _look(self) -> None:
        found, log = _size(self.path), _size(self.wal) or 0
        if not found:
            state = "is missing" if found is None else "is empty"
            if log > HEADER_BYTES:
                raise self.refuse(f"the main file {state}, but its log holds {log} bytes")
            if self.mark.exists():
                raise self.refuse(f"the main file {state}, but its mark says there was a store")
            return
        if self._is_half_made():
            return
        logged = self._look_at_log(found) if log else frozenset[int]()
        self._look_at_main(found, log, logged)

    def _look_at_main(self, size: int, log: int, logged: frozenset[int]) -> None:
        with self.path.open("rb") as file:
            head = file.read(100)
        if head[:16] != _SQLITE_MAGIC:
            # A page that was being written home when the power failed is still in the log.
            if 1 in logged:
                return
            raise self.refuse("the main file does not begin as an SQLite database")
        self.home, self.has_log = int.from_bytes(head[60:64], "big"), log > 0
        application = int.from_bytes(head[68:72], "big")
        if application not in (0, APPLICATION_ID):
            raise self.refuse(f"application id {application:#x} belongs to another program")
        page = int.from_bytes(head[16:18], "big")
        pages = int.from_bytes(head[28:32], "big")
        needed = pages * (65536 if page == 1 else page)
        if log == 0 and size < needed:
            raise self.refuse(f"the main file was cut: {size} of {needed} bytes are there")

    def _is_half_made(self) -> bool:
        """
        Tell whether the power failed while SQLite made the file.

        Its journal, synced before the first byte of the main file, says that there was nothing,
        and SQLite goes back to that. Later there is a log instead, and a mark.
        """
        return self._journal.exists() and not self.wal.exists() and not self.mark.exists()

    def _look_at_log(self, size: int) -> frozenset[int]:
        """Return the pages that the log holds."""
        with self.wal.open("rb") as file:
            verdict = examine(file)
        if verdict.damaged_frame is not None:
            raise self.refuse(
                f"the log is damaged at frame {verdict.damaged_frame}: frames up to "
                f"{verdict.proven_by} were synced, {verdict.frames} of them verify"
            )
        there = size // (verdict.page_size or 1)
        behind = set(range(there + 1, verdict.size_pages + 1)) - verdict.pages
        if behind:
            # Or pages that were free before they were ever written; SQLite knows which.
            self.suspicion = f"the main file was cut: page {min(behind)} is missing"
        return verdict.pages

    def _keep_copy(self) -> str:
        if not self._alone:
            return "The files were not changed; no copy was made, because others have them open"
        kept = self.folder / "kept"
        try:
            self._files.make_folder(kept)
            number = 1 + sum(1 for _ in kept.iterdir())
            target = kept / f"refused-{number:04d}"
            self._files.make_folder(target)
            for source in (self.path, self.wal, self.folder / "mark"):
                if source.exists():
                    shutil.copy2(source, target / source.name)
        except OSError as error:
            return f"The files were not changed; a copy could not be kept ({error.strerror})"
        return f"The files were not changed; a copy is in {target}"

    def _lock_file(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        return os.open(self.folder / name, flags, 0o600)

    def _check_place(self, *, allow_unsafe: bool) -> None:
        folder = self.path.parent
        if not folder.is_dir():
            raise self._unopened(f"the folder {folder} does not exist; create it first")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise self._unopened(f"the folder {folder} cannot be written")
        system = _file_system_of(folder)
        if system in _NETWORK:
            self.durability = f"unsafe: file system {system}"
        if system in _NETWORK and not allow_unsafe:
            raise UnsafeStoreError(
                setting=f"file system of {folder}", found=system, needed="a local one with locks"
            )

    def _unopened(self, reason: str) -> StoreRefusedError:
        return StoreRefusedError(store=str(self.path), reason=reason)


def mount_table() -> str:
    """Return what the system says is mounted where; empty if it does not say."""
    try:
        return Path("/proc/self/mounts").read_text()
    except OSError:
        return ""


@cache
def _incompressible() -> bytes:
    # Made once for a process: somebody may open many stores.
    return os.urandom(BALLAST_BYTES)


def file_system(folder: Path, mounts: str) -> str:
    """Return the type of the file system a folder is on, or "unknown"."""
    best, kind = "", "unknown"
    for line in mounts.splitlines():
        _, point, name, *_ = line.split(" ")
        point = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), point)
        inside = str(folder) == point or str(folder).startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def _file_system_of(folder: Path) -> str:
    """Return the type of the file system a folder is on; a device keeps its type."""
    device = folder.stat().st_dev
    if device not in _SYSTEMS:
        _SYSTEMS[device] = file_system(folder, mount_table())
    return _SYSTEMS[device]


def _size(path: Path) -> int | None:
    """Return the size of a file, or None if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _try_lock(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UnsafeStoreError(
            setting="flock", found=error.strerror or str(error), needed="a file system with locks"
        ) from error
    return True


def _lock_within(descriptor: int, wait: float) -> None:
    """Take an exclusive lock, looking again every few milliseconds; `flock` has no limit."""
    pause = threading.Event()
    for _ in range(max(1, round(wait / _LOOK_AGAIN))):
        if _try_lock(descriptor, fcntl.LOCK_EX):
            return
        pause.wait(_LOOK_AGAIN)
    raise StoreBusyError(waited=wait)
