"""
A rider: writes that go with the next unit that a caller commits, in its transaction.

Whoever serves requests has to keep, together with what a request does, that it was done: under
which key, by whom. What it does is somebody else's code, which builds its unit by itself; so the
rest rides along. `riding` holds for the code of one block, whatever it calls and awaits.

Invariants: a rider goes with one unit that was committed, or with none; never with one that is
committed after its block was left, although tasks begun inside it go on.
"""

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

from holdfast.core.errors import VersionConflictError
from holdfast.core.unit import Append, AtVersion, Committed, PutRecord, Unit, Write

Commit = Callable[[Unit], Coroutine[None, None, Committed]]


class TakenError(Exception):
    """What the rider expects does not hold: somebody else did the same before."""


class Rider:
    """
    Writes that go along, to streams and kinds of records that nobody else writes.

    Attributes:
        rode: they are committed.
    """

    def __init__(self, writes: tuple[Write, ...], expects: tuple[AtVersion, ...] = ()) -> None:
        """Take what goes along; behind the writes of the unit it goes with."""
        self._writes = writes
        self._expects = expects
        self._streams = {write.stream for write in writes if isinstance(write, Append)}
        self._kinds = {write.kind for write in writes if isinstance(write, PutRecord)}
        self._busy = False
        self._over = False
        self.rode = False

    async def take(self, unit: Unit, commit: Commit) -> Committed:
        """
        Commit a unit together with the rider, or alone if the rider is on its way already.

        Raises:
            TakenError: what the rider expects does not hold; nothing was written.
        """
        if self.rode or self._busy or self._over:
            return await commit(unit)
        self._busy = True
        try:
            both = Unit((*unit.writes, *self._writes), (*unit.expects, *self._expects), unit.id)
            committed = await commit(both)
        except VersionConflictError as conflict:
            if conflict.kind in self._kinds:
                raise TakenError from conflict
            raise
        finally:
            self._busy = False
        self.rode = True
        return self._without(committed)

    def end(self) -> None:
        """Go with nothing any more."""
        self._over = True

    def _without(self, committed: Committed) -> Committed:
        """Return the answer as the unit's own author expects it."""
        return msgspec.structs.replace(
            committed,
            events=tuple([one for one in committed.events if one[0] not in self._streams]),
            records=tuple([one for one in committed.records if one.kind not in self._kinds]),
        )


_rider: ContextVar[Rider | None] = ContextVar("holdfast_rider", default=None)


@contextmanager
def riding(rider: Rider) -> Generator[Rider]:
    """Let a rider go with the first unit that is committed in this block."""
    token = _rider.set(rider)
    try:
        yield rider
    finally:
        rider.end()
        _rider.reset(token)


@contextmanager
def alone() -> Generator[None]:
    """Let no rider go with what is committed in this block: its unit comes later."""
    token = _rider.set(None)
    try:
        yield
    finally:
        _rider.reset(token)


def current() -> Rider | None:
    """Return who wants to ride along with what is committed now."""
    return _rider.get()
