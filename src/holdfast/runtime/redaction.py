"""
The key of a store with which placeholders are hashed, so that equal secrets stay equal.

It is drawn by the first opening that wants hashes and is a record like any other, so every
runtime of the store makes the same placeholders.

Invariant: before a runtime is ready it has the key, or wants none.
"""

import secrets
from collections.abc import Sequence
from typing import Any, Final

from holdfast.core import codec
from holdfast.core.errors import VersionConflictError
from holdfast.core.recovery import Phase, Step
from holdfast.core.redaction import Redactor
from holdfast.core.unit import AtVersion, PutRecord, Unit
from holdfast.runtime.boot import Planning, Progress
from holdfast.store.port import Reads
from holdfast.store.store import Store

KIND: Final = "holdfast.redaction"
KEY: Final = ("hash",)
_KEY_BYTES: Final = 32


class HashKey:
    """
    Brings the key back at the boot, or draws it.

    Attributes:
        name, phase: of its part of the boot.
    """

    name = "redaction"
    phase = Phase.RESTORING

    def __init__(self, store: Store, redaction: Redactor) -> None:
        """Take the store, and who hashes."""
        self._store = store
        self._redaction = redaction

    def look(self, reader: Reads) -> Planning:
        """See nothing: it is one record."""
        return self._plan

    async def _plan(self) -> Sequence[Step]:
        return ()

    async def execute(self, steps: Sequence[Step], progress: Progress) -> dict[str, Any]:
        """Read the key; draw it if there is none."""
        while self._redaction.keyed and self._redaction.key is None:
            row = await self._store.read(lambda reader: reader.record(KIND, KEY))
            if row is not None and row.value is not None:
                self._redaction.key = codec.decode_as(row.value, bytes, "key of redaction")
                break
            drawn = codec.encode(secrets.token_bytes(_KEY_BYTES))
            unit = Unit((PutRecord(KIND, KEY, drawn),), (AtVersion(KIND, KEY, 0),))
            try:
                await self._store.commit_early(unit)
            except VersionConflictError:
                continue  # Another runtime was faster; its key is the store's.
        return {}
