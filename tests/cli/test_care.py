"""Doctor, gc and query by command: what they see, what they remove, and that no more changes."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import Run
from holdfast.cli.app import run as command
from holdfast.core.errors import DamagedError
from holdfast.core.world import World
from holdfast.runtime import backup, restore
from holdfast.runtime.doctor import Ailment, examine
from holdfast.testing.clock import ManualClock
from tests.cli.invocation import SECRET, documents, fill, invoke, run
from tests.cli.test_commands import damage


def ailments(url: str, **words: Any) -> dict[str, Ailment]:
    """Return what the doctor sees, by id."""
    return {one.id: one for one in run(examine(url, **words))}


async def quick(run: Run) -> int:
    """Do nothing."""
    return 1


def test_a_store_that_is_well_has_no_ailments(store: str) -> None:
    """Operators 5: no finding, code 0, nothing on stdout; and looking changes nothing."""
    before = invoke("info", "--store", store, "--json").stdout
    done = invoke("doctor", "--store", store)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
    assert invoke("info", "--store", store, "--json").stdout == before


def test_the_doctor_names_what_it_sees_and_what_to_do(store: str, tmp_path: Path) -> None:
    """Operators 5: id, severity, evidence, consequence, remedy, fixable; an error ends with 9."""
    place = tmp_path / "b"
    done = invoke("doctor", "--backups", place, "--probe", "--json", store=store)
    found = {one["id"]: one for one in documents(done)}
    assert done.returncode == 9
    assert found["backup"]["severity"] == "error"
    assert found["backup"]["fixable"]
    assert all({"evidence", "consequence", "remedy"} <= set(one) for one in found.values())
    assert ("sync" in found) == store.startswith("sqlite")
    run(backup.create(store, place, world=World(clock=ManualClock())))
    assert ailments(store, backups=place)["backup"].severity == "warning", "it is years old"


def test_the_doctor_sees_a_restore_that_nobody_confirmed(store: str, tmp_path: Path) -> None:
    """Operators 8.5: why nothing is executed is said by the tool that is asked first."""
    made = run(backup.create(store, tmp_path / "b"))
    copy = f"sqlite:///{tmp_path / 'copy.db'}"
    run(restore.restore(Path(made.path), copy))
    assert "restore --confirm" in ailments(copy)["restored"].remedy
    run(restore.confirm(copy))
    assert "restored" not in ailments(copy)


DYING = """
import asyncio, os, signal, sys, holdfast
from holdfast import Run
async def unknown(run: Run) -> None:
    await run.step("wait", asyncio.Event().wait)
async def main():
    async with holdfast.open(sys.argv[1], functions=[unknown]) as rt:
        await rt.runs.start(unknown, run_id="r")
        async for event in rt.runs.history("r").follow():
            if event.type == "step.started":
                os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


def test_the_doctor_sees_who_died_and_damage_that_is_known(store: str) -> None:
    """Operators 5: lease owners that live are told from those that do not."""
    damage(store)  # Before the log of the one who is killed covers it.
    killed = subprocess.run([sys.executable, "-c", DYING, store], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "died" in ailments(store)["owners"].evidence

    async def meet() -> None:
        async with holdfast.open(store) as rt:
            with pytest.raises(DamagedError):
                await rt.history("chat/user-42").read(after=1)

    run(meet())
    found = ailments(store)
    assert found["damage"].severity == "error"
    assert "owners" not in found, "the opening took the work over"


def test_the_doctor_sees_files_that_others_may_read(tmp_path: Path) -> None:
    """Security 17, X12: files of a store are private; what is left over is named."""
    path = tmp_path / "store.db"
    run(fill(f"sqlite:///{path}"))
    path.chmod(0o644)
    (tmp_path / "store.db.tmp-0123").touch()
    (tmp_path / "store.db-holdfast" / "kept" / "refused-0001").mkdir(parents=True)
    # Looking is an opening alone, which removes what is unfinished; so others have it open.
    found = ailments(f"sqlite:///{path}")
    assert "644" in found["permissions"].evidence
    assert "kept" in found


def test_gc_removes_runs_that_ended_and_says_before_what_it_would(empty: str) -> None:
    """X9: growth is bounded by policy; --dry-run changes nothing."""

    async def prepare() -> None:
        async with holdfast.open(empty, functions=[quick]) as rt:
            for number in range(5):
                await (await rt.runs.start(quick, run_id=f"r{number}")).result()

    run(prepare())
    words = ["gc", "--store", empty, "--runs-kept", "2"]
    assert "3 runs would be removed" in invoke(*words, "--dry-run").stderr
    assert "3 runs removed" in invoke(*words).stderr
    assert "0 runs removed" in invoke(*words).stderr
    assert invoke("verify", empty).returncode == 0
    assert invoke("gc", "--store", empty, "--runs-older", "soon").returncode == 2


def test_gc_removes_backups_whose_maker_died(store: str, tmp_path: Path) -> None:
    """X4: leftovers are cleaned; what is whole stays."""
    made = run(backup.create(store, tmp_path))
    (tmp_path / "2026-01-01T00-00-00Z.tmp-00").mkdir()
    assert "1 unfinished" in invoke("gc", "--backups", tmp_path, store=store).stderr
    assert run(backup.verify(Path(made.path))) == []
    assert not list(tmp_path.glob("*.tmp-*"))


def test_a_query_reads_and_is_limited(store: str) -> None:
    """Operators 5: rows as documents, no more than asked for."""
    text = "SELECT type AS kind, sequence FROM event WHERE type = 'turn_added' ORDER BY position"
    words = ["query", text, "--store", store]
    done = invoke(*words, "--json", "--limit", "2")
    assert documents(done) == [
        {"kind": "turn_added", "sequence": 1},
        {"kind": "turn_added", "sequence": 2},
    ]
    assert "more rows" in done.stderr
    assert "turn_added" in invoke(*words).stdout


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
FORBIDDEN = [
    "DELETE FROM event",
    "WITH x AS (SELECT 1) DELETE FROM record",
    "SELECT 1; DELETE FROM record",
    "PRAGMA journal_mode = DELETE",
    "ATTACH 'x.db' AS x",
    "EXPLAIN ANALYZE DELETE FROM record",
    "COMMIT",
    "SELECT nothing FROM nowhere",
]


def test_a_query_cannot_change_anything(store: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Security: the database refuses; the answer quotes nothing that is stored."""
    before = invoke("events", "chat/user-42", "--store", store, "--json").stdout
    codes = {text: command(["query", text, "--store", store]) for text in FORBIDDEN}
    assert set(codes.values()) == {2}, codes
    said = capsys.readouterr()
    assert (said.out, SECRET in said.err) == ("", False)
    assert invoke("events", "chat/user-42", "--store", store, "--json").stdout == before
    assert invoke("verify", store).returncode == 0


QUOTING = {
    "sqlite": "SELECT json(type) FROM event WHERE type = 'turn_added'",
    "postgresql": "SELECT CAST(type AS INTEGER) FROM event WHERE type LIKE 'turn%'",
}


def test_what_a_database_says_of_a_query_quotes_nothing_stored(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """X12: an error of the database may hold the value that it could not take."""
    text = QUOTING[store.partition(":")[0]]
    assert command(["query", text, "--store", store]) == 2
    said = capsys.readouterr()
    assert (said.out, "turn_added" in said.err) == ("", False), said.err


def test_a_query_that_takes_too_long_ends_with_124(store: str) -> None:
    """Operators 5: time-limited."""
    assert invoke("query", ENDLESS, "--store", store, "--timeout", "0.3").returncode == 124
