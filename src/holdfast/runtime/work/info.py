"""
What the ledger knows of a piece of work, for whoever looks: one, or a page of them.

Invariant: who asks for a state sees entries of that state alone, in the order of their keys.
"""

from typing import Final

import msgspec

from holdfast.core.key import Key, encode_key, prefix_end
from holdfast.core.ledger import EntryRow, EntryState, decode_row
from holdfast.runtime.listing import TolerantReader
from holdfast.runtime.presence import KIND as PRESENCE_KIND
from holdfast.runtime.work.entry import KIND
from holdfast.store.port import Lists

LISTED_MAX: Final = 10_000


class EntryInfo(EntryRow, frozen=True, kw_only=True):
    """
    What the ledger knows of a piece of work.

    Attributes:
        key: what it is work on.
    """

    key: Key

    @staticmethod
    def of(key: Key, row: EntryRow) -> "EntryInfo":
        """Return a row together with its key."""
        return EntryInfo(**msgspec.structs.asdict(row), key=key)


def entries(
    lists: TolerantReader, state: EntryState | None, kind: str | None, first: bytes, limit: int
) -> list[EntryInfo]:
    """
    Return entries in key order: of one tag, of the tags of all runtimes, or all there are.

    Args:
        lists: what is read.
        state: only those in this state.
        kind: only those of this kind.
        first: encoded key with which to begin.
        limit: how many at most.
    """
    tags: list[str | None] = [None if state is None else state.value]
    if state is EntryState.RUNNING:
        present = lists.records(PRESENCE_KIND, b"", prefix_end(b""), LISTED_MAX, None)
        tags = [record.key[0] for record in present]
        # Their keys, which are their tags, can be read still.
        tags += [one.key[0] for one in lists.damaged if one.kind == PRESENCE_KIND and one.key]
    found: list[EntryInfo] = []
    for tag in tags:
        found += _tagged(lists, tag, kind, first, limit)
    if len(tags) > 1:
        found.sort(key=lambda info: encode_key(info.key))
    return found[:limit]


def _tagged(
    reader: Lists, tag: str | None, kind: str | None, first: bytes, limit: int
) -> list[EntryInfo]:
    found: list[EntryInfo] = []
    while page := reader.records(KIND, first, prefix_end(b""), limit, tag):
        infos = [EntryInfo.of(one.key, decode_row(one.value)) for one in page if one.value]
        found += [info for info in infos if kind in (None, info.terms.kind)]
        if len(found) >= limit or len(page) < limit:
            break
        first = encode_key(page[-1].key) + b"\0"
    return found[:limit]
