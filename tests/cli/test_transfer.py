"""
One stream out and in again (X13, X4): exact, whole or not at all, also when killed.

Exports and imports run as processes; kills are real, at the failpoints around each durable
step of writing a file, and around the commits of an import.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.core.errors import DamagedFileError, SequenceConflictError
from holdfast.core.world import World
from holdfast.runtime.transfer import check_export, import_stream
from tests.cli.exported import IMPORT
from tests.cli.invocation import SECRET, fill, invoke, run
from tests.cli.test_commands import damage

STREAM = "chat/user-42"
VALUES: list[Any] = [None, float("nan"), b"\0\xff", -0.0, 2**63 - 1, "\u202e\n", {"a": [{}]}]

EXPORT = """
import asyncio, os, signal, sys
from pathlib import Path
import holdfast
from holdfast.core.failpoint import Failpoints
from holdfast.runtime.transfer import export_stream
url, target, point = sys.argv[1:]
failpoints = Failpoints()
failpoints.arm(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
async def main():
    async with holdfast.open(url, read_only=True) as rt:
        await export_stream(rt, "chat/user-42", Path(target), failpoints)
asyncio.run(main())
"""


async def contents(url: str, stream: str = STREAM) -> list[tuple[int, str, bytes, bytes | None]]:
    """Return what an import has to keep of each event."""
    async with holdfast.open(url, read_only=True) as rt:
        events = await rt.history(stream).read(limit=10_000)
    return [(event.sequence, event.type, event.payload, event.meta) for event in events]


def export(store: str, target: Path) -> None:
    done = invoke("export", STREAM, "--output", target, store=store)
    assert done.returncode == 0, done.stderr


def killed(program: str, *words: str | Path) -> None:
    """Run a program that kills itself, and see that it did."""
    done = subprocess.run([sys.executable, "-c", program, *map(str, words)], timeout=60)
    assert done.returncode == -signal.SIGKILL


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_stream_comes_back_exactly(empty: str, tmp_path: Path) -> None:
    """X13: bits, types, metadata and closing survive the way out and in."""

    async def prepare() -> None:
        async with holdfast.open(empty) as rt:
            for value in VALUES:
                await rt.history(STREAM).append("odd", value, meta={"by": "ann"})
            await rt.history(STREAM).close()

    run(prepare())
    before = run(contents(empty))
    export(empty, tmp_path / "export")
    copy = f"sqlite:///{tmp_path / 'copy.db'}"
    assert invoke("import", tmp_path / "export", store=copy).returncode == 0
    assert run(contents(copy)) == before
    assert invoke("verify", copy).returncode == 0
    assert '"closed":true' in invoke("streams", "--json", store=copy).stdout
    again = invoke("import", tmp_path / "export", store=copy)
    assert again.returncode == 0
    assert f"{len(VALUES)} were there already" in again.stderr


def test_an_export_is_private(tmp_path: Path) -> None:
    """X12: nobody but the owner reads what was exported, whatever the umask."""
    store = f"sqlite:///{tmp_path / 'store.db'}"
    run(fill(store))
    before = os.umask(0)
    try:
        export(store, tmp_path / "export")
    finally:
        os.umask(before)
    assert (tmp_path / "export").stat().st_mode & 0o777 == 0o600


def test_a_store_and_its_folder_are_private(tmp_path: Path) -> None:
    """X12: every file of a store is the owner's alone, whatever the umask."""
    program = """
import asyncio, os, sys, holdfast
from pathlib import Path
os.umask(0)
folder = Path(sys.argv[1])
async def main():
    async with holdfast.open(f"sqlite:///{folder / 'store.db'}") as rt:
        await rt.history("s").append("x")
        for path in folder.rglob("*"):
            print(path.name, oct(path.stat().st_mode & 0o777))
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True
    )
    modes = dict(line.split() for line in done.stdout.splitlines())
    assert modes.pop("store.db-holdfast") == "0o700"
    assert {"store.db", "store.db-wal", "mark", "ballast"} <= modes.keys()
    assert set(modes.values()) == {"0o600"}


def test_any_flipped_bit_and_any_cut_of_an_export_is_noticed(tmp_path: Path) -> None:
    """X3, X13: an export is whole, or it is refused with the line that is wrong."""
    store, target = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "export"
    run(fill(store, events=2))
    export(store, target)
    whole = target.read_bytes()
    assert check_export(target).count == 2
    lines = whole.count(b"\n")
    damaged = [whole[:size] for size in range(len(whole))]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]
        for at in range(len(whole))
        for bit in range(8)
    ]
    damaged += [whole + b"\n", whole + whole]
    for content in damaged:
        target.write_bytes(content)
        with pytest.raises(DamagedFileError) as caught:
            check_export(target)
        assert 1 <= caught.value.line <= lines + 1
        assert SECRET not in str(caught.value)


def test_of_a_damaged_export_nothing_is_imported(empty: str, tmp_path: Path) -> None:
    """X13, X12: the last line is wrong, and still the first is not imported."""
    store, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(fill(store))
    export(store, target)
    target.write_bytes(target.read_bytes()[:-10])
    done = invoke("import", target, store=empty)
    assert done.returncode == 9
    assert f"{target}, line 5: the file was cut" in done.stderr
    assert invoke("verify", empty).returncode == 10, "not even a store was made"


def test_a_stream_that_holds_something_else_is_not_touched(store: str, tmp_path: Path) -> None:
    """An import appends only to an empty stream, or to the beginning of the same events."""
    other, target = f"sqlite:///{tmp_path / 'other.db'}", tmp_path / "export"
    run(fill(other, events=5))
    export(store, target)
    before = run(contents(other))
    done = invoke("import", target, store=other)
    assert done.returncode == 4
    assert SECRET not in done.stderr
    assert run(contents(other)) == before
    export(other, target)
    assert invoke("import", target, store=store).returncode == 0
    assert run(contents(store)) == before


def test_an_event_that_differs_is_no_beginning(empty: str, tmp_path: Path) -> None:
    """A stream of the same name with another first event is not the one that was exported."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(fill(origin))
    export(origin, target)

    async def begin_otherwise() -> None:
        async with holdfast.open(empty) as rt:
            await rt.history(STREAM).append("turn_added", {"number": 0, "text": "else"})

    run(begin_otherwise())
    before = run(contents(empty))
    assert invoke("import", target, store=empty).returncode == 4
    assert run(contents(empty)) == before


def test_a_trimmed_stream_is_exported_but_not_imported(tmp_path: Path) -> None:
    """Its sequences could not be kept, and an import never changes them."""
    store, target = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "export"
    run(fill(store))

    async def trim() -> None:
        async with holdfast.open(store) as rt:
            await rt.history(STREAM).trim(3)

    run(trim())
    export(store, target)
    assert check_export(target).first_sequence == 3
    done = invoke("import", target, "--store", f"sqlite:///{tmp_path / 'copy.db'}")
    assert done.returncode == 2
    assert "begins at sequence 3" in done.stderr


def test_a_damaged_stream_is_not_exported(store: str, tmp_path: Path) -> None:
    """X3: damage is never carried on silently, and no file appears."""
    damage(store)
    target = tmp_path / "exports" / "export"
    target.parent.mkdir()
    done = invoke("export", STREAM, "--output", target, store=store)
    assert done.returncode == 9, done.stderr
    assert "sequence 2" in done.stderr
    assert names(target.parent) == set()


@pytest.mark.parametrize(
    ("point", "is_new"),
    [
        ("file.written", False),
        ("file.synced", False),
        ("file.renamed", True),
        ("file.folder_synced", True),
    ],
)
def test_a_killed_export_leaves_the_old_file_or_the_new_one(
    point: str, is_new: bool, tmp_path: Path
) -> None:
    """X1, X4: never a mixture; what is left over goes with the next export."""
    store, folder = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "exports"
    folder.mkdir()
    run(fill(store, events=1))
    target = folder / "export"
    export(store, target)
    old = target.read_bytes()
    run(fill(store, events=1))
    killed(EXPORT, store, target, point)
    assert check_export(target).count == (2 if is_new else 1)
    assert (target.read_bytes() == old) is not is_new
    assert len(names(folder)) == (1 if is_new else 2)
    export(store, target)
    assert names(folder) == {"export"}
    assert check_export(target).count == 2


@pytest.mark.parametrize("point", ["commit.taken", "commit.written", "commit.committed"])
def test_a_killed_import_is_finished_by_running_it_again(
    point: str, empty: str, tmp_path: Path
) -> None:
    """X1, C1: killed around its second commit, every event is there once in the end."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"

    async def prepare() -> None:
        async with holdfast.open(origin) as rt:
            history = rt.history(STREAM)
            await history.append_all(history.event("n", number) for number in range(2_500))

    run(prepare())
    export(origin, target)
    killed(IMPORT, empty, target, point, "2")
    done = invoke("import", target, store=empty)
    assert done.returncode == 0, done.stderr
    present = 2_000 if point == "commit.committed" else 1_000
    assert f"{2_500 - present} events appended" in done.stderr
    assert run(contents(empty)) == run(contents(origin))


def test_two_imports_at_once_leave_every_event_once(empty: str, tmp_path: Path) -> None:
    """X5: expected sequences keep two imports of the same file from mixing."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(fill(origin, events=50))
    export(origin, target)
    world, others = World(), list[int]()

    def be_overtaken() -> None:
        if not others:
            others.append(invoke("import", target, store=empty).returncode)

    async def race() -> None:
        async with holdfast.open(empty, world=world) as rt:
            world.failpoints.arm("commit.taken", be_overtaken)
            await import_stream(rt, target)

    with pytest.raises(SequenceConflictError):
        run(race())
    assert others == [0]
    assert run(contents(empty)) == run(contents(origin))
