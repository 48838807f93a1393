"""
Units of work: what is expected and what is written, as data.

A unit commits whole or not at all. It holds no code and no connection, so it can be queued,
logged, replayed and model-checked. `core.commit` says what it does; drivers only carry it out.
"""

from typing import Final, cast

import msgspec

from holdfast.core import codec
from holdfast.core.errors import InvalidValueError, LimitError
from holdfast.core.event import Event, EventRow
from holdfast.core.key import Key, encode_key

RESERVED_KINDS: Final = "holdfast."
"""How the kinds of records begin that Holdfast keeps for itself."""
RESERVED_STREAMS: Final = "holdfast/"
"""How the names of streams begin that Holdfast keeps for itself."""
JOURNALS: Final = "run/"
"""How the names of the journals of runs begin."""
_SETTLING: Final = ("holdfast.ledger", "holdfast.ledger.stop", "holdfast/ledger/")
UNIT_BYTES_MAX: Final = 64 * 1024 * 1024
SNAPSHOTS_KEPT: Final = 3
_UNIT_OVERHEAD_BYTES: Final = 128
_EVENT_OVERHEAD_BYTES: Final = 96


class AtSequence(msgspec.Struct, frozen=True, tag=True):
    """Expect a stream to be at a sequence; 0 means that it has no event yet."""

    stream: str
    sequence: int


class AtVersion(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Expect a record to be at a version; 0 means that it is absent."""

    kind: str
    key: Key
    version: int


class Fence(msgspec.Struct, frozen=True, tag=True):
    """
    Expect a lease to be held, unexpired, under this generation by this incarnation.

    This is the fencing token: shown with every write of an owner, it makes the write of a
    stale owner fail inside the writing transaction.
    """

    key: str
    generation: int
    incarnation: bytes


class Append(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Append events at the end of a stream; the first one creates the stream."""

    stream: str
    events: tuple[Event, ...]


class CloseStream(msgspec.Struct, frozen=True, tag=True):
    """Close a stream for good; closing a closed stream changes nothing."""

    stream: str


class TrimStream(msgspec.Struct, frozen=True, tag=True):
    """Remove the events before a sequence; the stream keeps its numbering and its chain."""

    stream: str
    before: int


class PutRecord(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Write a record whole. `tag` is a word by which records of a kind can be listed."""

    kind: str
    key: Key
    value: bytes
    tag: str | None = None


class PatchRecord(msgspec.Struct, frozen=True, tag=True, gc=False):
    """
    Change fields of a record that holds a dict; an absent record counts as empty.

    Attributes:
        set: encoded new values by field.
        add: numbers to add to fields (absent counts as 0), so that counters of concurrent
            writers add up without a conflict.
        remove: fields to drop.
        tag: new tag; None keeps the one there is.
    """

    kind: str
    key: Key
    set: dict[str, bytes] = {}
    add: dict[str, int | float] = {}
    remove: tuple[str, ...] = ()
    tag: str | None = None


class MendRecord(msgspec.Struct, frozen=True, tag=True, gc=False):
    """
    Write a record whole in place of one that is damaged or absent.

    One that is intact is refused like an `AtVersion`, so of several who found the damage one
    mends it. Its version goes on far above any the damaged one can have had.
    """

    kind: str
    key: Key
    value: bytes
    tag: str | None = None


class DeleteRecord(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Delete a record. Its version goes on counting, so a later one is never mistaken for it."""

    kind: str
    key: Key


class GrantLease(msgspec.Struct, frozen=True, tag=True):
    """
    Take a lease that is free or expired for `ttl` seconds; the generation grows by one.

    Attributes:
        key: what it is the right to.
        ttl: seconds until it expires unless renewed.
        holder: who takes it, for error messages of others.
        over: generation whose holder was proven dead; it is taken although its end is not
            reached. 0 takes nothing of anybody.
    """

    key: str
    ttl: float
    holder: str
    over: int = 0


class RenewLease(msgspec.Struct, frozen=True, tag=True):
    """Extend a lease that is still held, to `ttl` seconds from now."""

    key: str
    generation: int
    ttl: float


class ReleaseLease(msgspec.Struct, frozen=True, tag=True):
    """Give a lease back; the generation stays, so it is never used again."""

    key: str
    generation: int


class PutBlob(msgspec.Struct, frozen=True, tag=True):
    """Keep immutable bytes under their SHA-256; make one with `PutBlob.of`."""

    digest: bytes
    size: int
    encoding: str
    stored: bytes

    @staticmethod
    def of(data: bytes) -> "PutBlob":
        """Return the write for these bytes, compressed if that helps."""
        encoding, stored = codec.pack(data)
        return PutBlob(codec.content_digest(data), len(data), encoding, stored)


class DeleteBlob(msgspec.Struct, frozen=True, tag=True):
    """Remove a blob; an absent one is not an error."""

    digest: bytes


class PutSnapshot(msgspec.Struct, frozen=True, tag=True):
    """
    Keep a derived copy of state under a name, with the stream sequence it belongs to.

    Refused if the stream has not reached that sequence. The last `keep` per name are kept.
    """

    name: str
    stream: str
    sequence: int
    size: int
    encoding: str
    stored: bytes
    keep: int = SNAPSHOTS_KEPT

    @staticmethod
    def of(
        name: str, stream: str, sequence: int, data: bytes, keep: int = SNAPSHOTS_KEPT
    ) -> "PutSnapshot":
        """Return the write for these bytes, compressed if that helps."""
        if keep < 1:
            raise InvalidValueError(what="keep", reason=f"is {keep}, at least 1 is kept")
        encoding, stored = codec.pack(data)
        return PutSnapshot(name, stream, sequence, len(data), encoding, stored, keep)


class ResealRecord(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Write a record again as it is, under the newest data key; its version stays."""

    kind: str
    key: Key


class ResealBytes(msgspec.Struct, frozen=True, tag=True):
    """
    Write the bytes of a blob or a snapshot again as they are, under the newest data key.

    Attributes:
        write: what they are of, packed.
        written_at: when they were written, which stays.
        format: theirs, without a seal.
        before: digest of the row as it was read; if it changed since, nothing is done.
    """

    write: PutBlob | PutSnapshot
    written_at: float
    format: int
    before: bytes


Expectation = AtSequence | AtVersion | Fence
Write = (
    Append
    | CloseStream
    | TrimStream
    | PutRecord
    | PatchRecord
    | MendRecord
    | DeleteRecord
    | GrantLease
    | RenewLease
    | ReleaseLease
    | PutBlob
    | DeleteBlob
    | PutSnapshot
    | ResealRecord
    | ResealBytes
)


class Unit(msgspec.Struct, frozen=True, gc=False):
    """
    What commits together or not at all.

    Attributes:
        writes: what to write, in order; later writes see earlier ones.
        expects: what has to hold, checked in the writing transaction before any write.
        id: 16 bytes by which the outcome can be asked for; drawn at submission if empty.
    """

    writes: tuple[Write, ...]
    expects: tuple[Expectation, ...] = ()
    id: bytes = b""


def together(*parts: Write | Expectation | Unit) -> Unit:
    """Return writes, expectations and whole units as one unit; the last id given counts."""
    writes: list[Write] = []
    expects: list[Expectation] = []
    id = b""
    for part in parts:
        if isinstance(part, Unit):
            writes += part.writes
            expects += part.expects
            id = part.id or id
        elif isinstance(part, Expectation):
            expects.append(part)
        else:
            writes.append(part)
    return Unit(tuple(writes), tuple(expects), id)


class LeaseRow(msgspec.Struct, frozen=True):
    """
    What the store knows of a lease.

    Attributes:
        key: name of the lease.
        generation: number of the last grant; grows with each, never reused.
        incarnation: who holds it; empty if nobody does.
        holder: the holder in words, for error messages.
        domain: store-time domain of `expires_at`.
        expires_at: end in seconds of that domain.
    """

    key: str
    generation: int
    incarnation: bytes
    holder: str
    domain: str
    expires_at: float

    def seal(self) -> bytes:
        """Return the digest that is stored beside these fields."""
        return codec.digest(
            self.key,
            self.generation,
            self.incarnation,
            self.holder,
            self.domain,
            self.expires_at,
        )


class RecordRow(msgspec.Struct, frozen=True, gc=False):
    """
    What the store knows of a record.

    Attributes:
        kind: family of the record.
        key: its key.
        version: number of its last write; grows also over a deletion.
        tag: word for listing, or None.
        value: encoded value; None marks a deleted record.
        written_at: wall time of the last write, for people.
        format: version of the encoding.
    """

    kind: str
    key: Key
    version: int
    tag: str | None
    value: bytes | None
    written_at: float
    format: int = codec.FORMAT

    def seal(self) -> bytes:
        """Return the digest that is stored beside these fields."""
        return codec.digest(
            self.kind,
            encode_key(self.key),
            self.version,
            self.tag,
            self.value,
            self.written_at,
            self.format,
        )


class Committed(msgspec.Struct, frozen=True, gc=False):
    """
    The answer to a unit that was committed and synced.

    Attributes:
        unit_id: its id.
        events: appended events in the order of the writes, with their stream names.
        records: records as they are after the unit.
        leases: leases as they are after the unit.
    """

    unit_id: bytes
    events: tuple[tuple[str, EventRow], ...] = ()
    records: tuple[RecordRow, ...] = ()
    leases: tuple[LeaseRow, ...] = ()


def size_bytes(unit: Unit) -> int:
    """
    Return about how many bytes a unit takes in the write queue.

    Raises:
        LimitError: more than `UNIT_BYTES_MAX`; split it, nothing larger is committed at once.
    """
    size = _UNIT_OVERHEAD_BYTES
    for write in unit.writes:
        kind = type(write)
        if kind is Append:
            for event in cast(Append, write).events:
                size += len(event.payload) + len(event.meta or b"") + _EVENT_OVERHEAD_BYTES
        elif isinstance(write, PutBlob | PutSnapshot):
            size += len(write.stored)
        elif isinstance(write, ResealBytes):
            size += len(write.write.stored)
        elif isinstance(write, PutRecord | MendRecord):
            size += len(write.value)
        elif isinstance(write, PatchRecord):
            size += sum(len(value) for value in write.set.values())
    if size > UNIT_BYTES_MAX:
        raise LimitError(what="unit in bytes", size=size, limit=UNIT_BYTES_MAX)
    return size


def check_kind(kind: str) -> None:
    """
    Return if records of a kind may be written by a program.

    Raises:
        InvalidValueError: Holdfast keeps it for itself.
    """
    if kind.startswith(RESERVED_KINDS):
        raise InvalidValueError(what=f"kind {kind!r}", reason="is Holdfast's own, choose another")


def check_writes(unit: Unit) -> None:
    """
    Return if a program may commit a unit; what settles work in flight may be part of it.

    Raises:
        InvalidValueError: it writes what Holdfast keeps for itself.
    """
    for write in unit.writes:
        match write:
            case PutRecord() | PatchRecord() | MendRecord() | DeleteRecord():
                if write.kind not in _SETTLING:
                    check_kind(write.kind)
            case Append() | CloseStream() | TrimStream():
                name = write.stream
                if name.startswith(RESERVED_STREAMS) and not name.startswith(_SETTLING):
                    reason = "is Holdfast's own, choose another"
                    raise InvalidValueError(what=f"stream {name!r}", reason=reason)
            case _:
                continue
