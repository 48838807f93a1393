"""
Backups: a copy of a store at one moment, made while others write.

    DIR/2026-11-22T01-02-03Z/store.db        a store in SQLite, whatever it was copied from
                             manifest.json   of what, when, how much, with digests of both

A backup is made in a folder with a temporary name beside its place, synced, and renamed; what a
crash leaves behind is removed by the next one. The way back is `holdfast.runtime.restore`.

Invariants: what is listed is whole; a backup that is not as it was written is never taken for
one that is.
"""

import asyncio
import fcntl
import os
import secrets
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DamagedError, DamagedFileError
from holdfast.core.refusal import BackupNotFoundError
from holdfast.core.sealing import KEY_KIND
from holdfast.core.world import World
from holdfast.runtime.restored import read_lineage
from holdfast.runtime.runtime import make_driver
from holdfast.store import rows
from holdfast.store.archive import Page, read_pages
from holdfast.store.files import TEMPORARY, replace_file, sync_folder
from holdfast.store.options import Options
from holdfast.store.port import Finding as Finding  # For who shows them.
from holdfast.store.reader import Reader
from holdfast.store.vault import read_data_key

FORMAT: Final = "holdfast-backup-1"
STORE: Final = "store.db"
MANIFEST: Final = "manifest.json"

Tell = Callable[[str, int], None]
"""Called now and then with what is done and how many rows of it."""


def silent(what: str, count: int) -> None:
    """Tell nobody."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What a backup is.

    Attributes:
        format: name and version of the format.
        name: of the folder.
        made_at: wall time of its moment.
        store: which store it is of, without secrets.
        store_id: id of that store, hexadecimal.
        lineage: of that store; a restore begins a later one.
        epoch: the last opening of that store.
        schema: number of its last migration.
        holdfast: version that made the backup.
        software: database it was read from.
        rows: how many of each table.
        heads: SHA-256 over the heads of all streams.
        number: the last transaction.
        size_bytes: of the file.
        sha256: of the file.
        seconds: how long it took.
        keys: ids of the keys of a keyring without which its values cannot be read; none if plain.
    """

    format: str
    name: str
    made_at: float
    store: str
    store_id: str
    lineage: int
    epoch: int
    schema: int
    holdfast: str
    software: str
    rows: dict[str, int]
    heads: str
    number: int
    size_bytes: int
    sha256: str
    seconds: float
    keys: tuple[str, ...] = ()


class _Sealed(msgspec.Struct, frozen=True):
    manifest: Manifest
    digest: str


class Backup(msgspec.Struct, frozen=True):
    """
    A backup as a listing finds it.

    Attributes:
        path: its folder.
        manifest: what it is.
    """

    path: str
    manifest: Manifest


class Tally:
    """
    Counts pages that pass through it.

    Attributes:
        rows: how many of each table.
        number: the last transaction.
        epoch: the last opening.
        store_id: id of the store.
        keys: ids of the keys that its data keys are wrapped by.
    """

    def __init__(self, tell: Tell = silent) -> None:
        """Begin with none."""
        self.rows: dict[str, int] = {}
        self.number = 0
        self.epoch = 0
        self.store_id = b""
        self.keys: set[str] = set()
        self._heads = sha256()
        self._tell = tell

    @property
    def heads(self) -> str:
        """SHA-256 over the heads of all streams, hexadecimal."""
        return self._heads.hexdigest()

    def passing(self, pages: Iterable[Page]) -> Iterator[Page]:
        """Yield the pages and count them."""
        for page in pages:
            self.rows[page.table] = self.rows.get(page.table, 0) + len(page.rows)
            for row in page.rows if page.table == "stream" else ():
                self._heads.update(row[-1])
            if page.table == "record":
                self.keys |= _wrapping(page.rows)
            if page.table == "outcome":
                self.number = max(self.number, page.rows[-1][0])
            if page.table == "incarnation":
                self.epoch = max((row[0] for row in page.rows), default=0)
            if page.table == "store" and page.rows:
                self.store_id = rows.read_store(page.rows[0])[0]
            self._tell(page.table, sum(self.rows.values()))
            yield page


async def create(
    url: str, folder: Path, *, world: World | None = None, tell: Tell = silent
) -> Backup:
    """
    Make a backup of a store, which may be in use.

    Args:
        url: of the store.
        folder: in which the backup gets a folder of its own, named by the moment.
        world: clock and failpoints, for tests.
        tell: told how far it is.

    Raises:
        StoreError: the store cannot be read; nothing is left behind that would be listed.
        DamagedError: it is so damaged that its rows cannot be copied.
    """
    return await asyncio.to_thread(_create, url, folder, world or World(), tell)


def _create(url: str, folder: Path, world: World, tell: Tell) -> Backup:
    begun, wall = world.clock.monotonic(), world.clock.wall()
    driver = make_driver(url, Options(read_only=True), world)
    opened = driver.open()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sync_folder(folder.parent)
        remove_unfinished(folder)
        with _making(folder, wall) as place, driver.archive().moment() as reader:
            tally, lineage = Tally(tell), _lineage(reader, opened.epoch)
            target = make_driver(f"sqlite:///{place / STORE}", Options(), World(clock=world.clock))
            pages = _continued(reader, read_pages(reader), opened.epoch, wall)
            target.archive().receive(opened.schema, tally.passing(pages))
            # The locks of a store that is in use; nobody uses this one.
            shutil.rmtree(place / f"{STORE}-holdfast")
            world.failpoints.reach("backup.copied")
            with (place / STORE).open("rb") as file:
                content = file_digest(file, "sha256").hexdigest()
            name = _free_name(folder, wall)
            manifest = Manifest(
                format=FORMAT,
                name=name,
                made_at=wall,
                store=driver.location,
                store_id=tally.store_id.hex(),
                lineage=lineage,
                epoch=tally.epoch,
                schema=opened.schema,
                holdfast=_version(),
                software=opened.software,
                rows=tally.rows,
                heads=tally.heads,
                number=tally.number,
                size_bytes=(place / STORE).stat().st_size,
                sha256=content,
                seconds=world.clock.monotonic() - begun,
                keys=tuple(sorted(tally.keys)),
            )
            replace_file(place / MANIFEST, _sealed(manifest), world.failpoints)
            world.failpoints.reach("backup.sealed")
            place.rename(folder / name)
            sync_folder(folder)
    finally:
        driver.close()
    return Backup(str(folder / name), manifest)


def _lineage(reader: Reader, epoch: int) -> int:
    """Return the lineage of a store; if that is damaged, one that none before it was."""
    try:
        found = read_lineage(reader)
    except DamagedError:
        return 1 + epoch  # As `Restored` has it: every restore is followed by an opening.
    return 1 if found is None else found.number


def _wrapping(found: list[rows.Row]) -> set[str]:
    """Return the ids of the keys that wrap the data keys among records."""
    ids = set[str]()
    for row in found:
        if row[1] == KEY_KIND and row[5] is not None:
            with suppress(DamagedError):  # Copied as it is; `verify` names it.
                ids.add(read_data_key(rows.read_record(row[1:], None)).by)
    return ids


def _continued(reader: Reader, pages: Iterable[Page], epoch: int, wall: float) -> Iterator[Page]:
    """
    Yield the pages, with one more outcome if the last one does not say which positions are taken.

    PostgreSQL counts positions by a sequence; an SQLite store goes on behind its last outcome.
    """
    number, position = 0, 0
    for page in pages:
        if page.table == "outcome":
            number, _, position = page.rows[-1][:3]
        if page.table == "incarnation":
            taken = reader.fetch("position_taken")[0][0] or 0
            if taken > position:
                row = rows.outcome_row(number + 1, epoch, taken, (), wall)
                yield Page("outcome", [row])
        yield page


@contextmanager
def _making(folder: Path, wall: float) -> Generator[Path]:
    """Lend a folder with a temporary name that nobody takes for a leftover while this lives."""
    place = folder / f"{_name_of(wall)}{TEMPORARY}{secrets.token_hex(8)}"
    place.mkdir(mode=0o700)
    held = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)  # Not there any more if it got its name.
        os.close(held)


def remove_unfinished(folder: Path) -> list[str]:
    """Remove what backups left behind whose process is gone; return the names."""
    removed: list[str] = []
    for place in sorted(folder.glob(f"*{TEMPORARY}*")):
        held = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(place)
            removed.append(place.name)
        except BlockingIOError:
            continue  # Somebody is at it.
        finally:
            os.close(held)
    return removed


def list_backups(folder: Path) -> list[Backup]:
    """
    Return the backups in a folder, oldest first.

    Raises:
        DamagedFileError: one of them is not what was written; `verify` the others by name.
    """
    if not folder.is_dir():
        return []
    found = (place for place in folder.iterdir() if (place / MANIFEST).is_file())
    whole = [place for place in found if TEMPORARY not in place.name]
    backups = [Backup(str(place), read_manifest(place)) for place in whole]
    return sorted(backups, key=lambda backup: (backup.manifest.made_at, backup.path))


def newest(path: Path) -> Path:
    """Return a backup by its folder, or the newest one in a folder of backups."""
    if (path / MANIFEST).is_file():
        return path
    found = list_backups(path)
    return Path(found[-1].path) if found else path


def read_manifest(path: Path) -> Manifest:
    """
    Return what a backup says of itself.

    Raises:
        BackupNotFoundError: there is no backup.
        DamagedFileError: its manifest is not as it was written.
    """
    file = path / MANIFEST
    try:
        raw = file.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BackupNotFoundError(backup=str(path)) from error
    try:
        sealed = msgspec.json.decode(raw, type=codec.learned(_Sealed))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DamagedFileError(file=str(file), line=1, reason="is no manifest") from error
    if sealed.digest != _digest(sealed.manifest):
        raise DamagedFileError(file=str(file), line=1, reason="content and digest differ")
    return sealed.manifest


async def verify(path: Path, *, tell: Tell = silent) -> list[Finding]:
    """
    Compare a backup with its manifest and check every row of it; writes nothing.

    Raises:
        BackupNotFoundError: there is no backup.
        DamagedFileError: its manifest is not as it was written.
    """
    return await asyncio.to_thread(_verify, path, tell)


def _verify(path: Path, tell: Tell) -> list[Finding]:
    manifest = read_manifest(path)
    found = check_content(path, manifest)
    archive = make_driver(f"sqlite:///{path.absolute() / STORE}", Options(), World()).archive()
    found += archive.verify()
    if found:
        return found
    with archive.sealed() as reader:
        tally = Tally(tell)
        for _ in tally.passing(read_pages(reader)):
            pass
    said: dict[str, Any] = {"rows": manifest.rows, "heads": manifest.heads, "keys": manifest.keys}
    counted: dict[str, Any] = {"rows": tally.rows, "heads": tally.heads}
    counted["keys"] = tuple(sorted(tally.keys))
    return [
        Finding("backup", path.name, f"{name} are not those of the manifest")
        for name in said
        if said[name] != counted[name]
    ]


def check_content(path: Path, manifest: Manifest) -> list[Finding]:
    """Compare the bytes of a backup with its manifest."""
    try:
        with (path / STORE).open("rb") as file:
            content = file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return [Finding("backup", path.name, f"{STORE} is missing")]
    if content != manifest.sha256:
        return [Finding("backup", path.name, f"{STORE} is not as it was written")]
    return []


def _sealed(manifest: Manifest) -> bytes:
    sealed = _Sealed(manifest, _digest(manifest))
    return msgspec.json.format(msgspec.json.encode(sealed)) + b"\n"


def _digest(manifest: Manifest) -> str:
    return sha256(msgspec.json.encode(manifest)).hexdigest()


def _version() -> str:
    try:
        return version("holdfast")
    except PackageNotFoundError:
        return "unknown"


def _name_of(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H-%M-%SZ")


def _free_name(folder: Path, wall: float) -> str:
    name, number = _name_of(wall), 1
    while (folder / name).exists():
        number += 1
        name = f"{_name_of(wall)}-{number}"
    return name
