"""
What belongs to the unit that ends a run: its questions are closed, its parent learns of it.

The children of a run that is cancelled are cancelled after it, since they are runs of their own
with owners of their own. That this is to be done is left durably by the unit that ends the
parent; whoever looks next does it, and drops the note when every child was asked.

Invariants: from the terminal event on nothing of the run changes: the journal is closed, no
question of it is open, and its parent has what it waits for, all in one unit; no child outlives
a cancelled parent because somebody died in between.
"""

from typing import Final, NamedTuple

from holdfast.core import codec
from holdfast.core.journal import NOTHING, ChildEnded, Failed, Pausing, Succeeded
from holdfast.core.run import RunView, Said, arrive, fold
from holdfast.core.unit import Append, AtVersion, Expectation, PutRecord, RecordRow, Write
from holdfast.runtime.names import naming
from holdfast.runtime.runs.journal import read_journal, stream_of
from holdfast.runtime.runs.question import closings
from holdfast.runtime.runs.view import KIND, Views, events_of, projected

ORPHANS_KIND: Final = "holdfast.run.orphans"
"""Kind of the note that the children of a cancelled run are to be cancelled."""


class Ending(NamedTuple):
    """
    What else is written when a run ends.

    Attributes:
        writes, expects: the unit's share.
        parent: id and view of the parent afterwards, if it learned of it.
    """

    writes: tuple[Write, ...]
    expects: tuple[Expectation, ...]
    parent: tuple[str, RunView] | None


async def ending_of(
    views: Views, run_id: str, view: RunView, ending: Said, *, asked: bool = True
) -> Ending:
    """Return what else is written when a run ends like this; `asked`: it may have questions."""
    writes: tuple[Write, ...] = ()
    expects: tuple[Expectation, ...] = ()
    if asked:
        writes, expects = await closings(views, run_id)
    if ending[0] == "run.cancelled":
        writes = (*writes, PutRecord(ORPHANS_KIND, (run_id,), codec.encode(None)))
    if not view.parent:
        return Ending(writes, expects, None)
    found = await views.find(view.parent)
    if found is None or found[0].is_terminal:
        return Ending(writes, expects, None)
    parent, version = found
    said = _child_ended(run_id, fold(view, *ending), ending)
    events, after = arrive(parent, "child.ended", said, said.at)
    append = Append(stream_of(view.parent), events_of(events))
    named = naming(view.parent, said.blob)
    writes = (*writes, append, *projected(view.parent, parent, after), *named)
    expects = (*expects, AtVersion(KIND, (view.parent,), version))
    return Ending(writes, expects, (view.parent, after))


def _child_ended(run_id: str, view: RunView, ending: Said) -> ChildEnded:
    said = ending[1]
    status = view.status.value
    match said:
        case Succeeded():
            return ChildEnded(run_id, status, said.at, said.result, said.blob)
        case Failed():
            return ChildEnded(run_id, status, said.at, error=said.error)
        case Pausing():
            return ChildEnded(run_id, status, said.at)
        case _:
            return ChildEnded(run_id, status, view.updated, NOTHING)


async def open_children(views: Views, run_id: str) -> list[str]:
    """Return the children of a run that did not end, as far as its journal says."""
    journal = await read_journal(views.store, run_id)
    ids = [child.id for child in journal.children.values()]
    return [id for id in ids if id not in journal.ended]


async def orphans_note(views: Views, run_id: str) -> RecordRow | None:
    """Return the note that the children of a run are to be cancelled, if there is one."""
    row = await views.store.read(lambda reader: reader.record(ORPHANS_KIND, (run_id,)))
    return None if row is None or row.value is None else row
