"""
What was under way at the moment of a backup: nothing of it happens again before somebody says so.

A process executes two runs and is killed while both hang in a step; before that a backup is made
beside it. What a step does to the outside is a line in a file, so that one can count.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

import holdfast
from holdfast import Status
from holdfast.runtime import backup, restore
from tests.runtime import backups
from tests.runtime.backups import once, process, safe
from tests.runtime.test_runs import until

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(work)


def test_no_effect_is_repeated_by_an_old_ledger_without_confirmation(
    kept_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Operators 8.5: paused, then confirmed; what is done once is uncertain, the rest goes on."""
    monkeypatch.setattr(backups, "FOLDER", tmp_path)
    monkeypatch.setattr(backups, "hangs", asyncio.Event())
    with process("work", kept_url, tmp_path) as child:
        assert child.stdout is not None
        assert [child.stdout.readline() for _ in "12"] == ["there\n", "there\n"]
        made = run(backup.create(kept_url, tmp_path / "b"))
        child.kill()
    before = effects(tmp_path)
    assert before == {"first": 1, "again": 1, "post": 1}
    url = f"sqlite:///{tmp_path / 'restored.db'}"
    run(restore.restore(Path(made.path), url))

    async def rest() -> None:
        async with holdfast.open(url, functions=[safe, once]) as rt:
            assert not rt.health().ready
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):  # Many times as long as it takes otherwise.
                    await rt.runs.handle("safe").result()

    run(rest())
    assert effects(tmp_path) == before, "something was done while it was paused"

    async def go_on() -> list[Any]:
        backups.hangs.set()
        async with holdfast.open(url, functions=[safe, once]) as rt:
            await rt.restored.confirm(by="ann")
            result = await rt.runs.handle("safe").result()
            await until(rt, "once", "run.waiting")
            info = await rt.runs.get("once")
            return [result, info.status, await rt.verify()]

    assert run(go_on()) == ["safe", Status.WAITING, []]
    assert effects(tmp_path) == {"first": 1, "again": 2, "post": 1}


def effects(folder: Path) -> dict[str, int]:
    """Return how often each step did what it does to the outside."""
    return dict(Counter((folder / "effects").read_text().split()))
