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

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.engine import (
    BEGUN,
    KIND,
    REBASED,
    REQUESTED,
    RULES,
    Begun,
    Known,
    Rebased,
    Request,
    event_of,
    seed_of,
)
from holdfast.core.errors import (
    CodecError,
    DamagedError,
    SequenceConflictError,
    TooOldError,
)
from holdfast.core.event import EventRow
from holdfast.core.refusal import (
    EngineBehindError,
    EngineLostError,
    NotCapturedError,
    RulesChangedError,
)
from holdfast.core.unit import Append, AtSequence, PutRecord, RecordRow, Unit, Write
from holdfast.runtime.engines.copy import (
    Copy,
    Numbered,
    Progress,
    fresh,
    rebase,
    redo,
    restored,
    unpacked,
    untold,
)
from holdfast.runtime.engines.place import Place
from holdfast.runtime.engines.turn import a_slice
from holdfast.store.port import SnapshotRow

PAGE: Final = 1_000
PIECE_BYTES: Final = 32_768
"""Of a snapshot, that count for progress as much as an event: a few hundred facts."""
_LISTED: Final = 100
_UNFIT: Final = (DamagedError, CodecError, NotCapturedError, TooOldError)


async def known(place: Place) -> Known | None:
    """Return what is known of a memory without loading it, or None if it never began."""
    row = await place.store.read(lambda reader: reader.record(KIND, (place.name, *place.key)))
    return None if row is None or row.value is None else known_of(row)


async def unread(place: Place) -> int:
    """Return how many things a load has to do: pieces of a snapshot and events; 0 if none."""
    if (found := await known(place)) is None:
        return 0
    rows = await place.store.read(lambda reader: reader.snapshots(place.stream, 1))
    head = await place.store.read(lambda reader: reader.head(place.stream))
    last = 0 if head is None else head.last_sequence
    pieces = _pieces(rows[0]) if rows else 0
    return 1 + pieces + last - max(found.begun, rows[0].sequence if rows else 0)


def _pieces(row: SnapshotRow) -> int:
    """Return as how much progress a snapshot counts, beside the events behind it."""
    return row.size // PIECE_BYTES


def known_of(row: RecordRow) -> Known:
    """Return what a record says of a memory."""
    return codec.decode_as(row.value or b"", Known, "working memory")


def check_rules(place: Place, found: Known) -> None:
    """
    Return if a memory was made by these rules, or can be migrated to them.

    Raises:
        RulesChangedError: it was made by others.
    """
    if found.fingerprint != place.engine.fingerprint and place.migrate is None:
        raise RulesChangedError(
            memory=place.words, stored=found.fingerprint, current=place.engine.fingerprint
        )


async def load(place: Place, until: int | None = None, progress: Progress = untold) -> Copy:
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
        return await place.aside(fresh, place)
    check_rules(place, found)
    if found.fingerprint != place.engine.fingerprint:
        return await migrated(place, found)
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
        copy = await place.aside(fresh, place)
        copy.sequence = found.begun
        return await _follow(place, copy, until, progress)
    except TooOldError as error:
        reason = f"{tried} snapshots do not fit, and its journal begins at {error.first_sequence}"
        raise EngineLostError(memory=place.words, reason=reason) from error
    except CodecError as error:
        raise EngineLostError(memory=place.words, reason=str(error)) from error


async def migrated(place: Place, found: Known) -> Copy:
    """
    Bring a memory of other rules back under them, and begin anew with what goes over.

    Raises:
        RulesChangedError: nobody knows those rules any more.
        EngineLostError, DamagedError: the memory cannot be loaded.
        EngineBehindError: another runtime was quicker.
    """
    row = await place.store.read(lambda reader: reader.record(RULES, (found.fingerprint,)))
    if row is None or row.value is None or place.migrate is None:
        raise RulesChangedError(
            memory=place.words, stored=found.fingerprint, current=place.engine.fingerprint
        )
    earlier = place.engine.earlier(codec.decode(row.value, "rules"))
    old = await load(place._replace(engine=earlier))
    contents = place.migrate(old.memory.contents())
    copy = await place.aside(fresh, place)
    clock = place.store.world.clock
    with a_slice():
        copy.memory.begin(seed_of(place.stream, 0), clock.store_time(), clock.wall())
        copy.memory.take(contents)
        request = copy.memory.end()
        old.memory.close()
    begun = Begun(place.engine.fingerprint)
    events = (event_of(BEGUN, begun), event_of(REQUESTED, request))
    writes = (Append(place.stream, events), *beginning(place, old.sequence + 1))
    try:
        await place.store.commit_early(Unit(writes, (AtSequence(place.stream, old.sequence),)))
    except SequenceConflictError as error:
        raise EngineBehindError(memory=place.words) from error
    copy.sequence, copy.requests, copy.tail = old.sequence + 2, 1, 1
    return copy


def beginning(place: Place, sequence: int) -> tuple[Write, ...]:
    """Return what is written beside the event with which a memory begins."""
    fingerprint = place.engine.fingerprint
    known = msgspec.msgpack.encode(Known(fingerprint, sequence))
    rules = codec.encode(place.engine.description, "rules")
    return (
        PutRecord(KIND, (place.name, *place.key), known),
        PutRecord(RULES, (fingerprint,), rules),
    )


async def _load_from(place: Place, row: SnapshotRow, until: int | None, progress: Progress) -> Copy:
    if not row.intact:
        raise DamagedError(
            what="snapshot", name=row.name, sequence=row.sequence, reason="bytes and digest differ"
        )
    copy = await place.aside(_restored_from, place, row, progress)
    return await _follow(place, copy, until, progress)


def _restored_from(place: Place, row: SnapshotRow, progress: Progress) -> Copy:
    parts, requests = unpacked(place, codec.unpack(row.encoding, row.stored, row.size))
    memory = restored(place, parts, _pieces(row), progress)
    return Copy(memory, row.sequence, requests, row.sequence)


async def _note(place: Place, row: SnapshotRow, error: Exception) -> None:
    if not isinstance(error, DamagedError) or error.what == "snapshot":
        error = DamagedError(
            what="snapshot", name=place.stream, sequence=row.sequence, reason=str(error)
        )
    await place.damages.note(error)


# Doing requests again.


async def _follow(place: Place, copy: Copy, until: int | None, progress: Progress) -> Copy:
    """Do again what a journal says behind a copy; it is closed if that does not fit."""
    try:
        rows = await tail_of(place, copy.sequence, until)
    except BaseException:
        copy.memory.close()
        raise
    await place.aside(_follow_rows, place, copy, rows, progress)
    place.store.world.failpoints.reach("engine.restored")
    progress(1)
    return copy


async def tail_of(place: Place, after: int, until: int | None) -> list[EventRow]:
    """Return the events of a journal behind a sequence, up to another."""
    rows: list[EventRow] = []
    while until is None or after < until:
        room = PAGE if until is None else min(PAGE, until - after)
        _, page = await place.store.events(place.stream, after, room)
        rows += page
        if not page:
            break
        after = page[-1].sequence
    return rows


def requests_of(rows: Sequence[EventRow]) -> Iterator[Numbered]:
    """
    Give the requests among events of a journal.

    One at a time: all of them decoded would be millions of small objects, which the collector
    of Python looks at in one go while everybody waits.
    """
    return ((row.sequence, _said(row, Request)) for row in rows if row.type == REQUESTED)


def _follow_rows(place: Place, copy: Copy, rows: Sequence[EventRow], progress: Progress) -> None:
    """Do what a journal says; where it was rebased, do that too."""
    marks = {_said(row, Rebased).sequence for row in rows if row.type == REBASED}
    while rows:
        part = next((n for n, row in enumerate(rows, 1) if row.sequence in marks), len(rows))
        redo(place, copy, requests_of(rows[:part]), progress)
        progress(sum(row.type != REQUESTED for row in rows[:part]))
        copy.sequence = rows[part - 1].sequence
        if copy.sequence in marks:
            rebase(place, copy)
        rows = rows[part:]


def _said(row: EventRow, shape: type[Any]) -> Any:
    return codec.decode_as(row.payload, shape, f"event {row.sequence}")
