"""
Commands around runs, questions, checkpoints, artifacts: of a store, and of a service.

A command says the same of both, since it asks both the same way. Exit codes tell scripts apart
what a person would read.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

import holdfast
from holdfast import Run
from tests.cli.invocation import documents, invoke, run
from tests.http.server import TOKEN
from tests.http.service import Service

ROOT = Path(__file__).parents[2]


async def report(the_run: Run, topic: str) -> str:
    """Ask before it publishes."""
    outline = await the_run.step("outline", topic.upper)
    await the_run.ask("Publish it?", choices=["yes", "no"])
    await the_run.attach("report.md", outline.encode(), media_type="text/markdown")
    return outline


async def broken(the_run: Run) -> None:
    """Fail."""
    raise ValueError("no paper")


async def prepared(url: str) -> None:
    """Leave a run that waits, one that failed, and one that left an artifact."""
    async with holdfast.open(url) as rt:
        for run_id in ("waits", "ends"):
            await rt.runs.start(report, "sea", run_id=run_id, labels={"kind": run_id})
        await (await rt.runs.start(broken, run_id="fails")).ended()
        for run_id in ("waits", "ends"):
            async for event in rt.runs.history(run_id).follow():
                if event.type == "run.waiting":
                    break
        await rt.runs.answer("ends?1", "yes")
        await rt.runs.ended("ends")


class Asked:
    """The command line, pointed at a store, or at a service on it."""

    def __init__(self, *where: str | Path) -> None:
        """Take the words that say where."""
        self._where = where

    def __call__(self, *words: str | Path) -> CompletedProcess[str]:
        """Run a command to its end."""
        return invoke(*words, *self._where)

    def json(self, *words: str) -> list[Any]:
        """Run a command that prints documents, and has to do what was asked."""
        done = self(*words, "--json")
        assert done.returncode == 0, done.stderr
        return documents(done)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with what was prepared."""
    found = f"sqlite:///{tmp_path}/store.db"
    run(prepared(found))
    return found


@pytest.fixture
def asked(url: str) -> Asked:
    """The command line, on a store."""
    return Asked("--store", url)


@pytest.fixture(params=["store", "service"])
def either(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Iterator[Asked]:
    """The command line, on a store and on a service."""
    if request.param == "store":
        yield Asked("--store", url)
        return
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with Service(url) as service:
        yield Asked("--url", service.base, "--token-file", token)


def test_a_run_is_started_for_a_session_and_found_by_it(tmp_path: Path) -> None:
    """Operators 2.2, 5. By the id of the session, in lists and where many runs are meant."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with Service(f"sqlite:///{tmp_path}/store.db") as service:
        asked = Asked("--url", service.base, "--token-file", token)
        of = ("--session", "Chat/a%2Fb")
        words = ("--id", "mine", "--label", "kind=new", "--priority", "3", *of)
        (started,) = asked.json("run", "start", "tests.http.functions.count", "1", *words)
        assert (started["id"], started["priority"]) == ("mine", 3)
        assert started["labels"] == {"kind": "new", "holdfast.session": "Chat/a%2Fb"}
        service.ended("mine")
        service.begin("count", 1, run_id="other")
        assert [one["id"] for one in asked.json("run", "list", *of)] == ["mine"]
        assert asked.json("run", "list", "--session", "Chat/a") == []
        (plan,) = asked.json("run", "bulk", "remove", *of, "--dry-run")
        assert plan["selected"] == 1


def test_runs_are_listed_shown_and_explained(asked: Asked) -> None:
    """Filters are those of the service; a sentence says why a run waits."""
    assert [one["id"] for one in asked.json("run", "list")] == ["ends", "fails", "waits"]
    assert [one["id"] for one in asked.json("run", "list", "--label", "kind=waits")] == ["waits"]
    assert [one["id"] for one in asked.json("run", "list", "--status", "failed")] == ["fails"]
    assert asked.json("run", "show", "ends")[0]["result"] == "SEA"
    assert "waits?1" in asked("run", "explain", "waits").stdout
    assert asked("run", "show", "nobody").returncode == 3
    assert asked("run", "list", "--status", "odd").returncode == 2


def test_watching_tells_how_a_run_ended(either: Asked) -> None:
    """0 succeeded, 6 failed, 7 cancelled, 124 time ran out; every event once."""
    assert either("run", "watch", "ends").returncode == 0
    assert either("run", "watch", "fails").returncode == 6
    assert either("run", "watch", "waits", "--timeout", "0.5").returncode == 124
    assert either("run", "cancel", "waits", "--reason", "over").returncode == 0
    seen = either("run", "watch", "waits", "--json")
    assert seen.returncode == 7
    events = documents(seen)
    assert [one["seq"] for one in events] == list(range(1, len(events) + 1))
    assert events == either.json("run", "events", "waits")


def test_the_first_answer_counts_and_a_script_is_told(either: Asked) -> None:
    """A10: 4 says that another was first; 8 that an answer is needed and nobody can be asked."""
    assert [one["id"] for one in either.json("question", "list")] == ["waits?1"]
    assert either("question", "answer", "waits?1", "--no-input").returncode == 8
    assert either.json("question", "answer", "waits?1", "no")[0]["answer"] == "no"
    late = either("question", "answer", "waits?1", "yes")
    assert late.returncode == 4
    assert "answered" in late.stderr
    assert either.json("question", "show", "waits?1")[0]["state"] == "answered"
    assert either("question", "show", "nobody?1").returncode == 3


def test_checkpoints_are_compared_and_a_fork_is_planned_first(asked: Asked) -> None:
    """A place that is listed is one at which a run can be forked; a plan changes nothing."""
    places = [one["id"] for one in asked.json("checkpoint", "list", "ends")]
    assert places
    shown = asked.json("checkpoint", "show", "ends", "latest", "--pointer", "/steps")
    assert shown[0]["state"]["outline#1"] == "SEA"
    patch = json.loads(asked("checkpoint", "diff", f"ends@{places[0]}", "ends@latest").stdout)
    assert any(one["path"] == "/steps/outline#1" for one in patch)
    before = asked.json("run", "list")
    plan = asked.json("run", "fork", "ends", "--at", str(places[-1]), "--dry-run")[0]
    assert {one["step"]: one["fate"] for one in plan["steps"]}["outline#1"] == "reused"
    assert asked.json("run", "list") == before


def test_artifacts_are_got_into_new_files_only(asked: Asked, tmp_path: Path) -> None:
    """A14: by name, whole, into a file that was not there."""
    (listed,) = asked.json("artifact", "list", "ends")
    assert (listed["name"], listed["size"]) == ("report.md", 3)
    assert asked("artifact", "get", "ends", "report.md").stdout == "SEA"
    target = tmp_path / "report.md"
    assert asked("artifact", "get", "ends", "report.md", "--output", target).returncode == 0
    assert target.read_bytes() == b"SEA"
    assert asked("artifact", "get", "ends", "report.md", "--output", target).returncode == 5
    assert asked("artifact", "get", "ends", "nothing").returncode == 3


def test_sessions_and_work_in_flight_are_looked_at_and_resolved(tmp_path: Path) -> None:
    """H1: what was in flight when a process died is listed, and somebody says what became of it."""
    url = f"sqlite:///{tmp_path}/store.db"
    died = subprocess.run([sys.executable, "-m", "tests.cli.killed", url], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    asked = Asked("--store", url)
    (session,) = asked.json("session", "list")
    assert session["key"] == ["user/42"]
    assert asked.json("session", "show", session["id"])[0]["tiers"]["durable"] == {"turns": 1}
    (entry,) = asked.json("ledger", "list")
    assert entry["key"] == ["user/42"]
    resolved = asked.json("ledger", "resolve", "user/42", "done", "--reason", "seen")
    assert resolved[0]["outcome"] == "done"
    assert asked.json("ledger", "list", "--state", "interrupted") == []


def test_where_to_ask_has_to_be_said_once(tmp_path: Path) -> None:
    """Neither, and both, are refused with what to say."""
    assert invoke("run", "list").returncode == 2
    both = invoke("run", "list", "--store", f"sqlite:///{tmp_path}/a.db", "--url", "http://h")
    assert both.returncode == 2
    assert "not both" in both.stderr


def test_a_token_that_is_missing_or_wrong_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    """12; and a service that nobody runs is unavailable, not a fault."""
    with Service(f"sqlite:///{tmp_path}/store.db") as service:
        assert invoke("run", "list", "--url", service.base).returncode == 12


def test_a_worker_of_a_service_is_drained_and_takes_runs_again(url: str, tmp_path: Path) -> None:
    """Section 6: the table and the answer say since when; 3 for one that is not there."""
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with Service(url) as service:
        asked = Asked("--url", service.base, "--token-file", token)
        (worker,) = asked.json("worker", "list")
        assert worker["drained_at"] is None
        shown = asked("worker", "list").stdout.splitlines()[-1].split()[4]
        assert re.fullmatch(r"\d+(\.\d{1,3})?", shown), shown
        drained = asked.json("worker", "drain", worker["id"], "--reason", "new machine")
        assert [one["drained_at"] for one in asked.json("worker", "list")] == [
            drained[0]["drained_at"]
        ]
        assert asked.json("worker", "resume", worker["id"])[0]["drained_at"] is None
        assert asked("worker", "drain", "nobody").returncode == 3
