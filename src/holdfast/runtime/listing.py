"""All records of a kind, page by page: for who goes through many and holds few."""

from collections.abc import AsyncIterator, Iterator
from typing import Final

from holdfast.core.errors import DamagedError
from holdfast.core.key import encode_key, prefix_end
from holdfast.core.unit import RecordRow
from holdfast.store.port import ListedRecord, Reads
from holdfast.store.store import Store

PAGE: Final = 2_000


async def every(
    store: Store, kind: str, prefix: bytes = b"", page: int = PAGE
) -> AsyncIterator[ListedRecord]:
    """
    Yield all records of a kind in key order, page by page; damaged ones are marked.

    Raises:
        DamagedError: the index leads back to where this has been.
    """
    first, until = prefix, prefix_end(prefix)

    def read(reader: Reads) -> list[ListedRecord]:
        return reader.listed(kind, first, until, page)

    while rows := await store.read(read):
        for row in rows:
            yield row
        behind = rows[-1].place + b"\0"
        if behind <= first:
            raise DamagedError(
                what="index", name=kind, reason="leads back to where the listing has been"
            )
        first = behind


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
