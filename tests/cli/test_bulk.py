"""`run bulk` and `operation`: many runs at once, from the command line."""

import json
from pathlib import Path

import pytest

import holdfast
from holdfast import Run
from tests.cli.invocation import documents, invoke, run


async def asks(the_run: Run) -> None:
    """Wait for an answer."""
    await the_run.ask("What now?")


async def prepared(url: str) -> None:
    """Leave runs that wait, and one that was cancelled."""
    async with holdfast.open(url, functions=[asks]) as rt:
        for id in ("a", "b", "c"):
            await rt.runs.start(asks, run_id=id, labels={"kind": "old" if id < "c" else "new"})
            async for event in rt.runs.history(id).follow():
                if event.type == "run.waiting":
                    break
        await rt.runs.cancel("c")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A store with what was prepared."""
    found = f"sqlite:///{tmp_path}/store.db"
    run(prepared(found))
    return found


def test_many_runs_are_cancelled_once_it_was_looked_which(url: str) -> None:
    """Issue 7: a dry run, then the order with the count it said; the store serves itself."""
    asked = ("run", "bulk", "cancel", "--label", "kind=old", "--store", url, "--json")
    (plan,) = documents(invoke(*asked, "--dry-run"))
    assert (plan["selected"], plan["by_status"]) == (2, {"waiting": 2})
    other = invoke(*asked, "--expect", "3")
    assert (other.returncode, other.stdout) == (4, "")
    assert "2 runs, expected were 3" in other.stderr
    done = invoke(*asked, "--expect", "2", "--reason", "too old")
    assert done.returncode == 0, done.stderr
    (found,) = documents(done)
    assert (found["status"], found["done"], found["reason"]) == ("succeeded", 2, "too old")
    (listed,) = documents(invoke("operation", "list", "--store", url, "--json"))
    assert listed["id"] == found["id"]


def test_what_refused_is_in_the_exit_code_and_in_the_items(url: str) -> None:
    """Issue 7: 4 where runs refused, with which and why."""
    done = invoke("run", "bulk", "pause", "a", "c", "nobody", "--store", url, "--json")
    assert done.returncode == 4, done.stderr
    (found,) = documents(done)
    where = ("--store", url, "--json")
    items = documents(invoke("operation", "items", found["id"], "--outcome", "refused", *where))
    assert [(one["run_id"], one["code"]) for one in items] == [("c", "run_state")]
    shown = json.loads(invoke("operation", "show", found["id"], *where).stdout)
    assert (shown["done"], shown["refused"], shown["gone"]) == (1, 1, 1)
    assert invoke("operation", "watch", found["id"], *where).returncode == 4
    late = invoke("operation", "cancel", found["id"], *where)
    assert (late.returncode, late.stdout) == (4, "")


def test_without_a_selection_nothing_is_begun(url: str) -> None:
    """Issue 7: all runs are meant by `--all` alone, never by words that were forgotten."""
    for words in ((), ("a", "--all"), ("a", "--status", "waiting")):
        refused = invoke("run", "bulk", "cancel", *words, "--store", url)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "name runs" in refused.stderr
    assert invoke("run", "bulk", "explode", "a", "--store", url).returncode == 2
    assert documents(invoke("operation", "list", "--store", url, "--json")) == []
    left = invoke("run", "bulk", "pause", "--all", "--no-wait", "--store", url, "--json")
    assert documents(left)[0]["selected"] == 3
