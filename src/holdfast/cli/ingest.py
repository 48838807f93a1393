"""
What the demo ingests and what it stores of it: the words that worker and audit share.

One file is one unit: an event in the stream of its package and the package's running totals,
together or not at all. The sequence of the event is the number of files of the package so far,
so the durable totals say exactly where a restarted worker goes on.
"""

from hashlib import sha256
from typing import Final

import msgspec

from holdfast import BUFFERED, Event, field, state

INGESTED: Final = "file_ingested"
SKIPPED: Final = "file_skipped"
FLUSH_INTERVAL: Final = 0.1
TRY_AGAIN: Final = 75


@state(version=1)
class Totals:
    """Durable totals of one package; committed with each event."""

    files: int = 0
    lines: int = 0
    bytes: int = 0


@state(version=1)
class Running:
    """Buffered totals of everything; written every flush interval."""

    files: int = field(default=0, tier=BUFFERED)
    lines: int = field(default=0, tier=BUFFERED)
    bytes: int = field(default=0, tier=BUFFERED)


class Package(msgspec.Struct, frozen=True):
    """
    One folder and its files, in the order of ingestion.

    Attributes:
        name: the folder, relative to the root; `.` is the root.
        files: paths relative to the root.
    """

    name: str
    files: tuple[str, ...]


class Order(msgspec.Struct, frozen=True):
    """
    What a worker is told to do.

    Attributes:
        store: URL of the store.
        root: folder with the files.
        label: begins the names of the streams, so that runs on one store stay apart.
        packages: what to ingest.
        plant: bug to plant, or "".
    """

    store: str
    root: str
    label: str
    packages: tuple[Package, ...]
    plant: str = ""


class Fact(msgspec.Struct, frozen=True):
    """
    What is recorded of one file: the data of its event.

    Attributes:
        path: the file, relative to the root.
        bytes: its size.
        lines: its lines.
        sha256: its content's digest, hexadecimal; empty if it could not be read.
        life: which life of the worker recorded it, from 1. So an event that was lost and
            made anew is not mistaken for the one that was acknowledged.
    """

    path: str
    bytes: int
    lines: int
    sha256: str
    life: int

    def event(self) -> Event:
        """Return the event that records this."""
        return Event.of(INGESTED if self.sha256 else SKIPPED, msgspec.to_builtins(self))


class Ready(msgspec.Struct, frozen=True, tag=True):
    """
    A worker opened the store and knows where to go on.

    Attributes:
        durable: files in the durable totals it found.
        buffered: files in the buffered totals it found.
    """

    durable: int
    buffered: int


class Tried(msgspec.Struct, frozen=True, tag=True):
    """A worker is about to record a file."""

    path: str


class Acknowledged(msgspec.Struct, frozen=True, tag=True):
    """The store said that a file is durable: the `await` has returned."""

    stream: str
    sequence: int
    fact: Fact


Word = Ready | Tried | Acknowledged


def stream_of(label: str, package: str) -> str:
    """Return the stream of a package."""
    return f"{label}/{package}"


def measured(path: str, content: bytes, life: int) -> Fact:
    """Return what is recorded of a file that was read."""
    lines = content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
    return Fact(path, len(content), lines, sha256(content).hexdigest(), life)


def checksum(digests: dict[str, str]) -> str:
    """Return the checksum of the whole from the digest of each path."""
    whole = sha256()
    for path in sorted(digests):
        whole.update(f"{path}\0{digests[path]}\n".encode())
    return whole.hexdigest()
