"""
What is kept of a pipeline: which content it worked on, under which version, in which run.

A pipeline is a machine and a key; the key is a tuple of strings and stays one. Every content it
is given gets a version, counted from 1, and every version is one run. The id of that run is
derived from machine, version and key, so that it is found again, and no two of them share one:
`/` joins the parts, and within a part `\\` and `/` are written `\\\\` and `\\/`.

Invariants: different (machine, version, key) have different run ids; one key has one newest
version, and versions are never reused.
"""

from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DamagedError
from holdfast.core.key import Key

HEAD: Final = "holdfast.pipeline"
"""Kind of the record of a key's newest version; its key is (machine, *key)."""
VERSION: Final = "holdfast.pipeline.version"
"""Kind of the record of each version; its key is (machine, joined key, version)."""
FUNCTION: Final = "holdfast.machine/"
"""How the functions that walk machines are named."""


class Version(msgspec.Struct, frozen=True):
    """
    One content of a pipeline.

    Attributes:
        machine, key: which pipeline.
        version: its number, from 1.
        digest: SHA-256 of the encoded content.
        kept: the content is in the store.
        fingerprint: of the machine's table when it began.
        run_id: the run that works on it.
        began: when, for people.
    """

    machine: str
    key: Key
    version: int
    digest: bytes
    kept: bool
    fingerprint: str
    run_id: str
    began: float

    @property
    def head_key(self) -> Key:
        """Where the newest version of the key is found."""
        return (self.machine, *self.key)

    @property
    def version_key(self) -> Key:
        """Where this version is found."""
        return (self.machine, joined(self.key), f"{self.version:012d}")


def joined(key: Key) -> str:
    """Return a key as one string; no two keys have the same."""
    return "/".join(part.replace("\\", "\\\\").replace("/", "\\/") for part in key)


def run_id_of(machine: str, version: int, key: Key) -> str:
    """Return the id of the run that works on a version."""
    return f"{joined((machine,))}/{version}/{joined(key)}"


def read_version(value: bytes, machine: str, key: Key) -> Version:
    """
    Return a stored version of the pipeline that was asked for.

    Raises:
        DecodeError: it was written by something else.
        DamagedError: it is that of another pipeline.
    """
    found = codec.decode_as(value, Version, "pipeline")
    if (found.machine, found.key) != (machine, key):
        raise DamagedError(
            what="pipeline", name=joined((machine, *key)), reason="holds another key"
        )
    return found


def version_place(run_id: str, labels: dict[str, str]) -> Key | None:
    """Return where the version is found that a run worked on, by its id and labels, or None."""
    machine, version = labels.get("machine", ""), labels.get("version", "")
    begin = f"{joined((machine,))}/{version}/"
    if not version.isdigit() or not run_id.startswith(begin):
        return None
    return (machine, run_id.removeprefix(begin), f"{int(version):012d}")


def encode_input(value: Any) -> bytes:
    """
    Return the content of a pipeline as bytes; its digest binds it.

    Raises:
        EncodeError: it cannot be stored exactly.
    """
    return codec.encode(value, "input")
