"""
What a restore from a backup leaves in a store: its lineage, and the pause until somebody confirms.

After a restore history may be written a second time under the same numbers, and the outside may
have seen effects that the restored store knows nothing of. So a restore counts the *lineage* up,
which is part of every cursor shown outside, and leaves the store paused: it can be read, runs
can be looked at and cancelled, but nothing is executed, claimed or fired before `confirm`.

    record holdfast.lineage ("store",)   absent: never restored, lineage 1
                                         confirmed_at missing: paused

Invariants: openings never change the lineage, every restore raises it; a lineage record that is
damaged counts as a restore that nobody confirmed, with a number no earlier one can have had.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DamagedError
from holdfast.core.sealing import LINEAGE_KIND
from holdfast.core.unit import MendRecord, PutRecord, Unit
from holdfast.runtime.service import Service
from holdfast.store.port import Reads
from holdfast.store.store import Store

KIND: Final = LINEAGE_KIND
KEY: Final = ("store",)
_LOOK: Final = 0.5
_NEVER_AGAIN: Final = 3600.0


class Lineage(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    How a store came to be what it is.

    Attributes:
        number: restores so far, and one.
        restored_at: wall time of the last restore.
        source: name of the backup it was restored from.
        confirmed_at: wall time at which somebody let it go on; None while it is paused.
        confirmed_by: who did.
    """

    number: int
    restored_at: float
    source: str
    confirmed_at: float | None = None
    confirmed_by: str = ""

    def put(self) -> PutRecord:
        """Return the write of this record."""
        return PutRecord(KIND, KEY, msgspec.msgpack.encode(self))


def read_lineage(reader: Reads) -> Lineage | None:
    """
    Return what the last restore left, or None if there was none.

    Raises:
        DamagedError: the record is damaged.
    """
    row = reader.record(KIND, KEY)
    if row is None or row.value is None:
        return None
    return codec.decode_as(row.value, Lineage, "lineage")


class Restored(Service):
    """
    The lineage of an open store, and its pause.

    Attributes:
        number: the lineage.
        paused: why nothing is executed; empty if all is as usual.
    """

    def __init__(self, store: Store) -> None:
        """Take a store that is not open yet."""
        super().__init__("restored", _LOOK)
        self._store = store
        self.number = 1
        self.paused = ""
        self._duties: tuple[Callable[[], None], ...] = ()

    def recall(self, reader: Reads) -> None:
        """Read it; called by the boot."""
        try:
            found = read_lineage(reader)
        except DamagedError:
            # Every restore is followed by an opening, so this is above every lineage there was.
            opened = self._store.opened
            self.number = 1 + (0 if opened is None else opened.epoch)
            self.paused = "the record of the last restore is damaged; confirm to go on"
            return
        self.number = 1 if found is None else found.number
        self.paused = ""
        if found is not None and found.confirmed_at is None:
            self.paused = f"paused after the restore of {found.source}; confirm to go on"

    def reason(self) -> str:
        """Return why nothing is executed; empty if all is as usual."""
        return self.paused

    def begin(self, *duties: Callable[[], None]) -> None:
        """Start duties: at once, or when somebody confirmed, here or in another process."""
        self._duties = duties
        if self.paused:
            self.start()
        else:
            self._start_duties()

    async def tick(self) -> None:
        """Look whether somebody confirmed."""
        if self.paused:
            await self._store.read(self.recall)
        if not self.paused:
            self._start_duties()

    async def confirm(self, by: str = "") -> bool:
        """
        End the pause after a restore: runs, timers and rescued work go on from here.

        Args:
            by: who confirms, for the record.

        Returns:
            Whether it was paused.

        Raises:
            VersionConflictError: somebody else changes it just now.
        """
        self._store.check_admitted()
        if not self.paused:
            return False
        now = self._store.world.clock.wall()
        try:
            found = await self._store.read(read_lineage)
            was = found or Lineage(self.number, now, "")
            after = msgspec.structs.replace(was, confirmed_at=now, confirmed_by=by)
            await self._store.commit(Unit((after.put(),)))
        except DamagedError:
            mended = Lineage(self.number, now, "", now, by)
            value = msgspec.msgpack.encode(mended)
            await self._store.commit(Unit((MendRecord(KIND, KEY, value),)))
        self.paused = ""
        self._start_duties()
        return True

    def _start_duties(self) -> None:
        self.interval = _NEVER_AGAIN
        duties, self._duties = self._duties, ()
        for start in duties:
            start()
