"""
What a store has to be able to do, and the one way a batch goes through it.

The rules are in `core.commit`; a driver carries them out. It is synchronous and simple: one
thread commits, any thread reads. `commit_batch` is the only algorithm; drivers supply its
steps. Everything a driver raises is mapped here to three kinds of failure:

- `Again`: nothing was written, another writer was in the way; the batch starts over.
- `StoreError`: nothing was written; the callers may retry.
- `CommitFailed`: the COMMIT itself failed. What happened is unknown until the store is opened
  again, because the failed transaction may still be on the disk.

This interface is for people who write a store; it may change between minor releases. The
contract suite in `holdfast.testing.contract` says what is asked of an implementation.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, Protocol

import msgspec

from holdfast.core.clock import Offset
from holdfast.core.commit import Decision, Moment, Needs, State, decide, needs
from holdfast.core.errors import DamagedError, HoldfastError, StoreBusyError
from holdfast.core.event import EventRow, Head
from holdfast.core.key import Key
from holdfast.core.sealing import UnknownDataKey
from holdfast.core.unit import Committed, LeaseRow, RecordRow, Unit
from holdfast.core.world import World
from holdfast.store.vault import Vault

if TYPE_CHECKING:
    from holdfast.store.archive import Archive

Answer = Committed | HoldfastError
Verdict = Literal["committed", "absent", "forgotten"]
TRIES_MAX: Final = 20


class Again(Exception):  # noqa: N818 control flow between driver and batch, not an error
    """Another writer got in between; nothing was written; load and decide anew."""


class CommitFailed(Exception):  # noqa: N818 mapped to an error with the unit's id
    """COMMIT failed; whether it happened is unknown."""


class Answers(NamedTuple):
    """
    What a batch comes to.

    Attributes:
        units: an answer per unit, in order.
        streams: names of the streams that changed; who follows them is woken.
        positions: of the events that were appended, growing.
        sync: seconds the COMMIT took, if somebody measures.
        tries: how often the batch was begun.
    """

    units: list[Answer]
    streams: Collection[str] = ()
    positions: Collection[int] = ()
    sync: float = 0.0
    tries: int = 1


class Opened(msgspec.Struct, frozen=True):
    """
    What an opening found and made.

    Attributes:
        store_id: id drawn when the store was made.
        incarnation: id of this opening.
        epoch: number of this opening, counted up.
        schema: number of the last migration.
        number: number of the last transaction found.
        alone: nobody else had the store open.
        software: name and version of the database.
        durability: `synced`, or what is weaker about it.
        notes: things an operator should know.
    """

    store_id: bytes
    incarnation: bytes
    epoch: int
    schema: int
    number: int
    alone: bool
    software: str
    durability: str
    notes: tuple[str, ...] = ()


class Finding(msgspec.Struct, frozen=True):
    """
    One damage that `verify` found.

    Attributes:
        what: table or kind of thing.
        name: which one.
        sequence: place in a stream, if it is an event.
        reason: what does not fit.
    """

    what: str
    name: str
    reason: str
    sequence: int | None = None


class Depth(msgspec.Struct, frozen=True):
    """
    How much of a store is read by a check.

    Attributes:
        level: `quick` reads what has one row each and nothing of streams, blobs and snapshots but
            that they are named; `standard` reads every row; `full` also checks indexes, and
            the runtime compares runs with their journals.
        part: which share of the streams, blobs and snapshots is read, from 1.
        of: how many shares there are; the same thing is always in the same one.
    """

    level: Literal["quick", "standard", "full"] = "full"
    part: int = 1
    of: int = 1

    @property
    def reads_content(self) -> bool:
        """Whether streams, blobs and snapshots are read."""
        return self.level != "quick"

    def takes(self, id: bytes) -> bool:
        """Return whether a thing is in the share that is read."""
        return int.from_bytes(id[:8]) % self.of == self.part - 1


ALL: Final = Depth()


class Listed(msgspec.Struct, frozen=True):
    """A stream's head as a listing finds it; one that is damaged is marked, not hidden."""

    head: Head
    intact: bool


class ListedRecord(msgspec.Struct, frozen=True, gc=False):
    """
    A record as a listing finds it; one that is damaged is marked, not hidden.

    Attributes:
        row: the record; of a damaged one only what could be read.
        place: stored bytes of its key, behind which the listing goes on.
        damage: what is wrong with it, if it does not match its digest or its seal.
    """

    row: RecordRow
    place: bytes
    damage: DamagedError | None = None

    @property
    def intact(self) -> bool:
        """Whether it is as it was written."""
        return self.damage is None


class BlobRow(msgspec.Struct, frozen=True):
    """
    A stored blob as read, not yet unpacked.

    Attributes:
        content: its digest.
        size: of its bytes.
        encoding: how they are stored.
        stored: as which bytes.
        counted: it was put by a Holdfast that counts who names it.
    """

    content: bytes
    size: int
    encoding: str
    stored: bytes
    counted: bool


class SnapshotRow(msgspec.Struct, frozen=True):
    """A stored snapshot as read, not yet unpacked."""

    name: str
    stream: str
    sequence: int
    size: int
    encoding: str
    stored: bytes
    written_at: float
    intact: bool


class Changes(msgspec.Struct, frozen=True):
    """
    What other openings of the store did, as far as a reader has to know.

    Attributes:
        streams: streams that have new events.
        foreign: another opening committed something.
    """

    streams: tuple[str, ...] = ()
    foreign: bool = False


class Lists(Protocol):
    """What lists records."""

    def records(
        self, kind: str, first: bytes, until: bytes, limit: int, tag: str | None
    ) -> list[RecordRow]:
        """Return records that have a value, by encoded key."""
        ...


class Reads(Lists, Protocol):
    """What can be read; every answer is checked against its digest."""

    def head(self, stream: str) -> Head | None:
        """Return a stream's head, or None."""
        ...

    def heads(self, first: bytes, until: bytes, limit: int) -> list[Listed]:
        """Return heads by encoded name, from `first` (included) to `until` (excluded)."""
        ...

    def events(self, stream: str, after: int, limit: int) -> tuple[Head | None, list[EventRow]]:
        """Return a stream's head and its rows behind sequence `after`."""
        ...

    def horizon(self) -> int:
        """Return the position up to which no event can appear any more."""
        ...

    def feed(self, after: int, horizon: int, limit: int) -> list[tuple[str, EventRow]]:
        """Return events of all streams behind position `after`, up to a horizon."""
        ...

    def record(self, kind: str, key: Key) -> RecordRow | None:
        """Return a record; one without value was deleted."""
        ...

    def records_at(self, kind: str, keys: Sequence[Key]) -> list[RecordRow | None]:
        """Return the record of each key, none for none; one without value was deleted."""
        ...

    def tally(
        self, kind: str, first: bytes, until: bytes, limit: int, tag: str | None
    ) -> tuple[int, int, bytes]:
        """Return how many records there are, how many of them are damaged, and the last place."""
        ...

    def listed(
        self, kind: str, first: bytes, until: bytes, limit: int, tag: str | None = None
    ) -> list[ListedRecord]:
        """Return records that have a value, by encoded key; damaged ones are marked."""
        ...

    def lease(self, key: str) -> LeaseRow | None:
        """Return a lease, or None if it was never granted."""
        ...

    def blob(self, content: bytes) -> BlobRow | None:
        """Return a blob, or None."""
        ...

    def size_bytes(self) -> int:
        """Return how many bytes the store takes, what is free within it included."""
        ...

    def snapshots(self, name: str, limit: int) -> list[SnapshotRow]:
        """Return the newest snapshots of a name, newest first; damaged ones are marked."""
        ...


class Driver(Protocol):
    """
    A database that keeps units. Opened once, closed once.

    Attributes:
        location: where it is, for people.
        migrating: to be called when `open` begins to bring the schema up to date.
        vault: seals what is written from now on and opens what is read; None if nothing is sealed.
        vouched: what this machine's wall clock would have to be ahead of its store time by, to say
            what the store's own clock said when it was last heard; None if it has none of its own.
    """

    location: str
    migrating: Callable[[], None]
    vault: Vault | None
    vouched: Offset | None

    def open(self) -> Opened:
        """Guard, connect, migrate, draw an incarnation."""
        ...

    def close(self) -> None:
        """Check out and release everything; may be called twice, and after a failed open."""
        ...

    def commit(self, units: Sequence[Unit]) -> Answers:
        """Commit a batch; called by one thread only. Raises `CommitFailed` or StoreError."""
        ...

    def last_number(self) -> int:
        """Return the number of the last transaction this opening has seen; no I/O."""
        ...

    def outcome(self, unit_id: bytes) -> Verdict:
        """Say whether a unit was committed, once nothing of it can be under way any more."""
        ...

    def tidy(self) -> None:
        """Do what can wait until the callers have their answers; between batches."""
        ...

    def relieve(self) -> None:
        """Give back reserved space after the disk was full."""
        ...

    def wait_foreign(self, timeout: float) -> Changes:
        """Block until another opening committed, at most `timeout` seconds."""
        ...

    def interrupt_wait(self) -> None:
        """Make `wait_foreign` return soon; called from another thread."""
        ...

    def reading(self) -> AbstractContextManager[Reads]:
        """Lend a reader; from any thread."""
        ...

    def verify(self, depth: Depth = ALL) -> Iterator[Finding]:
        """Read as much as is asked for and yield what does not fit."""
        ...

    def archive(self) -> "Archive":
        """Return the store as a whole, to be copied or filled; needs no opening."""
        ...


class Transactor(Protocol):
    """
    The steps of one batch; `begin` to `write` may raise `Again` or StoreError.

    Attributes:
        vault: seals the values of the batch, and opens those that it loads.
    """

    vault: Vault | None

    def begin(self, wanted: Needs) -> tuple[State, Moment, Iterator[int]]:
        """Start the transaction and load what is needed, so that nobody can change it."""
        ...

    def write(self, decision: Decision, moment: Moment) -> None:
        """Write all effects, as sets."""
        ...

    def commit(self) -> None:
        """Commit. Raises `CommitFailed` unless it is proven that nothing was committed."""
        ...

    def rollback(self) -> None:
        """Drop the transaction; never raises."""
        ...

    def learn(self, number: int) -> None:
        """Look which data keys there are, since one was met that is not known."""
        ...

    def committed(self, decision: Decision) -> None:
        """Keep what is worth keeping of a committed batch; never raises."""
        ...


def commit_batch(transactor: Transactor, units: Sequence[Unit], world: World) -> Answers:
    """
    Take a batch through load, decide, write and commit.

    Returns:
        An answer per unit, to be given out only now that the commit is durable.

    Raises:
        CommitFailed: COMMIT failed; unknown.
        StoreError: nothing was written.
    """
    wanted = needs(units)
    failpoints = world.failpoints
    for tries in range(1, TRIES_MAX + 1):
        try:
            state, moment, positions = transactor.begin(wanted)
            failpoints.reach("commit.loaded")
            decision = decide(units, state, moment, positions, transactor.vault)
            failpoints.reach("commit.decided")
            if not decision.unit_ids:
                transactor.rollback()
                return Answers(decision.answers, tries=tries)
            transactor.write(decision, moment)
            failpoints.reach("commit.written")
            sync = _commit(transactor, world)
        except Again:
            transactor.rollback()
            continue
        except UnknownDataKey as unknown:
            transactor.rollback()
            transactor.learn(unknown.number)
            continue
        except BaseException:
            transactor.rollback()
            raise
        failpoints.reach("commit.committed")
        transactor.committed(decision)
        appended = [event.position for event in decision.events]
        return Answers(decision.answers, decision.heads.keys(), appended, sync, tries)
    raise StoreBusyError(waited=0.0)


def _commit(transactor: Transactor, world: World) -> float:
    """Commit; return the seconds it took, if somebody measures."""
    if not world.telemetry.listens:
        transactor.commit()
        return 0.0
    began = world.clock.monotonic()
    transactor.commit()
    return world.clock.monotonic() - began
