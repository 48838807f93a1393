"""
Who names which bytes, so that bytes go with the last one who does.

Equal bytes are kept once, whoever names them: a run by an artifact, an input, a result, a program
because it put them. A total per digest counts the names; a share per run and digest says how many
of them are that run's. Both are patched in the unit that writes a name, so they add up without a
conflict, and a run that is removed takes its shares along and, with the last name, the bytes.

A total stays at 0 behind bytes that went: its version goes on, so that who saw the bytes, and is
about to name them without putting them again, expects that version and sees that they went.

Bytes that were put by a Holdfast that did not count are marked so by the store. Nobody knows who
names these; they stay.

Invariants: a total is the sum of the shares; no bytes are removed that anybody names; who removes
expects the totals it decided by.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DamagedError
from holdfast.core.journal import (
    Attached,
    ChildEnded,
    Payload,
    Received,
    Started,
    StepSucceeded,
    Succeeded,
)
from holdfast.core.key import Key, encode_key
from holdfast.core.unit import (
    AtVersion,
    Committed,
    DeleteBlob,
    DeleteRecord,
    PatchRecord,
    PutBlob,
    RecordRow,
    Unit,
    Write,
)
from holdfast.runtime.listing import below, intact
from holdfast.store.port import Finding, Reads
from holdfast.store.store import Store

TOTAL_KIND: Final = "holdfast.blob"
"""Kind of the totals, by digest."""
SHARE_KIND: Final = "holdfast.run.blob"
"""Kind of the shares, by run and digest."""
PAGE: Final = 1_000


class Total(msgspec.Struct, frozen=True):
    """
    Who names some bytes.

    Attributes:
        names: how often runs name them.
        kept: a program put them itself; they stay until it deletes them.
    """

    names: int = 0
    kept: bool = False

    @property
    def is_none(self) -> bool:
        """Whether nobody names them."""
        return self.names <= 0 and not self.kept


class _Share(msgspec.Struct, frozen=True):
    names: int


class Leaving(NamedTuple):
    """What belongs to the unit that removes a run, or gives bytes back."""

    writes: tuple[Write, ...]
    expects: tuple[AtVersion, ...]


# Naming.


def named_by(said: Payload) -> bytes:
    """Return the digest of the bytes that an event of a journal names; empty if it names none."""
    if isinstance(said, Attached | Received):
        return said.digest
    if isinstance(said, Started | StepSucceeded | ChildEnded | Succeeded):
        return said.blob
    return b""


def naming(run_id: str, digest: bytes) -> tuple[Write, ...]:
    """Return what belongs to the unit in which a run names bytes; nothing for an empty digest."""
    if not digest:
        return ()
    name = digest.hex()
    once: dict[str, int | float] = {"names": 1}
    return (
        PatchRecord(TOTAL_KIND, (name,), add=once),
        PatchRecord(SHARE_KIND, (run_id, name), add=once),
    )


def keeping(digest: bytes) -> PatchRecord:
    """Return what belongs to the unit in which a program puts bytes itself."""
    return PatchRecord(TOTAL_KIND, (digest.hex(),), set={"kept": codec.encode(True)})


async def commit_keeping(store: Store, unit: Unit) -> Committed:
    """Commit a unit of a program; bytes that it puts stay until the program deletes them."""
    kept = [keeping(write.digest) for write in unit.writes if isinstance(write, PutBlob)]
    if not kept:
        return await store.commit(unit)
    committed = await store.commit(Unit((*unit.writes, *kept), unit.expects, unit.id))
    records = tuple([row for row in committed.records if row.kind != TOTAL_KIND])
    return msgspec.structs.replace(committed, records=records)


def still(reader: Reads, digests: Iterable[bytes]) -> tuple[AtVersion, ...]:
    """
    Return what to expect if bytes that are there now are named without being put again.

    Whoever finds another version has to look again whether they are there.
    """
    keys = [(digest.hex(),) for digest in dict.fromkeys(digests)]
    return tuple(
        [AtVersion(TOTAL_KIND, key, version) for key, (_, version) in _totals(reader, keys)]
    )


# Leaving.


def leaving(reader: Reads, run_id: str) -> Leaving:
    """Return what belongs to the unit that removes a run."""
    writes: list[Write] = []
    expects: list[AtVersion] = []
    shares = list(below(reader, SHARE_KIND, encode_key((run_id,))))
    totals = _totals(reader, [(share.key[1],) for share in shares])
    for share, (key, (total, version)) in zip(shares, totals, strict=True):
        count = _share(share)
        left = Total(total.names - count, total.kept)
        writes += (
            DeleteRecord(SHARE_KIND, share.key),
            PatchRecord(TOTAL_KIND, key, add={"names": -count}),
        )
        expects.append(AtVersion(TOTAL_KIND, key, version))
        if left.is_none and _is_counted(reader, bytes.fromhex(key[0])):
            writes.append(DeleteBlob(bytes.fromhex(key[0])))
    return Leaving(tuple(writes), tuple(expects))


def giving_back(reader: Reads, digest: bytes) -> Leaving:
    """Return what a program does that does not need bytes any more; those that runs name stay."""
    [(key, (total, version))] = _totals(reader, [(digest.hex(),)])
    writes: tuple[Write, ...] = (PatchRecord(TOTAL_KIND, key, remove=("kept",)),)
    if total.names <= 0:
        writes = (*writes, DeleteBlob(digest))
    return Leaving(writes, (AtVersion(TOTAL_KIND, key, version),))


def _is_counted(reader: Reads, digest: bytes) -> bool:
    try:
        blob = reader.blob(digest)
    except DamagedError:
        return False  # Left for whoever asks for it, and for `verify`.
    return blob is not None and blob.counted


def _totals(reader: Reads, keys: Sequence[Key]) -> list[tuple[Key, tuple[Total, int]]]:
    """Return the total at each key, with the version to expect."""
    found: list[tuple[Key, tuple[Total, int]]] = []
    for start in range(0, len(keys), PAGE):
        page = keys[start : start + PAGE]
        rows = reader.records_at(TOTAL_KIND, page)
        found += [(key, _total(row)) for key, row in zip(page, rows, strict=True)]
    return found


def _total(row: RecordRow | None) -> tuple[Total, int]:
    if row is None or row.value is None:
        return Total(), 0
    return codec.decode_as(row.value, Total, "total"), row.version


def _share(row: RecordRow) -> int:
    return codec.decode_as(row.value or b"", _Share, "share").names


# Comparing.


async def compare_names(store: Store) -> list[Finding]:
    """Return the totals that are not the sum of the shares."""
    totals = {row.key[0]: _total(row) async for row in intact(store, TOTAL_KIND)}
    shares = await _sums(store)
    odd = [name for name in {*totals, *shares} if shares[name] != _names(totals, name)]
    if not odd:
        return []
    # They may have changed since; only a total that stayed while the shares were read counts.
    before = [await _read_total(store, name) for name in odd]
    shares = await _sums(store)
    after = [await _read_total(store, name) for name in odd]
    return [
        Finding("blob", name, f"is named {shares[name]} times, counted are {now[0].names}")
        for name, then, now in zip(odd, before, after, strict=True)
        if now is not None and then == now and now[0].names != shares[name]
    ]


def _names(totals: dict[str, tuple[Total, int]], name: str) -> int:
    return totals[name][0].names if name in totals else 0


async def _sums(store: Store) -> Counter[str]:
    sums: Counter[str] = Counter()
    async for row in intact(store, SHARE_KIND):
        sums[row.key[1]] += _share(row)
    return sums


async def _read_total(store: Store, name: str) -> tuple[Total, int] | None:
    """Return a total; None if it is damaged, which is the store's to report."""
    try:
        return _total(await store.read(lambda reader: reader.record(TOTAL_KIND, (name,))))
    except DamagedError:
        return None
