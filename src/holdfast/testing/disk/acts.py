"""
What can happen on a disk, as values: the words of a recording.

`disk.disk` records them, `disk.cuts` works out from them what a power cut may leave. Names are
relative to the recorded folder; a name says which file is meant at that point of the recording,
so an act on a file comes after the act that gave it the name.
"""

import os
from pathlib import Path

import msgspec

__all__ = [
    "Act",
    "Created",
    "FolderMade",
    "FolderSynced",
    "Noted",
    "Recording",
    "Removed",
    "Renamed",
    "SyncFailed",
    "Synced",
    "Truncated",
    "Written",
    "read_image",
]


class Created(msgspec.Struct, frozen=True, tag=True):
    """A new, empty file appeared; the name is certain after its folder was synced."""

    name: str


class Written(msgspec.Struct, frozen=True, tag=True):
    """Bytes were written at a place in a file."""

    name: str
    start: int
    data: bytes


class Truncated(msgspec.Struct, frozen=True, tag=True):
    """The size of a file was set."""

    name: str
    size_bytes: int


class Synced(msgspec.Struct, frozen=True, tag=True):
    """All bytes and the size of a file became certain."""

    name: str


class SyncFailed(msgspec.Struct, frozen=True, tag=True):
    """A sync was refused; what was not certain stays so until it is written again."""

    name: str


class Removed(msgspec.Struct, frozen=True, tag=True):
    """A name was taken away."""

    name: str


class Renamed(msgspec.Struct, frozen=True, tag=True):
    """A file took another name in the same folder, replacing what had it."""

    name: str
    target: str


class FolderMade(msgspec.Struct, frozen=True, tag=True):
    """A folder was made; it is certain after the folder above it was synced."""

    name: str


class FolderSynced(msgspec.Struct, frozen=True, tag=True):
    """The names inside a folder (`""` is the root) became certain."""

    name: str


class Noted(msgspec.Struct, frozen=True, tag=True):
    """The workload said something, for example that it acknowledged unit 7."""

    value: object


Act = (
    Created
    | Written
    | Truncated
    | Synced
    | SyncFailed
    | Removed
    | Renamed
    | FolderMade
    | FolderSynced
    | Noted
)


class Recording(msgspec.Struct):
    """What the folder held at first, all of it certain, and what happened since."""

    start: dict[str, bytes]
    acts: list[Act]


def read_image(folder: Path) -> dict[str, bytes]:
    """Return what a folder holds, by name; a name that ends in `/` is a folder."""
    image: dict[str, bytes] = {}
    above = len(str(folder)) + 1
    for root, folders, names in os.walk(folder):
        image |= {f"{root}/{name}/"[above:]: b"" for name in folders}
        for name in names:
            if not name.endswith("-shm"):
                with open(f"{root}/{name}", "rb", buffering=0) as file:  # noqa: PTH123
                    image[file.name[above:]] = file.read()
    return dict(sorted(image.items()))
