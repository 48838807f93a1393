"""Damage of one thing keeps nothing else from being served: every kind of thing, one by one."""

import asyncio
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

import holdfast
from holdfast.core.errors import DamagedError
from tests.lab.pile import PileEngine
from tests.lab.piles import do
from tests.runtime.crowd import FUNCTIONS, STREAM, go_on

FILL = "import asyncio, sys; from tests.runtime.crowd import fill; asyncio.run(fill(sys.argv[1]))"
RUNS = {"first", "second", "third"}
# Runs that wait as long as something is damaged: it is theirs, or nobody can tell who is alive.
WAITING = {
    "record holdfast.queue": {"first", "second"},
    "record holdfast.runtime": RUNS,
    "lease holdfast/runtime/": RUNS,
    "stream run/first": {"first", "second"},
    "stream run/second": {"second"},
    "stream run/third": {"third"},
}
# The engine itself; a service that needs it does not serve without.
ENGINE = {"record holdfast.engine", "stream holdfast/audit/pile", "stream holdfast/engine/4:pile/"}
RECORDS = [
    "holdfast.artifact",
    "holdfast.blob",
    "holdfast.damage",
    "holdfast.engine",
    "holdfast.engine.rules",
    "holdfast.identity",
    "holdfast.latch",
    "holdfast.ledger",
    "holdfast.ledger.stop",
    "holdfast.question",
    "holdfast.question.claim",
    "holdfast.queue",
    "holdfast.queue.slot",
    "holdfast.run",
    "holdfast.run.blob",
    "holdfast.run.queued",
    "holdfast.run.timer",
    "holdfast.runtime",
    "holdfast.schedule",
    "holdfast.session",
    "holdfast.token",
    "own",
    "session.Desk.buffered",
    "session.Desk.durable",
    "session.Desk.durable.pair",
]
STREAMS = [
    "holdfast/audit/pile",
    "holdfast/engine/4:pile/",
    "holdfast/ledger/1",
    "holdfast/recovery",
    STREAM,
    "run/asks",
    "run/ended",
    "run/first",
    "run/parent",
    "run/parent/1",
    "run/second",
    "run/sleeps",
    "run/third",
]
LEASES = ["holdfast/runtime/", "mine"]
THINGS = [
    *(f"record {kind}" for kind in RECORDS),
    *(f"stream {name}" for name in STREAMS),
    *(f"lease {key}" for key in LEASES),
]


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that was left by a process that was killed at work."""
    folder = tmp_path_factory.mktemp("crowded")
    program = [sys.executable, "-c", FILL, f"sqlite:///{folder / 'a.db'}"]
    assert subprocess.run(program, timeout=120, check=False).returncode == -signal.SIGKILL
    return folder


def things(file: Path) -> set[str]:
    """Return what there is in a store that could be damaged."""
    with closing(apsw.Connection(str(file))) as db:
        kinds = {kind for (kind,) in db.execute("SELECT kind FROM record")}
        streams = {name.decode() for (name,) in db.execute("SELECT name FROM stream")}
        leases = {key.decode() for (key,) in db.execute("SELECT key FROM lease")}
    found = {f"record {kind}" for kind in kinds} | {f"stream {name}" for name in streams}
    return found | {f"lease {'holdfast/runtime/' if '/' in key else key}" for key in leases}


def harm(file: Path, thing: str) -> None:
    """Damage all rows of a kind, a stream's head, or a lease."""
    table, _, name = thing.partition(" ")
    where = {
        "record": "kind = ?",
        "stream": "CAST(name AS TEXT) = ?",
        "lease": "CAST(key AS TEXT) LIKE ? || '%'",
    }[table]
    with closing(apsw.Connection(str(file))) as db:
        db.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        db.execute(f"UPDATE {table} SET digest = x'00' WHERE {where}", (name,))
        assert db.changes()


def test_everything_that_is_stored_is_damaged_here(crowded: Path) -> None:
    """F9. What nobody damages proves nothing."""
    assert things(crowded / "a.db") == set(THINGS)


@pytest.mark.parametrize("thing", [thing for thing in THINGS if thing not in ENGINE])
def test_damage_of_one_thing_keeps_nothing_else_from_being_served(
    crowded: Path, tmp_path: Path, thing: str
) -> None:
    """F9, F10. It is opened, new work goes, lists list the rest, and interrupted runs go on."""
    file = Path(shutil.copytree(crowded, tmp_path / "copy")) / "a.db"
    harm(file, thing)

    async def work() -> None:
        options = {"functions": FUNCTIONS, "engines": {"pile": PileEngine()}}
        async with holdfast.open(f"sqlite:///{file}", **options) as rt, asyncio.timeout(60):
            await go_on(rt)
            await rt.engines["pile"].request(do, 2)
            for run_id in sorted(RUNS - WAITING.get(thing, set())):
                assert await rt.runs.result(run_id) == "done"
            await rt.verify()

    asyncio.run(work())


@pytest.mark.parametrize("thing", sorted(ENGINE))
def test_an_engine_that_is_damaged_is_named_and_the_rest_serves_without(
    crowded: Path, tmp_path: Path, thing: str
) -> None:
    """F9, N6. A service that needs it does not serve; nobody serves on half of its memory."""
    file = Path(shutil.copytree(crowded, tmp_path / "copy")) / "a.db"
    harm(file, thing)

    async def work() -> None:
        async with holdfast.open(f"sqlite:///{file}", functions=FUNCTIONS) as rt:
            await go_on(rt)
        with pytest.raises(DamagedError, match="pile"):
            async with holdfast.open(f"sqlite:///{file}", engines={"pile": PileEngine()}) as rt:
                await rt.engines["pile"].request(do, 2)

    asyncio.run(work())
