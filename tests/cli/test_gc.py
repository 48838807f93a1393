"""What `gc` takes away and what it leaves: by age, by number, of runs and of backups."""

import time
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import Run
from holdfast.cli import care
from holdfast.cli.app import run as command
from holdfast.core.world import World
from holdfast.testing.clock import ManualClock
from tests.cli.invocation import run

HOUR = 3_600.0


async def quick(run: Run) -> int:
    """Do nothing."""
    return 1


async def asks(run: Run) -> Any:
    """Wait for an answer."""
    return await run.ask("Well?")


def leave(url: str, **hours: float) -> None:
    """Leave runs that ended so many hours ago, and one that waits since the first of them."""

    async def prepare() -> None:
        clock = ManualClock()
        clock.wall_time = time.time() - max(hours.values()) * HOUR
        world = World(clock=clock)
        async with holdfast.open(url, functions=[quick, asks], world=world) as rt:
            await rt.runs.start(asks, run_id="waits")
            for name, ago in sorted(hours.items(), key=lambda one: -one[1]):
                clock.wall_time = time.time() - ago * HOUR
                await (await rt.runs.start(quick, run_id=name)).result()

    run(prepare())


def left(url: str) -> set[str]:
    """Return which runs are there."""
    return looked(url)[0]


def looked(url: str) -> tuple[set[str], int]:
    """Return which runs are there, and how often the store was opened."""

    async def look() -> tuple[set[str], int]:
        async with holdfast.open(url, read_only=True) as rt:
            return {one.id for one in await rt.runs.list()}, rt.opened.epoch

    return run(look())


def test_gc_by_age_takes_what_is_older_and_nothing_else(empty: str) -> None:
    """X9: days, hours, minutes and seconds are what they say; what did not end stays."""
    leave(empty, old=30.0, middle=2.0, young=0.01)
    gone: set[str] = set()
    for age, more in (
        ("2d", set[str]()),
        ("1d", {"old"}),
        ("3h", set[str]()),
        ("90m", {"middle"}),
        ("1000s", set[str]()),
        ("1s", {"young"}),
    ):
        before = looked(empty)
        assert command(["gc", "--store", empty, "--runs-older", age, "--dry-run"]) == 0
        assert looked(empty) == before
        assert command(["gc", "--store", empty, "--runs-older", age]) == 0
        gone |= more
        assert left(empty) == {"waits", "old", "middle", "young"} - gone, age


@pytest.mark.parametrize("age", ["1w", "-1d", "1.5h", "d", "10", "1d "])
def test_an_age_that_is_none_removes_nothing(age: str, tmp_path: Path) -> None:
    """X9, section 5: a typing error is never taken for another age."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    leave(url, old=1_000.0)
    assert command(["gc", "--store", url, "--runs-older", age]) == 2
    assert left(url) == {"waits", "old"}


def test_gc_keeps_those_that_ended_last_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """X9: by their end, not by their names; in as many turns as it takes."""
    monkeypatch.setattr(care, "_RUNS_AT_ONCE", 2)
    url = f"sqlite:///{tmp_path / 'store.db'}"
    leave(url, a=1.0, b=7.0, c=6.0, d=2.0, e=5.0, f=4.0, g=3.0)
    assert command(["gc", "--store", url, "--runs-kept", "2"]) == 0
    assert left(url) == {"waits", "a", "d"}
    assert "5 runs removed" in capsys.readouterr().err


def test_gc_without_words_or_only_looking_leaves_everything(tmp_path: Path) -> None:
    """X9, X4: no policy is no removal; leftovers of backups stay where it only counts."""
    url, folder = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "backups"
    leave(url, old=1_000.0)
    unfinished = folder / "2026-01-01T00-00-00Z.tmp-00"
    unfinished.mkdir(parents=True)
    assert command(["gc", "--store", url]) == 0
    assert command(["gc", "--store", url, "--backups", str(folder), "--dry-run"]) == 0
    assert unfinished.is_dir() and left(url) == {"waits", "old"}
    assert command(["gc", "--store", url, "--backups", str(folder)]) == 0
    assert not unfinished.exists() and left(url) == {"waits", "old"}
