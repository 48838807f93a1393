"""
The log of a pipeline: every attempt at a state, read from the journal of its run.

Invariant: nothing is kept for it; the journal says it all.
"""

from typing import Any

import msgspec

from holdfast.core import codec
from holdfast.core.journal import StepFailed, StepStarted, StepSucceeded, read_payload
from holdfast.runtime.blob import Blobs
from holdfast.runtime.pipelines.walk import Told
from holdfast.runtime.runs.journal import PAGE, stream_of
from holdfast.store.store import Store


class StepLog(msgspec.Struct, frozen=True):
    """
    One attempt at a state.

    Attributes:
        state: the state; within a branch with its way, such as `prepare/left/extract`.
        visit: how often the state was come to.
        attempt: how often it was begun in this visit.
        started_at, finished_at: wall times; None while it is not known.
        error: type and words of the error, empty if there was none.
        outcome, next: what its handler returned and what came next.
        notes: what it told people.
    """

    state: str
    visit: int
    attempt: int
    started_at: float | None
    finished_at: float | None = None
    error: str = ""
    outcome: str | None = None
    next: str = ""
    notes: list[str] = []

    @property
    def seconds(self) -> float | None:
        """How long it took."""
        if self.started_at is None or self.finished_at is None:
            return None
        return self.finished_at - self.started_at


async def read_log(store: Store, blobs: Blobs, run_id: str) -> list[StepLog]:
    """
    Return every attempt at a state, in the order in which they ended.

    Raises:
        DamagedError: the journal is damaged; says at which event.
    """
    found: list[StepLog] = []
    began: dict[tuple[str, int], StepStarted] = {}
    after = 0
    while True:
        head, page = await store.events(stream_of(run_id), after, PAGE)
        for row in page:
            after = row.sequence
            said = read_payload(row.type, row.payload)
            if isinstance(said, StepStarted):
                began[said.name, said.n] = said
            elif isinstance(said, StepSucceeded):
                found.append(await _succeeded(blobs, said))
                began.pop((said.name, said.n), None)
            elif isinstance(said, StepFailed):
                found.append(_failed(said, began.pop((said.name, said.n), None)))
        if head is None or after >= head.last_sequence:
            break
    under_way = [StepLog(one.name, one.n, one.attempt, one.at) for one in began.values()]
    return [*found, *under_way]


async def read_fields(
    store: Store, blobs: Blobs, run_id: str, fields: dict[str, Any]
) -> dict[str, Any]:
    """
    Return fields as the transitions of the main way left them; branches are joined by theirs.

    Args:
        store, blobs: where they are read.
        run_id: which run.
        fields: as they were at the start.

    Raises:
        DamagedError: the journal is damaged; says at which event.
    """
    after = 0
    while True:
        head, page = await store.events(stream_of(run_id), after, PAGE)
        for row in page:
            after = row.sequence
            said = read_payload(row.type, row.payload)
            if isinstance(said, StepSucceeded) and "/" not in said.name:
                told = await _told(blobs, said)
                fields = {name: one for name, one in fields.items() if name not in told.drop}
                fields.update(told.set)
        if head is None or after >= head.last_sequence:
            return fields


async def _told(blobs: Blobs, said: StepSucceeded) -> Told:
    raw = await blobs.get(said.blob.hex()) if said.blob else bytes(said.result)
    return codec.decode_as(raw, Told, "transition")


async def _succeeded(blobs: Blobs, said: StepSucceeded) -> StepLog:
    told = await _told(blobs, said)
    return StepLog(
        said.name,
        said.n,
        said.attempt,
        said.began,
        said.at,
        outcome=told.outcome,
        next=told.next,
        notes=told.notes,
    )


def _failed(said: StepFailed, began: StepStarted | None) -> StepLog:
    error = f"{said.error.type}: {said.error.message}"
    started = None if began is None else began.at
    return StepLog(said.name, said.n, said.attempt, started, said.at, error)
