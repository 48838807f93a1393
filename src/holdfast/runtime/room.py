"""
Room: what is free on the disk that an SQLite store lies on, before it is too late.

A full disk loses nothing: commits are refused, reads go on, the ballast lets what makes room come
through. But a service had better say that it is running out while it still can: work that begins
is refused below a floor, and what ends, answers or removes something goes on until there is none.

A store in memory has no disk, and that of a PostgreSQL server cannot be seen from here.
"""

import os
from pathlib import Path

from holdfast.core.denial import DiskLowError
from holdfast.store.options import sqlite_path
from holdfast.store.store import Store


class Room:
    """What is free on the disk of a store."""

    def __init__(self, store: Store) -> None:
        """Take the store, and how much has to be free there."""
        location = store.driver.location
        path = sqlite_path(location) if location.startswith("sqlite:") else None
        self._folder: Path | None = None if path is None else path.parent
        self._floor = 0 if store.options.read_only else store.options.free_bytes_min

    def free(self) -> int | None:
        """Return how many bytes are free; None if that cannot be seen."""
        if self._folder is None:
            return None
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return None
        return disk.f_bavail * disk.f_frsize

    def trouble(self) -> str:
        """Return why no work should begin; empty if there is room."""
        if self._too_little() is None:
            return ""
        return f"too little room is left on the disk: {self._floor} bytes have to be free"

    def check(self) -> None:
        """
        Return if there is room for work that begins.

        Raises:
            DiskLowError: there is too little.
        """
        free = self._too_little()
        if free is not None:
            raise DiskLowError(free=free, floor=self._floor)

    def _too_little(self) -> int | None:
        """Return how many bytes are free if that is too little; None if there is room."""
        free = self.free() if self._floor else None
        return None if free is None or free >= self._floor else free
