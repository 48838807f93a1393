"""
What a power cut may leave on a disk, as files that can be opened.

    with Scratch() as scratch:
        for cut in cuts(disk.recording):
            for image in images(cut, seed):
                check(scratch.lay(image.files), cut.notes)

`images` takes the small families of a cut completely (nothing arrived, everything, one file
only, all but one, sizes without data) and draws from the large ones (prefixes, single sectors,
mixtures). With garbage, one uncertain sector at a time holds random bytes, also where a part of
it had been synced and not been written again: a disk without powersafe overwrite.

All that is drawn is decided by the seed and the number of the cut, so both replay an image.
Equal images of a cut are given once.
"""

import os
import shutil
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from random import Random
from types import TracebackType
from typing import TypeVar

from holdfast.testing.disk.cuts import Choice, Cut, Garbage, Image, Kind, Slot, cut_at, cuts

__all__ = [
    "Breadth",
    "CrashImage",
    "Cut",
    "Image",
    "Scratch",
    "cut_at",
    "cuts",
    "images",
    "remove_image",
    "write_image",
]

_T = TypeVar("_T")
_NO_GARBAGE: Garbage = {}
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Breadth:
    """
    How many images of the large families are taken per cut; the small ones are always complete.

    Attributes:
        prefixes: images in which exactly the first acts arrived.
        sectors: sectors that arrive alone, and that alone are missing.
        mixtures: seeded mixtures of everything.
        garbage: sectors that turn to random bytes, each in three surroundings; 0 for a disk
            with powersafe overwrite.
    """

    prefixes: int = 12
    sectors: int = 8
    mixtures: int = 12
    garbage: int = 0


_BREADTH = Breadth()


@dataclass(frozen=True, slots=True)
class CrashImage:
    """
    One content the folder could have after the cut.

    Attributes:
        files: contents by name.
        family: how it came about, for reports.
        digest: equal for equal contents, also across cuts, so that results can be reused.
    """

    files: Image
    family: str
    digest: bytes


def images(cut: Cut, seed: int, breadth: Breadth = _BREADTH) -> Iterator[CrashImage]:
    """
    Give the different images a power cut may leave at this moment.

    Args:
        cut: the moment.
        seed: with the number of the cut it decides all that is drawn.
        breadth: how many images of the large families.
    """
    rng = Random(f"{seed}/{cut.at}")
    chosen: set[Choice] = set()
    given: set[bytes] = set()
    for family, choice, garbage in _families(cut.slots(), rng, breadth, cut.sector_bytes):
        if not garbage:
            if choice in chosen:
                continue
            chosen.add(choice)
        files = cut.build(choice, garbage)
        digest = _digest(files)
        if digest not in given:
            given.add(digest)
            yield CrashImage(files, family, digest)


def _digest(files: Image) -> bytes:
    hasher = blake2b(digest_size=16)
    for name, content in files.items():
        hasher.update(f"{name}\0".encode())
        hasher.update(_digest_of_content(content))
    return hasher.digest()


@lru_cache(maxsize=16)
def _digest_of_content(content: bytes) -> bytes:
    """Return the digest of one content; of the images of a cut, most files are the same."""
    return blake2b(content, digest_size=16).digest()


_Family = tuple[str, Choice, Garbage]


def _families(
    slots: list[Slot], rng: Random, breadth: Breadth, sector_bytes: int
) -> Iterator[_Family]:
    yield "nothing", (0,) * len(slots), _NO_GARBAGE
    yield "everything", tuple(slot.last for slot in slots), _NO_GARBAGE
    for family in (
        _prefixes(slots, rng, breadth.prefixes),
        _owners(slots),
        _sizes(slots),
        _sectors(slots, rng, breadth.sectors),
        _mixtures(slots, rng, breadth.mixtures),
    ):
        for name, choice in family:
            yield name, choice, _NO_GARBAGE
    yield from _garbage(slots, rng, breadth.garbage, sector_bytes)


def _pick(slots: list[Slot], arrived: Iterable[bool]) -> Choice:
    return tuple(slot.last * come for slot, come in zip(slots, arrived, strict=True))


def _prefixes(slots: list[Slot], rng: Random, most: int) -> Iterator[tuple[str, Choice]]:
    origins = sorted({origin for slot in slots for origin in slot.origins[1:]})
    for origin in _some(origins, rng, most):
        yield "prefix", tuple(bisect_right(slot.origins, origin) - 1 for slot in slots)


def _owners(slots: list[Slot]) -> Iterator[tuple[str, Choice]]:
    names = [slot.kind is Kind.NAMES for slot in slots]
    for owner in sorted({slot.owner for slot in slots if slot.last}):
        own = [slot.owner == owner for slot in slots]
        yield "one only", _pick(slots, own)
        # The data of a new file are only seen under a name.
        yield "one only, all names", _pick(slots, map(any, zip(own, names, strict=True)))
        yield "all but one", _pick(slots, (not is_own for is_own in own))


def _sizes(slots: list[Slot]) -> Iterator[tuple[str, Choice]]:
    yield "sizes without data", _pick(slots, (slot.kind is not Kind.SECTOR for slot in slots))
    yield "data without sizes", _pick(slots, (slot.kind is not Kind.SIZE for slot in slots))


def _sectors(slots: list[Slot], rng: Random, most: int) -> Iterator[tuple[str, Choice]]:
    sectors = [slot for slot in slots if slot.kind is Kind.SECTOR and slot.last]
    for one in _some(sectors, rng, most):
        yield (
            "one sector only",
            _pick(slots, (slot is one or slot.kind is not Kind.SECTOR for slot in slots)),
        )
        yield "all but one sector", _pick(slots, (slot is not one for slot in slots))


def _mixtures(slots: list[Slot], rng: Random, most: int) -> Iterator[tuple[str, Choice]]:
    for _ in range(most):
        share = rng.choice((0.1, 0.5, 0.9, None))
        if share is None:
            yield "mixture", tuple(rng.randrange(len(slot.origins)) for slot in slots)
        else:
            yield "mixture", _pick(slots, [rng.random() < share for _ in slots])


def _garbage(slots: list[Slot], rng: Random, most: int, sector_bytes: int) -> Iterator[_Family]:
    sectors = [slot for slot in slots if slot.kind is Kind.SECTOR]
    # Those of the write in flight come last, and `_some` always takes the last ones.
    sectors.sort(key=lambda slot: slot.origins[-1])
    for one in _some(sectors, rng, most):
        garbage = {(one.owner, one.sector): rng.randbytes(sector_bytes)}
        yield "garbage, nothing else", (0,) * len(slots), garbage
        yield "garbage, everything else", tuple(slot.last for slot in slots), garbage
        mixed = tuple(rng.randrange(len(slot.origins)) for slot in slots)
        yield "garbage, mixture", mixed, garbage


def _some(found: list[_T], rng: Random, most: int) -> list[_T]:
    """Return at most so many: half of them the last ones, the others at random."""
    if len(found) <= most:
        return found
    late = found[len(found) - most // 2 :]
    early = found[: len(found) - len(late)]
    return rng.sample(early, most - len(late)) + late


def write_image(image: Image, folder: Path) -> None:
    """
    Put an image into files below a folder that is missing or empty.

    Raises:
        FileExistsError: the folder holds something.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty; write the image into a folder of its own")
    # Tens of thousands of images are laid, so this goes to the system directly.
    for name, content in sorted(image.items()):
        path = f"{folder}/{name}"
        if name.endswith("/"):
            os.mkdir(path, 0o700)  # noqa: PTH102
            continue
        with open(path, "xb") as file:  # noqa: PTH123
            file.write(content)


def remove_image(folder: str) -> None:
    """Remove a folder and what is in it; nobody else changes it, so names are enough."""
    with os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                remove_image(entry.path)
            else:
                os.unlink(entry.path)  # noqa: PTH108
    os.rmdir(folder)  # noqa: PTH106


class Scratch:
    """A place for one image at a time, in memory where the system offers that."""

    def __init__(self) -> None:
        """Make an empty folder of its own; it is gone after `close`."""
        above = _MEMORY if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) else None
        self._root = Path(tempfile.mkdtemp(prefix="holdfast-", dir=above))
        self._laid = 0

    def __enter__(self) -> "Scratch":
        """Return the place itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove everything."""
        self.close()

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._root)

    def lay(self, image: Image) -> Path:
        """Remove the image before, write this one, and return its folder."""
        if self._laid:
            remove_image(f"{self._root}/{self._laid}")
        self._laid += 1
        folder = self._root / str(self._laid)
        write_image(image, folder)
        return folder
