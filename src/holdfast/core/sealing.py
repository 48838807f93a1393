"""
What of a store is sealed when it is encrypted, and what each seal is bound to.

Sealed are values: data and metadata of events, values of records, bytes of blobs and snapshots.
Everything by which something is found, ordered or checked stays readable: names, kinds, keys,
tags, sequences, versions, sizes, times, digests. A row whose content is sealed says so in its
format (`SEALED` is added), so a store may hold both kinds of rows.

Digests and chains are over what is stored, which is the sealed form; who has no key can check
them. A seal is made while a batch is decided, when sequence and version are known, and is bound
to its *place*:

    event       stream, sequence, type, and whether it is data or metadata
    record      kind, key, version, tag
    blob        digest and size of the content, how it is packed
    snapshot    name, stream, sequence, size, how it is packed

So nobody without a key can change a value, put it in another place, or give a record another
tag. What can be done without one: remove rows, or put an older state of the whole store back.

Invariants: the records of the data keys and of the lineage are never sealed, so a backup needs no
key; what was opened has the format it had before it was sealed; a seal that does not fit is damage,
named like any other.
"""

from dataclasses import dataclass
from typing import Final, NoReturn, Protocol

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DamagedError, StoreError
from holdfast.core.event import Event, EventRow, damaged_event
from holdfast.core.key import encode_key
from holdfast.core.unit import RecordRow

SEALED: Final = 256
"""What is added to the format of a row whose content is sealed."""
KEY_KIND: Final = "holdfast.key"
"""Kind of the records that hold the data keys, wrapped."""
LINEAGE_KIND: Final = "holdfast.lineage"
"""Kind of the record that says which restore a store comes from."""
OPEN_KINDS: Final = frozenset({KEY_KIND, LINEAGE_KIND})
"""Kinds of records that are never sealed, since they are read without a key."""
BROKEN: Final = "sealed bytes do not belong here, or were changed"


@dataclass(eq=False, kw_only=True)
class KeyMissingError(StoreError):
    """The store is encrypted, and a key it needs was not given; nothing was served."""

    keys: str
    reason: str
    code = "key_missing"
    text = "the store is encrypted, key {keys!r} is needed: {reason}; see docs/security.md"


@dataclass(eq=False, kw_only=True)
class KeyWrongError(StoreError):
    """A key of the keyring has the id of the one that is needed, and is another one."""

    key: str
    source: str
    code = "key_wrong"
    text = "key {key!r} of {source} is not the one that this store was encrypted with"


class BrokenSeal(Exception):  # noqa: N818 mapped to the damage of what was sealed
    """The bytes were not sealed for this place under a key of this store."""


class UnknownDataKey(Exception):  # noqa: N818 control flow: look again which keys there are
    """The bytes were sealed under a data key that was made since the keys were read."""

    def __init__(self, number: int) -> None:
        """Take its number."""
        super().__init__(number)
        self.number = number


class Cipher(Protocol):
    """Seals bytes for a place, and opens them there."""

    def seal(self, place: bytes, data: bytes) -> bytes:
        """Return the sealed bytes."""
        ...

    def open(self, place: bytes, sealed: bytes) -> bytes:
        """
        Return the bytes that were sealed.

        Raises:
            BrokenSeal: they were sealed for another place, or changed.
            UnknownDataKey: under a key that is not known yet.
        """
        ...


class Verbatim:
    """Leaves sealed bytes as they are, for whoever only checks what is stored."""

    def seal(self, place: bytes, data: bytes) -> NoReturn:
        """Refuse: nothing is written by who only looks."""
        raise TypeError("only for reading")

    def open(self, place: bytes, sealed: bytes) -> bytes:
        """Return them as they are."""
        return sealed


VERBATIM: Final = Verbatim()


def opened(cipher: Cipher | None, place: bytes, sealed: bytes) -> bytes:
    """
    Return the bytes that were sealed for a place.

    Raises:
        KeyMissingError: there is no keyring.
        BrokenSeal, UnknownDataKey: as `Cipher.open` says.
    """
    if cipher is None:
        raise KeyMissingError(keys="", reason="it was encrypted since it was opened here")
    return cipher.open(place, sealed)


def _event_place(stream: str, sequence: int, type: str, part: str) -> bytes:
    return codec.frame("event", stream, sequence, type, part)


def sealed_event(
    cipher: Cipher, stream: str, sequence: int, event: Event
) -> tuple[bytes, bytes | None]:
    """Return payload and metadata of an event as they are stored at a sequence."""
    payload = cipher.seal(_event_place(stream, sequence, event.type, "data"), event.payload)
    if event.meta is None:
        return payload, None
    return payload, cipher.seal(_event_place(stream, sequence, event.type, "meta"), event.meta)


def open_event(cipher: Cipher | None, stream: str, row: EventRow) -> EventRow:
    """
    Return an event as it was before it was sealed.

    Raises:
        DamagedError: it was sealed for another place, or changed.
        KeyMissingError: there is no keyring.
    """
    if row.format < SEALED:
        return row
    sequence, type, meta = row.sequence, row.type, row.meta
    try:
        payload = opened(cipher, _event_place(stream, sequence, type, "data"), row.payload)
        if meta is not None:
            meta = opened(cipher, _event_place(stream, sequence, type, "meta"), meta)
    except BrokenSeal as error:
        raise damaged_event(stream, sequence, BROKEN) from error
    return msgspec.structs.replace(row, payload=payload, meta=meta, format=row.format - SEALED)


def _record_place(row: RecordRow) -> bytes:
    return codec.frame("record", row.kind, encode_key(row.key), row.version, row.tag)


def sealed_record(cipher: Cipher | None, row: RecordRow) -> RecordRow:
    """Return a record as it is stored; one that was deleted has nothing to seal."""
    if cipher is None or row.value is None or row.kind in OPEN_KINDS:
        return row
    value = cipher.seal(_record_place(row), row.value)
    return msgspec.structs.replace(row, value=value, format=row.format + SEALED)


def open_record(cipher: Cipher | None, row: RecordRow) -> RecordRow:
    """
    Return a record as it was before it was sealed.

    Raises:
        DamagedError: it was sealed for another place, or changed.
        KeyMissingError: there is no keyring.
    """
    if row.format < SEALED or row.value is None:
        return row
    try:
        value = opened(cipher, _record_place(row), row.value)
    except BrokenSeal as error:
        name = repr(row.key)
        raise DamagedError(what=f"record {row.kind}", name=name, reason=BROKEN) from error
    return msgspec.structs.replace(row, value=value, format=row.format - SEALED)


def blob_place(content: bytes, size: int, encoding: str) -> bytes:
    """Return what the seal of a blob is bound to."""
    return codec.frame("blob", content, size, encoding)


def snapshot_place(name: str, stream: str, sequence: int, size: int, encoding: str) -> bytes:
    """Return what the seal of a snapshot is bound to."""
    return codec.frame("snapshot", name, stream, sequence, size, encoding)


def seal_bytes(cipher: Cipher | None, place: bytes, stored: bytes) -> tuple[bytes, int]:
    """Return packed bytes as they are stored, and what is added to the format."""
    return (stored, 0) if cipher is None else (cipher.seal(place, stored), SEALED)


def open_bytes(
    cipher: Cipher | None, place: bytes, stored: bytes, format: int, damage: DamagedError
) -> bytes:
    """
    Return packed bytes as they were before they were sealed.

    Raises:
        DamagedError: `damage`, if they were sealed for another place, or changed.
        KeyMissingError: there is no keyring.
    """
    if format < SEALED:
        return stored
    try:
        return opened(cipher, place, stored)
    except BrokenSeal as error:
        raise damage from error
