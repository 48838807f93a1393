"""
The recorder that needs to know nothing of the program: real calls of real processes.

It has to come to the verdicts of the recorder inside SQLite, and it sees what that one infers:
the syncs of folders, and the small files beside the database.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.testing.acts import FolderSynced, Noted, Removed, Synced, Written
from holdfast.testing.images import Breadth, cuts, images
from holdfast.testing.strace import parse, record
from tests.lab import traced

pytestmark = pytest.mark.lab

SEED = 4_711
REPLACES = """
import sys
from pathlib import Path
from holdfast.core.failpoint import Failpoints
from holdfast.store import files
{plant}
path = Path(sys.argv[1], "small")
for number in range(1, 4):
    print("tried", number, flush=True)
    files.replace_file(path, b"%d" % number * 3000, Failpoints())
    print("acknowledged", number, flush=True)
"""
MAKES = """
import sys
from pathlib import Path
from holdfast.core.failpoint import Failpoints
from holdfast.store import files
{plant}
print("tried", 1, flush=True)
files.SystemFiles(Failpoints()).make_folder(Path(sys.argv[1], "inner"))
print("acknowledged", 1, flush=True)
"""
NO_FILE_SYNC = "files.os.fsync = lambda descriptor: None\nfiles.sync_folder = lambda folder: None"
NO_FOLDER_SYNC = "files.sync_folder = lambda folder: None"


@pytest.fixture(scope="module", autouse=True)
def strace() -> None:
    """Have strace, or say why not; where it is missing and may be installed, it is."""
    if shutil.which("strace") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update"], capture_output=True)
        subprocess.run(["apt-get", "install", "-y", "strace"], capture_output=True)
    if shutil.which("strace") is None:
        reason = "strace is missing: apt-get install strace"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def bad_images(folder: Path, program: str) -> tuple[int, int]:
    """Return how many images of a program on small files are bad, and how many there are."""
    recording = record(folder, [sys.executable, "-c", program, str(folder)])
    bad = count = 0
    for cut in cuts(recording):
        acknowledged = sum(note[0] == "acknowledged" for note in cut.notes)  # type: ignore[index]
        tried = sum(note[0] == "tried" for note in cut.notes)  # type: ignore[index]
        allowed = {
            b"%d" % number * 3000 if number else None for number in range(acknowledged, tried + 1)
        }
        for image in images(cut, SEED, Breadth(prefixes=6, sectors=4, mixtures=8)):
            count += 1
            if "make_folder" in program:
                bad += acknowledged == 1 and "inner/" not in image.files
            else:
                bad += image.files.get("small") not in allowed
    return bad, count


@pytest.mark.parametrize("case", ["blocks", "sectors"])
def test_a_store_on_real_files_loses_nothing_to_a_power_cut(case: str) -> None:
    """X1, X2, F3 to F5: the verdict of the recorder inside SQLite, from outside."""
    tally = traced.survey(SEED, case, first=0.5, most=250)
    print(tally)
    assert tally.clean, "\n".join(tally.failures)
    assert tally.images >= 250


def test_a_store_that_syncs_rarely_is_convicted() -> None:
    """Planted: synchronous=NORMAL."""
    assert traced.survey(SEED, "blocks", plant="synchronous-normal", first=0.5, enough=5).lost


def test_a_replaced_file_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    """X4. Write, sync, rename, sync the folder, as the kernel saw it."""
    bad, count = bad_images(tmp_path, REPLACES.format(plant=""))
    assert (bad, count > 30) == (0, True)


@pytest.mark.parametrize("plant", [NO_FILE_SYNC, NO_FOLDER_SYNC])
def test_a_file_replaced_without_a_sync_is_convicted(tmp_path: Path, plant: str) -> None:
    """Planted: one of the two syncs is left out."""
    assert bad_images(tmp_path, REPLACES.format(plant=plant))[0]


def test_a_new_folder_is_durable_once_it_was_made(tmp_path: Path) -> None:
    """X4; planted: its parent is not synced."""
    assert bad_images(tmp_path, MAKES.format(plant=""))[0] == 0
    shutil.rmtree(tmp_path / "inner")
    assert bad_images(tmp_path, MAKES.format(plant=NO_FOLDER_SYNC))[0]


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
