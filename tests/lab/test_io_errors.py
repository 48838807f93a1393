"""
Fail every call to the disk, in every way, and fill a real disk: nothing told may be untrue.

The accidents are `testing.disk.ioerrors`: one call fails, once or from then on, and what the
callers were told is compared with what is there afterwards. The full disk is a small tmpfs.
"""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.core.errors import (
    OutcomeUnknownError,
    PoisonedError,
    StoreError,
    StoreFullError,
)
from holdfast.core.event import Event
from holdfast.core.unit import Append, TrimStream, Unit
from holdfast.core.world import World
from holdfast.store.options import Options
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.store.store import Store
from holdfast.testing.disk.disk import CHANGES, Call, Disk, Fault
from holdfast.testing.disk.images import Scratch
from holdfast.testing.disk.ioerrors import Accident, Accidents, accidents

pytestmark = pytest.mark.lab

SEED = 20_263
OPTIONS = Options(readers=1)


# When SQLite tries again within one statement, APSW reports the first error aside.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("recovery", [False, True], ids=["new", "recovery"])
def test_no_failing_call_makes_the_store_lie(*, recovery: bool) -> None:
    """F2, F7, F8, F9, X1. Each call, each fault, once and for ever; a slice of `make lab`."""
    tally = accidents(SEED, every=11, first=SEED, recovery=recovery)
    sys.stdout.write(f"\nseed {SEED}: {tally.images} accidents, {tally.nested} power cuts behind\n")
    assert tally.clean, "\n".join(tally.failures)
    assert tally.images > 50
    assert tally.nested > 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("seed", "accident"),
    [
        (5, Accident(68, Fault.SHORT)),  # an id of a first opening that was never stored
        (4242, Accident(6, Fault.SHORT)),  # half of the first page beside its journal
        (4242, Accident(337, Fault.EIO)),  # the close wrote behind a sync that had failed
    ],
)
def test_what_once_went_wrong_goes_right(seed: int, accident: Accident) -> None:
    """F7, F8. Accidents that found a bug; the power is cut behind each."""
    layer = Accidents(seed, steps=6)
    layer.suffer(accident, power_cut=True)
    assert layer.tally.clean, "\n".join(layer.tally.failures)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_failed_sync_stops_the_store_and_reopening_tells_what_became_of_the_unit() -> None:
    """F8. The caller gets "unknown", everybody behind gets "stopped", `outcome` resolves it."""
    with Scratch() as scratch:
        path = scratch.lay({}) / "a.db"
        with Disk(path.parent) as disk:
            unit_id = asyncio.run(fail_one_sync(path, disk))
        verdict = asyncio.run(resolve(path, unit_id))
    assert verdict in ("committed 2", "absent 1")


async def fail_one_sync(path: Path, disk: Disk) -> bytes:
    store = Store(*parts(path, World(vfs=disk.vfs, files=disk.files)))
    await store.open()
    await store.commit(entry(1))
    unit = Unit(entry(2).writes, (), store.unit_id())
    disk.fail(1, Fault.EIO, on=frozenset({Call.SYNC}))
    syncs = disk.calls[Call.SYNC]
    with pytest.raises(OutcomeUnknownError) as unknown:
        await store.commit(unit)
    assert unknown.value.unit_id == unit.id.hex()
    with pytest.raises(PoisonedError):
        await store.commit(entry(3))
    assert await last_sequence(store) == 1
    changes = {call: disk.calls[call] for call in CHANGES}
    await store.close()
    assert {call: disk.calls[call] for call in CHANGES} == changes, "written after it stopped"
    assert disk.calls[Call.SYNC] == syncs + 1, "a second sync in place of the first"
    return unit.id


async def resolve(path: Path, unit_id: bytes) -> str:
    store = Store(*parts(path, World()))
    await store.open()
    known = await store.committed(unit_id)
    found = f"{'committed' if known else 'absent'} {await last_sequence(store)}"
    await store.commit(entry(4))
    assert await store.verify() == []
    await store.close()
    return found


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2 MB; mounting it needs root, and there is no way around that."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "holdfast-lab", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"a tmpfs cannot be mounted here: {done.stderr.strip()}", pytrace=False)
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_on_a_full_disk_nothing_is_lost_and_trimming_makes_room(small_disk: Path) -> None:
    """F7. Filled by the store itself: a clean refusal, reads go on, the ballast does the rest."""
    options = Options(readers=1, checkpoint_pages=16)
    last = asyncio.run(fill(small_disk / "a.db", options))
    asyncio.run(trim(small_disk / "a.db", options, last))


def test_a_full_disk_with_a_long_log_can_be_read(small_disk: Path) -> None:
    """F7. The log may need more room to be written home than the ballast gives."""
    last = asyncio.run(fill(small_disk / "a.db", OPTIONS))
    asyncio.run(read_only(small_disk / "a.db", last))


async def fill(path: Path, options: Options) -> int:
    """Append until the store refuses, and return the last sequence."""
    store = Store(*parts(path, World(), options))
    await store.open()
    written = 0
    refusal: StoreError | None = None
    while refusal is None:
        try:
            await store.commit(entry(written, size_bytes=20_000))
            written += 1
        except StoreError as error:
            refusal = error
    assert isinstance(refusal, StoreFullError | OutcomeUnknownError | PoisonedError)
    found = await last_sequence(store)
    assert found in (written, written + isinstance(refusal, OutcomeUnknownError))
    assert written > 10
    assert await store.verify() == []
    await store.close()
    return found


async def trim(path: Path, options: Options, last: int) -> None:
    store = Store(*parts(path, World(), options))
    await store.open()
    assert await last_sequence(store) == last
    assert await store.verify() == []
    await store.commit(Unit((TrimStream("log", last),)))
    await store.commit(entry(0, size_bytes=20_000))
    assert await last_sequence(store) == last + 1
    await store.close()


def test_a_restart_on_a_full_disk_can_read_and_goes_on_when_there_is_room(
    small_disk: Path,
) -> None:
    """F7. Filled by somebody else, to the last byte, after a crash that left a log."""
    path = small_disk / "a.db"
    with Scratch() as scratch:
        elsewhere = scratch.lay({}) / "a.db"
        left_behind(elsewhere, small_disk)
    filler = small_disk / "filler"
    fill_up(filler)
    for _ in range(2):
        asyncio.run(read_only(path, 5))
    filler.unlink()
    asyncio.run(goes_on(path))


def left_behind(elsewhere: Path, to: Path) -> None:
    """Put the files of a store that was killed in the middle of its life into a folder."""

    async def live() -> None:
        store = Store(*parts(elsewhere, World()))
        await store.open()
        for number in range(5):
            await store.commit(entry(number, size_bytes=2_000))
        shutil.copytree(elsewhere.parent, to, dirs_exist_ok=True)
        await store.close()

    asyncio.run(live())
    (to / "a.db-shm").unlink()


def fill_up(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


async def read_only(path: Path, last: int) -> None:
    store = Store(*parts(path, World(), Options(readers=1, read_only=True)))
    await store.open()
    assert await last_sequence(store) == last
    assert await store.verify() == []
    await store.close()


async def goes_on(path: Path) -> None:
    store = Store(*parts(path, World()))
    await store.open()
    await store.commit(entry(6))
    assert await last_sequence(store) == 6
    await store.close()


def parts(
    path: Path, world: World, options: Options = OPTIONS
) -> tuple[SqliteDriver, Options, World]:
    return SqliteDriver(path, options, world), options, world


def entry(number: int, *, size_bytes: int = 10) -> Unit:
    return Unit((Append("log", (Event.of("logged", [number, bytes(size_bytes)]),)),))


async def last_sequence(store: Store) -> int:
    head = await store.read(lambda reader: reader.head("log"))
    return head.last_sequence if head else 0
