"""Verify by command: every kind of damage ends with 9, what cannot be read with 13."""

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.cli.app import run as command
from tests.cli.invocation import run
from tests.runtime.backups import fill

DAMAGES = {
    "event payload": "UPDATE event SET payload = X'00' WHERE position = 200",
    "event type": "UPDATE event SET type = 'y' WHERE position = 200",
    "event meta": "UPDATE event SET meta = X'00' WHERE position = 200",
    "event time": "UPDATE event SET recorded_at = recorded_at + 1 WHERE position = 200",
    "event digest": "UPDATE event SET digest = zeroblob(32) WHERE position = 200",
    "event sequence": "UPDATE event SET sequence = 9999 WHERE position = 200",
    "event stream": "UPDATE event SET origin = 9999 WHERE position = 200",
    "event missing": "DELETE FROM event WHERE position = 200",
    "last event missing": "DELETE FROM event WHERE position = 400",
    "head sequence": "UPDATE stream SET last_sequence = last_sequence - 1",
    "head name": "UPDATE stream SET name = X'62' WHERE name = X'732F30'",
    "head closed": "UPDATE stream SET closed = 1",
    "head missing": "DELETE FROM stream WHERE name = X'732F30'",
    "record value": "UPDATE record SET value = X'00' WHERE kind = 'thing'",
    "record version": "UPDATE record SET version = version + 1 WHERE kind = 'thing'",
    "record tag": "UPDATE record SET tag = 'u' WHERE tag = 't'",
    "record kind": "UPDATE record SET kind = 'thong' WHERE kind = 'thing'",
    "record id": "UPDATE record SET id = zeroblob(16) WHERE tag = 't'",
    "blob bytes": "UPDATE blob SET stored = zeroblob(20)",
    "blob size": "UPDATE blob SET size = size + 1",
    "blob name": "UPDATE blob SET content = zeroblob(32)",
    "snapshot bytes": "UPDATE snapshot SET stored = X'00'",
    "snapshot sequence": "UPDATE snapshot SET sequence = 2",
    "lease holder": "UPDATE lease SET holder = 'you'",
    "outcome": "UPDATE outcome SET unit_ids = X'00' WHERE number = 3",
    "opening": "UPDATE incarnation SET owner = 'you'",
    "store id": "UPDATE store SET store_id = zeroblob(16)",
    "index": "DROP INDEX stream_by_name",
}
"""What is done to a store behind its back, by what it hits."""
NOT_QUICK = ("event", "last event", "head missing", "blob", "snapshot", "outcome")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that holds some of everything."""
    folder = tmp_path_factory.mktemp("sound")
    run(fill(f"sqlite:///{folder / 'store.db'}"))
    return folder


def hurt(sound: Path, folder: Path, damage: str) -> str:
    """Copy the store and damage the copy; the triggers that forbid it are put back."""
    shutil.copytree(sound, folder)
    with sqlite3.connect(folder / "store.db") as connection:
        triggers = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"
        ).fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        assert connection.execute(damage).rowcount != 0
        for _, text in triggers:
            connection.execute(text)
    connection.close()
    return f"sqlite:///{folder / 'store.db'}"


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_ends_with_9(name: str, sound: Path, tmp_path: Path) -> None:
    """Operators 8.11, X3, X13: 28 kinds, each found at the levels that read it."""
    url = hurt(sound, tmp_path / "hurt", DAMAGES[name])
    quick = command(["verify", url, "--level", "quick"])
    assert quick == (0 if name.startswith(NOT_QUICK) else 9)
    assert command(["verify", url, "--level", "standard"]) == 9
    assert command(["verify", url]) == 9


def test_the_shares_of_a_store_are_all_of_it(sound: Path, tmp_path: Path) -> None:
    """Operators 5: a check that reads a seventh a day has read everything after a week."""
    url = hurt(sound, tmp_path / "hurt", DAMAGES["event payload"])
    found = [command(["verify", url, "--sample", f"{part}/7"]) for part in range(1, 8)]
    assert sorted(found) == [0] * 6 + [9]
    sound_url = f"sqlite:///{sound / 'store.db'}"
    assert command(["verify", sound_url, "--sample", "5%"]) == 0


@pytest.mark.parametrize("words", [["--sample", "8/7"], ["--sample", "all"], ["--level", "deep"]])
def test_a_share_or_level_that_says_nothing_ends_with_2(words: list[str], sound: Path) -> None:
    """Usage: nothing is read by guessing."""
    assert command(["verify", f"sqlite:///{sound / 'store.db'}", *words]) == 2


UNREADABLE = """
import sys, apsw

class Failing(apsw.VFS):
    def __init__(self):
        super().__init__("failing", "unix", makedefault=True)
    def xOpen(self, name, flags):
        return File(name, flags)

class File(apsw.VFSFile):
    def __init__(self, name, flags):
        super().__init__("unix", name, flags)
    def xRead(self, amount, offset):
        if amount >= 1024 and offset >= int(sys.argv[2]):
            raise apsw.IOError("the disk cannot read this")
        return super().xRead(amount, offset)

failing = Failing()
from holdfast.cli.app import run
sys.exit(run(["verify", sys.argv[1], "--json"]))
"""


def test_a_disk_that_cannot_be_read_ends_with_13(sound: Path) -> None:
    """Operators 8.11, X13: what was not read is neither sound nor damaged."""
    done = unreadable(f"sqlite:///{sound / 'store.db'}")
    assert done.returncode == 13, done.stderr
    assert done.stdout == ""
    assert "all well" not in done.stderr
    assert "Traceback" not in done.stderr


def unreadable(url: str) -> subprocess.CompletedProcess[str]:
    """Verify a store on a disk that cannot read what lies behind its first pages."""
    words = [sys.executable, "-c", UNREADABLE, url, "40960"]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)
