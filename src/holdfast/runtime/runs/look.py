"""
A look at the store: all that the executor may have to do, found in one read.

An executor looks twice a second for as long as its process lives, mostly in vain; so everything
is read at once, by one thread, and what is not there costs one query each.

Invariants: what a look found is a hint. Who acts on it expects what it was, and is refused if it
is not so any more. What is damaged is left out and said; it keeps nothing else from being found.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from holdfast.core.errors import DamagedError, HoldfastError
from holdfast.core.key import encode_key, prefix_end
from holdfast.core.ledger import EntryState
from holdfast.core.run import RunView, decode_view
from holdfast.core.unit import RecordRow
from holdfast.runtime.listing import Damaged, TolerantReader, first_parts
from holdfast.runtime.runs.ending import ORPHANS_KIND
from holdfast.runtime.runs.function import Functions
from holdfast.runtime.runs.queue import first_queued
from holdfast.runtime.runs.schedule import stored_schedules
from holdfast.runtime.runs.view import (
    CODE_KIND,
    KIND,
    NO_QUEUE,
    TIMER_KIND,
    Timer,
    Views,
    is_for,
)
from holdfast.runtime.work.info import LISTED_MAX, entries
from holdfast.store.port import Reads

ENTRY_KIND: Final = "run"
PAGE: Final = 200
_DOMAINS_MAX: Final = 100  # One for each boot of each machine, until its timers are set anew.


class Asked(NamedTuple):
    """
    What is to be looked for.

    Attributes:
        room: how many runs may be begun.
        seen_to: runs in memory, whose versions are wanted.
        coded: also the runs that wait for a function.
    """

    room: int
    seen_to: Sequence[str]
    coded: bool


class Look(NamedTuple):
    """
    What a look at the store found to do.

    Attributes:
        schedules: what is started by the clock, due or not.
        queued: places of runs that may begin.
        views: how those of them are that are in no queue, with the versions of their records.
        interrupted: ids of runs whose runtime died.
        timers: those that come first, of every time domain.
        coded: runs that wait for a function that is here.
        versions: of the runs in memory.
        orphaned: ids of cancelled runs whose children are to be cancelled.
        damaged: what was left out.
    """

    schedules: Sequence[RecordRow]
    queued: list[RecordRow]
    views: dict[str, tuple[RunView, int]]
    interrupted: list[str]
    timers: list[tuple[RecordRow, Timer]]
    coded: list[RecordRow]
    versions: dict[str, int]
    orphaned: list[str]
    damaged: list[Damaged]


def look_for(reader: Reads, views: Views, asked: Asked) -> Look:
    """
    Look for all there is to do.

    Args:
        reader: what is read.
        views: of the runs; by their clock it is told what is to be done now.
        asked: what is to be looked for.
    """
    room = max(0, min(PAGE, asked.room))
    lists = TolerantReader(reader)
    queued = first_queued(lists, room, views.wall()) if room else []
    return Look(
        schedules=stored_schedules(lists),
        queued=queued,
        views=_views(reader, queued),
        interrupted=_interrupted(lists, min(PAGE, asked.room - len(queued))),
        timers=_timers(lists),
        coded=_coded(lists, views.functions) if asked.coded else [],
        versions=_versions(reader, asked.seen_to),
        orphaned=[note.key[0] for note in _all(lists, ORPHANS_KIND, PAGE)],
        damaged=lists.damaged,
    )


def _all(lists: TolerantReader, kind: str, limit: int) -> list[RecordRow]:
    return lists.records(kind, b"", prefix_end(b""), limit, None)


def _coded(lists: TolerantReader, functions: Functions) -> list[RecordRow]:
    """Return runs that wait for a function which is known here in their version."""
    found: list[RecordRow] = []
    for row in _all(lists, CODE_KIND, LISTED_MAX):
        known = functions.find(row.key[0])
        with lists.apart(CODE_KIND, row.key):
            if known is not None and is_for(row, known.version):
                found.append(row)
    return found


def _views(reader: Reads, queued: Sequence[RecordRow]) -> dict[str, tuple[RunView, int]]:
    views: dict[str, tuple[RunView, int]] = {}
    for row in queued:
        with suppress(HoldfastError):  # It is said when just this run is taken.
            shown = reader.record(KIND, (row.key[-1],))
            if shown is not None and shown.value is not None and row.key[0] == NO_QUEUE:
                views[row.key[-1]] = decode_view(shown.value), shown.version
    return views


def _interrupted(lists: TolerantReader, room: int) -> list[str]:
    if room <= 0:
        return []
    return [info.key[1] for info in entries(lists, EntryState.RESUMABLE, ENTRY_KIND, b"", room)]


def _timers(lists: TolerantReader) -> list[tuple[RecordRow, Timer]]:
    timers: list[tuple[RecordRow, Timer]] = []
    for row in _timer_rows(lists):
        with lists.apart(TIMER_KIND, row.key):
            timers.append((row, Timer.read(row)))
    return timers


def _timer_rows(lists: TolerantReader) -> list[RecordRow]:
    """Return all timers if they are few, else of every time domain the first ones."""
    if len(few := _all(lists, TIMER_KIND, PAGE)) < PAGE:
        return few
    found: list[RecordRow] = []
    for domain in first_parts(lists, TIMER_KIND, _DOMAINS_MAX):
        begin = encode_key((domain,))
        found += lists.records(TIMER_KIND, begin, prefix_end(begin), PAGE, None)
    return found


def _versions(reader: Reads, run_ids: Sequence[str]) -> dict[str, int]:
    versions: dict[str, int] = {}
    for run_id in run_ids:
        with suppress(DamagedError):  # It is made anew by who changes it.
            found = reader.record(KIND, (run_id,))
            versions[run_id] = 0 if found is None else found.version
    return versions
