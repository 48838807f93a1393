"""What opening a store for writing would do to its schema, without doing it."""

from collections.abc import Sequence

from holdfast.core.errors import StoreNotFoundError
from holdfast.runtime.opening import open
from holdfast.store.migrate import Migration, known
from holdfast.store.options import scheme


async def pending(url: str) -> Sequence[Migration]:
    """
    Return the migrations that a store lacks, in order; all of them if there is no store yet.

    Raises:
        StoreError: the store is refused, or cannot be reached.
    """
    try:
        async with open(url, read_only=True) as rt:
            applied = rt.opened.schema
    except StoreNotFoundError:
        applied = 0
    return known("sqlite" if scheme(url) == "sqlite" else "postgres")[applied:]
