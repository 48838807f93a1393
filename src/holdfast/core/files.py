"""
The port through which a store writes the small files beside its database.

It travels in the `World`, so that the crash lab can record and fail every step. The files of
this machine are in `store.files`.
"""

from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """Durable operations on small files."""

    def read(self, path: Path) -> bytes | None:
        """Return the bytes of a file, or None if there is none."""
        ...

    def write_at(self, path: Path, offset: int, data: bytes, *, sync: bool) -> None:
        """Write in place, creating the file; with `sync` it is durable on return."""
        ...

    def replace(self, path: Path, data: bytes) -> None:
        """Replace a file as a whole; durable on return."""
        ...

    def make_folder(self, path: Path) -> None:
        """Make a folder, if missing, and sync its parent."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file, if there, and sync its folder."""
        ...

    def close(self) -> None:
        """Close what was opened for writing in place."""
        ...
