"""
What a batch of units does: the rules of the store, without a store.

`needs` says what a batch refers to; a driver loads it into a `State`. `decide` then takes unit
after unit, each seeing the effects of those before it. A refused unit contributes nothing and
gets its typed error. The result is a `Decision`: an answer per unit, and what to write, as
sets. Drivers write it in one transaction and answer only after the commit.

Invariants:
- `decide` never changes the `State` it is given; a failed commit leaves no trace;
- the answers equal those of applying the units one by one, in order, each in a transaction of
  its own (tested against an oracle of a dictionary and a list);
- a refused unit leaves no trace in the effects, in sequences or in digests; only positions
  may have gaps;
- every changed row is listed once, in its final form.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from holdfast.core import codec, lease
from holdfast.core.clock import StoreTime
from holdfast.core.errors import (
    DamagedError,
    EncodeError,
    HoldfastError,
    InvalidValueError,
    SequenceConflictError,
    SnapshotAheadError,
    StreamClosedError,
    StreamNotFoundError,
    VersionConflictError,
)
from holdfast.core.event import EventRow, Head, damaged_event, event_digest, fresh_head
from holdfast.core.key import Key
from holdfast.core.sealing import SEALED, Cipher, sealed_event
from holdfast.core.unit import (
    Append,
    AtSequence,
    AtVersion,
    CloseStream,
    Committed,
    DeleteBlob,
    DeleteRecord,
    Fence,
    GrantLease,
    LeaseRow,
    MendRecord,
    PatchRecord,
    PutBlob,
    PutRecord,
    PutSnapshot,
    RecordRow,
    ReleaseLease,
    RenewLease,
    ResealBytes,
    ResealRecord,
    TrimStream,
    Unit,
    Write,
)

RecordKey = tuple[str, Key]
# Above the version of any record that was written less than once a microsecond since 1970, with
# room for thousands of mendings of records that are mended again.
MENDED_VERSION: Final = 1 << 52
_ABSENT: Final = object()
_RAW_DICT: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])


class Moment(msgspec.Struct, frozen=True):
    """
    When and by whom a batch is decided.

    Attributes:
        wall: wall time in seconds, stored with what is written.
        store: store time, by which leases are judged.
        incarnation: id of the opening of the store that writes.
    """

    wall: float
    store: StoreTime
    incarnation: bytes


class Needs(msgspec.Struct, frozen=True):
    """
    What a batch refers to.

    Attributes:
        streams: heads to load.
        records: records to load.
        leases: leases to load.
        mended: which of the records may be damaged.
        anchors: (stream, sequence) of events whose digest a trim needs.
        positions: how many positions the batch may take.
    """

    streams: set[str]
    records: set[RecordKey]
    leases: set[str]
    anchors: set[tuple[str, int]]
    positions: int
    mended: frozenset[RecordKey] = frozenset()


class State(msgspec.Struct):
    """
    What was loaded; None stands for what was looked for and is absent.

    `damages` holds the records that are there, to be mended, and do not match their digest.
    """

    heads: dict[str, Head | None] = {}
    records: dict[RecordKey, RecordRow | None] = {}
    leases: dict[str, LeaseRow | None] = {}
    anchors: dict[tuple[str, int], bytes] = {}
    damages: dict[RecordKey, DamagedError] = {}


class Decision(msgspec.Struct):
    """
    Answers and effects of a batch.

    Attributes:
        answers: per unit, in order, what it gets after the commit.
        unit_ids: ids of the units that were not refused.
        events: rows to append.
        heads, records, leases: changed rows in final form, by name.
        blobs, dropped_blobs: content to keep and digests to remove, in order of last say.
        snapshots: snapshots to keep.
        resealed: blobs and snapshots to seal anew, if they are still as they were read.
        trims: per stream origin, the first sequence to keep.
    """

    answers: list[Committed | HoldfastError] = []
    unit_ids: list[bytes] = []
    events: list[EventRow] = []
    heads: dict[str, Head | None] = {}
    records: dict[RecordKey, RecordRow | None] = {}
    leases: dict[str, LeaseRow | None] = {}
    blobs: dict[bytes, PutBlob | None] = {}
    snapshots: list[PutSnapshot] = []
    resealed: list[ResealBytes] = []
    trims: dict[int, int] = {}


def needs(units: Sequence[Unit]) -> Needs:
    """Return what has to be loaded before these units can be decided."""
    streams: set[str] = set()
    records: set[RecordKey] = set()
    leases: set[str] = set()
    anchors: set[tuple[str, int]] = set()
    mended: set[RecordKey] = set()
    positions = 0
    for unit in units:
        for part in (*unit.expects, *unit.writes):
            match part:
                case Append():
                    streams.add(part.stream)
                    positions += len(part.events)
                case CloseStream():
                    streams.add(part.stream)
                    positions += 1
                case AtSequence() | PutSnapshot():
                    streams.add(part.stream)
                case TrimStream():
                    streams.add(part.stream)
                    anchors.add((part.stream, part.before - 1))
                case PutRecord() | PatchRecord() | DeleteRecord() | ResealRecord() | AtVersion():
                    records.add((part.kind, part.key))
                case MendRecord():
                    records.add((part.kind, part.key))
                    mended.add((part.kind, part.key))
                case GrantLease() | RenewLease() | ReleaseLease() | Fence():
                    leases.add(part.key)
                case PutBlob() | DeleteBlob() | ResealBytes():
                    pass
    return Needs(streams, records, leases, anchors, positions, frozenset(mended))


def decide(
    units: Sequence[Unit],
    state: State,
    moment: Moment,
    positions: Iterator[int],
    cipher: Cipher | None = None,
) -> Decision:
    """
    Decide a batch.

    Args:
        units: the batch, in order of arrival.
        state: what was loaded for `needs(units)`.
        moment: when and by whom.
        positions: increasing positions, at least `needs(units).positions` of them.
        cipher: seals the contents of events, which their digests are over; None leaves them.

    Returns:
        The answers, and the effects of all units that were not refused.
    """
    batch = _Batch(state, moment, positions, cipher)
    for unit in units:
        batch.take(unit)
    return batch.decision


class _Batch:
    """The overlay: effects so far, and how to take back those of one refused unit."""

    def __init__(
        self, state: State, moment: Moment, positions: Iterator[int], cipher: Cipher | None
    ) -> None:
        self.cipher = cipher
        self.state = state
        self.moment = moment
        self.positions = positions
        self.decision = Decision()
        self.undo: list[tuple[dict[Any, Any], object, object]] = []
        self.touched: list[RecordRow | LeaseRow] = []

    def take(self, unit: Unit) -> None:
        """Apply one unit, or take back what it did so far and answer with its refusal."""
        decision = self.decision
        events, snapshots = len(decision.events), len(decision.snapshots)
        resealed = len(decision.resealed)
        self.undo.clear()
        self.touched.clear()
        placed: list[tuple[str, EventRow]] = []
        try:
            for expectation in unit.expects:
                self._expect(expectation)
            for write in unit.writes:
                if type(write) is Append:
                    self._append(write, placed)
                else:
                    self._write(write)
        except HoldfastError as refusal:
            self._take_back(events, snapshots)
            del decision.resealed[resealed:]
            decision.answers.append(refusal)
            return
        decision.unit_ids.append(unit.id)
        decision.answers.append(self._answer(unit, placed))

    def _answer(self, unit: Unit, placed: list[tuple[str, EventRow]]) -> Committed:
        if not self.touched:
            return Committed(unit.id, tuple(placed))
        records = tuple(row for row in self.touched if type(row) is RecordRow)
        leases = tuple(row for row in self.touched if type(row) is LeaseRow)
        return Committed(unit.id, tuple(placed), records, leases)

    def _take_back(self, events: int, snapshots: int) -> None:
        del self.decision.events[events:]
        del self.decision.snapshots[snapshots:]
        for effects, name, before in reversed(self.undo):
            if before is _ABSENT:
                del effects[name]
            else:
                effects[name] = before

    def _set(self, effects: dict[Any, Any], name: object, row: object) -> None:
        self.undo.append((effects, name, effects.get(name, _ABSENT)))
        effects[name] = row

    def _head(self, stream: str) -> Head | None:
        changed = self.decision.heads.get(stream)
        return changed if changed is not None else self.state.heads[stream]

    def _record(self, kind: str, key: Key) -> RecordRow | None:
        changed = self.decision.records.get((kind, key))
        if changed is not None:
            return changed
        damage = self.state.damages.get((kind, key))
        if damage is not None:
            raise damage.fresh()
        return self.state.records[kind, key]

    def _lease(self, key: str) -> LeaseRow | None:
        changed = self.decision.leases.get(key)
        return changed if changed is not None else self.state.leases[key]

    def _expect(self, part: AtSequence | AtVersion | Fence) -> None:
        match part:
            case AtSequence(stream, sequence):
                head = self._head(stream)
                actual = head.last_sequence if head else 0
                if actual != sequence:
                    raise SequenceConflictError(stream=stream, expected=sequence, actual=actual)
            case AtVersion(kind, key, version):
                row = self._record(kind, key)
                actual = row.version if row and row.value is not None else 0
                if actual != version:
                    raise VersionConflictError(kind=kind, key=key, expected=version, actual=actual)
            case Fence():
                lease.check_fence(self._lease(part.key), part, self.moment.store)

    def _append(self, write: Append, placed: list[tuple[str, EventRow]]) -> None:
        """The hot path: one digest, one row and one tuple per event."""
        stream = write.stream
        head = self._head(stream)
        if head is not None and head.closed:
            raise StreamClosedError(stream=stream, sequence=head.last_sequence)
        if not write.events:
            return
        rows, cipher = self.decision.events, self.cipher
        at = self.moment.wall
        for event in write.events:
            position = next(self.positions)
            if head is None:
                head = fresh_head(stream, position)
            sequence, type = head.last_sequence + 1, event.type
            payload, meta, form = event.payload, event.meta, codec.FORMAT
            if cipher is not None:
                payload, meta = sealed_event(cipher, stream, sequence, event)
                form += SEALED
            digest = event_digest(
                head.last_digest, position, head.origin, sequence, type, payload, meta, at, form
            )
            row = EventRow(position, head.origin, sequence, type, payload, meta, at, digest, form)
            head = Head(
                stream, head.origin, sequence, digest, head.first_sequence, head.anchor, False
            )
            rows.append(row)
            if cipher is not None:
                # The caller gets what it gave.
                row = EventRow(
                    position, head.origin, sequence, type, event.payload, event.meta, at, digest
                )
            placed.append((stream, row))
        self._set(self.decision.heads, stream, head)

    def _write(self, write: Write) -> None:
        match write:
            case PutRecord(kind, key, value, tag):
                self._put(kind, key, value, tag)
            case PatchRecord():
                self._patch(write)
            case MendRecord():
                self._mend(write)
            case DeleteRecord(kind, key):
                self._delete(kind, key)
            case GrantLease() | RenewLease() | ReleaseLease():
                self._change_lease(write)
            case CloseStream(stream):
                self._close(stream)
            case TrimStream(stream, before):
                self._trim(stream, before)
            case PutBlob():
                self._set(self.decision.blobs, write.digest, write)
            case DeleteBlob(digest):
                self._set(self.decision.blobs, digest, None)
            case PutSnapshot():
                self._snapshot(write)
            case ResealRecord(kind, key):
                self._reseal(kind, key)
            case ResealBytes():
                self.decision.resealed.append(write)
            case Append():
                raise TypeError("appends take their own way")

    def _close(self, stream: str) -> None:
        head = self._head(stream) or fresh_head(stream, next(self.positions))
        if not head.closed:
            closed = msgspec.structs.replace(head, closed=True)
            self._set(self.decision.heads, stream, closed)

    def _trim(self, stream: str, before: int) -> None:
        head = self._head(stream)
        if head is None:
            raise StreamNotFoundError(stream=stream)
        if before > head.last_sequence + 1:
            raise InvalidValueError(
                what="before",
                reason=f"is {before}, stream {stream!r} ends at {head.last_sequence}",
            )
        if before > head.first_sequence:
            anchor = self._digest_at(head, before - 1)
            trimmed = msgspec.structs.replace(head, first_sequence=before, anchor=anchor)
            self._set(self.decision.heads, stream, trimmed)
            self._set(self.decision.trims, head.origin, before)

    def _digest_at(self, head: Head, sequence: int) -> bytes:
        """Return the digest of an event that is stored or was appended by this batch."""
        if sequence == head.last_sequence:
            return head.last_digest
        found = self.state.anchors.get((head.name, sequence))
        if found is not None:
            return found
        for row in self.decision.events:
            if row.origin == head.origin and row.sequence == sequence:
                return row.digest
        raise damaged_event(head.name, sequence, "the event is missing")

    def _put(self, kind: str, key: Key, value: bytes | None, tag: str | None) -> None:
        before = self._record(kind, key)
        self._place(kind, key, before.version + 1 if before else 1, tag, value)

    def _place(
        self, kind: str, key: Key, version: int, tag: str | None, value: bytes | None
    ) -> None:
        row = RecordRow(kind, key, version, tag, value, self.moment.wall)
        self._set(self.decision.records, (kind, key), row)
        self.touched.append(row)

    def _patch(self, write: PatchRecord) -> None:
        before = self._record(write.kind, write.key)
        value = patched(before.value if before else None, write)
        tag = write.tag if write.tag is not None else (before.tag if before else None)
        self._put(write.kind, write.key, value, tag)

    def _mend(self, write: MendRecord) -> None:
        kind, key = write.kind, write.key
        if (kind, key) in self.state.damages and (kind, key) not in self.decision.records:
            # The version of a damaged row cannot be trusted, so this counts on from the time.
            version = int(self.moment.wall * 1000) + MENDED_VERSION
            self._place(kind, key, version, write.tag, write.value)
            return
        before = self._record(kind, key)
        if before is not None and before.value is not None:
            raise VersionConflictError(kind=kind, key=key, expected=0, actual=before.version)
        self._put(kind, key, write.value, write.tag)

    def _delete(self, kind: str, key: Key) -> None:
        before = self._record(kind, key)
        if before is not None and before.value is not None:
            self._put(kind, key, None, None)

    def _reseal(self, kind: str, key: Key) -> None:
        """Write a record again as it is; of whoever expects its version nobody notices."""
        before = self._record(kind, key)
        if before is not None and before.value is not None:
            self._set(self.decision.records, (kind, key), before)

    def _change_lease(self, write: GrantLease | RenewLease | ReleaseLease) -> None:
        before = self._lease(write.key)
        incarnation, now = self.moment.incarnation, self.moment.store
        match write:
            case GrantLease():
                row = lease.granted(before, write, incarnation, now)
            case RenewLease():
                row = lease.renewed(before, write, incarnation, now)
            case ReleaseLease():
                row = lease.released(before, write, incarnation)
        self._set(self.decision.leases, write.key, row)
        self.touched.append(row)

    def _snapshot(self, write: PutSnapshot) -> None:
        head = self._head(write.stream)
        actual = head.last_sequence if head else 0
        if write.sequence > actual:
            raise SnapshotAheadError(
                name=write.name, stream=write.stream, sequence=write.sequence, actual=actual
            )
        self.decision.snapshots.append(write)


def patched(value: bytes | None, write: PatchRecord) -> bytes:
    """
    Return the encoded dict after a patch; untouched fields keep their exact bytes.

    Raises:
        EncodeError: the record holds no dict, or a counter is not a number of 64 bits.
    """
    fields: dict[str, msgspec.Raw] = {}
    if value is not None:
        try:
            fields.update(_RAW_DICT.decode(value))
        except msgspec.DecodeError as error:
            raise EncodeError(path=write.kind, reason="only a dict can be patched") from error
    for name in write.remove:
        fields.pop(name, None)
    for name, encoded in write.set.items():
        fields[name] = msgspec.Raw(encoded)
    for name, amount in write.add.items():
        stored = fields.get(name)
        before = 0 if stored is None else codec.decode(bytes(stored))
        if type(before) not in (int, float):
            raise EncodeError(path=f"{write.kind}.{name}", reason="only a number can be added to")
        fields[name] = msgspec.Raw(codec.encode(before + amount, f"{write.kind}.{name}"))
    return codec.encode_parts(fields)
