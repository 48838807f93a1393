"""
Searching runs: which of them are of interest, page by page, and how many there are.

Runs are kept by their ids; what is asked for beyond the status is looked at run by run. One look
goes through a bounded number of them, whatever is found, and says where to go on.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from holdfast.core.errors import LimitError
from holdfast.core.journal import Started, read_payload
from holdfast.core.key import encode_key, prefix_end
from holdfast.core.run import RunView, Status, decode_view, needs_somebody
from holdfast.core.unit import RecordRow
from holdfast.runtime.runs.handle import RunInfo
from holdfast.runtime.runs.journal import stream_of
from holdfast.runtime.runs.view import KIND, Views

LISTED_MAX: Final = 10_000
SCANNED_MAX: Final = 10_000
COUNTED_MAX: Final = 10_000
_PAGE: Final = 2_000
_NEVER: Final = float("-inf")
_EVER: Final = float("inf")


class Sought(msgspec.Struct, frozen=True, kw_only=True):
    """
    Which runs are of interest; every condition that is given has to hold.

    Attributes:
        status: where they are.
        function: name of what they execute.
        labels: words they have.
        text: stands in the beginning of their arguments.
        parent: run that started them.
        origin: run they were forked from.
        created_after, created_before: wall time of their start.
        updated_after: wall time of their last change.
        attention: they wait for somebody to do something.
    """

    status: Status | None = None
    function: str | None = None
    labels: Mapping[str, str] = {}
    text: str = ""
    parent: str = ""
    origin: str = ""
    created_after: float = _NEVER
    created_before: float = _EVER
    updated_after: float = _NEVER
    attention: bool = False

    def fits(self, view: RunView) -> bool:
        """Return whether a run is one of these; moments are compared as they are shown."""
        return (
            self.status in (None, view.status)
            and self.function in (None, view.function)
            and self.labels.items() <= view.labels.items()
            and (not self.text or self.text.casefold() in view.inputs.casefold())
            and self.parent in ("", view.parent)
            and self.origin in ("", view.origin)
            and self.created_after < round(view.created, 6) < self.created_before
            and self.updated_after < round(view.updated, 6)
            and (not self.attention or needs_somebody(view))
        )


class Found(NamedTuple):
    """
    What one look found.

    Attributes:
        runs: in the order of their ids.
        after: id behind which to go on; None at the end.
    """

    runs: list[RunInfo]
    after: str | None


class Count(NamedTuple):
    """
    How many there are.

    Attributes:
        value: so many, or at least so many.
        exact: all were looked at.
    """

    value: int
    exact: bool


class Search:
    """Finds runs."""

    def __init__(self, views: Views) -> None:
        """Take the views of the runs."""
        self._views = views

    async def page(self, sought: Sought, after: str | None = None, limit: int = 100) -> Found:
        """
        Return runs in the order of their ids; fewer than `limit` also where a look ended.

        Args:
            sought: which runs.
            after: id behind which to go on.
            limit: how many at most.

        Raises:
            LimitError: `limit` is too large.
        """
        if not 1 <= limit <= LISTED_MAX:
            raise LimitError(what="limit", size=limit, limit=LISTED_MAX)
        sought = self._as_stored(sought)
        found: list[RunInfo] = []
        scanned = 0
        while scanned < SCANNED_MAX:
            size = _PAGE if scanned else min(_PAGE, max(limit, 100))
            rows = await self._rows(sought, after, size)
            for row in rows:
                view = decode_view(row.value or b"")
                after = row.key[0]
                if sought.fits(view):
                    found.append(RunInfo.of(after, view, row.version))
                    if len(found) == limit:
                        return Found(found, after)
            if len(rows) < size:
                return Found(found, None)
            scanned += len(rows)
        return Found(found, after)

    async def count(self, sought: Sought) -> Count:
        """Return how many runs there are of these, exactly up to `COUNTED_MAX`."""
        sought = self._as_stored(sought)
        count, scanned, after = 0, 0, None
        while scanned < COUNTED_MAX:
            rows = await self._rows(sought, after, _PAGE)
            count += sum(sought.fits(decode_view(row.value or b"")) for row in rows)
            if len(rows) < _PAGE:
                return Count(count, exact=True)
            scanned, after = scanned + len(rows), rows[-1].key[0]
        return Count(count, exact=False)

    async def is_like(
        self,
        run_id: str,
        function: str,
        args: Sequence[Any],
        labels: Mapping[str, str],
        queue: str,
        priority: int,
    ) -> bool:
        """Return whether a run that is there was started with just this."""
        fn, values = self._views.functions.named(function, tuple(args))
        said, _ = self._views.started(
            fn, values, labels=self._views.redaction(dict(labels)), queue=queue, priority=priority
        )
        _, page = await self._views.store.events(stream_of(run_id), 0, 1)
        first = read_payload(page[0].type, page[0].payload) if page else None
        return isinstance(first, Started) and _given(first) == _given(said)

    def _as_stored(self, sought: Sought) -> Sought:
        """Return what is sought in the words that are stored: labels are redacted there."""
        labels = self._views.redaction(dict(sought.labels))
        return msgspec.structs.replace(sought, labels=labels)

    async def _rows(self, sought: Sought, after: str | None, limit: int) -> list[RecordRow]:
        first = b"" if after is None else encode_key((after,)) + b"\0"
        tag = None if sought.status is None else sought.status.value
        return await self._views.damages.records(KIND, first, prefix_end(b""), limit, tag)


def _given(said: Started) -> tuple[object, ...]:
    """Return what a run was started with, without what was drawn for it."""
    args = [bytes(one) for one in said.args]
    given = (said.function, args, said.blob, said.labels, said.queue, said.priority)
    return (*given, said.parent, said.origin)
