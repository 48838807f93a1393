"""Keyrings: who may read them, what is in them, and how a vault seals under their keys."""

import sys
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import PutRecord, Unit
from holdfast.core.errors import InvalidValueError, MissingExtraError
from holdfast.core.unit import RecordRow
from holdfast.store.keyring import Keyring
from holdfast.store.vault import Vault


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """A keyring with one key."""
    file = tmp_path / "agent.keys"
    Keyring.create(file, "k1")
    return file


def test_a_keyring_that_others_can_read_or_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 7. Mode 0600; a file that is made has it."""
    file = tmp_path / "deep" / "agent.keys"
    Keyring.create(file, "k1")
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(InvalidValueError, match="in use"):
        Keyring.create(file, "k1")
    Keyring.create(file, "k2", standby=True)
    assert Keyring.from_file(file).current == "k1"
    Keyring.create(file, "k3")
    assert Keyring.from_file(file).current == "k3"
    file.chmod(0o640)
    with pytest.raises(InvalidValueError, match="chmod 600"):
        holdfast.open("sqlite:///:memory:", keyring=file)
    for wrong in ("", "k1 c2hvcnQ=", "k1 !", "a b c"):
        monkeypatch.setenv("KEYS", wrong)
        with pytest.raises(InvalidValueError) as refused:
            Keyring.from_env("KEYS")
        assert "c2hvcnQ" not in str(refused.value)
    with pytest.raises(InvalidValueError, match="cannot be read"):
        Keyring.from_file(tmp_path / "nowhere")


def test_encryption_that_is_not_installed_names_the_line_that_installs_it(
    ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 7. An extra."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'holdfast\[encryption\]'"):
        holdfast.open("sqlite:///:memory:", keyring=ring)


def test_no_two_seals_of_a_value_are_alike_and_the_key_is_drawn_anew_before_nonces_run_out(
    ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 7. Random nonces under a derived key that is used a bounded number of times."""
    monkeypatch.setattr("holdfast.store.vault.SALT_USES", 3)
    vault = Vault(Keyring.from_file(ring))
    first = vault.fresh(1, 0.0)
    vault.learn([_row(first.put(0))])
    sealed = [vault.seal(b"place", b"value") for _ in range(10)]
    assert len(set(sealed)) == 10
    assert len({one[:13] for one in sealed}) == 4
    assert {vault.open(b"place", one) for one in sealed} == {b"value"}


def _row(unit: Unit) -> Any:
    (write,) = unit.writes
    assert isinstance(write, PutRecord)
    return RecordRow(write.kind, write.key, 1, None, write.value, 0.0)
