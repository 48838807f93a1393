"""
Reading, over any connection that runs named queries.

The same statements exist in both dialects, so reading is written once. What comes back has
been checked against its digest; an event also against the event before it.

Invariant: a page of events continues the chain exactly from the event the reader names.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from holdfast.core.errors import DamagedError, TooOldError
from holdfast.core.event import (
    EventRow,
    Head,
    chained_digest,
    damaged_event,
    first_damage,
    stream_id,
)
from holdfast.core.key import Key, prefix_end
from holdfast.core.sealing import KEY_KIND, SEALED, Cipher, UnknownDataKey, open_event
from holdfast.core.unit import LeaseRow, RecordRow
from holdfast.store import rows
from holdfast.store.port import BlobRow, Listed, ListedRecord, SnapshotRow, Verdict
from holdfast.store.vault import Vault

T = TypeVar("T")
Fetch = Callable[..., list[rows.Row]]
Cursor = dict[str, Any]
PAGE_ROWS: Final = 500


class Reader:
    """Named reads over a function that runs named queries."""

    def __init__(self, fetch: Fetch, cipher: Cipher | None = None) -> None:
        """Take the function that runs a query by name, and what opens sealed values."""
        self.fetch = fetch
        self.cipher = cipher

    def head(self, stream: str) -> Head | None:
        """Return a stream's head, or None."""
        for row in self.fetch("load_heads", ids=[stream_id(stream)]):
            head = rows.read_head(row)
            if head.name == stream:
                return head
        return None

    def heads(self, first: bytes, until: bytes, limit: int) -> list[Listed]:
        """Return heads by name, from `first` (included) to `until` (excluded)."""
        found = self.fetch("list_heads", first=first, until=until, limit=limit)
        listed = [(row[0], rows.list_head(row[1:])) for row in found]
        # Under another id nobody finds it by its name.
        return [
            Listed(one.head, one.intact and id == stream_id(one.head.name)) for id, one in listed
        ]

    def events(self, stream: str, after: int, limit: int) -> tuple[Head | None, list[EventRow]]:
        """
        Return a stream's head and its events from `after` + 1 on, checked along the chain.

        A page ends before a damaged event; only a page that begins with one raises.

        Raises:
            TooOldError: retention removed events after `after`.
            DamagedError: the event at `after` + 1 does not fit.
        """
        head = self.head(stream)
        while head is not None and after < head.last_sequence:
            if after < head.first_sequence - 1:
                raise TooOldError(stream=stream, after=after, first_sequence=head.first_sequence)
            try:
                return head, self._page(head, after, limit)
            except DamagedError:
                # A trim between the two reads looks like damage; a second look tells.
                again = self.head(stream)
                if again is None or again.first_sequence == head.first_sequence:
                    raise
                head = again
        return head, []

    def _page(self, head: Head, after: int, limit: int) -> list[EventRow]:
        """Read one event more, in front, for its digest; the anchor stands for the first."""
        begins = after < head.first_sequence
        first = head.first_sequence if begins else after
        count = limit if begins else limit + 1
        found = self.fetch("read_events", origin=head.origin, first=first, limit=count)
        page = [rows.read_event(row) for row in found]
        previous = head.anchor
        if not begins:
            if not page or page[0].sequence != after:
                raise damaged_event(head.name, after, "the event is missing")
            previous = page.pop(0).digest
        # A sequence that is no number stays in the page, so that it is found to be damaged.
        last = head.last_sequence
        page = [row for row in page if type(row.sequence) is not int or row.sequence <= last]
        expected = min(limit, head.last_sequence - after)
        return self._page_opened(head.name, intact_part(head, page, after, previous, expected))

    def _page_opened(self, stream: str, found: list[EventRow]) -> list[EventRow]:
        """
        Return the events of a page with their seals opened, up to the first that is broken.

        Raises:
            DamagedError: the very first one is.
        """
        if not any(row.format >= SEALED for row in found):
            return found
        opened: list[EventRow] = []
        for row in found:
            try:
                opened.append(self._event_opened(stream, row))
            except DamagedError:
                if not opened:
                    raise
                break
        return opened

    def _event_opened(self, stream: str, row: EventRow) -> EventRow:
        if row.format < SEALED:
            return row
        return self.opened(lambda: open_event(self.cipher, stream, row))

    def opened(self, read: Callable[[], T]) -> T:
        """Open what is sealed; if under a key that is not known, look which keys there are."""
        try:
            return read()
        except UnknownDataKey as unknown:
            learn_keys(self, unknown.number)
            return read()

    def horizon(self) -> int:
        """
        Return the position up to which no event can appear any more.

        The order of the two queries matters: a position taken before the first is either
        committed, rolled back, or held open when the second looks.
        """
        taken = self.fetch("position_taken")[0][0] or 0
        held = self.fetch("position_held")[0][0]
        return taken if held is None else min(taken, held)

    def changed_streams(self, after: int, horizon: int, own: Sequence[int]) -> list[str]:
        """Return streams that have events in a range of positions, besides those named."""
        left_out = msgspec.json.encode(own).decode()
        found = self.fetch(
            "changed_streams", after=after, horizon=horizon, own=left_out, limit=PAGE_ROWS
        )
        return [bytes(name).decode(errors="replace") for (name,) in found]

    def feed(self, after: int, horizon: int, limit: int) -> list[tuple[str, EventRow]]:
        """
        Return events of all streams by position, checked against the event before each.

        Raises:
            DamagedError: an event does not fit, or its stream is gone.
        """
        found: list[tuple[str, EventRow]] = []
        for name, previous, *columns in self.fetch(
            "read_feed", after=after, horizon=horizon, limit=limit
        ):
            row = rows.read_event(columns)
            if name is None or previous is None:
                raise damaged_event(str(name), row.sequence, "its stream or predecessor is gone")
            stream = bytes(name).decode()
            if chained_digest(bytes(previous), row) != row.digest:
                raise damaged_event(stream, row.sequence, "stored bytes and digest differ")
            found.append((stream, self._event_opened(stream, row)))
        return found

    def record(self, kind: str, key: Key) -> RecordRow | None:
        """Return a record; one without value was deleted."""
        return self.records_at(kind, [key])[0]

    def records_at(self, kind: str, keys: Sequence[Key]) -> list[RecordRow | None]:
        """Return the record of each key, none for none; one without value was deleted."""
        if not keys:
            return []
        found = self.fetch("load_records", ids=[rows.record_id(kind, key) for key in keys])
        read = self.opened_records(found)
        by_key = {record.key: record for record in read if record.kind == kind}
        return [by_key.get(key) for key in keys]

    def records(
        self, kind: str, first: bytes, until: bytes, limit: int, tag: str | None
    ) -> list[RecordRow]:
        """Return records that have a value, by encoded key."""
        found = self._listing(kind, first, until, limit, tag)
        return self.opened_records(found)

    def opened_records(self, found: Sequence[rows.Row]) -> list[RecordRow]:
        """Return records from their columns."""
        return self.opened(lambda: [rows.read_record(row, self.cipher) for row in found])

    def listed(
        self, kind: str, first: bytes, until: bytes, limit: int, tag: str | None = None
    ) -> list[ListedRecord]:
        """Return records that have a value, by encoded key; damaged ones are marked."""
        found = self._listing(kind, first, until, limit, tag)
        return self.opened(lambda: [rows.list_record(row, self.cipher) for row in found])

    def tally(
        self, kind: str, first: bytes, until: bytes, limit: int, tag: str | None
    ) -> tuple[int, int, bytes]:
        """Return how many records there are, how many of them are damaged, and the last place."""
        found = self._listing(kind, first, until, limit, tag)
        damaged = sum(not rows.is_sound(row) for row in found)
        return len(found), damaged, rows.place_of(found[-1]) if found else b""

    def _listing(
        self, kind: str, first: bytes, until: bytes, limit: int, tag: str | None
    ) -> list[rows.Row]:
        bounds: dict[str, Any] = {"kind": kind, "first": first, "until": until, "limit": limit}
        if tag is None:
            return self.fetch("list_records", **bounds)
        return self.fetch("list_tagged", tag=tag, **bounds)

    def size_bytes(self) -> int:
        """Return how many bytes the store takes, what is free within it included."""
        return int(self.fetch("size_of_store")[0][0])

    def lease(self, key: str) -> LeaseRow | None:
        """Return a lease, or None if it was never granted."""
        for row in self.fetch("load_leases", ids=[rows.lease_id(key)]):
            lease = rows.read_lease(row)
            if lease.key == key:
                return lease
        return None

    def blob(self, content: bytes) -> BlobRow | None:
        """Return a blob, or None."""
        for row in self.fetch("read_blob", content=content):
            return self.opened(lambda: rows.read_blob(row, self.cipher))  # noqa: B023 called at once
        return None

    def snapshots(self, name: str, limit: int) -> list[SnapshotRow]:
        """Return the newest snapshots of a name, newest first; damaged ones are marked."""
        found = self.fetch("read_snapshots", id=rows.snapshot_id(name), limit=limit)
        return self.opened(lambda: [rows.read_snapshot(row, self.cipher) for row in found])

    def outcome(self, unit_id: bytes, after: int) -> Verdict:
        """Say whether a unit made after transaction `after` was committed by a later one."""
        if self.fetch("find_outcome", after=after, unit_id=unit_id):
            return "committed"
        _, _, trimmed = rows.read_store(self.fetch("read_store")[0])
        return "forgotten" if trimmed > after else "absent"

    def pages(
        self, name: str, behind: Callable[[rows.Row | None], Cursor], limit: int = PAGE_ROWS
    ) -> Iterator[rows.Row]:
        """
        Yield all rows of a scan, page by page; `behind` names the place behind a row.

        Raises:
            DamagedError: a row is not what its index says, so the scan came to a place for the
                second time and would never end.
        """
        cursor = behind(None)
        visited: set[tuple[Any, ...]] = set()
        while page := self.fetch(name, **cursor, limit=limit):
            yield from page
            if len(page) < limit:
                return
            cursor = behind(page[-1])
            place = tuple(cursor.values())
            if place in visited:
                raise DamagedError(
                    what="index", name=name, reason="leads back to where the scan has been"
                )
            visited.add(place)


def data_keys(reader: Reader) -> list[RecordRow]:
    """Return the records of the data keys, which are never sealed."""
    bounds = {"first": b"", "until": prefix_end(b""), "limit": PAGE_ROWS}
    found = reader.fetch("list_records", kind=KEY_KIND, **bounds)
    return [rows.read_record(row) for row in found]


def learn_keys(reader: Reader, asked: int) -> None:
    """Read again which data keys there are; only a vault has any."""
    if isinstance(reader.cipher, Vault):
        reader.cipher.learn(data_keys(reader), asked)


def intact_part(
    head: Head, page: list[EventRow], after: int, previous: bytes, expected: int
) -> list[EventRow]:
    """
    Return the rows of a page up to the first damage; the next page then begins with it.

    Raises:
        DamagedError: the very first row is damaged or missing.
    """
    damage = first_damage(head.name, page, after, previous)
    if damage is None and len(page) < expected:
        damage = damaged_event(head.name, after + len(page) + 1, "the event is missing")
    if damage is None and page and _ends_wrong(head, page[-1]):
        damage = damaged_event(head.name, head.last_sequence, "the head names another event")
    if damage is None:
        return page
    intact = page[: (damage.sequence or 0) - after - 1]
    if not intact:
        raise damage
    return intact


def _ends_wrong(head: Head, row: EventRow) -> bool:
    return row.sequence == head.last_sequence and row.digest != head.last_digest
