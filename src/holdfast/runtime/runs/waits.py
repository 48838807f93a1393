"""
What the tasks of a run wait for.

Several may wait for the same, such as two for signals of one name: whoever brings something wakes
all of them, and each looks whether it was for it.
"""

import asyncio
from collections.abc import Collection, Generator
from contextlib import contextmanager


class Waits:
    """The waits of one run."""

    def __init__(self) -> None:
        """Begin with none."""
        self._names: dict[asyncio.Event, str] = {}

    def __bool__(self) -> bool:
        """Return whether anybody waits."""
        return bool(self._names)

    def names(self) -> list[str]:
        """Return what is waited for, each once."""
        return list(dict.fromkeys(self._names.values()))

    @contextmanager
    def begin(self, name: str) -> Generator[asyncio.Event]:
        """Lend what is set when something may have come; whoever looks clears it before."""
        woken = asyncio.Event()
        self._names[woken] = name
        try:
            yield woken
        finally:
            del self._names[woken]

    def wake(self, names: Collection[str]) -> None:
        """Let everybody look who waits for one of these."""
        for woken, name in self._names.items():
            if name in names:
                woken.set()

    def any_woken(self) -> bool:
        """Return whether somebody is to look and did not yet."""
        return any(woken.is_set() for woken in self._names)
