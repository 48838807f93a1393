"""
Snapshots: made beside the living memory, which then goes on from one of them.

The living memory is never captured: what it holds is in the journal anyway.

    1. a *shadow* is loaded as after a crash: the last snapshot, then the journal
    2. the shadow is captured; a *twin* is restored from the capture, and captured too: if the
       two captures differ in one byte, there is no snapshot, and the journal goes on
    3. the twin does what the living memory did meanwhile; it has to fire and to hold the same
    4. in one step it takes the place of the living one; the snapshot, and that it did so, are
       one unit of the journal

So requests are held up for slices of the pause only, every snapshot is a crash that was tried,
and who crashed and who did not go on from the same bytes.

Invariants: a snapshot is in the store only if its twin went on like the living memory; the
journal is trimmed only behind the oldest snapshot that is kept.
"""

import asyncio
from typing import Final

import msgspec

from holdfast.core.engine import ANSWERS
from holdfast.core.errors import DamagedError, EncodeError, InvalidValueError, LimitError
from holdfast.core.refusal import NotCapturedError, NotRestoredError
from holdfast.core.unit import SNAPSHOTS_KEPT, DeleteRecord, PutSnapshot, TrimStream, Write
from holdfast.runtime.engines.copy import Copy, rebase, redo
from holdfast.runtime.engines.live import Live
from holdfast.runtime.engines.load import load, requests_of, tail_of
from holdfast.runtime.engines.place import Place
from holdfast.runtime.engines.turn import SLICE

_ROUNDS_MAX: Final = 1_000


class Cadence(msgspec.Struct, frozen=True, kw_only=True):
    """
    When snapshots are made, and how many are kept.

    Attributes:
        requests: after so many requests since the last one.
        seconds: when the last one is so old, and something was done since.
        idle: when nobody has asked for so many seconds.
        on_close: when the runtime is closed in good order.
        least: requests since the last one that make one worth while when idle or on close.
        kept: snapshots that are kept.
        journal: keep the whole journal; otherwise what lies before the oldest snapshot goes.
        pause: seconds for which requests are held up at a stretch, about.
    """

    requests: int = 1_000
    seconds: float = 300.0
    idle: float = 10.0
    on_close: bool = True
    least: int = 100
    kept: int = SNAPSHOTS_KEPT
    journal: bool = False
    pause: float = SLICE

    def __post_init__(self) -> None:
        """
        Refuse what cannot work.

        Raises:
            InvalidValueError: a number is not positive.
        """
        for name in ("requests", "seconds", "idle", "least", "kept", "pause"):
            if not getattr(self, name) > 0:
                raise InvalidValueError(what=name, reason=f"is {getattr(self, name)}, more than 0")

    def due(self, live: Live, now: float) -> bool:
        """Return whether it is time for a snapshot."""
        if not live.tail:
            return False
        idle = now - live.used_at >= self.idle and live.tail >= self.least
        return live.tail >= self.requests or idle or now - live.based_at >= self.seconds


class Making:
    """
    The making of one snapshot.

    Attributes:
        size_bytes: what of it is stored.
        pause: seconds of the longest stretch for which it held up requests.
    """

    def __init__(self, live: Live, cadence: Cadence) -> None:
        """Take the living memory."""
        self._live = live
        self.size_bytes = 0
        self.pause = 0.0
        self._place: Place = live.place._replace(held=self._held)
        self._cadence = cadence

    def _held(self, seconds: float) -> None:
        self.pause = max(self.pause, seconds)

    async def run(self) -> int:
        """
        Make it, and have the living memory go on from it.

        Raises:
            NotCapturedError: there can be none now; says why.
        """
        live = self._live
        live.following = []
        try:
            await live.settled()
            return await self._run(live.durable)
        except (EncodeError, LimitError, NotRestoredError) as error:
            raise NotCapturedError(reason=str(error)) from error
        finally:
            live.following = None

    async def _run(self, sequence: int) -> int:
        live, place = self._live, self._place
        if not sequence:
            raise NotCapturedError(reason="nothing was done yet")
        twin = await load(place, until=sequence)
        data = await place.aside(rebase, place, twin)
        place.store.world.failpoints.reach("engine.captured")
        try:
            write = await place.aside(
                PutSnapshot.of, place.stream, place.stream, sequence, data, self._cadence.kept
            )
            self.size_bytes = len(write.stored)
            await self._catch_up(twin)
            writes = (write, *await self._trimming(sequence))
            await self._catch_up(twin)
        except BaseException:
            twin.memory.close()
            raise
        old = live.memory
        swapped = live.swap(twin, writes)
        place.store.world.failpoints.reach("engine.rebased")
        await place.aside(old.close)
        await asyncio.shield(swapped)
        return sequence

    async def _catch_up(self, twin: Copy) -> None:
        """Do what the living memory did meanwhile; afterwards nothing is left to do."""
        live = self._live
        for _ in range(_ROUNDS_MAX):
            some = live.following
            if live.gone or some is None:
                raise NotCapturedError(reason="the memory was dropped meanwhile")
            if not some:
                return
            live.following = []
            await self._place.aside(redo, self._place, twin, some)
        raise NotCapturedError(reason="requests come faster than they can be followed")

    async def _trimming(self, sequence: int) -> tuple[Write, ...]:
        """Return what lets go of the journal before the oldest snapshot that stays."""
        if self._cadence.journal:
            return ()
        place, kept = self._place, self._cadence.kept
        rows = await place.store.read(lambda reader: reader.snapshots(place.stream, kept))
        stay = [sequence, *(row.sequence for row in rows if row.sequence < sequence)][:kept]
        if len(stay) < kept:
            return ()
        before = min(stay) + 1
        return (TrimStream(place.stream, before), *await self._forgetting(before))

    async def _forgetting(self, before: int) -> tuple[Write, ...]:
        """Return what forgets the answers of requests that go; they cannot be asked for again."""
        place = self._place
        head, _ = await place.store.events(place.stream, before - 1, 1)
        after = before - 1 if head is None else head.first_sequence - 1
        key = (place.name, *place.key)
        try:
            requests = requests_of(await tail_of(place, after, before - 1))
        except DamagedError as damage:
            # What nobody can read any more goes all the same; the answers stay, and do no harm.
            await place.damages.note(damage)
            return ()
        return tuple(DeleteRecord(ANSWERS, (*key, one.id)) for _, one in requests if one.id)
