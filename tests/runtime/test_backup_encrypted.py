"""Backups of encrypted stores: made and checked without the key, of use only with it."""

import asyncio
import json
from collections.abc import Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest

import holdfast
from holdfast import Keyring, Runtime
from holdfast.core.exits import Exit
from holdfast.core.sealing import KeyMissingError, KeyWrongError
from holdfast.runtime import backup, restore
from tests.cli.invocation import documents, invoke
from tests.runtime.canary import in_files

CANARY = "canary-7be0a1f2"
T = TypeVar("T")


@pytest.fixture(autouse=True)
def _no_other_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs these tests with a keyring of his own does not help them."""
    monkeypatch.delenv("HOLDFAST_KEYRING", raising=False)


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """A keyring with one key, in a folder that no store is in."""
    file = tmp_path / "keys" / "agent.keys"
    Keyring.create(file, "k1")
    return file


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(work)


async def fill(url: str, ring: Path) -> None:
    """Write some of everything that is sealed."""
    async with holdfast.open(url, keyring=ring) as rt:
        await rt.history("s").append("t", {"text": CANARY}, meta={"by": CANARY})
        await rt.records.put("thing", "a", CANARY)
        await rt.blobs.put(CANARY.encode() * 500)
        await rt.snapshots.put("snap", "s", 1, CANARY.encode())


async def check(rt: Runtime) -> None:
    """See that everything is there, and sound."""
    assert [one.data for one in await rt.history("s").read()] == [{"text": CANARY}]
    assert (await rt.records.get("thing", "a")).value == CANARY
    snapshot = await rt.snapshots.latest("snap")
    assert snapshot is not None and snapshot.data == CANARY.encode()
    assert await rt.verify() == []


def test_a_backup_is_made_checked_and_restored_without_the_key_and_read_with_it(
    kept_url: str, ring: Path, tmp_path: Path
) -> None:
    """Issue 7. Nothing readable in it; its manifest names the key that has to be kept."""
    place, copy = tmp_path / "b", f"sqlite:///{tmp_path / 'copy.db'}"
    run(fill(kept_url, ring))
    made = run(backup.create(kept_url, place))
    path = Path(made.path)
    assert made.manifest.keys == ("k1",)
    assert json.loads((path / "manifest.json").read_text())["manifest"]["keys"] == ["k1"]
    assert backup.read_manifest(path) == made.manifest
    assert run(backup.verify(path)) == []
    assert in_files(place, CANARY) == []
    assert run(restore.restore(path, copy)).keys == ("k1",)
    with pytest.raises(KeyMissingError, match="'k1' is needed"):
        run(restore.confirm(copy))

    async def back() -> None:
        async with holdfast.open(copy, keyring=ring) as rt:
            assert rt.restored.paused, "who had no key confirmed nothing"
            await check(rt)

    run(back())
    assert run(restore.confirm(copy, "ann", keyring=ring))
    assert not run(restore.confirm(copy, "bob", keyring=str(ring)))


def test_a_drill_reads_everything_with_the_key_and_leaves_nothing_without(
    ring: Path, tmp_path: Path
) -> None:
    """Issue 7. A backup whose key is lost is found out by the drill, not when it is needed."""
    url, scratch = f"sqlite:///{tmp_path / 's.db'}", tmp_path / "scratch"
    scratch.mkdir()
    run(fill(url, ring))
    path = Path(run(backup.create(url, tmp_path / "b")).path)
    done = run(restore.drill(path, scratch, keyring=ring))
    assert done.findings == []
    other = tmp_path / "other.keys"
    Keyring.create(other, "k1")
    with pytest.raises(KeyMissingError, match="k1"):
        run(restore.drill(path, scratch))
    with pytest.raises(KeyWrongError, match="k1"):
        run(restore.drill(path, scratch, keyring=other))
    assert list(scratch.iterdir()) == []


def test_an_older_backup_wants_the_key_of_its_time(
    kept_url: str, ring: Path, tmp_path: Path
) -> None:
    """Issue 7. A rotation does not reach backups, so each says which key it is of."""
    old, copy = tmp_path / "old.keys", f"sqlite:///{tmp_path / 'copy.db'}"
    run(fill(kept_url, ring))
    before = run(backup.create(kept_url, tmp_path / "b"))
    old.write_bytes(ring.read_bytes())
    old.chmod(0o600)
    Keyring.create(ring, "k2")

    async def rotate() -> None:
        async with holdfast.open(kept_url, keyring=ring) as rt:
            await rt.keys.rotate()

    run(rotate())
    after = run(backup.create(kept_url, tmp_path / "b"))
    assert (before.manifest.keys, after.manifest.keys) == (("k1",), ("k2",))
    ring.write_text(ring.read_text().splitlines()[1] + "\n")  # The old key is taken away.
    with pytest.raises(KeyMissingError, match="k1"):
        run(restore.drill(Path(before.path), keyring=ring))
    assert run(restore.drill(Path(after.path), keyring=ring)).findings == []
    run(restore.restore(Path(before.path), copy))

    async def back() -> None:
        async with holdfast.open(copy, keyring=old) as rt:
            await check(rt)

    run(back())


def test_an_encrypted_store_that_was_restored_is_backed_up_again(
    ring: Path, tmp_path: Path
) -> None:
    """Issue 7. What a backup has to know of a store is never sealed: by a write, or a rotation."""
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("one", "two", "three")]
    lineages = list[int]()
    run(fill(urls[0], ring))
    for number, (here, there) in enumerate(pairwise(urls)):
        made = run(backup.create(here, tmp_path / f"b{number}"))
        lineages += [made.manifest.lineage, run(restore.restore(Path(made.path), there)).lineage]
        assert run(restore.confirm(there, keyring=ring))

        async def rotate(url: str = there) -> None:
            Keyring.create(ring)
            async with holdfast.open(url, keyring=ring) as rt:
                assert (await rt.keys.rotate()).resealed > 0
                assert (await rt.keys.rotate()).resealed == 0
                await check(rt)

        run(rotate())
    last = run(backup.create(urls[2], tmp_path / "last"))
    assert [*lineages, last.manifest.lineage] == sorted([*lineages, last.manifest.lineage])
    assert lineages[1] == lineages[2] and last.manifest.lineage == lineages[3]


def test_a_plain_store_and_an_older_manifest_name_no_keys(tmp_path: Path) -> None:
    """Issue 7. What was written before manifests knew of keys has the same bytes and digest."""
    url = f"sqlite:///{tmp_path / 's.db'}"

    async def plain() -> None:
        async with holdfast.open(url) as rt:
            await rt.records.put("thing", "a", 1)

    run(plain())
    made = run(backup.create(url, tmp_path / "b"))
    assert made.manifest.keys == ()
    assert '"keys"' not in (Path(made.path) / "manifest.json").read_text()


def test_commands_say_which_key_a_backup_needs(ring: Path, tmp_path: Path) -> None:
    """Issue 7. Said when it is made and when it is restored; a drill without it ends with 12."""
    url, copy = f"sqlite:///{tmp_path / 's.db'}", f"sqlite:///{tmp_path / 'copy.db'}"
    run(fill(url, ring))
    created = invoke("backup", "create", "--store", url, "--to", tmp_path / "b", "--json")
    assert created.returncode == 0 and "without key k1" in created.stderr
    (made,) = documents(created)
    assert made["keys"] == ["k1"]
    assert invoke("backup", "drill", made["path"]).returncode == Exit.KEY_REFUSED
    restored = invoke("restore", made["path"], "--store", copy)
    assert restored.returncode == 0 and "without key k1" in restored.stderr
