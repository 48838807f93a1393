"""
Checkpoints: what a run had done at a place in its journal, from where another one can go on.

Nothing is stored for them: a checkpoint is the fold of the journal up to an event that a fork
takes over. Between two of them nothing happened that a fork would keep.

Invariants: the id of a checkpoint is the sequence of its event; its state depends on the journal
up to there alone, so it never changes.
"""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.denial import CheckpointNotFoundError
from holdfast.core.errors import BlobNotFoundError, LimitError
from holdfast.core.event import EventRow
from holdfast.core.journal import (
    Answered,
    Attached,
    ChildEnded,
    Emitted,
    Payload,
    SignalTaken,
    Started,
    StepResolved,
    StepSucceeded,
    TimerFired,
    read_payload,
)
from holdfast.core.run import RunView, begun, fold
from holdfast.runtime.runs.journal import stream_of
from holdfast.runtime.runs.view import Views

PAGE: Final = 5_000
STATE_BYTES_MAX: Final = 32 * 1024 * 1024
_KEPT: Final = (Started, StepSucceeded, Answered, SignalTaken, Attached, Emitted, ChildEnded)


class Checkpoint(msgspec.Struct, frozen=True):
    """
    A place in a journal.

    Attributes:
        id: sequence of its event.
        parent: id of the one before it; 0 before the first.
        cause: type of its event.
        step: name and number, if it is about one.
        at: wall time.
        size: of the event, in bytes.
        digest: over the journal up to it, in hexadecimal.
    """

    id: int
    parent: int
    cause: str
    step: str
    at: float
    size: int
    digest: str


class Checkpoints:
    """The checkpoints of the runs in one store."""

    def __init__(self, views: Views) -> None:
        """Take the views of the runs."""
        self._views = views

    async def list(self, run_id: str, *, after: int = 0, limit: int = 100) -> "list[Checkpoint]":
        """
        Return the checkpoints of a run in the order of its journal.

        Args:
            run_id: which run.
            after: id behind which to go on.
            limit: how many at most.

        Raises:
            RunNotFoundError: there is no such run.
        """
        await self._views.get(run_id)
        found: list[Checkpoint] = []
        parent = after
        async for row, said in self._events(run_id, after):
            if is_kept(said):
                found.append(_checkpoint(row, said, parent))
                parent = row.sequence
                if len(found) == limit:
                    break
        return found

    async def latest(self, run_id: str) -> int:
        """
        Return the id of the last checkpoint of a run.

        Raises:
            CheckpointNotFoundError: it has none, since its journal was removed.
        """
        await self._views.get(run_id)
        last = 0
        async for row, said in self._events(run_id):
            if is_kept(said):
                last = row.sequence
        if not last:
            raise CheckpointNotFoundError(run_id=run_id, checkpoint=0)
        return last

    async def state(self, run_id: str, id: int) -> dict[str, Any]:
        """
        Return what a run had done, and how it was seen, at a place in its journal.

        Args:
            run_id: which run.
            id: sequence of any event of it.

        Raises:
            CheckpointNotFoundError: its journal has no such place.
            LimitError: the state is too large to be shown.
        """
        await self._views.get(run_id)
        state = _State(run_id)
        async for row, said in self._events(run_id):
            if row.sequence > id:
                break
            state.take(row, said)
        if state.sequence != id:
            raise CheckpointNotFoundError(run_id=run_id, checkpoint=id)
        return await self._whole(state.plain())

    async def _whole(self, plain: dict[str, Any]) -> dict[str, Any]:
        """Put large results in their places."""
        for name, value in plain["steps"].items():
            if isinstance(value, _Elsewhere):
                plain["steps"][name] = await self._blob(value)
        return plain

    async def _blob(self, elsewhere: "_Elsewhere") -> Any:
        try:
            return codec.decode(await self._views.blobs.get(elsewhere.digest.hex()))
        except BlobNotFoundError:
            return None

    async def _events(self, run_id: str, after: int = 0) -> AsyncIterator[tuple[EventRow, Payload]]:
        stream = stream_of(run_id)
        while True:
            head, page = await self._views.store.events(stream, after, PAGE)
            for row in page:
                after = row.sequence
                yield row, read_payload(row.type, row.payload)
            if head is None or not page or after >= head.last_sequence:
                return


class _Elsewhere(msgspec.Struct, frozen=True):
    digest: bytes


class _State:
    """A state that is being folded."""

    def __init__(self, run_id: str) -> None:
        self.sequence = 0
        self._run_id = run_id
        self._size = 0
        self._view: RunView | None = None
        self._parts: dict[str, dict[str, Any]] = {
            name: {} for name in ("steps", "answers", "signals", "children", "artifacts")
        }

    def take(self, row: EventRow, said: Payload) -> None:
        self.sequence = row.sequence
        self._size += len(row.payload)
        if self._size > STATE_BYTES_MAX:
            raise LimitError(what="state in bytes", size=self._size, limit=STATE_BYTES_MAX)
        if isinstance(said, Started):
            self._view = begun(said)
        elif self._view is not None:
            self._view = fold(self._view, row.type, said)
        match said:
            case StepSucceeded():
                value = _Elsewhere(said.blob) if said.blob else _plain(said.result)
                self._parts["steps"][f"{said.name}#{said.n}"] = value
            case StepResolved() if said.verdict == "done":
                self._parts["steps"][f"{said.name}#{said.n}"] = _plain(said.result)
            case Answered():
                # By its number: the id names the run, and two runs are compared.
                self._parts["answers"][str(said.n)] = _plain(said.value)
            case SignalTaken():
                self._parts["signals"][f"{said.name}#{said.n}"] = said.index
            case ChildEnded():
                self._parts["children"][said.id.removeprefix(self._run_id)] = said.status
            case Attached():
                kept = {"digest": said.digest.hex(), "size": said.size}
                self._parts["artifacts"][f"{said.name}#{said.n}"] = kept
            case _:
                return

    def plain(self) -> dict[str, Any]:
        view = self._view
        shown: dict[str, Any] = {}
        if view is not None:
            shown = {
                "status": view.status.value,
                "waits": list(view.waits),
                "attempt": view.attempt,
                "mark": view.mark,
                "labels": dict(view.labels),
                "function": view.function,
                "version": view.version,
            }
        return {"run": shown, **self._parts}


def is_kept(said: Payload) -> bool:
    """Return whether an event is something that a fork takes over."""
    if isinstance(said, StepResolved):
        return said.verdict == "done"
    return isinstance(said, _KEPT) or (
        isinstance(said, TimerFired) and said.wait.startswith("timer:")
    )


def _plain(raw: msgspec.Raw) -> Any:
    return codec.decode(bytes(raw))


def _checkpoint(row: EventRow, said: Payload, parent: int) -> Checkpoint:
    name, n = getattr(said, "name", ""), getattr(said, "n", 0)
    step = f"{name}#{n}" if isinstance(said, StepSucceeded | StepResolved) else ""
    at = getattr(said, "at", 0.0) or row.recorded_at
    return Checkpoint(row.sequence, parent, row.type, step, at, len(row.payload), row.digest.hex())
