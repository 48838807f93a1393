"""
The doctor: what may go wrong with a store, before it does; fast, and it changes nothing.

An ailment says what was seen, what may come of it, and what to do. The answers are of one moment;
whether what is stored is sound is a question for `verify`.
"""

import asyncio
import os
import secrets
import statistics
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import msgspec

from holdfast.core import codec
from holdfast.core.clock import SystemClock, offset
from holdfast.core.errors import DamagedFileError, StoreRefusedError
from holdfast.core.ledger import EntryState
from holdfast.runtime.backup import list_backups
from holdfast.runtime.damage import KIND as DAMAGE_KIND
from holdfast.runtime.opening import open
from holdfast.runtime.presence import KIND as PRESENCE_KIND
from holdfast.runtime.presence import Present
from holdfast.runtime.runs.view import CODE_KIND
from holdfast.runtime.runtime import Runtime
from holdfast.store.files import TEMPORARY
from holdfast.store.options import Options, scheme, sqlite_path
from holdfast.store.owner import proven_dead, this_owner

LISTED_MAX: Final = 1_000
FREE_BYTES_MIN: Final = 256 * 1024 * 1024
FREE_SHARE_MIN: Final = 0.05
LOG_BYTES_MAX: Final = 64 * 1024 * 1024
DAY: Final = 86_400.0
SYNC_SLOW: Final = 0.02
CLOCK_SKEW_MAX: Final = Options().clock_skew_max
PROBES: Final = 20

Severity = Literal["note", "warning", "error"]


class Ailment(msgspec.Struct, frozen=True):
    """
    One thing that is not as it should be.

    Attributes:
        id: stable name.
        severity: `error` if something is wrong, `warning` if it may become so, or a `note`.
        evidence: what was seen.
        consequence: what may come of it.
        remedy: what to do.
        fixable: a command of Holdfast does it.
    """

    id: str
    severity: Severity
    evidence: str
    consequence: str
    remedy: str
    fixable: bool = False


async def examine(url: str, *, backups: Path | None = None, probe: bool = False) -> list[Ailment]:
    """
    Look at a store and at the place where it lies.

    Args:
        url: of the store.
        backups: folder of its backups, whose age is looked at.
        probe: also measure what a sync costs; writes a small file for a moment.

    Raises:
        StoreError: it cannot be opened for reading; nothing is known.
    """
    found: list[Ailment] = []
    path = sqlite_path(url) if scheme(url) == "sqlite" else None
    try:
        async with open(url, read_only=True) as rt:
            found += _opening(rt)
            found += await _content(rt)
            found += await _clock(rt)
    except StoreRefusedError as error:
        if not error.report:
            raise
        found.append(
            Ailment("refused", "error", str(error), "it does not open", "restore a backup", True)
        )
    if path is not None:
        found += await asyncio.to_thread(lambda: [*_files(path), *_room(path)])
        if probe:
            found += await asyncio.to_thread(lambda: [*_syncs(path.parent)])
    if backups is not None:
        found += await asyncio.to_thread(lambda: [*_backups(backups)])
    return sorted(found, key=lambda one: ("error", "warning", "note").index(one.severity))


def _opening(rt: Runtime) -> Iterator[Ailment]:
    opened = rt.opened
    if opened.durability not in ("synced", "memory"):
        yield Ailment(
            "durability",
            "error",
            opened.durability,
            "what was acknowledged may be lost in a power cut",
            "change the setting or the file system",
        )
    for note in opened.notes:
        yield Ailment(
            "opening", "warning", note, "an older copy goes unnoticed", "open it once for writing"
        )
    if rt.restored.paused:
        yield Ailment(
            "restored",
            "warning",
            rt.restored.paused,
            "nothing is executed",
            "look what the backup does not know of, then `holdfast restore --confirm`",
            True,
        )


async def _content(rt: Runtime) -> list[Ailment]:
    damaged, waiting, lost = await _look(rt)
    found: list[Ailment] = []
    if damaged:
        found.append(
            Ailment(
                "damage",
                "error",
                f"{damaged} things are known to be damaged",
                "they are not served",
                "`holdfast verify` names them; restore a backup beside it and take them over",
            )
        )
    if lost:
        found.append(
            Ailment(
                "owners",
                "warning",
                f"runtimes that died without a goodbye: {', '.join(lost)}",
                "their work waits",
                "start a runtime on this store; it takes the work over",
            )
        )
    if waiting:
        found.append(
            Ailment(
                "code",
                "warning",
                f"runs wait for functions nobody has: {', '.join(sorted(waiting))}",
                "they never go on",
                "start a runtime with these functions, or cancel the runs",
            )
        )
    stuck = await rt.ledger.list(EntryState.QUARANTINED, limit=LISTED_MAX)
    if stuck:
        found.append(
            Ailment(
                "quarantine",
                "warning",
                f"{len(stuck)} pieces of work are in quarantine",
                "they do not go on",
                "find out why they crash, then resolve them (`rt.ledger.resolve`)",
            )
        )
    return found


async def _look(rt: Runtime) -> tuple[int, set[str], list[str]]:
    """Return how much is damaged, which functions are missing, and who died."""
    damaged = await rt.records.list(DAMAGE_KIND, limit=LISTED_MAX)
    waiting = await rt.records.list(CODE_KIND, limit=LISTED_MAX)
    here, lost = this_owner(SystemClock()), list[str]()
    for row in await rt.records.list(PRESENCE_KIND, limit=LISTED_MAX):
        with suppress(msgspec.ValidationError):
            present = codec.convert(row.value, Present)
            if proven_dead(present.owner, here):
                lost.append(f"process {present.owner.pid} (epoch {present.epoch})")
    return len(damaged), {row.key[0] for row in waiting}, lost


async def _clock(rt: Runtime) -> list[Ailment]:
    """Compare the wall clock with that of the store, and with what runtimes here saw of it."""
    said = [gate.reason for gate in rt.health().gates if gate.name == "clock" and not gate.ok]
    now, domain = offset(rt.clock), rt.clock.store_time().domain
    for row in await rt.records.list(PRESENCE_KIND, limit=LISTED_MAX):
        with suppress(msgspec.ValidationError):
            present = codec.convert(row.value, Present)
            by = now - (present.seen - present.seconds)
            if present.domain == domain and abs(by) > CLOCK_SKEW_MAX:
                since = f"since process {present.owner.pid} was last heard from"
                said.append(f"the wall clock was set by {by:+.1f} s {since}")
    consequence = "moments are wrong for people; schedules and timers over a boot come late"
    remedy = "look after time synchronisation (NTP), also on the server of the store"
    return [Ailment("clock", "warning", one, consequence, remedy) for one in said]


def _files(path: Path) -> Iterator[Ailment]:
    folder = path.with_name(f"{path.name}-holdfast")
    log = path.with_name(f"{path.name}-wal")
    for file in (path, log, path.with_name(f"{path.name}-shm")):
        if file.exists() and file.stat().st_mode & 0o077:
            yield Ailment(
                "permissions",
                "warning",
                f"{file.name} has mode {file.stat().st_mode & 0o777:o}",
                "others on this machine can read or change it",
                f"chmod 600 {file.name}",
            )
    if log.exists() and log.stat().st_size > LOG_BYTES_MAX:
        yield Ailment(
            "log",
            "warning",
            f"the log has {log.stat().st_size} bytes",
            "starts take longer; a reader may keep it from beginning anew",
            "end readers that stay open for long; the next commits bring it home",
        )
    left = [one.name for one in path.parent.glob(f"{path.name}{TEMPORARY}*")]
    if left:
        yield Ailment(
            "leftovers",
            "note",
            f"{len(left)} unfinished files lie beside it",
            "they take room",
            "the next opening removes them",
        )
    kept = [one.name for one in (folder / "kept").glob("*")]
    if kept:
        yield Ailment(
            "kept",
            "note",
            f"{len(kept)} copies of refused or replaced files are in {folder.name}/kept",
            "they take room",
            "look at them, then remove them",
        )


def _room(path: Path) -> Iterator[Ailment]:
    room = os.statvfs(path.parent)
    free, whole = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    if free < FREE_BYTES_MIN or free < FREE_SHARE_MIN * whole:
        yield Ailment(
            "space",
            "error" if free < FREE_BYTES_MIN else "warning",
            f"{free} bytes are free",
            "commits are refused when the disk is full",
            "make room, or `holdfast gc`",
            True,
        )
    if room.f_files and room.f_favail < 1_000:
        yield Ailment(
            "inodes", "error", f"{room.f_favail} inodes are free", "no log can begin", "make room"
        )


def _syncs(folder: Path) -> Iterator[Ailment]:
    clock, place = SystemClock(), folder / f"probe{TEMPORARY}{secrets.token_hex(8)}"
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    took: list[float] = []
    try:
        for _ in range(PROBES):
            begun = clock.monotonic()
            os.write(descriptor, b"\0" * 4096)
            os.fsync(descriptor)
            took.append(clock.monotonic() - begun)
    finally:
        os.close(descriptor)
        place.unlink(missing_ok=True)
    median = statistics.median(took)
    yield Ailment(
        "sync",
        "warning" if median > SYNC_SLOW else "note",
        f"a sync takes {median * 1000:.2f} ms (median of {PROBES})",
        f"about {1 / max(median, 1e-9):.0f} commits a second, one after the other",
        "many callers share a commit; a faster disk helps the rest",
    )


def _backups(folder: Path) -> Iterator[Ailment]:
    remedy = "`holdfast backup create`, and try it with `holdfast backup drill`"
    try:
        found = list_backups(folder)
    except DamagedFileError as error:
        yield Ailment("backup", "error", str(error), "one is no use", remedy, True)
        return
    if not found:
        yield Ailment("backup", "error", "there is no backup", "a lost disk is lost", remedy, True)
        return
    age = SystemClock().wall() - found[-1].manifest.made_at
    if age > DAY:
        seen = f"the newest backup is {age / DAY:.1f} days old"
        yield Ailment("backup", "warning", seen, "so much would be lost", remedy, True)
