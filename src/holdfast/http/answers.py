"""Answers: values as JSON, with the headers that every answer carries."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from holdfast.http.cursor import page_cursor

HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    That something was done.

    Attributes:
        id: of what it was done to.
        action: what was done.
        status: how that is now.
    """

    id: str
    action: str
    status: str = ""


def answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a value as JSON."""
    return Response(
        msgspec.json.encode(value),
        status,
        headers={**HEADERS, **(headers or {})},
        media_type="application/json",
    )


def moment(wall: float) -> datetime | None:
    """Return wall time as it is shown: UTC with microseconds; None for never."""
    return datetime.fromtimestamp(wall, UTC) if wall else None


def next_cursor(found: Sequence[Any], limit: int, last: str, asked: object) -> str | None:
    """Return the cursor of the next page, or None if this one is not full."""
    return page_cursor(last, asked) if len(found) >= limit else None
