"""
The small files a store keeps beside its database, and how each write of them becomes durable.

The database files are never touched here: opening and closing one of them in this process
would drop SQLite's locks. They are reached through the port `core.files`.

Invariants: a replaced file is the old one or the new one, never a mixture; a new folder is
durable once `make_folder` returns; files are private to the user (0600, folders 0700).
"""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from holdfast.core.failpoint import Failpoints

TEMPORARY = ".tmp-"


class SystemFiles:
    """The files of this machine. Files written in place stay open until `close`."""

    def __init__(self, failpoints: Failpoints) -> None:
        """Take the failpoints to pass at each step."""
        self._failpoints = failpoints
        self._open: dict[Path, int] = {}

    def read(self, path: Path) -> bytes | None:
        """Return the bytes of a file, or None if there is none."""
        try:
            with path.open("rb", buffering=0) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def write_at(self, path: Path, offset: int, data: bytes, *, sync: bool) -> None:
        """Write in place, creating the file; with `sync` it is durable on return."""
        descriptor = self._open.get(path)
        if descriptor is None:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._open[path] = descriptor
        written = os.pwrite(descriptor, data, offset)
        if written != len(data):
            raise OSError(28, "short write", str(path))
        if sync:
            os.fdatasync(descriptor)

    def replace(self, path: Path, data: bytes) -> None:
        """Replace a file as a whole; durable on return."""
        replace_file(path, data, self._failpoints)

    def make_folder(self, path: Path) -> None:
        """Make a folder, if missing, and sync its parent."""
        # Synced also if it is there: an earlier process may have died before it could.
        path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(path.parent)

    def remove(self, path: Path) -> None:
        """Remove a file, if there, and sync its folder."""
        path.unlink(missing_ok=True)
        sync_folder(path.parent)

    def close(self) -> None:
        """Close what was opened for writing in place."""
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


def replace_file(path: Path, data: bytes, failpoints: Failpoints) -> None:
    """Write a whole file so that a crash leaves the old one or the new one."""
    with replacing(path, failpoints) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, failpoints: Failpoints) -> Generator[BinaryIO]:
    """
    Lend a file that takes the place of `path` when the block leaves without an error.

    A unique temporary name in the same folder, file sync, rename, folder sync. What a crash
    leaves behind has `TEMPORARY` in its name and is removed by `remove_leftovers`.
    """
    temporary = path.with_name(f"{path.name}{TEMPORARY}{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            failpoints.reach("file.written")
            os.fsync(file.fileno())
        failpoints.reach("file.synced")
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    failpoints.reach("file.renamed")
    sync_folder(path.parent)
    failpoints.reach("file.folder_synced")


def remove_leftovers(path: Path) -> list[str]:
    """Remove temporary files that a crash left beside `path`; return their names."""
    prefix = f"{path.name}{TEMPORARY}"
    # Names alone: this is done several times at every opening, and mostly nothing is found.
    found = sorted(name for name in os.listdir(path.parent) if name.startswith(prefix))  # noqa: PTH208
    for name in found:
        path.with_name(name).unlink(missing_ok=True)
    return found


def sync_folder(folder: Path) -> None:
    """Make names created or removed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
