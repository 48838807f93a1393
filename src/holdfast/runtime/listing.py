"""
All records of a kind, page by page: for who goes through many and holds few; and lists for who
must not be held up by one damaged record among them.
"""

import logging
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from holdfast.core.errors import DamagedError, DecodeError
from holdfast.core.key import Key, encode_key, prefix_end
from holdfast.core.unit import RecordRow
from holdfast.store.port import ListedRecord, Lists, Reads
from holdfast.store.store import Store

log = logging.getLogger("holdfast")
PAGE: Final = 2_000
Page = tuple[int, int, bytes]
"""How many records there are on it, how many of them are damaged, and the last place."""


async def every(store: Store, kind: str, prefix: bytes = b"") -> AsyncIterator[ListedRecord]:
    """
    Yield all records of a kind in key order, page by page; damaged ones are marked.

    Raises:
        DamagedError: the index leads back to where this has been.
    """
    first, until = prefix, prefix_end(prefix)

    def read(reader: Reads) -> list[ListedRecord]:
        return reader.listed(kind, first, until, PAGE)

    while rows := await store.read(read):
        for row in rows:
            yield row
        first = _behind(kind, first, rows[-1].place)


def first_page(reader: Reads, kind: str) -> Page:
    """Return the first page of a tally; hand it to `tally`."""
    return reader.tally(kind, b"", prefix_end(b""), PAGE, None)


async def tally(
    store: Store, kind: str, tag: str | None = None, begun: Page | None = None
) -> tuple[int, int]:
    """
    Read all records of a kind, or those with a tag; return how many are intact and damaged.

    Args:
        store: where they are.
        kind: of the records.
        tag: only of those that carry it.
        begun: the first page, if it was read already.

    Raises:
        DamagedError: the index leads back to where this has been.
    """
    first, until = b"", prefix_end(b"")
    count = damaged = 0

    def read(reader: Reads) -> Page:
        return reader.tally(kind, first, until, PAGE, tag)

    found = await store.read(read) if begun is None else begun
    while found[0]:
        count, damaged = count + found[0], damaged + found[1]
        first = _behind(kind, first, found[2])
        if found[0] < PAGE:
            break
        found = await store.read(read)
    return count - damaged, damaged


def _behind(kind: str, first: bytes, last: bytes) -> bytes:
    """Return the place behind the last one of a page."""
    behind = last + b"\0"
    if behind <= first:
        raise DamagedError(
            what="index", name=kind, reason="leads back to where the listing has been"
        )
    return behind


async def intact(store: Store, kind: str) -> AsyncIterator[RecordRow]:
    """
    Yield the records of a kind; one that is damaged is the store's to report.

    Raises:
        DamagedError: the index leads back to where this has been.
    """
    async for listed in every(store, kind):
        if listed.intact:
            yield listed.row


def below(reader: Reads, kind: str, prefix: bytes = b"") -> Iterator[RecordRow]:
    """
    Yield the records of a kind whose encoded keys begin so, all in one read.

    Raises:
        DamagedError: one is damaged.
    """
    first, until = prefix, prefix_end(prefix)
    while page := reader.records(kind, first, until, PAGE, None):
        yield from page
        first = encode_key(page[-1].key) + b"\0"


def first_parts(lists: Lists, kind: str, limit: int) -> Iterator[str]:
    """Yield what the keys of a kind begin with, each once; one read for each."""
    first = b""
    for _ in range(limit):
        page = lists.records(kind, first, prefix_end(b""), 1, None)
        if not page:
            return
        part = page[0].key[0]
        yield part
        first = prefix_end(encode_key((part,)))


class Damaged(NamedTuple):
    """
    A record that was left out.

    Attributes:
        kind, key: which; the key is empty if it cannot be read.
        error: what is wrong with it.
    """

    kind: str
    key: Key
    error: DamagedError


class TolerantReader:
    """
    Lists records of which the damaged ones are left out, and kept for whoever notes them.

    Attributes:
        reader: what is read.
        damaged: what was left out.
    """

    def __init__(self, reader: Reads) -> None:
        """Take what is read."""
        self.reader = reader
        self.damaged: list[Damaged] = []

    def records(
        self, kind: str, first: bytes, until: bytes, limit: int, tag: str | None
    ) -> list[RecordRow]:
        """Return intact records by encoded key; in place of damaged ones, those behind them."""
        found: list[RecordRow] = []
        while (wanted := limit - len(found)) > 0:
            page = self.reader.listed(kind, first, until, wanted, tag)
            found += [one.row for one in page if one.intact]
            self.damaged += [
                Damaged(kind, one.row.key, one.damage) for one in page if one.damage is not None
            ]
            if len(page) < wanted or (behind := page[-1].place + b"\0") <= first:
                break  # That was all; or the index leads back, which is for `verify` to name.
            first = behind
        return found

    def records_at(self, kind: str, keys: Sequence[Key]) -> list[RecordRow | None]:
        """Return the records with these keys; None for one that is not there, or is damaged."""
        try:
            return self.reader.records_at(kind, keys)
        except DamagedError:
            return [self._record_at(kind, key) for key in keys]

    def _record_at(self, kind: str, key: Key) -> RecordRow | None:
        with self.apart(kind, key):
            return self.reader.record(kind, key)
        return None

    @contextmanager
    def apart(self, kind: str, key: Key) -> Generator[None, None, None]:
        """Go on behind a fault in one record: it is damaged, or written by something else."""
        try:
            yield
        except DamagedError as damage:
            self.damaged.append(Damaged(kind, key, damage))
        except DecodeError as error:
            log.warning("event=record_not_read kind=%s key=%s code=%s", kind, key, error.code)
