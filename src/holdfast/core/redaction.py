"""
Keeping secrets out of the store: named fields are replaced before anything is encoded.

Invariant: what is redacted never reaches the write queue, so it is in no event, record, log or
backup; the value handed in is not changed.
"""

from collections.abc import Iterable
from typing import Final, cast

REDACTED: Final = "[redacted]"


class Redaction:
    """Replaces the values of named fields, at any depth, whatever their case."""

    def __init__(self, fields: Iterable[str] = ()) -> None:
        """Take the names of fields, such as `password` or `authorization`."""
        self._fields = frozenset(name.casefold() for name in fields)

    def __call__(self, value: object) -> object:
        """Return the value without secrets; the same object if there is nothing to look for."""
        return self._clean(value) if self._fields else value

    def _clean(self, value: object) -> object:
        if isinstance(value, dict):
            fields = cast(dict[object, object], value)
            return {
                name: REDACTED if str(name).casefold() in self._fields else self._clean(item)
                for name, item in fields.items()
            }
        if isinstance(value, list):
            return [self._clean(item) for item in cast(list[object], value)]
        return value
