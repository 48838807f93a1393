"""Seals: each fits in one place only, and whatever says another place is damage."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from holdfast.core import sealing
from holdfast.core.errors import DamagedError
from holdfast.core.event import Event, EventRow
from holdfast.core.sealing import KEY_KIND, LINEAGE_KIND, SEALED, BrokenSeal, KeyMissingError
from holdfast.core.unit import PutRecord, RecordRow, Unit
from holdfast.store.keyring import Keyring
from holdfast.store.vault import HEADER_BYTES, Vault


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    """A vault with one data key."""
    Keyring.create(tmp_path / "agent.keys", "k1")
    made = Vault(Keyring.from_file(tmp_path / "agent.keys"))
    made.learn([row_of(made.fresh(1, 0.0).put(0))])
    return made


def row_of(unit: Unit) -> RecordRow:
    """Return the record that a unit writes, as it is stored."""
    (write,) = unit.writes
    assert isinstance(write, PutRecord)
    return RecordRow(write.kind, write.key, 1, None, write.value, 0.0)


def stored(vault: Vault) -> EventRow:
    """Return an event as it lies in the log of stream `s`."""
    payload, meta = sealing.sealed_event(vault, "s", 2, Event.of("t", "data", meta="data"))
    return EventRow(7, 1, 2, "t", payload, meta, 0.0, b"", 1 + SEALED)


def test_what_was_sealed_comes_back_with_the_format_it_had(vault: Vault) -> None:
    """Issue 7. Events with and without metadata, records."""
    event = sealing.open_event(vault, "s", stored(vault))
    assert (event.payload, event.format) == (Event.of("t", "data").payload, 1)
    assert event.meta == event.payload
    bare, none = sealing.sealed_event(vault, "s", 2, Event.of("t", 1))
    assert none is None and bare != Event.of("t", 1).payload
    row = RecordRow("k", ("a",), 1, "t", b"value", 0.0)
    sealed = sealing.sealed_record(vault, row)
    assert sealed.format == row.format + SEALED and b"value" not in (sealed.value or b"")
    assert sealing.open_record(vault, sealed) == row


@pytest.mark.parametrize(
    ("stream", "change"),
    [
        ("other", {}),
        ("s", {"sequence": 3}),
        ("s", {"type": "u"}),
        ("s", {"payload": None}),
        ("s", {"meta": None}),
    ],
)
def test_an_event_fits_its_stream_sequence_type_and_half_alone(
    vault: Vault, stream: str, change: dict[str, Any]
) -> None:
    """Issue 7. Also data in the place of metadata, and the other way round."""
    row = stored(vault)
    halves = {"payload": row.meta, "meta": row.payload}
    change = {name: halves.get(name, what) for name, what in change.items()}
    with pytest.raises(DamagedError, match="sealed"):
        sealing.open_event(vault, stream, msgspec.structs.replace(row, **change))


@pytest.mark.parametrize("change", [{"kind": "j"}, {"key": ("b",)}, {"version": 2}, {"tag": "u"}])
def test_a_record_fits_its_kind_key_version_and_tag_alone(
    vault: Vault, change: dict[str, Any]
) -> None:
    """Issue 7. Each of them."""
    row = sealing.sealed_record(vault, RecordRow("k", ("a",), 1, "t", b"value", 0.0))
    with pytest.raises(DamagedError, match="sealed"):
        sealing.open_record(vault, msgspec.structs.replace(row, **change))


@pytest.mark.parametrize(
    ("place", "fits", "others"),
    [
        (
            sealing.blob_place,
            (b"digest", 5, "raw"),
            [(b"Digest", 5, "raw"), (b"digest", 6, "raw"), (b"digest", 5, "zstd")],
        ),
        (
            sealing.snapshot_place,
            ("n", "s", 1, 5, "raw"),
            [
                ("m", "s", 1, 5, "raw"),
                ("n", "t", 1, 5, "raw"),
                ("n", "s", 2, 5, "raw"),
                ("n", "s", 1, 6, "raw"),
                ("n", "s", 1, 5, "zstd"),
            ],
        ),
    ],
    ids=["blob", "snapshot"],
)
def test_bytes_fit_what_they_are_of_alone(
    vault: Vault, place: Callable[..., bytes], fits: tuple[Any, ...], others: list[tuple[Any, ...]]
) -> None:
    """Issue 7. Digest, size and packing of a blob; name, stream, sequence too of a snapshot."""
    sealed, more = sealing.seal_bytes(vault, place(*fits), b"bytes")
    damage = DamagedError(what="bytes", name="x", reason="sealed")
    assert sealing.open_bytes(vault, place(*fits), sealed, 1 + more, damage) == b"bytes"
    for other in others:
        with pytest.raises(DamagedError, match="sealed"):
            sealing.open_bytes(vault, place(*other), sealed, 1 + more, damage)


def test_every_byte_of_a_seal_counts(vault: Vault) -> None:
    """Issue 7. Version, number, salt, nonce, content, tag; one changed, cut or added."""
    sealed = vault.seal(b"place", b"value")
    changed = [
        sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
        for at in range(len(sealed))
        if at not in range(1, 5)  # Of another data key, which is looked for.
    ]
    vault.learn([], asked=2)
    other_key = sealed[:4] + b"\x02" + sealed[5:]
    for wrong in (*changed, other_key, sealed[:-1], sealed + b"x", sealed[: HEADER_BYTES - 1], b""):
        with pytest.raises(BrokenSeal):
            vault.open(b"place", wrong)


def test_without_a_keyring_sealed_is_never_shown_as_it_is(vault: Vault) -> None:
    """Issue 7. For who opened the store before it was encrypted."""
    row = sealing.sealed_record(vault, RecordRow("k", ("a",), 1, None, b"value", 0.0))
    for look in (
        lambda: sealing.open_record(None, row),
        lambda: sealing.open_event(None, "s", stored(vault)),
    ):
        with pytest.raises(KeyMissingError):
            look()


@pytest.mark.parametrize("kind", [KEY_KIND, LINEAGE_KIND])
def test_what_is_read_without_a_key_is_never_sealed(vault: Vault, kind: str) -> None:
    """Issue 7. Who makes a backup, or unlocks the store, has none."""
    row = RecordRow(kind, ("a",), 1, None, b"value", 0.0)
    assert sealing.sealed_record(vault, row) is row
