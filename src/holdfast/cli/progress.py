"""Progress of long work on stderr: a line that changes where somebody looks, else now and then."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from holdfast.cli.output import notes
from holdfast.core.clock import SystemClock

EVERY: Final = 5.0

Tell = Callable[[str, int], None]


@contextmanager
def shown(title: str, noun: str = "rows") -> Generator[Tell]:
    """Lend what is told how far the work is: a word, and how many of what the noun says."""
    console, clock = notes(), SystemClock()
    last = clock.monotonic()
    if console.is_terminal:
        with console.status(title) as status:
            yield lambda word, count: status.update(f"{title}: {word}, {count:,} {noun}")
        return

    def tell(word: str, count: int) -> None:
        nonlocal last
        if clock.monotonic() - last >= EVERY:
            last = clock.monotonic()
            console.print(f"{title}: {word}, {count:,} {noun}")

    yield tell
