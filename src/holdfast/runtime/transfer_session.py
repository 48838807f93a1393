"""
A session as it is taken out of a store, and as it comes into another one.

What belongs to a session is its head (with its identities, its end and whether it is archived),
its slots, and the stream of its changes if its class has one. It is what is stored: a program
that has the session open may hold buffered fields that are not written yet. Neither way needs
the class, so a session of an older version of it is brought up to date by whoever loads it.

It comes in as a new session, so nobody who knew an older one of that key takes it for that one.

Invariants: what is taken out was all there at one moment; what comes in is one unit, and never
makes an identity ambiguous.
"""

from typing import Final

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DecodeError, RecordNotFoundError
from holdfast.core.event import Event
from holdfast.core.key import Key
from holdfast.core.refusal import SessionBusyError
from holdfast.core.unit import (
    Append,
    AtSequence,
    AtVersion,
    Expectation,
    PutRecord,
    RecordRow,
    Unit,
    Write,
)
from holdfast.runtime.sessions.image import ACTIVE, HEAD, IDENTITY, Head, candidate
from holdfast.runtime.sessions.state import kind_of, stream_of
from holdfast.runtime.transfer_file import Entry, Parts, StreamPart, read_stream
from holdfast.store.port import Reads

TRIES_MAX: Final = 100


def read_session(reader: Reads, name: Key) -> Parts:
    """
    Return a session, as all of it is at one moment.

    Args:
        reader: where it is read.
        name: its class and its key.

    Raises:
        RecordNotFoundError: there is no such session.
        SessionBusyError: it changes faster than it can be read.
        DamagedError: a record of it is damaged.
    """
    for _ in range(TRIES_MAX):
        rows = _rows(reader, name)
        history = read_stream(reader, stream_of(name[0], name[1:]))
        if _versions(_rows(reader, name)) == _versions(rows):
            streams = [] if history is None else [history]
            return Parts("session", name, streams, [Entry.of(row) for row in rows], ())
    raise SessionBusyError(kind=name[0], key=name[1:])


def _rows(reader: Reads, name: Key) -> list[RecordRow]:
    """Return head and slots; every change of the session writes one of them."""
    row = reader.record(HEAD, name)
    if row is None or row.value is None:
        raise RecordNotFoundError(kind="session", key=name)
    kinds = [kind_of(name[0], slot) for slot in _head(row.value).slots]
    slots = [reader.record(kind, name[1:]) for kind in kinds]
    return [row, *(slot for slot in slots if slot is not None and slot.value is not None)]


def _versions(rows: list[RecordRow]) -> list[tuple[str, int]]:
    return [(row.kind, row.version) for row in rows]


def _head(value: bytes) -> Head:
    return codec.decode_as(value, Head, "session head")


def session_unit(parts: Parts, born: str, wall: float) -> Unit:
    """
    Return what makes the session of a bundle be there.

    Args:
        parts: the bundle.
        born: tells it from an older session of the same key.
        wall: the wall time.

    Raises:
        DecodeError: the file is whole, but what it holds is not a session of this Holdfast.
    """
    name = parts.name
    first, slots = _checked(parts)
    head = msgspec.structs.replace(_head(first.value), born=born)
    writes: list[Write] = [head.write(name, first.tag or ACTIVE)]
    writes += [PutRecord(slot.kind, slot.key, slot.value, slot.tag) for slot in slots]
    expects: list[Expectation] = [AtVersion(HEAD, name, 0)]
    expects += [AtVersion(kind_of(name[0], slot), name[1:], 0) for slot in head.slots]
    leads = codec.encode({candidate(name[1:]): {"at": wall}})
    for identity in head.identities:
        writes.append(PutRecord(IDENTITY, (name[0], identity), leads))
        expects.append(AtVersion(IDENTITY, (name[0], identity), 0))
    for header, lines in parts.streams:
        events = tuple(Event(line.type, line.payload, line.meta) for line in lines)
        writes.append(Append(header.stream, events))
        expects.append(AtSequence(header.stream, 0))
    return Unit(tuple(writes), tuple(expects))


def _checked(parts: Parts) -> tuple[Entry, list[Entry]]:
    """Return the head and the slots of a bundle, all of one session."""
    name = parts.name
    first = parts.records[0] if parts.records else None
    if len(name) < 2 or first is None or (first.kind, first.key) != (HEAD, name):
        raise DecodeError(what=f"session {name!r}", reason="its head is not there")
    kinds = {kind_of(name[0], slot) for slot in _head(first.value).slots}
    for slot in parts.records[1:]:
        if slot.kind not in kinds or slot.key != name[1:]:
            raise DecodeError(what=f"record {slot.kind}", reason="does not belong to the session")
    for header, _ in parts.streams:
        if header.stream != stream_of(name[0], name[1:]) or header.first_sequence != 1:
            raise DecodeError(what=f"stream {header.stream!r}", reason="is not its history")
    return first, parts.records[1:]


def holds_session(reader: Reads, parts: Parts) -> bool:
    """Return whether a store holds the session of a bundle, just as it is there."""
    try:
        found = [Entry.of(row) for row in _rows(reader, parts.name)]
    except RecordNotFoundError:
        return False
    history = read_stream(reader, stream_of(parts.name[0], parts.name[1:]))
    streams = [] if history is None else [history]
    return _plain(found) == _plain(parts.records) and _said(streams) == _said(parts.streams)


def _plain(records: list[Entry]) -> list[tuple[object, ...]]:
    """Return records without what tells two sessions of one key apart."""
    head, *slots = records
    same = msgspec.structs.replace(_head(head.value), born="")
    return [(head.tag, same), *((one.kind, one.tag, one.value) for one in slots)]


def _said(streams: list[StreamPart]) -> list[tuple[object, ...]]:
    return [(line.type, line.payload, line.meta) for _, lines in streams for line in lines]
