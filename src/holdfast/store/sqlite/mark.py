"""
The high-water mark: a few bytes beside the database that remember how far it had come.

SQLite opens an older or emptied database without a word. The mark holds the number of the
last acknowledged transaction, so that a database behind it is refused.

Two slots, 4 KiB apart, are written in turn, so that a power cut can spoil only one of them:

    offset 0     number (8 bytes) | check (8 bytes)      even numbers
    offset 4096  number (8 bytes) | check (8 bytes)      odd numbers
    offset 8192  count (8 bytes)  | check (8 bytes)      how often the log was brought home

The check is a digest of the store's id and the number: a mark of another store never fits.
The last slot tells an older main file under a newer log; the main file's header holds the
same count (`user_version`), raised in the log before the log is written into it.

Invariants: the mark is written after the commit it names, so it is never ahead of the truth;
without `sync` it survives every kill and is behind after a power cut by at most what the
operating system had not written back; with `sync` it is never behind an acknowledgement.
"""

from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from holdfast.core.files import Files

SLOT_BYTES = 16
SLOT_DISTANCE = 4096
_HOME_OFFSET = 2 * SLOT_DISTANCE


class Marked(NamedTuple):
    """
    What a mark says.

    Attributes:
        number: of the last transaction that was acknowledged; None if no slot fits the store.
        home: how often the log was brought home, as far as it was remembered.
    """

    number: int | None
    home: int


class Mark:
    """The mark of one store."""

    def __init__(self, path: Path, files: Files, *, sync: bool) -> None:
        """Take where the mark is, how files are written, and whether each write is synced."""
        self.path = path
        self._files = files
        self._sync = sync

    def exists(self) -> bool:
        """Return whether a mark was ever written here."""
        return bool(self._files.read(self.path))

    def read(self, store_id: bytes) -> Marked | None:
        """Return what is marked for this store, or None if no mark was ever written here."""
        data = self._files.read(self.path)
        if not data:
            return None
        slots = [data[at : at + SLOT_BYTES] for at in (0, SLOT_DISTANCE, _HOME_OFFSET)]
        *numbers, home = [_number_in(slot, store_id) for slot in slots]
        return Marked(max((n for n in numbers if n is not None), default=None), home or 0)

    def start(self, store_id: bytes, number: int) -> None:
        """Make the mark, durable and whole or not at all; done once, before the first answer."""
        slot = _slot(store_id, number)
        self._files.replace(self.path, slot.ljust(SLOT_DISTANCE, b"\0") + slot)

    def write_home(self, store_id: bytes, count: int) -> None:
        """Remember that the log was brought home; behind the truth it does no harm."""
        self._files.write_at(self.path, _HOME_OFFSET, _slot(store_id, count), sync=False)

    def write(self, store_id: bytes, number: int) -> None:
        """Remember that this transaction was committed."""
        offset = SLOT_DISTANCE * (number % 2)
        self._files.write_at(self.path, offset, _slot(store_id, number), sync=self._sync)


def _slot(store_id: bytes, number: int) -> bytes:
    encoded = number.to_bytes(8, "big")
    return encoded + blake2b(store_id + encoded, digest_size=8).digest()


def _number_in(slot: bytes, store_id: bytes) -> int | None:
    """Return what a slot holds, or None if it does not fit the store."""
    number = int.from_bytes(slot[:8], "big")
    return number if slot == _slot(store_id, number) else None
