"""
A parcel: an export on its way over a wire, in a file that has no name.

It is gone with whoever holds it, also if that is a process that is killed, so that nothing that was
to be read once lies about for ever. Its pieces are written and read in threads of the store.

Invariant: the digest is that of all bytes, in their order.
"""

import errno
import tempfile
from collections.abc import Awaitable, Callable
from hashlib import file_digest, sha256
from io import BufferedRandom
from typing import Any, Final

from holdfast.core.errors import StoreFullError

PIECE_BYTES: Final = 1024 * 1024
Aside = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs something that blocks, in a thread."""


class Parcel:
    """
    An export on its way.

    Attributes:
        file: open for reading and writing.
        size: in bytes.
    """

    def __init__(self, aside: Aside) -> None:
        """Make room for it; takes what runs what blocks."""
        self.file: BufferedRandom = tempfile.TemporaryFile()  # noqa: SIM115
        self._aside = aside
        self._whole = sha256()
        self._came: list[bytes] = []
        self._waiting = 0
        self.size = 0

    @property
    def digest(self) -> bytes:
        """SHA-256 of what is in it."""
        return self._whole.digest()

    async def add(self, part: bytes) -> None:
        """
        Put a part behind what is in it; `seal` is called behind the last one.

        Raises:
            StoreFullError: there is no room for it.
        """
        self._came.append(part)
        self._waiting += len(part)
        self.size += len(part)
        if self._waiting >= PIECE_BYTES:
            await self._put_down()

    async def seal(self) -> None:
        """
        Take note that it is complete: what was added, or what somebody wrote into the file.

        Raises:
            StoreFullError: there is no room for it.
        """
        await self._put_down()
        await self._aside(self._measure)

    async def read(self, at: int) -> bytes:
        """Return a piece of it, from a place on; nothing behind its end."""
        return bytes(await self._aside(lambda: self._piece(at)))

    def close(self) -> None:
        """Let it be gone."""
        self.file.close()

    async def _put_down(self) -> None:
        came, self._came, self._waiting = b"".join(self._came), [], 0
        try:
            await self._aside(lambda: self.file.write(came))
            await self._aside(self.file.flush)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise StoreFullError(reason="no room for what is on its way") from error

    def _measure(self) -> None:
        self.file.flush()
        self.file.seek(0)
        self._whole = file_digest(self.file, "sha256")
        self.size = self.file.tell()

    def _piece(self, at: int) -> bytes:
        self.file.seek(at)
        return self.file.read(PIECE_BYTES)
