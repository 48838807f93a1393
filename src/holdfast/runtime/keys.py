"""
The data keys of an encrypted store, and their rotation.

    rotate    1  each data key that another key of the keyring wraps is wrapped by the current one
              2  a new data key is made, if the current key of the keyring made none yet
              3  records, blobs and snapshots that are not sealed under the newest data key are
                 sealed anew, a page a unit

Each step is a unit that stands by itself, and each can be found out to be done: a rotation that
was killed is begun again and goes on where it was, and at any moment every value can be read.
Others may read and write meanwhile; versions of records do not change.

Events stay under the data key they were written with, or as they are if that was before the
store was encrypted: history is not changed. What is rotated for them is the wrapping.

Invariant: no value is ever stored under a data key that is not stored.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from holdfast.core.errors import InvalidValueError, VersionConflictError
from holdfast.core.key import prefix_end
from holdfast.core.sealing import KEY_KIND
from holdfast.core.unit import RecordRow, Unit, size_bytes
from holdfast.store.port import Reads
from holdfast.store.reader import Reader
from holdfast.store.reseal import WALKS, Page, Reseal
from holdfast.store.store import Store
from holdfast.store.vault import DataKey, Vault, read_data_key

UNIT_BYTES: Final = 4 * 1024 * 1024
_KEYS_MAX: Final = 10_000


class DataKeyInfo(msgspec.Struct, frozen=True):
    """
    What is known of a data key.

    Attributes:
        number: 1, 2, 3 ...; values are sealed under the last one.
        by: id of the key of the keyring that wraps it.
        made_at: wall time in seconds.
    """

    number: int
    by: str
    made_at: float


class Rotated(msgspec.Struct, frozen=True):
    """
    What a rotation did.

    Attributes:
        wrapped: data keys that were wrapped anew.
        newest: number of the data key under which is sealed now.
        resealed: values that were sealed anew.
        damaged: values that could not be, since they are damaged; `verify` names them.
    """

    wrapped: int
    newest: int
    resealed: int
    damaged: int


class Keys:
    """The data keys of one store."""

    def __init__(self, store: Store) -> None:
        """Take the store."""
        self._store = store

    async def list(self) -> Sequence[DataKeyInfo]:
        """Return the data keys; none if the store was never encrypted."""
        found = [read_data_key(row) for row in await self._rows()]
        return [DataKeyInfo(one.number, one.by, one.made_at) for one in found]

    async def rotate(self, progress: Callable[[int], None] = lambda _: None) -> Rotated:
        """
        Go over to the current key of the keyring, with everything that can be written again.

        Add a key to the keyring first; without one this only ends what was begun before. Who
        has the store open and keeps its keyring in the same file needs no restart.

        Args:
            progress: called with how many values were sealed anew since its last call.

        Raises:
            InvalidValueError: the store was opened without a keyring.
            KeyMissingError: the key that wraps a data key is not in the keyring any more.
        """
        vault = self._store.vault
        if vault is None:
            raise InvalidValueError(what="keyring", reason="is needed; open the store with one")
        vault.keyring.reload()
        wrapped = await self._wrap(vault)
        await self._make(vault)
        resealed = damaged = 0
        for walk in WALKS.values():
            done, lost = await self._walk(vault, walk, progress)
            resealed, damaged = resealed + done, damaged + lost
        return Rotated(wrapped, vault.newest, resealed, damaged)

    async def _rows(self) -> Sequence[RecordRow]:
        return await self._store.read(
            lambda reader: reader.records(KEY_KIND, b"", prefix_end(b""), _KEYS_MAX, None)
        )

    async def _wrap(self, vault: Vault) -> int:
        """Wrap by the current key what another one wraps."""
        count = 0
        for row in await self._rows():
            found = read_data_key(row)
            if found.by == vault.keyring.current:
                continue
            key = vault.unwrapped(found)
            wish = vault.wrap(found.number, key, found.made_by, found.made_at)
            count += await self._put(wish, row.version)
        return count

    async def _make(self, vault: Vault) -> None:
        """Make a new data key, unless the current key made the newest one."""
        rows = await self._rows()
        newest = read_data_key(rows[-1])
        if newest.made_by != vault.keyring.current:
            wall = self._store.world.clock.wall()
            await self._put(vault.fresh(newest.number + 1, wall), 0)
            rows = await self._rows()
        vault.learn(rows)

    async def _put(self, wish: DataKey, version: int) -> bool:
        try:
            await self._store.commit(wish.put(version))
        except VersionConflictError:
            return False  # Somebody else rotates, too.
        return True

    async def _walk(
        self,
        vault: Vault,
        walk: Callable[[Reader, int, dict[str, Any] | None], Page],
        progress: Callable[[int], None],
    ) -> tuple[int, int]:
        done = damaged = 0
        cursor: dict[str, Any] | None = None
        while True:
            page = await self._store.read(_looking(walk, vault.newest, cursor))
            for part in _parts(page.stale):
                await self._store.commit(Unit(tuple(part)))
                done += len(part)
                progress(len(part))
            damaged += page.damaged
            cursor = page.cursor
            if cursor is None:
                return done, damaged


def _looking(
    walk: Callable[[Reader, int, dict[str, Any] | None], Page],
    newest: int,
    cursor: dict[str, Any] | None,
) -> Callable[[Reads], Page]:
    def look(reader: Reads) -> Page:
        if not isinstance(reader, Reader):
            raise InvalidValueError(what="store", reason="does not show what it keeps as it is")
        return walk(reader, newest, cursor)

    return look


def _parts(stale: list[Reseal]) -> list[list[Reseal]]:
    """Return what is sealed anew in parts that fit into a unit."""
    parts: list[list[Reseal]] = []
    size = UNIT_BYTES
    for one in stale:
        size += size_bytes(Unit((one,)))
        if size > UNIT_BYTES:
            parts.append([])
            size = size_bytes(Unit((one,)))
        parts[-1].append(one)
    return parts
