"""The command line of encrypted stores: keys are made, rotated and asked for."""

import os
from pathlib import Path

import pytest

from tests.cli.invocation import SECRET, documents, fill, invoke, run


@pytest.fixture
def ring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A keyring that every command finds by the environment."""
    file = tmp_path / "agent.keys"
    assert invoke("key", "create", file, "--id", "k1").returncode == 0
    assert file.stat().st_mode & 0o777 == 0o600
    monkeypatch.setenv("HOLDFAST_KEYRING", str(file))
    return file


def test_commands_read_an_encrypted_store_with_the_keyring_of_the_environment(
    empty: str, ring: Path, tmp_path: Path
) -> None:
    """Issue 7. `--json` on stdout; an export says what it holds, in plain text."""
    run(fill(empty))
    shown = documents(invoke("events", "chat/user-42", "--store", empty, "--json"))
    assert shown[0]["data"] == {"number": 0, "text": SECRET}
    assert invoke("key", "create", ring).returncode == 0
    done = invoke("key", "rotate", "--store", empty, "--json")
    assert done.returncode == 0, done.stderr
    assert documents(done)[0]["wrapped"] == 1
    keys = documents(invoke("key", "list", "--store", empty, "--json"))
    assert [one["number"] for one in keys] == [1, 2]
    assert len({one["by"] for one in keys}) == 1 and keys[0]["by"] != "k1"
    done = invoke("export", "chat/user-42", "--store", empty, "--output", tmp_path / "e")
    assert done.returncode == 0, done.stderr
    del os.environ["HOLDFAST_KEYRING"]
    done = invoke("import", tmp_path / "e", "--store", f"sqlite:///{tmp_path / 'plain.db'}")
    assert done.returncode == 0, done.stderr


def test_without_the_key_a_command_ends_with_its_own_code_and_verify_checks_what_it_can(
    empty: str, ring: Path
) -> None:
    """Issue 7. Exit code 12; `verify` needs no key."""
    run(fill(empty))
    del os.environ["HOLDFAST_KEYRING"]
    done = invoke("events", "chat/user-42", "--store", empty)
    assert (done.returncode, done.stdout) == (12, "")
    assert "k1" in done.stderr and SECRET not in done.stderr
    done = invoke("verify", empty)
    assert done.returncode == 0 and "without the key" in done.stderr
    other = ring.with_name("other.keys")
    assert invoke("key", "create", other, "--id", "k1").returncode == 0
    assert invoke("key", "rotate", "--store", empty, "--keyring", other).returncode == 12
    ring.chmod(0o644)
    assert invoke("key", "list", "--store", empty, "--keyring", ring).returncode == 2
