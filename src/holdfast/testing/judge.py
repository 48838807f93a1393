"""
What a store is worth after an accident: it is opened, read, written, opened again, and compared.

Every layer of the lab judges by the same rules. A sound store opens; `verify` finds nothing; one
more commit works; a second opening sees the same and that commit. What it has to hold is said by
the layer, from what the workload noted before the accident.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import msgspec

from holdfast.core import codec
from holdfast.core.errors import HoldfastError
from holdfast.core.unit import PutRecord, Unit
from holdfast.store.port import Driver, Opened
from holdfast.store.reader import Reader
from holdfast.testing.workload import content_of

__all__ = ["Found", "Tally", "UnsoundError", "content", "examine", "promised", "recover"]


class UnsoundError(Exception):
    """An image is not sound."""


class Found(msgspec.Struct, frozen=True):
    """
    What an opening made of an image.

    Attributes:
        content: digest of everything that can be read.
        store_id: which store it is, hexadecimal.
        epoch: number of this opening.
        wrong: what is not sound about it; empty if nothing is.
    """

    content: bytes = b""
    store_id: str = ""
    epoch: int = 0
    wrong: str = ""


@dataclass(slots=True)
class Tally:
    """
    What was done and what it showed.

    Attributes:
        cuts: moments at which the power was cut.
        images: images judged, different ones of each cut.
        opened: different images that were opened.
        nested: images among them that come from a second cut, during recovery.
        lost: cases in which something acknowledged was gone.
        unsound: other cases that are not as promised.
        failures: the first of both, each with the command that repeats it.
    """

    cuts: int = 0
    images: int = 0
    opened: int = 0
    nested: int = 0
    lost: int = 0
    unsound: int = 0
    failures: list[str] = field(default_factory=list[str])

    @property
    def clean(self) -> bool:
        """Whether everything was as promised."""
        return not self.lost and not self.unsound

    def blame(self, what: str, *, lost: bool) -> None:
        """Count a failure; the first few are kept in words."""
        self.lost += lost
        self.unsound += not lost
        if len(self.failures) < 10:
            self.failures.append(what)

    def add(self, other: "Tally") -> None:
        """Count what another tally counted."""
        for name in ("cuts", "images", "opened", "nested", "lost", "unsound"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.failures = [*self.failures, *other.failures][:10]


def examine(connect: Callable[[], Driver], *, thorough: bool = True) -> Found:
    """
    Open a store after an accident, read everything, commit once more, open it again.

    Args:
        connect: makes a driver for it, not opened yet.
        thorough: read everything at the second opening too, not only what was committed.
    """
    try:
        return _examine(connect, thorough)
    except (HoldfastError, UnsoundError) as error:
        return Found(wrong=f"{type(error).__name__}: {error}")


def recover(connect: Callable[[], Driver]) -> Found:
    """Open a store after an accident and close it cleanly; nothing is read."""
    driver = connect()
    try:
        opened = driver.open()
    except HoldfastError as error:
        return Found(wrong=f"{type(error).__name__}: {error}")
    driver.close()
    return Found(store_id=opened.store_id.hex(), epoch=opened.epoch)


def _examine(connect: Callable[[], Driver], thorough: bool) -> Found:
    with _opened(connect) as (driver, opened):
        before = content(driver)
        if findings := list(driver.verify()):
            raise UnsoundError(f"verify: {findings[0]}")
        unit_id = driver.last_number().to_bytes(6, "big") + bytes(10)
        driver.commit([Unit((PutRecord("after", ("crash",), codec.encode(1)),), (), unit_id)])
        after = content(driver) if thorough else b""
    with _opened(connect) as (driver, again):
        if again.epoch <= opened.epoch or again.store_id != opened.store_id:
            raise UnsoundError(f"epoch {again.epoch} of the second opening, or another store")
        if driver.outcome(unit_id) != "committed":
            raise UnsoundError("the second opening does not know the commit of the first")
        if thorough and (after == before or content(driver) != after):
            raise UnsoundError("the second opening differs from the first")
    return Found(before, opened.store_id.hex(), opened.epoch)


@contextmanager
def _opened(connect: Callable[[], Driver]) -> Generator[tuple[Driver, Opened]]:
    driver = connect()
    opened = driver.open()
    try:
        # A killed client's server may still be committing; this waits for it.
        driver.outcome(bytes(16))
        yield driver, opened
    finally:
        driver.close()


def content(driver: Driver) -> bytes:
    """Return what an opened store holds, by `content_of`."""
    with driver.reading() as reader:
        return content_of(cast(Reader, reader))  # Scans are no part of the port.


def promised(notes: tuple[object, ...]) -> tuple[int, int, str, int]:
    """Return what was acknowledged and tried, and the last opening's store and epoch."""
    acknowledged = tried = epoch = 0
    store_id = ""
    for note in notes:
        match note:
            case ("acknowledged", int(number)):
                acknowledged = number
            case ("tried", int(number)):
                tried = number
            case ("opened", str(name), int(number)):
                store_id, epoch = name, number
            case _:
                pass
    return acknowledged, max(acknowledged, tried), store_id, epoch
