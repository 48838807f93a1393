"""
Exports over a wire: fetched whole or not at all; sent as often as it takes, and taken in once.

Invariant: what is left in a file is what the service sent, to the last byte, by its digest.
"""

import base64
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any, BinaryIO, Final

import httpx

from holdfast.client.connection import Connection, problem_of, unreachable

NDJSON: Final = "application/x-ndjson"
_PART_BYTES: Final = 256 * 1024


async def fetch(connection: Connection, path: str, file: BinaryIO) -> None:
    """
    Write an export into a file; begins anew when the connection breaks.

    Args:
        connection: to the service.
        path: of the export.
        file: open for writing, for nothing else; what is in it is replaced.

    Raises:
        HoldfastError: what the service raised.
        UnreachableError: nobody answered, or never to the end.
    """
    patience = connection.patience()
    while True:
        try:
            async with connection.http.stream("GET", path) as response:
                if response.is_success:
                    return await _pour(response, file)
                await response.aread()
            error, may_repeat, after = problem_of(response)
            if not may_repeat:
                raise error
        except httpx.TransportError as broken:
            error, after = unreachable(broken), 0.0
        await patience.wait(error, after)


async def send(connection: Connection, file: BinaryIO, key: str | None) -> Any:
    """
    Send an export for the service to take in, and return what it did.

    Args:
        connection: to the service.
        file: open for reading; it is sent from its beginning.
        key: idempotency key; drawn if not given.

    Raises:
        HoldfastError: what the service raised.
        UnreachableError: nobody answered.
    """
    file.seek(0)
    whole = sha256()
    while part := file.read(_PART_BYTES):
        whole.update(part)
    headers = {
        "Content-Type": NDJSON,
        "Content-Length": str(file.tell()),
        "Content-Digest": _digest(whole.digest()),
    }
    return await connection.plain(
        "POST", "/v1/import", content=lambda: _parts(file), headers=headers, key=key
    )


async def _pour(response: httpx.Response, file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()
    whole = sha256()
    async for part in response.aiter_bytes():
        file.write(part)
        whole.update(part)
    if response.headers.get("content-digest") != _digest(whole.digest()):
        raise httpx.ReadError("what came is not what its digest says")


async def _parts(file: BinaryIO) -> AsyncIterator[bytes]:
    file.seek(0)
    while part := file.read(_PART_BYTES):
        yield part


def _digest(of: bytes) -> str:
    """Return a digest as RFC 9530 writes it."""
    return f"sha-256=:{base64.b64encode(of).decode()}:"
