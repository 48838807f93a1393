"""
Bugs to plant in sessions, ledger and boot: slips of one line each that break a promise.

They are listed by name in `holdfast.testing.faults.PLANTS`, which is how they are planted.
"""

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, Final

import msgspec

from holdfast.core import ledger as rules
from holdfast.core.ledger import EntryRow, EntryState
from holdfast.core.unit import (
    Append,
    Committed,
    PatchRecord,
    RecordRow,
    Unit,
)
from holdfast.runtime.service import carry_on
from holdfast.runtime.sessions import flush
from holdfast.runtime.sessions.image import IDENTITY, Image, Portion
from holdfast.runtime.sessions.session import Session
from holdfast.runtime.work import ledger, rescue
from holdfast.runtime.work.entry import Book, Entry
from holdfast.runtime.work.rescue import RESCUES
from holdfast.runtime.work.roll import Roll, Someone
from holdfast.store import owner
from holdfast.store.store import Store

__all__ = ["SLIPS", "replaced"]

# Seconds by which something is late that had to be there before the answer.
LATE: Final = 0.05
Plant = Callable[[], AbstractContextManager[None]]


@contextmanager
def replaced(target: object, name: str, value: object) -> Generator[None]:
    """Have another attribute in something for the duration of a block."""
    before = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, before)


def _served_before_restored() -> AbstractContextManager[None]:
    """Let changes of state pass while the runtime is still being restored."""

    def admitting(self: Store, refusal: object) -> None: ...

    return replaced(Store, "shut", admitting)


def _flush_in_pieces() -> AbstractContextManager[None]:
    """Flush each group of a session by itself: a kill leaves some of them old."""

    async def write(self: Any, chunk: list[tuple[Any, Portion]]) -> None:
        rows: list[RecordRow] = []
        for _, portion in chunk:
            for one in portion.writes:
                committed = await self._store.commit(Unit((one,)))
                rows += committed.records
        self._note(chunk, rows)
        for session, _ in chunk:
            session.writing.release()

    return replaced(flush._Work, "_write", write)  # pyright: ignore[reportPrivateUsage]


def _flush_failure_forgotten() -> AbstractContextManager[None]:
    """Take a session for written although its flush failed."""
    write = flush._Work._write  # pyright: ignore[reportPrivateUsage]

    async def forgetting(self: Any, chunk: list[tuple[Any, Portion]]) -> None:
        await write(self, chunk)
        for session, _ in chunk:
            session._unsaved.clear()

    return replaced(flush._Work, "_write", forgetting)  # pyright: ignore[reportPrivateUsage]


@contextmanager
def _identity_written_after_the_answer() -> Generator[None]:
    """Write the index behind the head: a kill in between orphans the session."""
    attaching, attach = Image.attaching, Session[Any]._attach  # pyright: ignore[reportPrivateUsage]
    late: list[PatchRecord] = []

    def bare(self: Image, identities: Sequence[str]) -> Portion:
        portion = attaching(self, identities)
        index = [w for w in portion.writes if isinstance(w, PatchRecord) and w.kind == IDENTITY]
        late.extend(index)
        return portion._replace(writes=tuple(w for w in portion.writes if w not in index))

    async def attach_first(self: Session[Any], *arguments: Any) -> None:
        await attach(self, *arguments)
        writes, store = tuple(late), self._store  # pyright: ignore[reportPrivateUsage]
        late.clear()
        if writes:
            loop = asyncio.get_running_loop()
            loop.call_later(LATE, lambda: carry_on(store.commit(Unit(writes))))

    with replaced(Image, "attaching", bare), replaced(Session, "_attach", attach_first):
        yield


def _counter_added_twice() -> AbstractContextManager[None]:
    """Add what was counted here once more when another runtime has written in between."""
    catch_up = Session[Any]._catch_up  # pyright: ignore[reportPrivateUsage]

    async def twice(self: Any, *, durable: bool) -> bool:
        before = {
            name: getattr(self.value, name) - self._shape.exact[name].decode(self._clean(name))
            for name in self._shape.counters
        }
        same = await catch_up(self, durable=durable)
        for name, grown in before.items():
            setattr(self.value, name, getattr(self.value, name) + grown)
        self._now = self._shape.encode(self.value)
        self._find_unsaved()
        return same

    return replaced(Session, "_catch_up", twice)


# The ledger.


def _entry_consumed_twice() -> AbstractContextManager[None]:
    """Hand out what is there without looking whether it still is: two claim the same work."""
    change = Book.change

    def blind(*arguments: Any) -> Unit:
        unit = change(*arguments)
        return msgspec.structs.replace(unit, expects=unit.expects[:1])

    return replaced(Book, "change", blind)


@contextmanager
def _attempt_counted_after_dispatch() -> Generator[None]:
    """Count an attempt with the first mark of it: work that kills at once is tried for ever."""
    claimed, mark = rules.claimed, Entry.mark

    def uncounted(key: Any, before: EntryRow, *rest: Any) -> EntryRow:
        return msgspec.structs.replace(claimed(key, before, *rest), attempt=before.attempt)

    def shown(self: Entry) -> int:
        late = self.generation - self.row.first >= self.row.attempt
        return self.row.attempt + late

    async def counting(self: Entry, *arguments: Any) -> None:
        self._row = msgspec.structs.replace(self._row, attempt=self.attempt)  # pyright: ignore[reportPrivateUsage]
        await mark(self, *arguments)

    with (
        replaced(ledger, "claimed", uncounted),
        replaced(Entry, "attempt", property(shown)),
        replaced(Entry, "mark", counting),
    ):
        yield


def _generation_reused() -> AbstractContextManager[None]:
    """Begin settled work under the generation it had before: an old owner can settle the new."""

    def anew(key: Any, before: EntryRow | None, *rest: Any) -> EntryRow:
        if before is not None and before.state is EntryState.SETTLED:
            before = None
        return rules.begun(key, before, *rest)

    return replaced(ledger, "begun", anew)


def _stop_forgotten() -> AbstractContextManager[None]:
    """Decide about the work of a dead runtime as if nobody had asked for it to be stopped."""

    def forgetful(*arguments: Any, stop: bool) -> EntryState:
        return rules.verdict(*arguments, stop=False)

    return replaced(rescue, "verdict", forgetful)


# Dead runtimes.


def _rescue_without_proof() -> AbstractContextManager[None]:
    """Take every runtime that did not say goodbye for dead."""

    async def over(self: Roll, one: Someone, _: Any) -> int:
        return 0 if one.lease is None else one.lease.generation

    return replaced(Roll, "_over", over)


def _zombie_alive() -> AbstractContextManager[None]:
    """Take a process for alive as long as its number is in use."""
    stat = owner._stat  # pyright: ignore[reportPrivateUsage]

    def living(pid: int) -> tuple[str, int, int] | None:
        found = stat(pid)
        return None if found is None else ("S", *found[1:])

    return replaced(owner, "_stat", living)


def _rescue_reported_apart() -> AbstractContextManager[None]:
    """Say what came of a dead runtime in a unit of its own: a kill before it, and nobody knows."""
    commit = Store.commit_early

    async def apart(self: Store, unit: Unit) -> Committed:
        said = [w for w in unit.writes if isinstance(w, Append) and w.stream == RESCUES]
        if not said:
            return await commit(self, unit)
        rest = tuple(write for write in unit.writes if write not in said)
        committed = await commit(self, Unit(rest, unit.expects))
        self.world.failpoints.reach("rescue.ended")
        await commit(self, Unit(tuple(said)))
        return committed

    return replaced(Store, "commit_early", apart)


SLIPS: Final[Mapping[str, Plant]] = MappingProxyType(
    {
        "attempt-counted-after-dispatch": _attempt_counted_after_dispatch,
        "counter-added-twice": _counter_added_twice,
        "entry-consumed-twice": _entry_consumed_twice,
        "flush-failure-forgotten": _flush_failure_forgotten,
        "flush-in-pieces": _flush_in_pieces,
        "generation-reused": _generation_reused,
        "identity-written-after-the-answer": _identity_written_after_the_answer,
        "rescue-reported-apart": _rescue_reported_apart,
        "rescue-without-proof-of-death": _rescue_without_proof,
        "served-before-restored": _served_before_restored,
        "stop-forgotten": _stop_forgotten,
        "zombie-counts-as-alive": _zombie_alive,
    }
)
