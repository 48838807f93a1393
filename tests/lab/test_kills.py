"""
Kill a process at every durable step and at random, on both stores, and examine what it left.

Every failpoint is named here in full, so that a new one needs a line. A child runs a workload
through the store and writes down what was acknowledged; after SIGKILL the store has to hold all
of that, at most the batch under way more, and nothing damaged.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from random import Random

import pytest

from holdfast.core.clock import SystemClock
from holdfast.core.errors import SchemaNewerError
from holdfast.core.failpoint import POINTS
from holdfast.core.world import World
from holdfast.store.migrate import known
from holdfast.testing.disk.images import Scratch
from holdfast.testing.process.kills import RECOVERY, Forks, Kill, Kills, connect

pytestmark = pytest.mark.lab

SEED = 20_262
BOTH = (
    "boot.connected",
    "boot.migrated",
    "boot.entered",
    "migrate.begun",
    "migrate.statement",
    "migrate.recorded",
    "migrate.committed",
    "commit.taken",
    "commit.begun",
    "commit.loaded",
    "commit.decided",
    "commit.written",
    "commit.committed",
    "commit.answered",
    "close.released",
)
SQLITE_ONLY = (
    "boot.locked",
    "boot.guarded",
    "boot.checkpointed",
    "commit.marked",
    "file.written",
    "file.synced",
    "file.renamed",
    "file.folder_synced",
    "close.checkpointed",
)
RUNTIME = (
    "presence.entered",
    "ledger.begun",
    "ledger.settled",
    "rescue.taken",
    "rescue.entry",
    "rescue.ended",
    "run.dispatched",
    "run.step_started",
    "run.step_recorded",
    "run.ended",
    "engine.performed",
    "engine.captured",
    "engine.rebased",
    "engine.restored",
    "backup.copied",
    "backup.sealed",
    "restore.filled",
    "restore.placed",
)
NewUrl = Callable[[], str]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    """One warm process for all kills of this file."""
    with Forks() as forks:
        yield forks


@pytest.fixture
def kills(forks: Forks) -> Iterator[Kills]:
    """Kills in a folder in memory."""
    with Scratch() as scratch:
        kills = Kills(scratch.lay({}), forks)
        yield kills
        sys.stdout.write(f"\nseed {SEED}: {kills.kills} kills, {dict(kills.points)}\n")
        assert kills.tally.clean, "\n".join(kills.tally.failures)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, kills: Kills) -> NewUrl:
    """Return what gives the address of an empty store of each kind in turn."""
    if request.param == "sqlite":
        return lambda: kills.fresh()[0]
    url, numbers = str(request.getfixturevalue("postgres_url")), count(1)
    joint = "&" if "?" in url else "?"
    return lambda: f"{url}{joint}schema=kill_{next(numbers)}"


def test_every_failpoint_is_named_here() -> None:
    """X1. A new point needs a kill; those of the runtime are killed in its own layers."""
    assert sorted((*BOTH, *SQLITE_ONLY, *RUNTIME)) == sorted(POINTS)


@pytest.mark.parametrize("point", (*BOTH, *SQLITE_ONLY))
def test_sqlite_keeps_all_when_killed_at(kills: Kills, point: str) -> None:
    """X1, F1, X2. Killed when the point is reached for the first, middle and last times."""
    reached = kills.count(seed=SEED)[point]
    assert reached > 0
    times = sorted({1, 2, (reached + 1) // 2, reached - 1, reached} & set(range(1, reached + 1)))
    for nth in times:
        kills.strike(seed=SEED, point=point, nth=nth)
    assert kills.points == {point: len(times)}


@pytest.mark.parametrize("point", BOTH)
def test_postgresql_keeps_all_when_killed_at(kills: Kills, postgres_url: str, point: str) -> None:
    """X1, F1, X2. The server goes on; what the client left under way is rolled back or done."""
    for nth in (1, 3) if point.startswith(("commit", "migrate.statement")) else (1,):
        url = f"{postgres_url}{'&' if '?' in postgres_url else '?'}schema=kill_{nth}"
        kills.strike(url, seed=SEED, point=point, nth=nth)
    assert kills.points[point] > 0


@pytest.mark.parametrize("moment", ["before", "half", "after"])
def test_sqlite_keeps_all_when_killed_at_a_call_to_the_disk(kills: Kills, moment: str) -> None:
    """X1. Before a write, sync, truncate, rename or removal, in the middle of it, after it."""
    for nth in range(1, 400, 8):
        kills.strike(seed=SEED + nth % 3, moment=moment, nth=nth)
    assert kills.kills > 30


def test_a_kill_at_a_random_instant_loses_nothing(kills: Kills, new_url: NewUrl) -> None:
    """F1. As an out-of-memory kill would."""
    rng, longest = Random(SEED), 0.12
    for _ in range(60 if new_url().startswith("sqlite") else 25):
        after = rng.uniform(0.001, longest)
        # Who comes to the end in time shows how long that takes on this machine.
        if not kills.struck(new_url(), seed=SEED, steps=12, after=after):
            longest = max(after, 0.003)
    assert kills.kills > 5


def test_recovery_killed_again_and_again_ends_in_the_same_state(kills: Kills) -> None:
    """F2, C6. Each opening is killed at the next of its steps; then one is left alone."""
    # Behind the mark, so that what is only in the log was promised.
    found = kills.strike(seed=SEED, point="commit.marked", nth=6, recoveries=RECOVERY * 2)
    assert kills.kills == 1 + 2 * len(RECOVERY)
    # Of the killed openings only those that came to their row raised the epoch.
    assert found.epoch == 4


def test_recovery_of_postgresql_killed_again_and_again_ends_in_the_same_state(
    kills: Kills, postgres_url: str
) -> None:
    """F2, C6. The same without files of our own."""
    _, progress = kills.fresh()
    kill = Kill(
        url=postgres_url, progress=str(progress), seed=SEED, point="commit.committed", nth=6
    )
    kills.run(kill)
    for point in ("boot.connected", "boot.migrated", "boot.entered") * 2:
        kills.run(replace(kill, progress=str(progress) + "-again", steps=0, point=point, nth=1))
    assert kills.judge(kill).epoch == 4
    assert kills.kills == 7


def test_a_kill_while_a_file_is_replaced_leaves_no_temporary_file(kills: Kills) -> None:
    """X4, R10. The next opening removes it."""
    for point in ("file.written", "file.synced"):
        for nth in (1, 2):
            url, progress = kills.fresh()
            kill = Kill(url=url, progress=str(progress), seed=SEED, point=point, nth=nth)
            kills.run(kill)
            beside = progress.parent / "a.db-holdfast"
            assert any(".tmp-" in path.name for path in beside.iterdir())
            kills.judge(kill)
            assert not any(".tmp-" in path.name for path in beside.iterdir())


def test_a_migration_killed_at_any_statement_is_finished_by_the_next_start(
    kills: Kills, new_url: NewUrl
) -> None:
    """L12. The first schema, statement by statement."""
    reached = kills.count(new_url(), seed=SEED, steps=0)["migrate.statement"]
    assert reached > 10
    for nth in range(1, reached + 1):
        kills.strike(new_url(), seed=SEED, point="migrate.statement", nth=nth)
    assert kills.kills == reached


@pytest.mark.parametrize(
    "point", ["migrate.begun", "migrate.statement", "migrate.recorded", "migrate.committed"]
)
def test_a_killed_upgrade_is_undone_or_done(
    kills: Kills, new_url: NewUrl, forks: Forks, point: str
) -> None:
    """L12, X11. Until the upgrade is committed, the older Holdfast opens the store as before."""
    for nth in (1, 2, 3) if point == "migrate.statement" else (1,):
        url = new_url()
        _, progress = kills.fresh()
        kill = Kill(url=url, progress=str(progress), seed=SEED, steps=2)
        assert kills.run(kill) == 0
        upgrade = replace(kill, progress=f"{progress}-upgrade", steps=0, point=point, nth=nth)
        assert forks.run("holdfast.testing.process.kills:extra_migration", asdict(upgrade)) == 9
        if point == "migrate.committed":
            assert_refused_untouched(url)
        else:
            kills.judge(kill)
        finished = replace(upgrade, point="")
        assert forks.run("holdfast.testing.process.kills:extra_migration", asdict(finished)) == 0
        assert_refused_untouched(url)


def assert_refused_untouched(url: str) -> None:
    """F20. A store of a newer Holdfast is refused, and not one byte or row of it is written."""
    before = _all_of(url)
    driver = connect(url, World(clock=SystemClock()))
    with pytest.raises(SchemaNewerError) as refusal:
        driver.open()
    assert refusal.value.found == refusal.value.known + 1 == len(known("sqlite")) + 1
    assert _all_of(url) == before


def _all_of(url: str) -> object:
    """Return everything a store holds: the bytes of its files, or its rows on a server."""
    if url.startswith("sqlite:"):
        path = Path(url.removeprefix("sqlite:///"))
        found = {file.name: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
        found.pop("a.db-shm", None)
        # SQLite makes an empty log to look into it.
        return {name: content for name, content in found.items() if content}
    import psycopg

    address, _, schema = url.partition("schema=")
    with psycopg.connect(address.rstrip("?&")) as server:
        counted = "SELECT schemaname, relname FROM pg_stat_user_tables WHERE schemaname = %s"
        tables = server.execute(counted, (schema,)).fetchall()
        return {
            table: server.execute(f'TABLE "{schema}"."{table}"').fetchall() for _, table in tables
        }
