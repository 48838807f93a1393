"""
The recorder that needs to know nothing of the program: real calls of real processes.

It has to come to the verdicts of the recorder inside SQLite, and it sees what that one infers:
the syncs of folders, and the small files beside the database.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from holdfast.testing.disk.acts import FolderSynced, Noted, Removed, Synced, Written
from holdfast.testing.disk.strace import parse
from tests.lab import traced
from tests.lab.layers.power import cut_traced

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    """Have strace, or say why not; where it is missing and may be installed, it is."""
    if shutil.which("strace") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update"], capture_output=True)
        subprocess.run(["apt-get", "install", "-y", "strace"], capture_output=True)
    if shutil.which("strace") is None:
        reason = "strace is missing: apt-get install strace"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


@pytest.mark.parametrize("case", ["blocks", "sectors"])
def test_a_store_on_real_files_loses_nothing_to_a_power_cut(case: str) -> None:
    """X1, X2, F3 to F5: the verdict of the recorder inside SQLite, from outside."""
    tally = traced.survey(traced.SEED, case, first=0.5, most=250)
    print(tally)
    assert tally.clean, "\n".join(tally.failures)
    assert tally.images >= 250


def test_a_failure_is_repeated_by_its_command() -> None:
    """X9. Recorded again, a workload makes the same calls, so its cuts are the same moments."""
    first, again = (
        [
            (type(act), getattr(act, "name", ""), getattr(act, "start", 0))
            for act in traced.Traced(traced.SEED, "sectors").recording.acts
        ]
        for _ in range(2)
    )
    assert first == again
    layer = traced.Traced(traced.SEED, "sectors", "synchronous-normal")
    layer.survey(first=layer.behind(0.5), enough=1)
    (evidence,) = layer.kept
    assert "--only calls --case sectors" in evidence.replay
    words = shlex.split(evidence.replay)
    cut, family = int(words[words.index("--cut") + 1]), words[words.index("--family") + 1]
    same = traced.Traced(traced.SEED, "sectors", "synchronous-normal")
    same.survey(only_cut=cut, family=family)
    assert any(one.files.keys() == evidence.files.keys() for one in same.kept)


def test_a_missing_strace_is_an_error_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    """No silent skip: at home the report has a line that says so."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CI", raising=False)
    at_home = cut_traced(traced.SEED, "blocks", 10)
    monkeypatch.setenv("CI", "1")
    in_ci = cut_traced(traced.SEED, "blocks", 10)
    assert "strace" in at_home.notes[0]
    assert not at_home.failures
    assert "strace" in in_ci.failures[0]


def test_a_store_that_syncs_rarely_is_convicted() -> None:
    """Planted: synchronous=NORMAL."""
    assert traced.survey(
        traced.SEED, "blocks", plant="synchronous-normal", first=0.5, enough=5
    ).lost


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_replaced_file_and_a_new_folder_are_durable_on_return(tmp_path: Path, what: str) -> None:
    """X4. Write, sync, rename, sync the folder, as the kernel saw it."""
    bad, count = traced.small_files(tmp_path, what)
    assert (bad, count >= 7) == (0, True)


def test_what_a_call_covers_is_decided_by_when_it_began_and_ended(tmp_path: Path) -> None:
    """A write inside a sync is not covered by it; one before it is."""
    place = "".join(f"\\x{byte:02x}" for byte in str(tmp_path / "a").encode())
    folder = "".join(f"\\x{byte:02x}" for byte in str(tmp_path).encode())
    lines = [
        f'7 pwrite64(3<{place}>, "\\x61", 1, 5) = 1',
        f"7 fsync(3<{place}> <unfinished ...>",
        f'8 pwrite64(3<{place}>, "\\x62\\x62", 2, 0 <unfinished ...>',
        "8 <... pwrite64 resumed>) = 1",
        "7 <... fsync resumed>) = 0",
        f"7 fdatasync(3<{place}>) = 0",
        f"7 fsync(4<{folder}>) = 0",
        f"7 fsync(3<{place}>) = -1 EIO (Input/output error)",
        f'7 unlink("{place}") = 0',
        f'7 pwrite64(3<{place}>(deleted), "\\x61", 1, 5) = 1',
        '7 write(1<\\x70>, "\\x61\\x20\\x31\\x0a", 4) = 4',
    ]
    acts = parse(lines, tmp_path, {"a": b""})
    assert acts[:4] == [Written("a", 5, b"a"), Written("a", 0, b"b"), Synced("a"), FolderSynced("")]
    assert acts[5:] == [Removed("a"), Noted(("a", 1))]
