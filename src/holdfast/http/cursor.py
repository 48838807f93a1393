"""
Cursors: where a reader is, in a listing or in a log.

A listing's cursor is opaque: the key behind which it goes on, and a hash of what was asked for,
so that it never goes on in another listing. An event's id is `<lineage>.<sequence>`, in the feed
`<lineage>.f<position>`: the lineage changes when a store is restored from a backup, so that a
reader is never taken for one who has seen what will be written anew under the same numbers.
"""

import base64
import binascii
import re
from typing import Final, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.denial import CursorError

_CHECK_BYTES: Final = 6
_PLACE: Final = re.compile(r"(?:(\d{1,15})\.)?(f?)(\d{1,18})")
_WORDS: Final = ("earliest", "latest")


def page_cursor(after: str, asked: object) -> str:
    """Return the cursor that goes on behind `after` in the listing that was asked for."""
    raw = msgspec.msgpack.encode(after)
    return base64.urlsafe_b64encode(_check(raw, asked) + raw).decode().rstrip("=")


def after_of(cursor: str, asked: object) -> str:
    """
    Return behind what a cursor goes on.

    Raises:
        CursorError: it is not one of ours, or of another listing.
    """
    try:
        both = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        raw = both[_CHECK_BYTES:]
        after = msgspec.msgpack.decode(raw, type=str)
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise CursorError(reason="is not one of this service") from error
    if both[:_CHECK_BYTES] != _check(raw, asked):
        raise CursorError(reason="belongs to a listing with other filters")
    return after


def _check(raw: bytes, asked: object) -> bytes:
    return codec.digest("cursor", raw, msgspec.json.encode(asked))[:_CHECK_BYTES]


class Place(NamedTuple):
    """
    Where a reader of a log is.

    Attributes:
        number: sequence or position of the last event it has.
        lineage: of the store then; None if it did not say.
        word: `earliest` or `latest` instead of a number.
    """

    number: int = 0
    lineage: int | None = None
    word: str = ""


def place_of(text: str, *, feed: bool) -> Place:
    """
    Return the place that a cursor names.

    Raises:
        CursorError: it is none.
    """
    if text in _WORDS:
        return Place(word=text)
    found = _PLACE.fullmatch(text)
    if found is None or ((found[2] == "f") != feed and found[1] is not None):
        raise CursorError(reason="is not the id of an event of this log")
    return Place(int(found[3]), None if found[1] is None else int(found[1]))


def event_id(lineage: int, number: int, *, feed: bool) -> str:
    """Return the id of an event."""
    return f"{lineage}.f{number}" if feed else f"{lineage}.{number}"
