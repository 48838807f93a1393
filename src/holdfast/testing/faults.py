"""
Bugs to plant: known ways to break a promise, each to show that a test would notice.

    with planted("acknowledge-before-commit"):
        ...  # stores opened in here have the bug

A planted bug changes Holdfast inside this process, until the block ends. Each is a class whose
docstring says which promise it breaks; `PLANTS` lists them by name.
"""

import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, Final, Protocol

from holdfast.core.commit import Decision, decide
from holdfast.core.errors import InvalidValueError
from holdfast.core.unit import Unit
from holdfast.store import port, writer
from holdfast.store.writer import Entry, Writer

__all__ = ["PLANTS", "AcknowledgeBeforeCommit", "Plant", "planted"]


class Plant(Protocol):
    """A bug that can be planted."""

    def planted(self) -> AbstractContextManager[None]:
        """Have the bug for the duration of a block."""
        ...


class AcknowledgeBeforeCommit:
    """
    Answer when a unit was decided, commit later: breaks "acknowledged means durable".

    The commit follows after `WAIT` seconds, as in every cache that writes behind, so a kill
    loses what was answered in between.
    """

    WAIT: Final = 0.05

    def __init__(self) -> None:
        """Start with nothing being committed."""
        self._batch: list[Entry] = []

    @contextmanager
    def planted(self) -> Generator[None]:
        """Have the bug for the duration of a block."""
        commit = Writer._decide  # pyright: ignore[reportPrivateUsage]

        def deciding(units: Sequence[Unit], *rest: Any) -> Decision:
            decision = decide(units, *rest)
            # The writer answers again after the commit; answers after the first are dropped.
            writer._answer(self._batch, decision.answers)  # pyright: ignore[reportPrivateUsage]
            threading.Event().wait(self.WAIT)
            return decision

        def committing(self_: Writer, entries: list[Entry]) -> list[port.Answer]:
            self._batch = entries
            return commit(self_, entries)

        with _replaced(port, "decide", deciding), _replaced(Writer, "_decide", committing):
            yield


PLANTS: Final[Mapping[str, type[Plant]]] = MappingProxyType(
    {"acknowledge-before-commit": AcknowledgeBeforeCommit}
)


def planted(name: str) -> AbstractContextManager[None]:
    """
    Return a block in which Holdfast has a bug.

    Raises:
        InvalidValueError: there is no bug of that name.
    """
    if name not in PLANTS:
        raise InvalidValueError(what="plant", reason=f"{name!r} is none of {', '.join(PLANTS)}")
    return PLANTS[name]().planted()


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Generator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
