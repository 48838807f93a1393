"""
The way back from a backup: into a place where no store is, in either database.

    restore -> look, cancel what must not happen again -> confirm -> it goes on

The restored store begins the next lineage, so that cursors of the lost history are told apart,
and it is paused: the backup does not know what was done after it, and an effect would be
repeated unasked. Every opening that it remembers is closed, so a process of the lost store that
is still alive is refused at its first write.

Invariants: a restored store appears whole, with its next lineage and paused, or not at all; a
store that is there is never replaced; a backup that is not as it was written is refused.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from holdfast.core.clock import SystemClock
from holdfast.core.errors import DamagedFileError
from holdfast.core.recovery import plain
from holdfast.core.unit import RecordRow
from holdfast.core.world import World
from holdfast.runtime.backup import STORE, Tally, Tell, check_content, read_manifest, silent
from holdfast.runtime.opening import open
from holdfast.runtime.restored import KEY, KIND, Lineage
from holdfast.runtime.runtime import make_driver
from holdfast.store import rows
from holdfast.store.archive import Page, read_pages
from holdfast.store.keyring import Keyring
from holdfast.store.options import Options
from holdfast.store.port import Finding


class Restoration(msgspec.Struct, frozen=True):
    """
    What a restore came to.

    Attributes:
        store: where it is now.
        backup: name of the backup.
        lineage: of the store from now on.
        rows: how many of each table.
        seconds: how long it took.
        keys: ids of the keys without which its values cannot be read; none if it is plain.
    """

    store: str
    backup: str
    lineage: int
    rows: dict[str, int]
    seconds: float
    keys: tuple[str, ...] = ()


class Drilled(msgspec.Struct, frozen=True):
    """
    What a drill came to.

    Attributes:
        backup: name of the backup.
        restore_seconds: until the files were there.
        recovery_seconds: until it was ready, with nothing executed.
        verify_seconds: until everything was read.
        findings: what does not fit.
        recovery: what the recovery found, by part.
    """

    backup: str
    restore_seconds: float
    recovery_seconds: float
    verify_seconds: float
    findings: list[Finding]
    recovery: dict[str, Any]


async def restore(
    path: Path, url: str, *, world: World | None = None, tell: Tell = silent
) -> Restoration:
    """
    Make a store from a backup; it is paused until somebody confirms.

    Args:
        path: folder of the backup.
        url: of the store to be, SQLite or PostgreSQL.
        world: clock and failpoints, for tests.
        tell: told how far it is.

    Raises:
        StoreExistsError: there is a store; it was not changed.
        BackupNotFoundError: there is no backup.
        DamagedFileError: the backup is not as it was written; nothing was made.
    """
    return await asyncio.to_thread(_restore, path, url, world or World(), tell)


def _restore(path: Path, url: str, world: World, tell: Tell) -> Restoration:
    begun, wall = world.clock.monotonic(), world.clock.wall()
    manifest = read_manifest(path)
    for finding in check_content(path, manifest):
        raise DamagedFileError(file=str(path / STORE), line=0, reason=finding.reason)
    source = make_driver(f"sqlite:///{path.absolute() / STORE}", Options(), World())
    target = make_driver(url, Options(), world)
    # The same backup may be restored twice, so the number before it is not enough.
    number = max(manifest.lineage + 1, int(wall))
    tally = Tally(tell)
    with source.archive().sealed() as reader:
        lineage = Lineage(number, wall, manifest.name)
        pages = _restored(read_pages(reader), lineage, wall)
        target.archive().receive(manifest.schema, tally.passing(pages))
    seconds = world.clock.monotonic() - begun
    keys = tuple(sorted(tally.keys))
    return Restoration(target.location, manifest.name, number, tally.rows, seconds, keys)


def _restored(pages: Iterable[Page], lineage: Lineage, wall: float) -> Iterator[Page]:
    """Yield the pages with the next lineage, and with every opening closed."""
    place, version = rows.record_id(KIND, KEY), 0
    for page in pages:
        if page.table == "record":
            for row in page.rows:
                version = max(version, row[3] if row[0] == place else 0)
            kept = [row for row in page.rows if row[0] != place]
            if kept:
                yield Page(page.table, kept)
            continue
        if page.table == "incarnation":
            put = lineage.put()
            record = RecordRow(KIND, KEY, version + 1, None, put.value, wall)
            yield Page("record", [rows.record_row(record)])
            yield Page(page.table, [_closed(row, wall) for row in page.rows])
            continue
        yield page


def _closed(row: rows.Row, wall: float) -> rows.Row:
    epoch, id_, owner, opened_at, closed_at, _ = row
    if closed_at is not None:
        return row
    return tuple(rows.incarnation_row(epoch, id_, owner, opened_at, wall).values())


async def drill(
    path: Path,
    scratch: Path | None = None,
    *,
    keyring: Keyring | str | Path | None = None,
    tell: Tell = silent,
) -> Drilled:
    """
    Restore a backup to a scratch folder, recover it with nothing executed, check everything.

    Args:
        path: folder of the backup.
        scratch: where there is room; the system's place for temporary files if not given.
        keyring: keys of an encrypted store, as for `holdfast.open`.
        tell: told how far it is.

    Raises:
        DamagedFileError: the backup is not as it was written.
        KeyMissingError, KeyWrongError: it is encrypted, and the keyring does not fit.
    """
    clock = SystemClock()
    folder = Path(tempfile.mkdtemp(prefix="holdfast-drill-", dir=scratch))
    try:
        url = f"sqlite:///{folder / STORE}"
        done = await restore(path, url, tell=tell)
        begun = clock.monotonic()
        async with open(url, keyring=keyring) as rt:
            ready = clock.monotonic()
            findings = await rt.verify()
            verified = clock.monotonic()
            report = rt.health().report
        found = {} if report is None else plain(report)
        return Drilled(done.backup, done.seconds, ready - begun, verified - ready, findings, found)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)


async def confirm(url: str, by: str = "", *, keyring: Keyring | str | Path | None = None) -> bool:
    """
    Let a store that was restored go on: runs, timers and rescued work.

    Args:
        url: of the store, which may be in use.
        by: who confirms, for the record.
        keyring: keys of an encrypted store, as for `holdfast.open`.

    Returns:
        Whether it was paused.
    """
    async with open(url, keyring=keyring) as rt:
        return await rt.restored.confirm(by)
