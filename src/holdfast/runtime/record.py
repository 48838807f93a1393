"""Records in a user's hands: current values by kind and key, with compare-and-set."""

from typing import Any

import msgspec

from holdfast.core import codec
from holdfast.core.errors import LimitError, RecordNotFoundError
from holdfast.core.key import Key, as_key, check_word, encode_key, prefix_end
from holdfast.core.redaction import Redactor
from holdfast.core.unit import (
    AtVersion,
    DeleteRecord,
    Expectation,
    PutRecord,
    RecordRow,
    Unit,
    check_kind,
)
from holdfast.store.store import Store

PAGE_RECORDS_MAX = 10_000


class Record(msgspec.Struct, frozen=True):
    """
    A record as it was read or written.

    Attributes:
        kind: family of the record.
        key: its key, a tuple of strings.
        version: number of its last write; pass it as `expected` to change just this one.
        value: the value.
        tag: word by which it can be listed, or None.
    """

    kind: str
    key: Key
    version: int
    value: Any
    tag: str | None


class Records:
    """All records of a store."""

    def __init__(self, store: Store, redaction: Redactor) -> None:
        """Take the store."""
        self._store = store
        self._redaction = redaction

    async def get(self, kind: str, key: str | Key) -> Record:
        """
        Return a record.

        Raises:
            RecordNotFoundError: there is none, or it was deleted.
            DamagedError: it does not match its digest.
        """
        found = await self.find(kind, key)
        if found is None:
            raise RecordNotFoundError(kind=kind, key=as_key(key))
        return found

    async def find(self, kind: str, key: str | Key) -> Record | None:
        """Return a record, or None."""
        path = as_key(key)
        row = await self._store.read(lambda reader: reader.record(kind, path))
        return None if row is None or row.value is None else _record(row)

    async def put(
        self,
        kind: str,
        key: str | Key,
        value: object,
        *,
        tag: str | None = None,
        expected: int | None = None,
    ) -> Record:
        """
        Write a record whole.

        Args:
            kind: family of the record, a short word.
            key: a string, or a tuple of strings.
            value: plain value.
            tag: word by which it can be listed.
            expected: version it has to be at; 0 for absent. None writes in any case.

        Raises:
            VersionConflictError: it is at another version; nothing was written.
            EncodeError: the value cannot be stored exactly.
            InvalidValueError: Holdfast keeps the kind for itself.
        """
        path = as_key(key)
        encode_key(path)
        check_word("kind", kind)
        check_kind(kind)
        if tag is not None:
            check_word("tag", tag)
        write = PutRecord(kind, path, codec.encode(self._redaction(value), kind), tag)
        committed = await self._store.commit(Unit((write,), _expects(kind, path, expected)))
        return _record(committed.records[0])

    async def delete(self, kind: str, key: str | Key, *, expected: int | None = None) -> None:
        """
        Delete a record; one that is not there is not an error.

        Raises:
            VersionConflictError: it is at another version than `expected`.
        """
        path = as_key(key)
        encode_key(path)
        check_kind(kind)
        await self._store.commit(Unit((DeleteRecord(kind, path),), _expects(kind, path, expected)))

    async def list(
        self,
        kind: str,
        *,
        prefix: Key = (),
        after: str | Key | None = None,
        limit: int = 100,
        tag: str | None = None,
    ) -> list[Record]:
        """
        Return records of a kind in key order.

        Args:
            kind: family of the records.
            prefix: parts with which the keys begin.
            after: key behind which to go on.
            limit: how many at most.
            tag: only records with this tag.
        """
        if not 1 <= limit <= PAGE_RECORDS_MAX:
            raise LimitError(what="limit", size=limit, limit=PAGE_RECORDS_MAX)
        begin = encode_key(prefix) if prefix else b""
        first = begin if after is None else max(begin, encode_key(as_key(after)) + b"\0")
        rows = await self._store.read(
            lambda reader: reader.records(kind, first, prefix_end(begin), limit, tag)
        )
        return [_record(row) for row in rows]


def _expects(kind: str, key: Key, version: int | None) -> tuple[Expectation, ...]:
    return () if version is None else (AtVersion(kind, key, version),)


def _record(row: RecordRow) -> Record:
    value = None if row.value is None else codec.decode(row.value, row.kind)
    return Record(row.kind, row.key, row.version, value, row.tag)
