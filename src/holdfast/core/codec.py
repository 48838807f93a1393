"""
Values on their way to bytes and back, exactly or not at all.

Plain values only: None, bool, int (64 bits), float (to the last bit, NaN and infinities too),
str, bytes, list, and dict with string keys. What would come back as something else (a tuple,
a datetime, a subclass) is refused with its place in the value, never turned into a string.
Only a `Secret` is stored as something else: its placeholder.
Nothing is executed on load. Payloads above `COMPRESS_BYTES_MIN` that shrink are stored
compressed where the caller asks for it (blobs, snapshots).

A type is looked through once, by one thread (`learned`): msgspec keeps what it learns of a type
on the type itself, half learned while it asks an enum for its members, and a second thread that
decodes in that moment ends the process.

Invariant: `decode(encode(value))` is `value`, same types and same bits, for every value without
secrets that `encode` accepts.
"""

from collections.abc import Mapping
from hashlib import blake2b, sha256
from threading import RLock
from typing import Any, Final, Literal, TypeVar, cast

import msgspec
import zstandard

from holdfast.core.errors import DecodeError, EncodeError, LimitError
from holdfast.core.secret import PLACEHOLDER, Secret

FORMAT: Final = 1
PAYLOAD_BYTES_MAX: Final = 16 * 1024 * 1024
DEPTH_MAX: Final = 64
COMPRESS_BYTES_MIN: Final = 1024

Encoding = Literal["raw", "zstd"]
T = TypeVar("T")

_SCALARS: Final = frozenset({str, int, float, bool, type(None), bytes})


def _placeholder(value: object) -> str:
    """Return what is stored of a secret; `_check` let nothing else through that is not plain."""
    if isinstance(value, Secret):
        return PLACEHOLDER
    raise NotImplementedError(type(value).__qualname__)


_DECODERS: Final[dict[Any, msgspec.msgpack.Decoder[Any]]] = {}
LEARNING: Final = RLock()
"""Held by whoever makes a decoder at run time."""


def decoder_of(shape: Any) -> msgspec.msgpack.Decoder[Any]:
    """Return the decoder of a type; the first who asks makes it while all others wait."""
    known = _DECODERS.get(shape)
    if known is None:
        with LEARNING:
            known = _DECODERS.setdefault(shape, msgspec.msgpack.Decoder(shape))
    return known


def learned(shape: type[T]) -> type[T]:
    """Return a type that any thread may now decode or convert to."""
    decoder_of(shape)
    return shape


_encode = msgspec.msgpack.Encoder(enc_hook=_placeholder).encode
_decode = msgspec.msgpack.Decoder().decode


def encode(value: object, what: str = "data") -> bytes:
    """
    Return the bytes of a plain value.

    Args:
        value: what to store.
        what: how error messages call it.

    Raises:
        EncodeError: a part of it cannot be stored exactly; names the path, never the content.
        LimitError: it takes more than `PAYLOAD_BYTES_MAX` bytes.
    """
    if type(value) not in _SCALARS:
        _check(value, what, DEPTH_MAX)
    try:
        encoded = _encode(value)
    except OverflowError as error:
        raise EncodeError(path=what, reason="holds an integer of more than 64 bits") from error
    except UnicodeEncodeError as error:
        raise EncodeError(path=what, reason="holds a string with a lone surrogate") from error
    if len(encoded) > PAYLOAD_BYTES_MAX:
        raise LimitError(what=f"{what} in bytes", size=len(encoded), limit=PAYLOAD_BYTES_MAX)
    return encoded


def encode_parts(fields: Mapping[str, msgspec.Raw]) -> bytes:
    """
    Return the bytes of a dict whose values are `msgspec.Raw`, that is encoded already.

    Raises:
        LimitError: it takes more than `PAYLOAD_BYTES_MAX` bytes.
    """
    encoded = _encode(fields)
    if len(encoded) > PAYLOAD_BYTES_MAX:
        raise LimitError(what="record in bytes", size=len(encoded), limit=PAYLOAD_BYTES_MAX)
    return encoded


def decode(encoded: bytes, what: str = "data") -> Any:
    """
    Return the value that was encoded.

    Raises:
        DecodeError: the bytes are not an encoded value.
    """
    try:
        return _decode(encoded)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise DecodeError(what=what, reason="not an encoded value") from error


def decode_as(encoded: bytes, shape: type[T], what: str = "data") -> T:
    """
    Return the value as `shape`, any type that msgspec can build.

    Raises:
        DecodeError: the value is not of that shape.
    """
    try:
        return cast(T, decoder_of(shape).decode(encoded))
    except (msgspec.DecodeError, RecursionError) as error:
        raise DecodeError(what=what, reason=f"not a {shape.__name__}") from error


def convert(plain: object, shape: type[T], *, strict: bool = True) -> T:
    """
    Return plain values as `shape`.

    Raises:
        msgspec.ValidationError: they are not of that shape; names the place.
    """
    return msgspec.convert(plain, learned(shape), strict=strict)


def digest(*fields: bytes | str | int | float | None) -> bytes:
    """
    Return the 16-byte BLAKE2b digest of a row.

    The fields are joined by their encoding, which is injective: no two different rows share
    the bytes that are hashed.
    """
    return blake2b(_encode(fields), digest_size=16).digest()


def frame(*fields: bytes | str | int | float | None) -> bytes:
    """Return fields as bytes, so that different ones are never the same."""
    return _encode(fields)


def pack(data: bytes) -> tuple[Encoding, bytes]:
    """Return bytes as they are stored: compressed if they are long and it helps."""
    if len(data) >= COMPRESS_BYTES_MIN:
        packed = zstandard.ZstdCompressor(level=3).compress(data)
        if len(packed) < len(data):
            return "zstd", packed
    return "raw", data


def unpack(encoding: str, stored: bytes, size: int) -> bytes:
    """
    Return the bytes that were packed.

    Args:
        encoding: what `pack` returned.
        stored: the stored bytes.
        size: the original length in bytes; bounds the memory a damaged frame can ask for.

    Raises:
        DecodeError: they are not packed bytes of that size.
    """
    if encoding == "raw":
        return stored
    if encoding != "zstd":
        raise DecodeError(what="stored bytes", reason="unknown encoding")
    try:
        declared = zstandard.frame_content_size(stored)
        if declared != size:
            raise DecodeError(what="stored bytes", reason="size differs from the index")
        return zstandard.ZstdDecompressor().decompress(stored, max_output_size=size)
    except zstandard.ZstdError as error:
        raise DecodeError(what="stored bytes", reason="broken compressed frame") from error


def _check(value: object, path: str, depth: int) -> None:
    """Walk containers; scalars are told by type alone, so the common case stays cheap."""
    if depth == 0:
        raise EncodeError(path=path, reason=f"nested deeper than {DEPTH_MAX}")
    kind = type(value)
    if kind is dict:
        for key, item in cast(dict[object, object], value).items():
            if type(key) is not str:
                raise EncodeError(path=path, reason=_refusal(key, "as a key"))
            if type(item) not in _SCALARS:
                _check(item, f"{path}.{key}", depth - 1)
    elif kind is list:
        for index, item in enumerate(cast(list[object], value)):
            if type(item) not in _SCALARS:
                _check(item, f"{path}[{index}]", depth - 1)
    elif kind not in _SCALARS and kind is not Secret:
        raise EncodeError(path=path, reason=_refusal(value, "exactly"))


def _refusal(value: object, how: str) -> str:
    return (
        f"{type(value).__qualname__} cannot be stored {how}; "
        "convert it to None, bool, int, float, str, bytes, list or dict[str, ...]"
    )


def content_digest(data: bytes) -> bytes:
    """Return the SHA-256 of bytes, by which blobs are named."""
    return sha256(data).digest()
