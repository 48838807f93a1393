"""
Where a store can be, and what it leaves there: refused places, names, permissions (F21, X5, X6,
X12).
"""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import holdfast
from holdfast.core.errors import StoreRefusedError, UnsafeStoreError
from holdfast.store.sqlite import guard
from holdfast.store.sqlite.guard import file_system
from holdfast.testing.disk.acts import read_image
from holdfast.testing.disk.images import Scratch
from tests.store.sample import fill, refusal, run, url_of

MAIN, LOG = "store.db", "store.db-wal"
MARK = "store.db-holdfast/mark"
Image = dict[str, bytes]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The files as a `kill -9` leaves them."""
    folder = tmp_path_factory.mktemp("killed")

    async def work(rt: holdfast.Runtime) -> Image:
        await fill(rt)
        return read_image(folder)

    return run(url_of(folder / MAIN), work)


MOUNTS = """\
sysfs /sys sysfs rw 0 0
/dev/sda1 / ext4 rw 0 0
server:/export /srv nfs4 rw 0 0
//nas/share /srv/my\\040share cifs rw 0 0
tmpfs /srv/local tmpfs rw 0 0
server:/y /srv/f\u00fcr\\040uns nfs rw 0 0
"""


@pytest.mark.parametrize(
    ("folder", "system"),
    [
        ("/home/ann", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/deep/er", "nfs4"),
        ("/srvother", "ext4"),
        ("/srv/my share/x", "cifs"),
        ("/srv/local", "tmpfs"),
        ("/srv/f\u00fcr uns", "nfs"),
    ],
)
def test_the_file_system_of_a_folder_is_the_innermost_mount(folder: str, system: str) -> None:
    """F21. As the system's mount table says it."""
    assert file_system(Path(folder), MOUNTS) == system


def test_without_a_mount_table_the_file_system_is_unknown() -> None:
    """F21. Then the locks alone decide."""
    assert file_system(Path("/srv"), "") == "unknown"


def test_a_network_file_system_is_refused_or_labelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F21, X5. Its locks cannot be trusted; who insists is told what is weaker."""
    monkeypatch.setattr(guard, "_SYSTEMS", {})
    monkeypatch.setattr(guard, "mount_table", lambda: f"server:/x {tmp_path} nfs rw 0 0\n")
    error = refusal(url_of(tmp_path / MAIN))
    assert isinstance(error, UnsafeStoreError)
    assert error.found == "nfs"
    assert not list(tmp_path.iterdir())

    async def durability(rt: holdfast.Runtime) -> str:
        return rt.opened.durability

    assert run(url_of(tmp_path / MAIN), durability, allow_unsafe=True) == (
        "unsafe: file system nfs"
    )


def test_the_mount_table_is_read_once_for_a_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F21. A device keeps its file system; who opens many stores asks the system once."""
    asked: list[str] = []

    def mounts() -> str:
        asked.append("asked")
        return MOUNTS

    async def durability(rt: holdfast.Runtime) -> str:
        return rt.opened.durability

    monkeypatch.setattr(guard, "_SYSTEMS", {})
    monkeypatch.setattr(guard, "mount_table", mounts)
    assert {run(url_of(tmp_path / name), durability) for name in ("a.db", "b.db")} == {"synced"}
    assert len(asked) == 1


def test_a_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F21, X5. What the system says to `flock` there."""

    def flock(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(guard.fcntl, "flock", flock)
    error = refusal(url_of(tmp_path / MAIN))
    assert isinstance(error, UnsafeStoreError)
    assert not (tmp_path / MAIN).exists()


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    """F21. It is named, and not made."""
    error = refusal(url_of(tmp_path / "no" / "where" / MAIN))
    assert isinstance(error, StoreRefusedError)
    assert f"{tmp_path}/no/where does not exist" in error.reason
    assert not (tmp_path / "no").exists()


def test_a_folder_in_place_of_the_main_file_is_refused(tmp_path: Path) -> None:
    """F21."""
    (tmp_path / MAIN).mkdir()
    assert isinstance(refusal(url_of(tmp_path / MAIN)), StoreRefusedError)


AS_NOBODY = """
import os, sys, tempfile
from tests.store.sample import fill, refusal, run, url_of
from pathlib import Path
with tempfile.TemporaryDirectory() as folder:  # Everything is imported once, as long as we may.
    run(url_of(Path(folder) / "warm.db"), fill)
    Path(folder, "warm.db").write_bytes(b"")
    refusal(url_of(Path(folder) / "warm.db"))
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
error = refusal(url_of(Path(sys.argv[1])))
print(error and f"{error.code}: {error}")
"""


@pytest.mark.parametrize(
    ("closed", "reason"),
    [
        ("", "cannot be written"),
        (MAIN, "Permission denied"),
        (LOG, "Permission denied"),
        ("store.db-holdfast", "Permission denied"),
        (MARK, "Permission denied"),
    ],
)
def test_a_place_without_permission_is_refused_with_the_reason(
    closed: str, reason: str, killed: Image
) -> None:
    """F21. Opened by an account that may not read or write what is named."""
    with Scratch() as scratch:
        folder = scratch.lay(killed)
        if os.getuid() == 0:
            for path in (folder.parent, folder, *folder.rglob("*")):
                os.chown(path, 65534, 65534)
        (folder / closed).chmod(0o000 if closed else 0o500)
        before = unlocked(folder) if os.getuid() == 0 else {}
        said = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(folder / MAIN)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent.parent.parent,
        ).stdout
        assert said.startswith("store_refused: "), said
        assert reason in said
        assert not before or unlocked(folder) == before
        (folder / closed).chmod(0o700)


def unlocked(folder: Path) -> Image:
    """Return the files that have content, without the guard's own locks."""
    found = read_image(folder).items()
    return {name: data for name, data in found if data and not name.endswith(("/gate", "/life"))}


# Names and modes.


def test_keys_never_become_file_names(tmp_path: Path) -> None:
    """X6. Whatever a key looks like, the folder holds the same few files."""

    async def work(rt: holdfast.Runtime) -> set[str]:
        for key in (
            "../up",
            "/etc/passwd",
            "a/b",
            "A",
            "a",
            "e\u0301",
            "\u00e9",
            "x" * 5_000,
            "\0",
        ):
            await rt.history(key).append("said", key)
            await rt.records.put("note", key, key)
            await rt.leases.grant(key, 60.0)
        return set(modes_below(tmp_path))

    beside = {"store.db-holdfast", *(f"store.db-holdfast/{n}" for n in ("gate", "life", "mark"))}
    assert run(url_of(tmp_path / MAIN), work) == {
        MAIN,
        LOG,
        "store.db-shm",
        "store.db-holdfast/ballast",
        *beside,
    }


def test_every_file_is_private(killed: Image, tmp_path: Path) -> None:
    """X12. Also the copies of a refused store; whatever the umask allows."""
    umask = os.umask(0)
    try:

        async def modes(rt: holdfast.Runtime) -> dict[str, int]:
            await fill(rt)
            return modes_below(tmp_path)

        found = run(url_of(tmp_path / MAIN), modes)
        (tmp_path / MAIN).write_bytes(b"")
        assert isinstance(refusal(url_of(tmp_path / MAIN)), StoreRefusedError)
        found |= modes_below(tmp_path)
    finally:
        os.umask(umask)
    assert {name for name, mode in found.items() if mode & 0o077} == set()
    assert any("/kept/refused-0001/" in name for name in found)


def modes_below(folder: Path) -> dict[str, int]:
    """Return the permissions of everything in a folder."""
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in folder.rglob("*")
    }
