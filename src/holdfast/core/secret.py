"""
A value that is never shown and never stored.

Whoever prints, logs, formats or stores a `Secret` gets a placeholder; only `reveal` gives the
value. So a token can travel through arguments and results next to what is kept, and a replay
after a crash sees the placeholder, from which the program knows to fetch the token anew.

Invariant: no method but `reveal` gives anything away, not even the length.
"""

from hmac import compare_digest
from typing import Final, NoReturn

from holdfast.core.errors import InvalidValueError

PLACEHOLDER: Final = "[redacted:secret]"


class Secret:
    """A text that is shown and stored as a placeholder; `reveal` returns it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        """Take the text."""
        self._value = value

    def reveal(self) -> str:
        """Return the text; do not hand it to anything that keeps or logs it."""
        return self._value

    def __repr__(self) -> str:
        """Return the placeholder."""
        return PLACEHOLDER

    def __str__(self) -> str:
        """Return the placeholder."""
        return PLACEHOLDER

    def __format__(self, spec: str) -> str:
        """Return the placeholder, whatever the width."""
        return PLACEHOLDER

    def __eq__(self, other: object) -> bool:
        """Compare in constant time; only another secret is equal."""
        if not isinstance(other, Secret):
            return NotImplemented
        return compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        """Return the hash of the text, so that secrets can be counted and looked up."""
        return hash((Secret, self._value))

    def __deepcopy__(self, known: object) -> "Secret":
        """Return the same one: it cannot be changed."""
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: that would be the text in a file."""
        raise InvalidValueError(what="secret", reason="cannot be pickled")
