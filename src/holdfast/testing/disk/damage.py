"""
Damage to the files of a store: what a bad disk, a careless operator or a wrong copy leaves.

    rng = Random(seed)
    image = read_image(folder)
    damage = draw(rng, image)
    write_image(damage.applied(image, older), elsewhere)

A damage is a value: it can be printed, stored and done again. It is applied to an *image*, the
bytes of a folder by name, so thousands can be tried without touching the files themselves.

Promises: the same seed and the same image give the same damage; a drawn damage changes at
least one byte, unless the chosen place already held what it writes.
"""

import shutil
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from random import Random

import msgspec

__all__ = ["IN_PLACE", "WHOLE_FILE", "Damage", "Image", "Kind", "clone", "draw"]

Image = Mapping[str, bytes]
SECTOR_BYTES = 512


class Kind(StrEnum):
    """What happens to a file."""

    FLIP = "flip"  # one bit
    ZERO = "zero"  # a sector, as after a lost write
    GARBAGE = "garbage"  # a sector, as after a write that was torn
    CUT = "cut"  # everything behind a place is gone
    EMPTY = "empty"  # the file is there with no bytes
    REMOVE = "remove"  # the file is gone
    SWAP = "swap"  # an older copy of the file is in its place
    RESTORE = "restore"  # so is an older copy of its log


IN_PLACE = (Kind.FLIP, Kind.ZERO, Kind.GARBAGE)
WHOLE_FILE = (Kind.CUT, Kind.EMPTY, Kind.REMOVE, Kind.SWAP)


class Damage(msgspec.Struct, frozen=True):
    """
    One damage.

    Attributes:
        kind: what happens.
        name: the file, relative to the folder.
        offset: first byte that changes, or where the file is cut.
        bit: which bit of that byte, for a flip.
        seed: decides the bytes of garbage.
    """

    kind: Kind
    name: str
    offset: int = 0
    bit: int = 0
    seed: int = 0

    def applied(self, image: Image, older: Image | None = None) -> dict[str, bytes]:
        """
        Return an image with this damage.

        Args:
            image: the files as they are.
            older: the files as they were; needed for a swap and for restoring. One that had
                no such file then has none now.

        Raises:
            KeyError: the image has no such file.
            ValueError: a swap without an older image.
        """
        damaged = dict(image)
        content = damaged[self.name]
        match self.kind:
            case Kind.FLIP:
                flipped = content[self.offset] ^ 1 << self.bit
                damaged[self.name] = self._with(content, bytes([flipped]))
            case Kind.ZERO:
                damaged[self.name] = self._with(content, bytes(SECTOR_BYTES))
            case Kind.GARBAGE:
                damaged[self.name] = self._with(content, Random(self.seed).randbytes(SECTOR_BYTES))
            case Kind.CUT:
                damaged[self.name] = content[: self.offset]
            case Kind.EMPTY:
                damaged[self.name] = b""
            case Kind.REMOVE:
                del damaged[self.name]
            case Kind.SWAP:
                if older is None:
                    raise ValueError("a swap needs the older image")
                del damaged[self.name]
                damaged |= {self.name: older[self.name]} if self.name in older else {}
            case Kind.RESTORE:
                if older is None:
                    raise ValueError("restoring needs the older image")
                both = (self.name, f"{self.name}-wal")
                damaged = {name: damaged[name] for name in damaged if name not in both}
                damaged |= {name: older[name] for name in both if name in older}
        return damaged

    def _with(self, content: bytes, piece: bytes) -> bytes:
        end = min(self.offset + len(piece), len(content))
        return content[: self.offset] + piece[: end - self.offset] + content[end:]


def draw(
    rng: Random,
    image: Image,
    kinds: Sequence[Kind] = (*IN_PLACE, Kind.CUT),
    names: Sequence[str] = (),
) -> Damage:
    """
    Draw one damage.

    Args:
        rng: the only source of chance.
        image: what can be damaged.
        kinds: what may happen, each as likely as the others.
        names: the files that may be hit; by default all that have content.

    Raises:
        ValueError: there is nothing to damage.
    """
    hit = sorted(name for name in (names or image) if image[name])
    if not hit:
        raise ValueError("no file of the image has content")
    kind = rng.choice(list(kinds))
    name = rng.choice(hit)
    offset = rng.randrange(len(image[name]))
    if kind in (Kind.ZERO, Kind.GARBAGE):
        offset -= offset % SECTOR_BYTES
    return Damage(kind, name, offset, rng.randrange(8), rng.randrange(2**32))


def clone(folder: Path, to: Path) -> Path:
    """Copy a folder with everything in it, as an operator would, and return the copy."""
    shutil.copytree(folder, to)
    return to
