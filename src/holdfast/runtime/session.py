"""
Sessions: long-lived keyed state, changed inside a visible block.

`edit()` hands out a draft. When the block leaves, its durable fields are committed in one unit,
together with whatever else the caller wants to be true at the same moment; then the draft
becomes the session's value. A block that raises changes nothing. Buffered fields only make the
session dirty; the flusher writes them.

Invariants: nobody sees a durable change before it is durable; the durable fields of one edit
are stored all or none; a buffered change made while a flush is under way stays dirty.
"""

import asyncio
import copy
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar

from holdfast.core import codec
from holdfast.core.errors import VersionConflictError
from holdfast.core.key import Key
from holdfast.core.tier import BUFFERED, DURABLE, Tier
from holdfast.core.unit import AtVersion, PatchRecord, Unit, Write
from holdfast.runtime.state import (
    VERSION_FIELD,
    Shape,
    encode_fields,
    restore_fields,
    shape_of,
)
from holdfast.store.store import Store

T = TypeVar("T")


class Session(Generic[T]):
    """
    One session of a runtime; open it with `async with`.

    Attributes:
        value: the state; read it, but change it only inside `edit()`.
    """

    def __init__(self, store: Store, kind: type[T], key: Key) -> None:
        """Take the class of the state and the session's key."""
        self._store = store
        self._shape: Shape = shape_of(kind)
        self._key = key
        self._lock = asyncio.Lock()
        self._versions = {DURABLE: 0, BUFFERED: 0}
        self._saved: dict[Tier, dict[str, bytes]] = {DURABLE: {}, BUFFERED: {}}
        self._loaded = False
        self.value: T = kind()
        # What the fields are when nothing changed them: the defaults, until something is stored.
        self._clean = {tier: self._encoded(tier, self.value) for tier in self._saved}

    async def load(self) -> None:
        """
        Read what is stored; a second call does nothing.

        Raises:
            DecodeError: it was stored by a newer version of the class.
            DamagedError: it does not match its digest.
        """
        async with self._lock:
            if not self._loaded:
                for tier in (DURABLE, BUFFERED):
                    await self._load_tier(tier)
                self._loaded = True

    async def __aenter__(self) -> Self:
        """Load the session."""
        await self.load()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write what is buffered."""
        await self.flush()

    @asynccontextmanager
    async def edit(self, *also: Write) -> AsyncGenerator[T]:
        """
        Change the state inside a block; the durable fields are committed when it leaves.

        Args:
            also: writes to commit in the same unit, such as an `Append`.

        Raises:
            EncodeError: a field cannot be stored exactly; nothing was written.
            VersionConflictError: another runtime changed the session; nothing was written, and
                the session holds what is stored now.
            OutcomeUnknownError: the commit failed.
        """
        async with self._lock:
            draft = copy.deepcopy(self.value)
            yield draft
            encode_fields(draft, self._shape.fields(BUFFERED))
            try:
                await self._save(DURABLE, draft, also)
            except VersionConflictError:
                await self._load_tier(DURABLE)
                raise
            self.value = draft

    @property
    def dirty(self) -> bool:
        """Whether buffered fields differ from what is stored."""
        return self._encoded(BUFFERED, self.value) != self._clean[BUFFERED]

    async def flush(self) -> None:
        """Write the buffered fields, if they changed, in one atomic write."""
        async with self._lock:
            if self._loaded:
                await self._save(BUFFERED, self.value, ())

    async def _save(self, tier: Tier, value: T, also: tuple[Write, ...]) -> None:
        changed = self._changed(tier, value)
        if not changed and not also:
            return
        kind = self._kind(tier)
        writes: tuple[Write, ...] = also
        expects: tuple[AtVersion, ...] = ()
        if changed:
            version = {VERSION_FIELD: codec.encode(self._shape.version)}
            writes = (*also, PatchRecord(kind, self._key, {**changed, **version}))
            expects = (AtVersion(kind, self._key, self._versions[tier]),)
        committed = await self._store.commit(Unit(writes, expects))
        for record in committed.records:
            if record.kind == kind and record.key == self._key:
                self._versions[tier] = record.version
        self._note_saved(tier, changed)

    def _changed(self, tier: Tier, value: T) -> dict[str, bytes]:
        """Return what to write; with the first change, also the fields that were never saved."""
        encoded = self._encoded(tier, value)
        if encoded == self._clean[tier]:
            return {}
        saved = self._saved[tier]
        return {name: part for name, part in encoded.items() if saved.get(name) != part}

    def _encoded(self, tier: Tier, value: T) -> dict[str, bytes]:
        return encode_fields(value, self._shape.fields(tier))

    def _note_saved(self, tier: Tier, fields: dict[str, bytes]) -> None:
        self._saved[tier].update(fields)
        self._clean[tier].update(fields)

    async def _load_tier(self, tier: Tier) -> None:
        kind = self._kind(tier)
        row = await self._store.read(lambda reader: reader.record(kind, self._key))
        if row is None or row.value is None:
            return
        self._versions[tier] = row.version
        stored = codec.decode(row.value, kind)
        restore_fields(self.value, stored, self._shape)
        known = [name for name in self._shape.fields(tier) if name in stored]
        self._note_saved(tier, encode_fields(self.value, known))

    def _kind(self, tier: Tier) -> str:
        return f"session.{self._shape.name}.{tier.value}"
