"""
Names and keys are values, never file names.

A stream name is a string, stored as its exact UTF-8 bytes: names that differ in case, Unicode
form, separators or length stay different. A key is a tuple of strings. Its encoding is
injective and keeps order: each part's bytes, a zero byte escaped as `00 FF`, then a closing
`00`. So a tuple prefix is a byte prefix, and listing by prefix is a range.
"""

from functools import lru_cache
from urllib.parse import quote, unquote

from holdfast.core.errors import InvalidValueError, LimitError

Key = tuple[str, ...]

NAME_BYTES_MAX = 65_536
WORD_CHARACTERS_MAX = 255
# 0xFF occurs nowhere in UTF-8, so it lies above every continuation of a prefix.
_ABOVE_ALL = b"\xff"
# Words found acceptable; programs use a few of them over and over.
_accepted: set[str] = set()
_ACCEPTED_MAX = 4_096
_ENCODED_MAX = 4_096


def encode_name(what: str, name: str) -> bytes:
    """
    Return the UTF-8 bytes of a name; the empty name is a name.

    Raises:
        InvalidValueError: the name is not a string or has no UTF-8 form.
        LimitError: it is longer than `NAME_BYTES_MAX`.
    """
    encoded = _utf8(what, name)
    if len(encoded) > NAME_BYTES_MAX:
        raise LimitError(what=f"{what} in bytes", size=len(encoded), limit=NAME_BYTES_MAX)
    return encoded


def as_key(key: str | Key) -> Key:
    """Return a key as the tuple it means; a string is a tuple of one."""
    return (key,) if isinstance(key, str) else tuple(key)


def encode_key(key: Key) -> bytes:
    """
    Return the order-keeping bytes of a key.

    Raises:
        InvalidValueError: the tuple is empty or a part has no UTF-8 form.
        LimitError: it is longer than `NAME_BYTES_MAX`.
    """
    try:
        return _encoded(key)
    except TypeError:
        # A part that cannot be looked up is no string; this says which.
        return _encoded.__wrapped__(key)


@lru_cache(_ENCODED_MAX)
def _encoded(key: Key) -> bytes:
    """One commit asks for the same few keys over and over."""
    if not key:
        raise InvalidValueError(what="key", reason="a key needs at least one part")
    encoded = b"".join(_utf8("key", part).replace(b"\0", b"\0\xff") + b"\0" for part in key)
    if len(encoded) > NAME_BYTES_MAX:
        raise LimitError(what="key in bytes", size=len(encoded), limit=NAME_BYTES_MAX)
    return encoded


def decode_key(encoded: bytes) -> Key:
    """
    Return the key whose encoding this is.

    Raises:
        ValueError: the bytes are not the encoding of any key.
    """
    if b"\0\xff" not in encoded and encoded.endswith(b"\0"):
        # No part holds a zero byte, as almost always.
        return tuple(part.decode() for part in encoded[:-1].split(b"\0"))
    parts: list[str] = []
    part = bytearray()
    at = 0
    while at < len(encoded):
        byte = encoded[at]
        at += 1
        if byte:
            part.append(byte)
        elif encoded[at : at + 1] == _ABOVE_ALL:
            part.append(0)
            at += 1
        else:
            parts.append(part.decode())
            part.clear()
    if part or not parts:
        raise ValueError("not an encoded key")
    return tuple(parts)


def quoted_key(key: Key) -> str:
    """Return a key as one word: its parts quoted, with slashes between; one word for each key."""
    return "/".join(quote(part, safe="") for part in key)


def unquoted_key(word: str) -> Key:
    """
    Return the key that is meant by a word.

    Raises:
        InvalidValueError: what is quoted there is no UTF-8.
    """
    try:
        return tuple(unquote(part, errors="strict") for part in word.split("/"))
    except UnicodeDecodeError as error:
        raise InvalidValueError(what="key", reason="quotes what is no UTF-8") from error


def prefix_end(prefix: bytes) -> bytes:
    """Return the first bytes above every name or key that begins with `prefix`."""
    return prefix + _ABOVE_ALL


def check_word(what: str, word: str) -> str:
    """
    Return a short word (event type, record kind, tag) unchanged if it is acceptable.

    Raises:
        InvalidValueError: empty, too long, or with a character no database stores.
    """
    if type(word) is str and word in _accepted:
        return word
    if type(word) is not str or not word:
        raise InvalidValueError(what=what, reason="must be a non-empty string")
    if len(word) > WORD_CHARACTERS_MAX:
        raise LimitError(what=f"{what} in characters", size=len(word), limit=WORD_CHARACTERS_MAX)
    if "\0" in word:
        raise InvalidValueError(what=what, reason="must not contain a NUL character")
    _utf8(what, word)
    if len(_accepted) < _ACCEPTED_MAX:
        _accepted.add(word)
    return word


def _utf8(what: str, text: str) -> bytes:
    if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] callers are users
        raise InvalidValueError(what=what, reason=f"must be a string, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidValueError(what=what, reason="holds a lone surrogate") from error
