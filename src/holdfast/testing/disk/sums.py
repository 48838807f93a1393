"""
The sums of a log's pages, worked out once for all images of a survey.

The images of one workload hold the same pages again and again, and the guard adds up every page
of every log. What a page adds up to depends on its bytes alone, so here it is looked up by them,
all of them; each page that was not seen before is added up by the product.
"""

from array import array
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from holdfast.store.sqlite import wal
from holdfast.testing.slips import replaced

__all__ = ["remembered_sums"]

_KEPT_MAX: Final = 4_096


@contextmanager
def remembered_sums() -> Generator[None]:
    """Remember what pages add up to for the length of a block."""
    add_up = wal._page_sums  # pyright: ignore[reportPrivateUsage]
    known: dict[bytes, tuple[int, int]] = {}

    def remembering(pairs: "array[int]", pages: int) -> list[tuple[int, int]]:
        data = pairs.tobytes()
        size = len(data) // pages
        bodies = [data[start : start + size] for start in range(0, len(data), size)]
        if len(known) > _KEPT_MAX:
            known.clear()
        fresh = [body for body in dict.fromkeys(bodies) if body not in known]
        if fresh:
            sums = add_up(array("Q", b"".join(fresh)), len(fresh))
            known.update(zip(fresh, sums, strict=True))
        return [known[body] for body in bodies]

    with replaced(wal, "_page_sums", remembering):
        yield
