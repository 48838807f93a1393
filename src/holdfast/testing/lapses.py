"""
Bugs to plant in engines: slips of one line each that break a promise.

They are listed by name in `holdfast.testing.faults.PLANTS`, which is how they are planted.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, Final

import msgspec

from holdfast.core.engine import Begun, Decided, Rebased, Request, event_of
from holdfast.core.event import Event, EventRow
from holdfast.core.unit import PutRecord, TrimStream, Write
from holdfast.runtime.engines import copy, live, load, snapshot
from holdfast.runtime.engines.attached import AttachedEngine
from holdfast.runtime.engines.copy import Copy
from holdfast.runtime.engines.live import Answer, Live
from holdfast.runtime.engines.place import Place
from holdfast.runtime.engines.snapshot import Making
from holdfast.testing.slips import replaced

__all__ = ["LAPSES"]

Plant = Callable[[], AbstractContextManager[None]]


# Requests.


def _answered_when_enqueued() -> AbstractContextManager[None]:
    """Answer when the engine is done: a kill before the commit, and the request is gone."""
    enqueue = Live._enqueue  # pyright: ignore[reportPrivateUsage]

    def early(self: Live, answer: Answer, *rest: Any) -> Answer:
        enqueue(self, answer, *rest)
        return answer

    return replaced(Live, "_enqueue", early)


def _request_id_forgotten() -> AbstractContextManager[None]:
    """Keep a request without what answers its id: who asks again has it done twice."""
    written_of = Live._written_of  # pyright: ignore[reportPrivateUsage]

    def nameless(
        self: Live, request: Request, value: Any
    ) -> tuple[Event, Event, tuple[PutRecord, ...]]:
        return written_of(self, msgspec.structs.replace(request, id=""), value)

    return replaced(Live, "_written_of", nameless)


def _loaded_before_it_is_written() -> AbstractContextManager[None]:
    """Load a memory again while what was done to it before is on its way to the store."""

    async def hasty(self: AttachedEngine, live: Live) -> None:
        self._lives.pop(live.place.key, None)  # pyright: ignore[reportPrivateUsage]
        await live.close()

    return replaced(AttachedEngine, "_let_go", hasty)


# Replays.


def _heard_forgotten() -> AbstractContextManager[None]:
    """Keep a request without what functions answered: a replay has to call them again."""

    def deaf(type: str, said: Request | Begun | Rebased | Decided) -> Event:
        if isinstance(said, Request):
            said = msgspec.structs.replace(said, heard=[])
        return event_of(type, said)

    return replaced(live, "event_of", deaf)


def _rebase_not_redone() -> AbstractContextManager[None]:
    """Pass the place in a journal where the memory was replaced by a restored one."""

    def passing(place: Place, copy: Copy) -> bytes:
        return b""

    return replaced(load, "rebase", passing)


def _snapshot_passed_over_in_silence() -> AbstractContextManager[None]:
    """Take the snapshot before a damaged one, and tell nobody."""

    async def silent(place: Place, row: EventRow, error: Exception) -> None: ...

    return replaced(load, "_note", silent)


# Snapshots.


def _twin_not_compared() -> AbstractContextManager[None]:
    """Go on from a restored memory, whatever came of the restoring."""

    def trusting(place: Place, it: Copy) -> bytes:
        parts = copy.captured(place, it.memory)
        other = copy.restored(place, parts)
        it.memory.close()
        it.memory, it.base, it.tail = other, it.sequence, 0
        return copy.packed(place, parts, it.requests)

    return replaced(snapshot, "rebase", trusting)


def _journal_trimmed_too_far() -> AbstractContextManager[None]:
    """Let go of one event more than the oldest snapshot makes up for."""
    trimming = Making._trimming  # pyright: ignore[reportPrivateUsage]

    async def greedy(self: Making, sequence: int) -> tuple[Write, ...]:
        return tuple(
            TrimStream(write.stream, write.before + 1) if isinstance(write, TrimStream) else write
            for write in await trimming(self, sequence)
        )

    return replaced(Making, "_trimming", greedy)


@contextmanager
def _fired_facts_fire_again() -> Generator[None]:
    """Leave on the agenda of CLIPS what had fired before, and out of the capture who is there."""
    # Holdfast is used without CLIPS, too.
    from holdfast.adapters.clips import capture

    def nobody(memory: object) -> Iterator[tuple[str, str]]:
        return iter(())

    def trusting(memory: object, pending: Sequence[str]) -> Iterator[None]:
        return iter(())

    with replaced(capture, "agenda_of", nobody), replaced(capture, "_reconcile", trusting):
        yield


LAPSES: Final[Mapping[str, Plant]] = MappingProxyType(
    {
        "answered-when-enqueued": _answered_when_enqueued,
        "fired-facts-fire-again": _fired_facts_fire_again,
        "heard-forgotten": _heard_forgotten,
        "journal-trimmed-too-far": _journal_trimmed_too_far,
        "loaded-before-it-is-written": _loaded_before_it_is_written,
        "rebase-not-redone": _rebase_not_redone,
        "request-id-forgotten": _request_id_forgotten,
        "snapshot-passed-over-in-silence": _snapshot_passed_over_in_silence,
        "twin-not-compared": _twin_not_compared,
    }
)
