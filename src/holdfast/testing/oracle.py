"""
A plain oracle: what units mean, in dictionaries and lists, one unit at a time.

Written from the words of `core.unit` and `core.lease`, not from `core.commit`: no batch, no
overlay, no digest, no position. A unit works on a copy, which replaces the state if nothing was
refused. What a store answers and what is found in it has to be what the oracle says.
"""

import copy
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from holdfast.core import codec
from holdfast.core.clock import StoreTime
from holdfast.core.errors import HoldfastError
from holdfast.core.key import Key
from holdfast.core.unit import (
    Append,
    AtSequence,
    AtVersion,
    CloseStream,
    Committed,
    DeleteBlob,
    DeleteRecord,
    Expectation,
    Fence,
    GrantLease,
    MendRecord,
    PatchRecord,
    PutBlob,
    PutRecord,
    PutSnapshot,
    ReleaseLease,
    RenewLease,
    ResealBytes,
    ResealRecord,
    TrimStream,
    Unit,
    Write,
)

__all__ = ["Held", "Kept", "Line", "Oracle", "Refused", "Told", "agrees"]


class Refused(Exception):  # noqa: N818 what the oracle answers, not an error of its own
    """A unit was refused."""

    def __init__(self, code: str, **fields: object) -> None:
        """Take the error's code and those of its fields that are told."""
        super().__init__(code, fields)
        self.code = code
        self.fields = fields


class Kept(NamedTuple):
    """A record as it is kept; no value marks a deleted one."""

    version: int
    tag: str | None
    value: bytes | None


class Held(NamedTuple):
    """A lease as it is kept; nobody holds it if `incarnation` is empty."""

    generation: int
    incarnation: bytes
    holder: str
    until: StoreTime


@dataclass
class Line:
    """A stream: its events from the first ever, how many went, and whether it is closed."""

    events: list[tuple[str, bytes, bytes | None]] = field(default_factory=list[Any])
    trimmed: int = 0
    closed: bool = False


@dataclass
class Told:
    """What a committed unit is answered."""

    events: list[tuple[object, ...]] = field(default_factory=list[Any])
    records: list[tuple[object, ...]] = field(default_factory=list[Any])
    leases: list[tuple[object, ...]] = field(default_factory=list[Any])


@dataclass
class _State:
    streams: dict[str, Line] = field(default_factory=dict[Any, Any])
    records: dict[tuple[str, Key], Kept] = field(default_factory=dict[Any, Any])
    leases: dict[str, Held] = field(default_factory=dict[Any, Any])
    blobs: dict[bytes, PutBlob] = field(default_factory=dict[Any, Any])
    snapshots: dict[str, dict[int, PutSnapshot]] = field(default_factory=dict[Any, Any])


class Oracle:
    """
    Applies units one by one.

    Attributes:
        state: streams, records, leases, blobs and snapshots as they are now.
        now: store time, to be set by the test.
        incarnation: who writes, to be set by the test.
    """

    def __init__(self, now: StoreTime, incarnation: bytes) -> None:
        """Begin with an empty store."""
        self.state = _State()
        self.now = now
        self.incarnation = incarnation

    def apply(self, unit: Unit) -> Told | Refused:
        """Apply a unit whole, or not at all; return what it is answered."""
        work = _Work(copy.deepcopy(self.state), self.now, self.incarnation)
        try:
            for expectation in unit.expects:
                work.expect(expectation)
            for write in unit.writes:
                work.write(write)
        except Refused as refusal:
            return refusal
        self.state = work.state
        return work.told


class _Work:
    """One unit at work on a copy."""

    def __init__(self, state: _State, now: StoreTime, incarnation: bytes) -> None:
        self.state = state
        self.now = now
        self.incarnation = incarnation
        self.told = Told()

    def expect(self, part: Expectation) -> None:
        match part:
            case AtSequence(stream, sequence):
                if self.last(stream) != sequence:
                    raise Refused("sequence_conflict", stream=stream, actual=self.last(stream))
            case AtVersion(kind, key, version):
                kept = self.state.records.get((kind, key))
                actual = kept.version if kept and kept.value is not None else 0
                if actual != version:
                    raise Refused("version_conflict", kind=kind, key=key, actual=actual)
            case Fence(key, generation, incarnation):
                self.owned(key, generation, incarnation)
                self.unexpired(key)

    def write(self, part: Write) -> None:
        match part:
            case Append() | CloseStream() | TrimStream():
                self.write_stream(part)
            case PutRecord() | PatchRecord() | MendRecord() | DeleteRecord():
                self.write_record(part)
            case GrantLease() | RenewLease() | ReleaseLease():
                self.write_lease(part)
            case PutBlob():
                self.state.blobs[part.digest] = part
            case DeleteBlob(digest):
                self.state.blobs.pop(digest, None)
            case PutSnapshot():
                if part.sequence > self.last(part.stream):
                    raise Refused("snapshot_ahead", name=part.name, actual=self.last(part.stream))
                kept = self.state.snapshots.setdefault(part.name, {})
                kept[part.sequence] = part
                for sequence in sorted(kept)[: -part.keep]:
                    del kept[sequence]
            case ResealRecord() | ResealBytes():
                return  # Nobody who has the keys sees a difference.

    def last(self, stream: str) -> int:
        return len(self.state.streams[stream].events) if stream in self.state.streams else 0

    def write_stream(self, part: Append | CloseStream | TrimStream) -> None:
        line = self.state.streams.get(part.stream)
        if isinstance(part, TrimStream):
            if line is None:
                raise Refused("stream_not_found", stream=part.stream)
            if part.before > len(line.events) + 1:
                raise Refused("invalid_value", what="before")
            line.trimmed = max(line.trimmed, part.before - 1)
            return
        if isinstance(part, CloseStream):
            self.state.streams.setdefault(part.stream, Line()).closed = True
            return
        if line is not None and line.closed:
            raise Refused("stream_closed", stream=part.stream, sequence=len(line.events))
        for event in part.events:
            line = self.state.streams.setdefault(part.stream, Line())
            line.events.append((event.type, event.payload, event.meta))
            self.told.events.append((part.stream, len(line.events), *line.events[-1]))

    def write_record(self, part: PutRecord | PatchRecord | MendRecord | DeleteRecord) -> None:
        name = (part.kind, part.key)
        before = self.state.records.get(name, Kept(0, None, None))
        if isinstance(part, MendRecord) and before.value is not None:
            # Nothing is ever damaged here.
            raise Refused("version_conflict", kind=part.kind, key=part.key, actual=before.version)
        if isinstance(part, PutRecord | MendRecord):
            after = Kept(before.version + 1, part.tag, part.value)
        elif isinstance(part, PatchRecord):
            tag = before.tag if part.tag is None else part.tag
            after = Kept(before.version + 1, tag, patched(part, before.value))
        elif before.value is None:
            return
        else:
            after = Kept(before.version + 1, None, None)
        self.state.records[name] = after
        self.told.records.append((*name, *after))

    def write_lease(self, part: GrantLease | RenewLease | ReleaseLease) -> None:
        held = self.state.leases.get(part.key)
        if isinstance(part, GrantLease):
            alive = held is not None and held.incarnation and not self.over(held)
            if held is not None and alive and held.generation != part.over:
                raise Refused("lease_held", key=part.key, generation=held.generation)
            generation = held.generation + 1 if held else 1
            after = Held(generation, self.incarnation, part.holder, self.end(part.ttl))
        else:
            mine = self.owned(part.key, part.generation, self.incarnation)
            if isinstance(part, RenewLease):
                self.unexpired(part.key)
                after = mine._replace(until=self.end(part.ttl))
            else:
                after = Held(mine.generation, b"", "", StoreTime("", 0.0))
        self.state.leases[part.key] = after
        self.told.leases.append((part.key, *after))

    def owned(self, key: str, generation: int, incarnation: bytes) -> Held:
        held = self.state.leases.get(key)
        if held is None or (held.generation, held.incarnation) != (generation, incarnation):
            raise Refused("stale_generation", key=key, actual=held.generation if held else 0)
        return held

    def unexpired(self, key: str) -> None:
        if self.over(self.state.leases[key]):
            raise Refused("lease_expired", key=key)

    def over(self, held: Held) -> bool:
        return held.until.domain != self.now.domain or held.until.seconds <= self.now.seconds

    def end(self, ttl: float) -> StoreTime:
        return StoreTime(self.now.domain, self.now.seconds + ttl)


def patched(part: PatchRecord, value: bytes | None) -> bytes:
    """
    Return a record's value after a patch, by way of the decoded dict.

    Raises:
        Refused: it holds no dict, or what is added to is no number.
    """
    found: Any = dict[str, Any]() if value is None else codec.decode(value)
    if not isinstance(found, dict):
        raise Refused("encode")
    fields = cast(dict[str, Any], found)
    for name in part.remove:
        fields.pop(name, None)
    fields.update({name: codec.decode(encoded) for name, encoded in part.set.items()})
    for name, amount in part.add.items():
        if type(fields.get(name, 0)) not in (int, float):
            raise Refused("encode")
        fields[name] = fields.get(name, 0) + amount
    return codec.encode(fields)


def agrees(
    answer: Committed | BaseException, expected: Told | Refused, *, own_clock: bool = False
) -> bool:
    """
    Return whether a store answered what the oracle said.

    Args:
        answer: what the store answered.
        expected: what the oracle said.
        own_clock: the store judges leases by a clock that the test cannot set.
    """
    if isinstance(expected, Refused):
        if not isinstance(answer, HoldfastError) or answer.code != expected.code:
            return False
        return expected.fields.items() <= answer.fields().items()
    if not isinstance(answer, Committed):
        return False
    ends = 4 if own_clock else 5
    told = Told(
        [(s, row.sequence, row.type, row.payload, row.meta) for s, row in answer.events],
        [(row.kind, row.key, row.version, row.tag, row.value) for row in answer.records],
        [
            (r.key, r.generation, r.incarnation, r.holder, (r.domain, r.expires_at))[:ends]
            for r in answer.leases
        ],
    )
    return told == Told(expected.events, expected.records, [row[:ends] for row in expected.leases])
