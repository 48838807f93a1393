"""Backups by command: what is said, what is printed, and how each ends."""

from pathlib import Path

import pytest

from tests.cli.invocation import SECRET, documents, invoke
from tests.cli.test_commands import damage


def test_a_store_is_backed_up_checked_drilled_restored_and_confirmed(
    store: str, tmp_path: Path
) -> None:
    """Issue 7, X13: the whole way by command, with documents on stdout and the rest on stderr."""
    place, copy = tmp_path / "b", f"sqlite:///{tmp_path / 'copy.db'}"
    (made,) = documents(invoke("backup", "create", "--to", place, "--json", store=store))
    assert (made["rows"]["event"], made["lineage"]) == (6, 1)
    (listed,) = documents(invoke("backup", "list", place, "--json"))
    assert listed == made
    path = made["path"]
    checked = invoke("backup", "verify", path)
    assert (checked.returncode, checked.stdout) == (0, "")
    (drilled,) = documents(invoke("backup", "drill", path, "--scratch", tmp_path, "--json"))
    assert drilled["findings"] == []
    restored = invoke("restore", path, "--store", copy, "--json")
    assert restored.returncode == 0, restored.stderr
    assert "--confirm" in restored.stderr
    (info,) = documents(invoke("info", "--store", copy, "--json"))
    assert (info["lineage"], bool(info["paused"])) == (documents(restored)[0]["lineage"], True)
    for words in ("goes on", "was not paused"):
        done = invoke("restore", "--confirm", "--by", "ann", "--store", copy)
        assert (done.returncode, words in done.stderr) == (0, True)
    assert documents(invoke("events", "chat/user-42", "--store", copy, "--json")) == documents(
        invoke("events", "chat/user-42", "--store", store, "--json")
    )


def test_a_restore_over_a_store_ends_with_4_and_changes_nothing(store: str, tmp_path: Path) -> None:
    """Issue 7: what is there is never replaced."""
    (made,) = documents(invoke("backup", "create", "--to", tmp_path, "--json", store=store))
    before = invoke("events", "chat/user-42", "--store", store, "--json").stdout
    done = invoke("restore", made["path"], "--store", store)
    assert done.returncode == 4
    assert "move that one away" in done.stderr
    assert invoke("events", "chat/user-42", "--store", store, "--json").stdout == before


def test_a_damaged_backup_ends_with_9_and_is_not_restored(store: str, tmp_path: Path) -> None:
    """X3, X12: found by verify, refused by restore, and its content is not shown."""
    (made,) = documents(invoke("backup", "create", "--to", tmp_path, "--json", store=store))
    damage(f"sqlite:///{made['path']}/store.db")
    done = invoke("backup", "verify", made["path"], "--json")
    assert done.returncode == 9
    assert ("chat/user-42", 2) in {(one["name"], one["sequence"]) for one in documents(done)}
    copy = f"sqlite:///{tmp_path / 'copy.db'}"
    refused = invoke("restore", made["path"], "--store", copy)
    assert refused.returncode == 9
    assert not (tmp_path / "copy.db").exists()
    assert SECRET not in done.stdout + done.stderr + refused.stderr


def test_a_backup_of_a_damaged_store_is_made_and_says_so(store: str, tmp_path: Path) -> None:
    """X3: better a copy of what is left than none; nobody takes it for sound."""
    damage(store)
    done = invoke("backup", "create", "--to", tmp_path / "b", "--json", store=store)
    assert done.returncode == 9
    made, finding = documents(done)
    assert (finding["name"], finding["sequence"]) == ("chat/user-42", 2)
    assert (Path(made["path"]) / "manifest.json").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["backup", "verify", "{}/none"], 3),
        (["backup", "drill", "{}/none"], 3),
        (["backup", "list", "{}/none"], 0),
        (["backup", "create", "--store", "sqlite:///{}/no.db", "--to", "{}/b"], 10),
        (["restore", "{}/none", "--store", "sqlite:///{}/no.db"], 3),
        (["restore", "--store", "sqlite:///{}/no.db"], 2),
        (["restore", "{}", "--confirm", "--store", "sqlite:///{}/no.db"], 2),
    ],
)
def test_what_is_not_there_is_told_apart(words: list[str], code: int, tmp_path: Path) -> None:
    """Exit codes: no such backup, no store, words that make no sense."""
    done = invoke(*(word.format(tmp_path) for word in words))
    assert done.returncode == code, done.stderr
