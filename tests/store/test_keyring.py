"""Keyrings: who may read them, what is in them, and how a vault seals under their keys."""

import sys
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import PutRecord, Unit
from holdfast.core.errors import InvalidValueError, MissingExtraError
from holdfast.core.unit import RecordRow
from holdfast.core.world import World
from holdfast.runtime.runtime import make_driver
from holdfast.store import unlock as unlocking
from holdfast.store.keyring import Keyring
from holdfast.store.options import Options
from holdfast.store.vault import Vault, number_of


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
    key = file.read_text().split()[1]
    for wrong in ("", "k1 c2hvcnQ=", "k1 !", "a b c", f"k1 {key},k1 {key}"):
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


def test_values_are_sealed_under_the_newest_data_key_from_the_moment_it_is_known(
    ring: Path,
) -> None:
    """Issue 7. Also by who sealed under another one before; that one still opens."""
    vault = Vault(Keyring.from_file(ring))
    vault.learn([_row(vault.fresh(1, 0.0).put(0))])
    before = vault.seal(b"place", b"value")
    vault.learn([_row(vault.fresh(2, 0.0).put(0))])
    after = vault.seal(b"place", b"value")
    assert (number_of(before), number_of(after)) == (1, 2)
    assert vault.open(b"place", before) == vault.open(b"place", after) == b"value"


def test_who_comes_second_to_make_the_first_data_key_takes_the_one_that_is_there(
    ring: Path, tmp_path: Path
) -> None:
    """Issue 7, X5. Both saw that there was none; what the first one sealed meanwhile is kept."""
    world, driver = World(), make_driver(f"sqlite:///{tmp_path / 's.db'}", Options(), World())
    driver.open()
    try:
        one, two = Vault(Keyring.from_file(ring)), Vault(Keyring.from_file(ring))
        unlocking.unlock(driver, one, world, read_only=False)
        sealed = one.seal(b"place", b"value")
        unlocking._make_first(driver, two, world)
        unlocking.unlock(driver, two, world, read_only=False)
        assert two.open(b"place", sealed) == b"value"
        assert (one.newest, two.newest) == (1, 1)
    finally:
        driver.close()


def test_a_file_that_is_no_keyring_any_more_changes_nothing(ring: Path) -> None:
    """Issue 7. Half written by an editor, or readable by others: who has the keys goes on."""
    kept = Keyring.from_file(ring)
    key = kept.find("k1")
    for spoil in (lambda: ring.chmod(0o644), lambda: ring.write_text("k1 !"), ring.unlink):
        spoil()
        assert kept.find("k2") is None
        assert (kept.current, kept.find("k1")) == ("k1", key)


def test_a_keyring_is_shown_by_its_place_and_its_ids(ring: Path) -> None:
    """Issue 7. Nothing of a key, in whatever writing, by whatever shows it."""
    Keyring.create(ring, "k2")
    kept = Keyring.from_file(ring)
    assert repr(kept) == f"Keyring('keyring {ring}', k1, k2)"
    assert f"{kept}" == repr(kept)
    assert repr(kept.find("k1")) not in repr(Vault(kept)) + repr(holdfast.Options(keyring=kept))


def _row(unit: Unit) -> Any:
    (write,) = unit.writes
    assert isinstance(write, PutRecord)
    return RecordRow(write.kind, write.key, 1, None, write.value, 0.0)
