"""
What belongs to the unit that ends a run: its questions are closed, its parent learns of it.

Invariant: from the terminal event on nothing of the run changes: the journal is closed, no
question of it is open, and its parent has what it waits for, all in one unit.
"""

from typing import NamedTuple

from holdfast.core.journal import NOTHING, ChildEnded, Failed, Pausing, Succeeded
from holdfast.core.run import RunView, Said, arrive, fold
from holdfast.core.unit import Append, AtVersion, Expectation, Write
from holdfast.runtime.runs.journal import read_journal, stream_of
from holdfast.runtime.runs.question import closings
from holdfast.runtime.runs.view import KIND, Views, events_of, projected


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


async def ending_of(views: Views, run_id: str, view: RunView, ending: Said) -> Ending:
    """Return what else is written when a run ends like this."""
    writes, questions = await closings(views, run_id)
    expects: tuple[Expectation, ...] = questions
    if not view.parent:
        return Ending(writes, expects, None)
    found = await views.find(view.parent)
    if found is None or found[0].is_terminal:
        return Ending(writes, expects, None)
    parent, version = found
    said = _child_ended(run_id, fold(view, *ending), ending)
    events, after = arrive(parent, "child.ended", said, said.at)
    append = Append(stream_of(view.parent), events_of(events))
    writes = (*writes, append, *projected(view.parent, parent, after))
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
