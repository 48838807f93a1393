"""All records of a kind, page by page: for who goes through many and holds few."""

from collections.abc import AsyncIterator, Iterator
from typing import Final

from holdfast.core.errors import DamagedError
from holdfast.core.key import encode_key, prefix_end
from holdfast.core.unit import RecordRow
from holdfast.store.port import ListedRecord, Reads
from holdfast.store.store import Store

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
