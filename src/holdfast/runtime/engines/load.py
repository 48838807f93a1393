"""
Bringing a working memory back: a snapshot that proves itself, then the journal behind it.

    1. the newest snapshot that is intact and of these rules goes into a fresh memory
    2. every request behind it is done again; what fires and what is there afterwards has to be
       what the journal says
    3. if anything does not fit, the snapshot is noted as damaged, and the one before it is
       tried with a longer tail; behind the last one there is the whole journal, if it was kept

Nothing here executes a function of the program, and no rule fires but those that had fired.
A memory is handed out when all of it fits, or not at all.

Invariants: upkeep has the turn in slices; a memory that is not handed out is closed.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.engine import (
    BEGUN,
    KIND,
    REBASED,
    REQUESTED,
    Begun,
    Known,
    Rebased,
    Request,
    seed_of,
    shown,
    stream_of,
)
from holdfast.core.errors import CodecError, DamagedError, DecodeError, TooOldError
from holdfast.core.event import EventRow
from holdfast.core.key import Key
from holdfast.core.refusal import (
    EngineLostError,
    NotCapturedError,
    NotRestoredError,
    RulesChangedError,
)
from holdfast.runtime.damage import Damages
from holdfast.runtime.engines.engine import Engine, Memory
from holdfast.runtime.engines.turn import SLICE, a_slice, in_slices, quietly
from holdfast.store.port import SnapshotRow
from holdfast.store.store import Store

PAGE: Final = 1_000
VERSION: Final = 1
"""Of the snapshots written here."""
_LISTED: Final = 100
_UNFIT: Final = (DamagedError, CodecError, NotCapturedError)

Progress = Callable[[int], None]


class Place(NamedTuple):
    """
    Which working memory, and what keeps it.

    Attributes:
        store: where it is kept.
        damages: where damage is noted.
        engine: its rules.
        name: of the engine.
        key: of the memory; empty if the engine has one alone.
        pause: seconds for which upkeep holds up requests at a stretch.
    """

    store: Store
    damages: Damages
    engine: Engine
    name: str
    key: Key
    pause: float = SLICE

    @property
    def stream(self) -> str:
        """The journal; snapshots have the same name."""
        return stream_of(self.name, self.key)

    @property
    def words(self) -> str:
        """It in words."""
        return shown(self.name, self.key)


class Loaded(NamedTuple):
    """
    A memory that is back.

    Attributes:
        memory: it.
        sequence: of the last event of its journal that it includes.
        base: sequence of the snapshot it was restored from; 0 if it was from none.
    """

    memory: Memory
    sequence: int
    base: int


class Head(msgspec.Struct, frozen=True):
    """The first part of a stored snapshot."""

    version: int
    fingerprint: str
    parts: int


async def known(place: Place) -> Known | None:
    """Return what is known of a memory without loading it, or None if it never began."""
    row = await place.store.read(lambda reader: reader.record(KIND, (place.name, *place.key)))
    if row is None or row.value is None:
        return None
    return codec.decode_as(row.value, Known, "working memory")


async def check_rules(place: Place) -> None:
    """
    Return if a memory was made by these rules, or never began.

    Raises:
        RulesChangedError: it was made by others.
    """
    if (found := await known(place)) is not None:
        _check(place, found)


def _check(place: Place, found: Known) -> None:
    if found.fingerprint != place.engine.fingerprint:
        raise RulesChangedError(
            memory=place.words, stored=found.fingerprint, current=place.engine.fingerprint
        )


async def load(place: Place, until: int | None = None, progress: Progress | None = None) -> Loaded:
    """
    Bring a memory back; one that never began comes back at sequence 0, fresh.

    Args:
        place: which one.
        until: the last event to include; all of them if None.
        progress: is told how many requests were done again.

    Raises:
        RulesChangedError: it was made by other rules.
        EngineLostError: nothing that is stored gives it back.
        DamagedError: its journal is damaged behind the snapshots that can be used.
    """
    found = await known(place)
    if found is None:
        return Loaded(await _fresh(place), 0, 0)
    _check(place, found)
    tried = 0
    rows = await place.store.read(lambda reader: reader.snapshots(place.stream, _LISTED))
    for row in rows:
        if row.sequence <= found.begun or (until is not None and row.sequence > until):
            continue
        try:
            return await _load_from(place, row, until, progress)
        except _UNFIT as error:
            tried += 1
            await _note(place, row, error)
    try:
        return await _replay(place, await _fresh(place), found.begun, 0, until, progress)
    except TooOldError as error:
        reason = f"{tried} snapshots do not fit, and its journal begins at {error.first_sequence}"
        raise EngineLostError(memory=place.words, reason=reason) from error
    except CodecError as error:
        raise EngineLostError(memory=place.words, reason=str(error)) from error


async def _fresh(place: Place) -> Memory:
    def make() -> Memory:
        with a_slice():
            return place.engine.fresh()

    return await asyncio.to_thread(make)


async def _load_from(
    place: Place, row: SnapshotRow, until: int | None, progress: Progress | None
) -> Loaded:
    if not row.intact:
        raise DamagedError(
            what="snapshot", name=row.name, sequence=row.sequence, reason="bytes and digest differ"
        )
    memory = await asyncio.to_thread(
        lambda: restored(place, unpacked(place, codec.unpack(row.encoding, row.stored, row.size)))
    )
    return await _replay(place, memory, row.sequence, row.sequence, until, progress)


async def _note(place: Place, row: SnapshotRow, error: Exception) -> None:
    if not isinstance(error, DamagedError) or error.what == "snapshot":
        error = DamagedError(
            what="snapshot", name=place.stream, sequence=row.sequence, reason=str(error)
        )
    await place.damages.note(error)


# Doing requests again.


async def _replay(
    place: Place,
    memory: Memory,
    after: int,
    base: int,
    until: int | None,
    progress: Progress | None,
) -> Loaded:
    """Do all requests behind `after` again; the memory is closed if they do not fit."""
    try:
        rows = await _tail(place, after, until)
    except BaseException:
        quietly(memory.close)
        raise
    memory = await asyncio.to_thread(_redo_all, place, memory, rows, progress)
    return Loaded(memory, rows[-1].sequence if rows else after, base)


async def _tail(place: Place, after: int, until: int | None) -> list[EventRow]:
    rows: list[EventRow] = []
    while until is None or after < until:
        room = PAGE if until is None else min(PAGE, until - after)
        _, page = await place.store.events(place.stream, after, room)
        rows += page
        if not page:
            break
        after = page[-1].sequence
    return rows


def _redo_all(
    place: Place, memory: Memory, rows: Sequence[EventRow], progress: Progress | None
) -> Memory:
    """Do what a journal says; where it was rebased, do that too."""
    marks = {rebased.sequence for rebased in map(_rebased, rows) if rebased is not None}
    try:
        while rows:
            part = next((n for n, row in enumerate(rows, 1) if row.sequence in marks), len(rows))
            _take(place, _redo_rows(place, memory, rows[:part]), progress)
            if rows[part - 1].sequence in marks:
                memory = rebase(place, memory)[0]
            rows = rows[part:]
    except BaseException:
        quietly(memory.close)
        raise
    return memory


def _rebased(row: EventRow) -> Rebased | None:
    return _said(row, Rebased) if row.type == REBASED else None


def _said(row: EventRow, shape: type[Any]) -> Any:
    return codec.decode_as(row.payload, shape, f"event {row.sequence}")


def _redo_rows(place: Place, memory: Memory, rows: Sequence[EventRow]) -> Iterator[None]:
    for row in rows:
        if row.type == REQUESTED:
            _redo(place, memory, row.sequence, _said(row, Request))
        elif row.type == BEGUN and _said(row, Begun).fingerprint != place.engine.fingerprint:
            raise NotRestoredError(reason=f"event {row.sequence} begins with other rules")
        yield


def redo_all(place: Place, memory: Memory, requests: Sequence[tuple[int, Request]]) -> None:
    """
    Do requests again, each with its sequence.

    Raises:
        NotRestoredError: something else came of one.
    """

    def steps() -> Iterator[None]:
        for sequence, request in requests:
            _redo(place, memory, sequence, request)
            yield

    _take(place, steps())


def _take(place: Place, steps: Iterator[None], done: Progress | None = None) -> None:
    for _ in in_slices(place.store.world.clock, steps, place.pause):
        if done is not None:
            done(1)


def _redo(place: Place, memory: Memory, sequence: int, request: Request) -> None:
    again = memory.redo(request, seed_of(place.stream, sequence))
    if not again.agrees(request):
        raise NotRestoredError(
            reason=f"request {sequence} came out otherwise: {again.fired} rules fired, not "
            f"{request.fired}, facts {again.facts.hex()[:8]}, not {request.facts.hex()[:8]}"
        )


# Snapshots.


def rebase(place: Place, memory: Memory) -> tuple[Memory, bytes]:
    """
    Return a memory restored from a capture of this one, which is closed, and the capture.

    Raises:
        NotCapturedError: it cannot be captured, or another memory came of it.
    """
    try:
        parts = captured(place, memory)
        other = restored(place, parts)
        again = captured(place, other)
    except NotRestoredError as error:
        raise NotCapturedError(reason=error.reason) from error
    if again != parts:
        quietly(other.close)
        raise NotCapturedError(reason=f"restoring it gave another one: {_differing(parts, again)}")
    quietly(memory.close)
    return other, packed(place, parts)


def _differing(parts: list[bytes], again: list[bytes]) -> str:
    number = next(
        (n for n, pair in enumerate(zip(parts, again, strict=False)) if len(set(pair)) > 1), 0
    )
    return f"part {number} of {len(parts)} differs"


def captured(place: Place, memory: Memory) -> list[bytes]:
    """Return the parts of a state, encoded."""
    steps: Iterator[bytes] = (codec.encode(part, "part") for part in memory.capture())
    return list(in_slices(place.store.world.clock, steps, place.pause))


def restored(place: Place, parts: Sequence[bytes]) -> Memory:
    """
    Return a memory that took these parts.

    Raises:
        NotRestoredError: they are not of this engine.
    """
    with a_slice():
        memory = place.engine.fresh()
    try:
        _take(place, _restoring(memory, parts))
    except BaseException:
        quietly(memory.close)
        raise
    return memory


def _restoring(memory: Memory, parts: Sequence[bytes]) -> Iterator[None]:
    for part in parts:
        memory.restore(codec.decode(part, "part"))
        yield


def packed(place: Place, parts: Sequence[bytes]) -> bytes:
    """Return the parts of a state as the bytes of a snapshot."""
    head = Head(VERSION, place.engine.fingerprint, len(parts))
    return b"".join(
        len(part).to_bytes(4, "big") + part for part in (msgspec.msgpack.encode(head), *parts)
    )


def unpacked(place: Place, data: bytes) -> list[bytes]:
    """
    Return the parts of a snapshot.

    Raises:
        DecodeError, NotRestoredError: it is none, of another version, or of other rules.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "big")
        parts.append(data[at + 4 : end])
        at = end
    if not parts or at != len(data):
        raise DecodeError(what="snapshot", reason="its parts do not fill it")
    head = codec.decode_as(parts[0], Head, "snapshot")
    if head.version != VERSION or head.parts != len(parts) - 1:
        raise NotRestoredError(reason=f"snapshot of version {head.version}, this reads {VERSION}")
    if head.fingerprint != place.engine.fingerprint:
        raise NotRestoredError(reason=f"snapshot of rules {head.fingerprint}")
    return parts[1:]
