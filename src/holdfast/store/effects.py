"""
Loading what a batch needs and writing what it decided, over any connection.

Both drivers run the same named statements with the same parameters, so this is the only place
that knows which. What differs is how a connection binds a set of rows and how it finds out
that another process created a row in between.

Invariant: a row is created only if it was loaded as absent; a connection that finds it there
raises `Again`, and the batch is decided anew.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from holdfast.core.commit import Decision, Moment, Needs, State
from holdfast.core.errors import DamagedError
from holdfast.core.event import stream_id
from holdfast.core.key import Key
from holdfast.core.sealing import Cipher
from holdfast.core.unit import PutBlob, ResealBytes
from holdfast.store import rows

TRIM_EVERY: Final = 256
TRIM_ROWS: Final = 512


class Connection(Protocol):
    """Runs named statements."""

    def fetch(self, name: str, /, **parameters: Any) -> list[rows.Row]:
        """Run a query; a list parameter is an array."""
        ...

    def run(self, name: str, /, **parameters: Any) -> None:
        """Run a statement."""
        ...

    def run_rows(self, name: str, values: Sequence[rows.Row]) -> None:
        """Run a statement over a set of rows; raise `Again` if one of them is there already."""
        ...


class Loading:
    """
    What is wanted of a batch and not known yet: queries to run, and their answers to keep.

    Attributes:
        queries: names and parameters, in the order in which they have to be run.
    """

    def __init__(self, wanted: Needs, state: State, cipher: Cipher | None) -> None:
        """Take what is wanted, and where it will be kept; what is absent becomes None."""
        self._state = state
        self._cipher = cipher
        for name in state.damages:
            # What was not mended then is neither absent nor known.
            if state.records.get(name) is None:
                state.records.pop(name, None)
        state.damages = {}
        self._heads = [name for name in wanted.streams if name not in state.heads]
        self._mended = sorted(wanted.mended)
        self._records = [
            key for key in wanted.records if key not in state.records and key not in wanted.mended
        ]
        self._leases = [key for key in wanted.leases if key not in state.leases]
        self._anchors = sorted(wanted.anchors)
        self.queries: list[tuple[str, dict[str, Any]]] = []
        if self._heads:
            self._ask("lock_heads", ids=sorted(map(stream_id, self._heads)))
        if self._records:
            ids = sorted(rows.record_id(kind, key) for kind, key in self._records)
            self._ask("lock_records", ids=ids)
        if self._leases:
            self._ask("lock_leases", ids=sorted(map(rows.lease_id, self._leases)))
        for kind, key in self._mended:
            self._ask("lock_records", ids=[rows.record_id(kind, key)])
        for stream, sequence in self._anchors:
            self._ask("load_anchor", id=stream_id(stream), sequence=sequence)

    def keep(self, found: Iterable[list[rows.Row]]) -> None:
        """Keep what the queries found; behind a damaged row nothing counts as absent."""
        state, answers = self._state, iter(found)
        if self._heads:
            heads = [rows.read_head(row) for row in next(answers)]
            state.heads.update(dict.fromkeys(self._heads))
            state.heads.update((head.name, head) for head in heads)
        if self._records:
            records = [rows.read_record(row, self._cipher) for row in next(answers)]
            state.records.update(dict.fromkeys(self._records))
            state.records.update(((one.kind, one.key), one) for one in records)
        if self._leases:
            leases = [rows.read_lease(row) for row in next(answers)]
            state.leases.update(dict.fromkeys(self._leases))
            state.leases.update((lease.key, lease) for lease in leases)
        for name in self._mended:
            self._keep_mended(name, next(answers))
        state.anchors = {}
        for anchor, answer in zip(self._anchors, answers, strict=True):
            for row in answer:
                state.anchors[anchor] = bytes(row[0])

    def _keep_mended(self, name: tuple[str, Key], found: list[rows.Row]) -> None:
        """Keep a record that may be damaged; then it is known as that, and not as absent."""
        self._state.records[name] = None
        for row in found:
            try:
                record = rows.read_record(row, self._cipher)
            except DamagedError as damage:
                self._state.damages[name] = damage
                continue
            self._state.records[record.kind, record.key] = record

    def _ask(self, name: str, **parameters: Any) -> None:
        self.queries.append((name, parameters))


def load(connection: Connection, wanted: Needs, state: State, cipher: Cipher | None = None) -> None:
    """Load into `state` what is wanted and not there yet, one query after the other."""
    loading = Loading(wanted, state, cipher)
    loading.keep(connection.fetch(name, **parameters) for name, parameters in loading.queries)


def write(
    connection: Connection,
    decision: Decision,
    state: State,
    moment: Moment,
    cipher: Cipher | None = None,
) -> None:
    """Write all effects of a decision except its outcome."""
    _upsert(connection, "heads", rows.head_row, decision.heads, state.heads)
    if decision.events:
        values = [msgspec.structs.astuple(row) for row in decision.events]
        connection.run_rows("append_events", values)
    for origin, before in decision.trims.items():
        connection.run("trim_events", origin=origin, before=before)
    mended = sorted(rows.record_id(*name) for name in state.damages if name in decision.records)
    if mended:
        # Of a damaged row nothing is kept, not even the columns that an update leaves alone.
        connection.run("drop_records", ids=mended)
    to_row = partial(rows.record_row, cipher=cipher)
    _upsert(connection, "records", to_row, decision.records, state.records)
    _upsert(connection, "leases", rows.lease_row, decision.leases, state.leases)
    _write_bytes(connection, decision, moment, cipher)


def _upsert(
    connection: Connection, what: str, to_row: Any, changed: dict[Any, Any], known: dict[Any, Any]
) -> None:
    """Write changed rows in key order, so that two writers never wait for each other crosswise."""
    if not changed:
        return
    fresh = sorted(to_row(row) for name, row in changed.items() if known[name] is None)
    old = sorted(to_row(row) for name, row in changed.items() if known[name] is not None)
    if fresh:
        connection.run_rows(f"create_{what}", fresh)
    if old:
        connection.run_rows(f"update_{what}", old)


def _write_bytes(
    connection: Connection, decision: Decision, moment: Moment, cipher: Cipher | None
) -> None:
    for one in decision.resealed:
        _reseal(connection, one, cipher)
    kept = [blob for blob in decision.blobs.values() if blob is not None]
    dropped = [content for content, blob in decision.blobs.items() if blob is None]
    if dropped:
        connection.run("drop_blobs", contents=dropped)
    if kept:
        connection.run_rows(
            "put_blobs", [rows.blob_row(blob, moment.wall, cipher) for blob in kept]
        )
    newest = {(one.name, one.sequence): one for one in decision.snapshots}
    if newest:
        values = [rows.snapshot_row(one, moment.wall, cipher) for one in newest.values()]
        connection.run_rows("put_snapshots", values)
    for name, keep in {one.name: one.keep for one in decision.snapshots}.items():
        connection.run("trim_snapshots", id=rows.snapshot_id(name), keep=keep)


def _reseal(connection: Connection, one: ResealBytes, cipher: Cipher | None) -> None:
    """Put bytes that were sealed anew in the place of those that were read, if they are there."""
    write, before = one.write, one.before
    if isinstance(write, PutBlob):
        content, _, _, stored, _, form, digest = rows.blob_row(
            write, one.written_at, cipher, one.format
        )
        to: dict[str, Any] = {"content": content}
    else:
        id, _, _, sequence, _, _, stored, _, form, digest = rows.snapshot_row(
            write, one.written_at, cipher, one.format
        )
        to = {"id": id, "sequence": sequence}
    name = "reseal_blob" if isinstance(write, PutBlob) else "reseal_snapshot"
    connection.run(name, **to, stored=stored, format=form, digest=digest, before=before)


def remember(state: State, decision: Decision) -> None:
    """Bring what was loaded up to a committed decision."""
    state.heads.update(decision.heads)
    state.records.update(decision.records)
    state.leases.update(decision.leases)


def trim_outcomes(connection: Connection, before: float, last: int) -> None:
    """Drop some outcomes that are older than `before`, never the last one, and note how far."""
    until = 0
    for number, committed_at in connection.fetch("oldest_outcomes", limit=TRIM_ROWS):
        if committed_at >= before or number >= last:
            break
        until = number
    if until:
        connection.run("trim_outcomes", until=until)
        for row in connection.fetch("read_store"):
            store_id, created_at, _ = rows.read_store(row)
            noted = rows.store_row(store_id, created_at, until)
            connection.run("note_trimmed", until=until, digest=noted["digest"])


def outcome(decision: Decision, number: int, epoch: int, position: int, moment: Moment) -> rows.Row:
    """Return the row that remembers which units a transaction committed."""
    return rows.outcome_row(number, epoch, position, decision.unit_ids, moment.wall)
