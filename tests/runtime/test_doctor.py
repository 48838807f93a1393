"""The doctor: what it sees of files, room and backups, each with its own severity."""

import asyncio
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import holdfast
from holdfast.runtime import backup, doctor
from holdfast.runtime.doctor import Ailment, examine


async def fill(url: str) -> None:
    """Make a store."""
    async with holdfast.open(url) as rt:
        await rt.records.put("thing", "a", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """File of a store."""
    file = tmp_path / "store.db"
    asyncio.run(fill(f"sqlite:///{file}"))
    return file


def seen(path: Path, **words: Any) -> dict[str, Ailment]:
    """Return what the doctor sees, by id."""
    return {one.id: one for one in asyncio.run(examine(f"sqlite:///{path}", **words))}


@pytest.mark.parametrize(
    ("free", "inodes", "expected"),
    [
        (2**40, 10**6, {}),
        (2**29, 10**6, {"space": "warning"}),
        (2**20, 10**6, {"space": "error"}),
        (2**40, 999, {"inodes": "error"}),
    ],
)
def test_a_disk_that_fills_is_told_before_it_is_full(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    inodes: int,
    expected: dict[str, str],
) -> None:
    """Operators 5: a twentieth of the disk is a warning, too little for a commit an error."""
    room = SimpleNamespace(
        f_bavail=free, f_frsize=1, f_blocks=2**40, f_files=10**7, f_favail=inodes
    )
    monkeypatch.setattr(os, "statvfs", lambda _: room)
    found = {one.id: one.severity for one in doctor._room(path)}
    assert found == expected


def test_a_large_log_and_what_was_left_over_are_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operators 5, X4: each says how much it is."""
    assert list(doctor._files(path)) == []
    monkeypatch.setattr(doctor, "LOG_BYTES_MAX", 10)
    log = path.with_name("store.db-wal")
    log.touch(mode=0o600)
    log.write_bytes(b"x" * 10)
    assert list(doctor._files(path)) == []
    log.write_bytes(b"x" * 11)
    path.with_name("store.db.tmp-0123").touch()
    found = {one.id: one for one in doctor._files(path)}
    assert set(found) == {"log", "leftovers"}
    assert "11 bytes" in found["log"].evidence and "1 unfinished" in found["leftovers"].evidence


def test_a_damaged_backup_is_an_error_and_errors_come_first(path: Path, tmp_path: Path) -> None:
    """Operators 5: one that cannot be trusted is worse than one that is old."""
    place = tmp_path / "b"
    made = asyncio.run(backup.create(f"sqlite:///{path}", place))
    assert "backup" not in seen(path, backups=place)
    path.chmod(0o644)
    (Path(made.path) / "manifest.json").write_text("{}")
    found = asyncio.run(examine(f"sqlite:///{path}", backups=place, probe=True))
    kinds = [(one.id, one.severity) for one in found]
    assert kinds[0] == ("backup", "error") and ("permissions", "warning") in kinds[1:]
    assert not list(tmp_path.glob("probe*")), "what it measured with is gone"


@pytest.mark.parametrize(("slow", "severity"), [(1.0, "note"), (0.0, "warning")])
def test_a_slow_sync_is_a_warning(
    path: Path, monkeypatch: pytest.MonkeyPatch, slow: float, severity: str
) -> None:
    """Operators 5: what a commit costs is told, and whether that is much."""
    monkeypatch.setattr(doctor, "SYNC_SLOW", slow)
    assert seen(path, probe=True)["sync"].severity == severity
