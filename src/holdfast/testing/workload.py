"""
What the crash lab does to a store, and what has to be there afterwards.

A seed gives a list of steps; each step is a batch of units at a time on the clock, now and then
with a clean close and a new opening before it. Units of all kinds occur: appends (also with
payloads that need overflow pages), trims and closed streams, records, patches, leases, blobs,
snapshots, and units that are refused.

What the store has to hold after each unit comes from another store, which runs the same units
one by one in memory and is never interrupted. The two are compared by `content`: everything
that can be read, without times, ids of openings and positions.
"""

from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from random import Random
from typing import Protocol

import msgspec

from holdfast.core import codec
from holdfast.core.event import Event, damaged_event
from holdfast.core.ids import Ids
from holdfast.core.unit import (
    Append,
    AtSequence,
    CloseStream,
    DeleteBlob,
    DeleteRecord,
    GrantLease,
    PatchRecord,
    PutBlob,
    PutRecord,
    PutSnapshot,
    ReleaseLease,
    RenewLease,
    TrimStream,
    Unit,
    Write,
)
from holdfast.core.world import World
from holdfast.store import rows
from holdfast.store.options import Options
from holdfast.store.port import Driver
from holdfast.store.reader import PAGE_ROWS, Reader
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.testing.clock import ManualClock

__all__ = [
    "Mirror",
    "Notes",
    "Step",
    "content_of",
    "perform",
    "states_of",
    "steps_of",
]

STREAMS = ("orders", "orders/Ünï", "chat", "runs")
_LEASE_SECONDS = 86_400.0
_PAYLOAD_BYTES = (20, 200, 2_500, 9_000)


class Step(msgspec.Struct, frozen=True):
    """
    One batch.

    Attributes:
        units: what is committed together; their ids are drawn when they are submitted.
        at: seconds on the clock.
        reopen: close the store cleanly and open it again first.
    """

    units: tuple[Unit, ...]
    at: float
    reopen: bool = False


class Notes(Protocol):
    """Where a running workload says how far it is; `Disk.note` is one."""

    def __call__(self, value: object, /) -> None:
        """Take a note."""
        ...


class _Stream(msgspec.Struct):
    first: int = 1
    last: int = 0
    closed: bool = False


class _Author:
    """Draws units that mostly are accepted, because it keeps track of what there is."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(f"workload/{seed}")
        self.streams: dict[str, _Stream] = {}
        self.blobs: list[PutBlob] = []
        self.leases: dict[str, int] = {}
        self.held: set[str] = set()
        self.life = 0
        self.names = 0

    def steps(self, count: int, *, small: bool, split: int) -> Iterator[Step]:
        for number in range(1, count + 1):
            reopen = number > 1 and self.rng.random() < (0.02 if small else 0.12)
            reopen = reopen or number == split + 1 > 1
            if reopen:
                self.life += 1
                self.leases.clear()
                self.held.clear()
            size = 1 if small else self.rng.choice((1, 1, 1, 2, 3))
            yield Step(tuple(self.unit(small) for _ in range(size)), float(number), reopen)

    def unit(self, small: bool) -> Unit:
        if self.rng.random() < 0.08:
            return self.refused()
        kinds: tuple[Callable[[], Write], ...] = (self.append, self.put, self.patch)
        if not small:
            more = (self.append, self.delete, self.lease, self.blob, self.snapshot)
            kinds += (*more, self.trim, self.close, self.drop)
        chosen = self.rng.choices(kinds, k=1 if small else self.rng.choice((1, 1, 2, 4)))
        return Unit(tuple(kind() for kind in chosen))

    def refused(self) -> Unit:
        name = self.rng.choice(STREAMS)
        wrong = AtSequence(name, self.stream(name).last + 7)
        return Unit((PutRecord("never", ("written",), codec.encode(1)),), (wrong,))

    def stream(self, name: str) -> _Stream:
        return self.streams.setdefault(name, _Stream())

    def living(self) -> str:
        open_ones = [name for name in STREAMS if not self.stream(name).closed]
        if open_ones:
            return self.rng.choice(open_ones)
        self.names += 1
        return f"stream-{self.names}"

    def append(self) -> Write:
        name = self.living()
        stream = self.stream(name)
        events = tuple(self.event() for _ in range(self.rng.randint(1, 3)))
        stream.last += len(events)
        return Append(name, events)

    def event(self) -> Event:
        size = self.rng.choices(_PAYLOAD_BYTES, (6, 6, 2, 1))[0]
        return Event.of("happened", self.rng.randbytes(size))

    def trim(self) -> Write:
        name = self.living()
        stream = self.stream(name)
        if not stream.last:
            return self.append()
        stream.first = max(stream.first, self.rng.randint(1, stream.last + 1))
        return TrimStream(name, stream.first)

    def close(self) -> Write:
        if self.rng.random() < 0.7:
            return self.append()
        name = self.living()
        self.stream(name).closed = True
        return CloseStream(name)

    def put(self) -> Write:
        value = codec.encode({"n": self.rng.randrange(1000), "text": self.rng.randbytes(60)})
        return PutRecord("session", self.key(), value, self.rng.choice((None, "open", "done")))

    def patch(self) -> Write:
        fields = {"text": codec.encode(self.rng.randrange(99))}
        return PatchRecord("session", self.key(), fields, {"n": self.rng.randint(1, 9)})

    def delete(self) -> Write:
        return DeleteRecord("session", self.key())

    def key(self) -> tuple[str, ...]:
        return ("user", str(self.rng.randrange(6)))

    def lease(self) -> Write:
        key = f"lease-{self.life}-{self.rng.randrange(3)}"
        if key not in self.held:
            self.held.add(key)
            self.leases[key] = self.leases.get(key, 0) + 1
            return GrantLease(key, _LEASE_SECONDS, "worker")
        if self.rng.random() < 0.5:
            return RenewLease(key, self.leases[key], _LEASE_SECONDS)
        self.held.discard(key)
        return ReleaseLease(key, self.leases[key])

    def blob(self) -> Write:
        blob = PutBlob.of(self.rng.randbytes(self.rng.choice((30, 700, 6_000))))
        self.blobs.append(blob)
        return blob

    def drop(self) -> Write:
        return DeleteBlob(self.blobs.pop(0).digest) if self.blobs else self.blob()

    def snapshot(self) -> Write:
        name = self.living()
        state = self.rng.randbytes(self.rng.choice((50, 1_500)))
        return PutSnapshot.of(f"of {name}", name, self.stream(name).last, state)


def steps_of(seed: int, count: int, *, small: bool = False, split: int = 0) -> list[Step]:
    """
    Return the steps a seed stands for.

    Args:
        seed: decides everything.
        count: how many steps.
        small: one small unit per step and few openings, for workloads of many steps.
        split: how many steps are run before the store is opened anew in any case.
    """
    return list(_Author(seed).steps(count, small=small, split=split))


def content_of(reader: Reader) -> bytes:
    """
    Return a digest of everything that can be read; reading checks all digests and chains.

    Raises:
        DamagedError: something does not fit.
    """
    hasher = blake2b(digest_size=16)
    for part in _parts(reader):
        hasher.update(msgspec.msgpack.encode(part))
    return hasher.digest()


def _parts(reader: Reader) -> Iterator[object]:
    for row in reader.pages("scan_heads", _after_id):
        head = rows.read_head(row[1:])
        yield "stream", head.name, head.first_sequence, head.last_sequence, head.closed
        after = head.first_sequence - 1
        while after < head.last_sequence:
            _, page = reader.events(head.name, after, PAGE_ROWS)
            if not page:  # Listed, but not found by its name.
                raise damaged_event(head.name, after + 1, "the event is missing")
            for event in page:
                yield event.sequence, event.type, event.payload, event.meta
            after += len(page)
    for row in reader.pages("scan_records", _after_id):
        record = rows.read_record(row[1:])
        yield "record", record.kind, record.key, record.version, record.tag, record.value
    for row in reader.pages("scan_leases", _after_id):
        lease = rows.read_lease(row[1:])
        yield "lease", lease.key, lease.generation, lease.holder, bool(lease.incarnation)
    for row in reader.pages("scan_blobs", _after_id):
        blob = rows.read_blob(row)
        yield "blob", blob.content, blob.size, blob.encoding, blob.stored
    for row in reader.pages("scan_snapshots", _after_snapshot):
        snapshot = rows.read_snapshot(row[1:])
        yield "snapshot", snapshot.name, snapshot.stream, snapshot.sequence, snapshot.stored


def _after_id(row: rows.Row | None) -> dict[str, object]:
    return {"after": b"" if row is None else row[0]}


def _after_snapshot(row: rows.Row | None) -> dict[str, object]:
    if row is None:
        return {"after": b"", "after_sequence": 0}
    return {"after": row[0], "after_sequence": row[3]}


class Mirror:
    """A store in memory that takes the same units, one by one, and is never interrupted."""

    def __init__(self) -> None:
        """Open it empty."""
        self._clock = ManualClock()
        self._ids = Ids(Random("mirror").randbytes)
        world = World(clock=self._clock, ids=self._ids)
        self._driver = SqliteDriver(None, Options(), world)
        self._driver.open()
        self._taken: list[tuple[Unit, float]] = []

    def take(self, unit: Unit, at: float) -> None:
        """Commit one unit at a moment; a refusal changes nothing here either."""
        self._taken.append((unit, at))
        self._clock.set(at)
        self._driver.commit([msgspec.structs.replace(unit, id=self._ids.unit(0))])

    def content(self) -> bytes:
        """Return what it holds, by `content_of`."""
        with self._driver.reading() as reader:
            return content_of(reader)

    def content_with(self, more: Sequence[tuple[Unit, float]]) -> bytes:
        """Return what it would hold after more units."""
        other = Mirror()
        for unit, at in (*self._taken, *more):
            other.take(unit, at)
        content = other.content()
        other.close()
        return content

    def close(self) -> None:
        """Forget everything."""
        self._driver.close()


def states_of(steps: Sequence[Step]) -> list[bytes]:
    """Return the content before the first unit and after each."""
    mirror = Mirror()
    states = [mirror.content()]
    for step in steps:
        for unit in step.units:
            mirror.take(unit, step.at)
            states.append(mirror.content())
    mirror.close()
    return states


def perform(
    steps: Sequence[Step],
    connect: Callable[[], Driver],
    clock: ManualClock,
    note: Notes,
    *,
    skip: int = 0,
) -> None:
    """
    Run steps on a store, one batch each, and note what is tried and what is acknowledged.

    Notes are `("opened", store id, epoch)`, `("tried", n)` and `("acknowledged", n)`, where n
    counts units from the first step.

    Args:
        steps: all steps of the workload.
        connect: makes a driver, not opened yet.
        clock: the clock of that driver.
        note: takes the notes.
        skip: how many steps this store has done already.
    """
    ids = Ids(Random("perform").randbytes)
    number = sum(len(step.units) for step in steps[:skip])
    note(("acknowledged", number))
    driver: Driver | None = None
    for step in steps[skip:]:
        clock.set(step.at)
        if driver is not None and step.reopen:
            driver.close()
            driver = None
        if driver is None:
            driver = connect()
            opened = driver.open()
            note(("opened", opened.store_id.hex(), opened.epoch))
        number += len(step.units)
        last = driver.last_number()
        units = [msgspec.structs.replace(unit, id=ids.unit(last)) for unit in step.units]
        note(("tried", number))
        driver.commit(units)
        note(("acknowledged", number))
        driver.tidy()
    if driver is not None:
        driver.close()
