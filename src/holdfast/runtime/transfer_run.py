"""
A run as it is taken out of a store, and as it comes into another one.

What belongs to a run is its journal, its questions, its timers, the version of the pipeline it
works on, the blobs all of these name, and its children with the same. The rest follows from the
journal and is made anew: the view, the artifacts, the key it was started with, the link to the
run it was forked from.

A run that is under way arrives paused: it belongs to nobody there, so that two stores never
execute it both because of an import. One that was being cancelled arrives cancelled, since
whoever was to end it is not there. The journal says so, behind what was imported.

Invariants: what is taken out was all there at one moment; what comes in is one unit.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.errors import DecodeError, InvalidValueError
from holdfast.core.event import Event
from holdfast.core.journal import (
    Attached,
    ChildEnded,
    ChildStarted,
    Pausing,
    Received,
    Started,
    read_payload,
)
from holdfast.core.key import Key, encode_key
from holdfast.core.pipeline import FUNCTION, HEAD, VERSION, Version, version_place
from holdfast.core.refusal import RunNotFoundError, RunStateError
from holdfast.core.run import RunView, Said, Status, arrive, begun, fold
from holdfast.core.unit import (
    JOURNALS,
    Append,
    AtSequence,
    AtVersion,
    CloseStream,
    Expectation,
    PutRecord,
    Unit,
    Write,
)
from holdfast.runtime.listing import below
from holdfast.runtime.names import named_by, naming
from holdfast.runtime.runs.artifact import put_artifact
from holdfast.runtime.runs.ending import ORPHANS_KIND
from holdfast.runtime.runs.fork import LINK_KIND
from holdfast.runtime.runs.journal import stream_of
from holdfast.runtime.runs.question import KIND as QUESTION_KIND
from holdfast.runtime.runs.question import Question, question_key
from holdfast.runtime.runs.retention import KEY_KIND
from holdfast.runtime.runs.view import KIND, TIMER_KIND, Timer, events_of, projected
from holdfast.runtime.transfer_file import Entry, Parts, StreamPart, read_stream
from holdfast.store.port import Reads

BY: Final = "holdfast import"
PAUSED_BECAUSE: Final = "imported; the run may go on where it came from, resume it to go on here"
CANCELLED_BECAUSE: Final = "imported while it was being cancelled"
TRIES_MAX: Final = 100


# Out.


def read_run(reader: Reads, run_id: str) -> Parts:
    """
    Return a run with its children, as all of it is at one moment.

    Raises:
        RunNotFoundError: there is no such run.
        InvalidValueError: it is a child, or an older version of a pipeline.
        RunStateError: it changes faster than it can be read.
        DamagedError: its journal or a record of it is damaged.
    """
    for _ in range(TRIES_MAX):
        tree = _tree(reader, run_id)
        root = tree[run_id]
        _check_root(reader, run_id, root.started)
        records = [*_asked_and_timed(reader, list(tree)), *_pipeline(reader, run_id, root.started)]
        # Whatever changes a run appends to its journal in the same unit.
        if all(_is_still(reader, one.part) for one in tree.values()):
            blobs = dict.fromkeys(digest for one in tree.values() for digest in one.blobs())
            blobs |= dict.fromkeys(_contents(records))
            streams = [one.part for one in tree.values()]
            return Parts("run", (run_id,), streams, records, tuple(blobs))
    raise RunStateError(
        run_id=run_id, state="changing", action="exported", reason="it changes all the time"
    )


class _Journal(NamedTuple):
    """A journal, as lines and as what they say."""

    part: StreamPart
    said: list[Said]

    @property
    def started(self) -> Started:
        """How it begins."""
        first = self.said[0][1] if self.said else None
        if not isinstance(first, Started):
            raise DecodeError(what=self.part.header.stream, reason="does not begin with a start")
        return first

    def blobs(self) -> Iterator[bytes]:
        """Yield the digests of the blobs it names."""
        for _, said in self.said:
            if digest := named_by(said):
                yield digest

    def children(self) -> list[str]:
        """Return the runs it started."""
        return [said.id for _, said in self.said if isinstance(said, ChildStarted)]


def _understood(part: StreamPart) -> _Journal:
    said = [(line.type, read_payload(line.type, line.payload)) for line in part.lines]
    return _Journal(part, said)


def _tree(reader: Reads, run_id: str) -> dict[str, _Journal]:
    """Return the journals of a run and of all below it; those that were removed are not there."""
    found: dict[str, _Journal] = {}
    ids = [run_id]
    while ids:
        id = ids.pop(0)
        part = read_stream(reader, stream_of(id))
        if part is not None and part.header.first_sequence == 1:
            found[id] = _understood(part)
            ids += found[id].children()
        elif id == run_id:
            raise RunNotFoundError(run_id=run_id)
    return found


def _check_root(reader: Reads, run_id: str, started: Started) -> None:
    """Refuse a child as long as its parent is there: what it ends with belongs to that one."""
    if not started.parent:
        return
    row = reader.record(KIND, (started.parent,))
    if row is not None and row.value is not None:
        raise InvalidValueError(
            what=f"run {run_id!r}",
            reason=f"is a child; export {started.parent!r}, which takes its children along",
        )


def _asked_and_timed(reader: Reads, ids: Sequence[str]) -> list[Entry]:
    """Return the questions and timers of runs."""
    found: list[Entry] = []
    for id in ids:
        found += [Entry.of(row) for row in below(reader, QUESTION_KIND, encode_key((id,)))]
    known = set(ids)
    return found + [Entry.of(row) for row in below(reader, TIMER_KIND) if row.key[2] in known]


def _pipeline(reader: Reads, run_id: str, started: Started) -> list[Entry]:
    """Return what is kept of the pipeline that a run works for."""
    place = version_place(run_id, started.labels)
    if not started.function.startswith(FUNCTION) or place is None:
        return []
    version = reader.record(VERSION, place)
    if version is None or version.value is None:
        return []
    head = reader.record(HEAD, _version(version.value).head_key)
    if head is None or head.value is None or _version(head.value).run_id != run_id:
        raise InvalidValueError(
            what=f"run {run_id!r}",
            reason="worked on an older version of its pipeline; only the newest one is exported",
        )
    return [Entry.of(version), Entry.of(head)]


def _version(value: bytes) -> Version:
    return codec.decode_as(value, Version, "pipeline")


def _contents(records: Sequence[Entry]) -> Iterator[bytes]:
    """Yield the digest of the content of a pipeline that is kept."""
    for entry in records:
        if entry.kind == VERSION and _version(entry.value).kept:
            yield _version(entry.value).digest


def _is_still(reader: Reads, part: StreamPart) -> bool:
    head = reader.head(part.header.stream)
    return head is not None and head.last_sequence == part.header.count


# In.


class Arrival(NamedTuple):
    """
    A run that is to come in.

    Attributes:
        unit: what makes it be there, but for its blobs.
        resting: the runs that were under way and are paused now.
    """

    unit: Unit
    resting: list[str]


def arrival_of(parts: Parts, wall: float) -> Arrival:
    """
    Return how the run of a bundle comes in.

    Args:
        parts: the bundle.
        wall: the wall time.

    Raises:
        DecodeError: the file is whole, but what it holds is not a run of this Holdfast.
    """
    return _Arriving(parts, wall).arrival()


class _Arriving:
    """Makes the unit of one import."""

    def __init__(self, parts: Parts, wall: float) -> None:
        self._parts = parts
        self._wall = wall
        self._journals: dict[str, _Journal] = {}
        self._views: dict[str, RunView] = {}
        self._added: dict[str, list[Said]] = {}
        self._resting: list[str] = []
        for part in parts.streams:
            self._take(part)
        if list(self._journals)[:1] != [parts.name[0]]:
            raise DecodeError(what=f"run {parts.name[0]!r}", reason="its journal is not there")

    def _take(self, part: StreamPart) -> None:
        name = part.header.stream
        id = name.removeprefix(JOURNALS)
        known = {child for one in self._journals.values() for child in one.children()}
        if not name.startswith(JOURNALS) or (self._journals and id not in known):
            raise DecodeError(what=f"stream {name!r}", reason="does not belong to the run")
        journal = _understood(part)
        view = begun(journal.started)
        try:
            for said in journal.said[1:]:
                view = fold(view, *said)
        except RuntimeError as error:
            raise DecodeError(what=f"stream {name!r}", reason=str(error)) from error
        self._journals[id], self._views[id], self._added[id] = journal, view, []

    def arrival(self) -> Arrival:
        """Return the unit."""
        # Children stand behind their parents, and their ends are put into their parents' journals.
        for id in reversed(self._journals):
            self._settle(id)
        writes: list[Write] = []
        expects: list[Expectation] = []
        for id, journal in self._journals.items():
            writes += self._writes(id, journal)
            expects += (AtVersion(KIND, (id,), 0), AtSequence(stream_of(id), 0))
            if key := journal.started.key:
                expects.append(AtVersion(KEY_KIND, (key,), 0))
        for entry in self._parts.records:
            self._add_record(entry, writes, expects)
        return Arrival(Unit(tuple(writes), tuple(expects)), self._resting)

    def _settle(self, id: str) -> None:
        """Let a run that was under way rest, and one end that was about to."""
        view = self._views[id]
        if view.status is Status.CANCELLING:
            self._add(id, ("run.cancelled", Pausing(self._wall, CANCELLED_BECAUSE, BY)))
            self._tell_parent(id, view.parent)
        elif not view.is_terminal and view.status is not Status.PAUSED:
            self._add(id, ("run.paused", Pausing(self._wall, PAUSED_BECAUSE, BY)))
        if not self._views[id].is_terminal:
            self._resting.insert(0, id)

    def _add(self, id: str, said: Said) -> None:
        self._added[id].append(said)
        self._views[id] = fold(self._views[id], *said)

    def _tell_parent(self, id: str, parent: str) -> None:
        view = self._views.get(parent)
        if view is not None and not view.is_terminal:
            said = ChildEnded(id, Status.CANCELLED.value, self._wall)
            events, self._views[parent] = arrive(view, "child.ended", said, self._wall)
            self._added[parent] += events

    def _writes(self, id: str, journal: _Journal) -> Iterator[Write]:
        view, started, stream = self._views[id], journal.started, stream_of(id)
        events = tuple(Event(line.type, line.payload, line.meta) for line in journal.part.lines)
        yield Append(stream, (*events, *events_of(self._added[id])))
        yield from projected(id, None, view)
        if view.is_terminal:
            yield CloseStream(stream)
        if started.key:
            yield PutRecord(KEY_KIND, (started.key,), codec.encode(id))
        if started.origin:
            at = codec.encode(started.origin_sequence)
            yield PutRecord(LINK_KIND, (started.origin, id), at)
        if view.status is Status.CANCELLED and journal.children():
            yield PutRecord(ORPHANS_KIND, (id,), codec.encode(None))
        for _, said in journal.said:
            if isinstance(said, Attached | Received):
                yield from put_artifact(id, said)
            else:
                yield from naming(id, named_by(said))

    def _add_record(self, entry: Entry, writes: list[Write], expects: list[Expectation]) -> None:
        if entry.kind == QUESTION_KIND:
            writes.append(self._question(entry))
        elif entry.kind == TIMER_KIND:
            timer = codec.decode_as(entry.value, Timer, "timer")
            if not self._view_of(timer.run_id, entry, timer.key).is_terminal:
                writes.append(timer.put())
        elif entry.kind in (HEAD, VERSION):
            version = _version(entry.value)
            place = version.head_key if entry.kind == HEAD else version.version_key
            self._view_of(version.run_id, entry, place)
            writes.append(PutRecord(entry.kind, place, entry.value, entry.tag))
            expects.append(AtVersion(entry.kind, place, 0))
            if entry.kind == VERSION and version.kept:
                writes += naming(version.run_id, version.digest)
        else:
            raise DecodeError(what=f"record {entry.kind}", reason="does not belong to the run")

    def _question(self, entry: Entry) -> Write:
        question = codec.decode_as(entry.value, Question, "question")
        ended = self._view_of(question.run_id, entry, question_key(question)).is_terminal
        if ended and question.state == "open":
            return msgspec.structs.replace(question, state="closed").put()
        return question.put()

    def _view_of(self, run_id: str, entry: Entry, place: Key) -> RunView:
        """Return the view of the run that a record is of."""
        if run_id not in self._views or entry.key != place:
            raise DecodeError(what=f"record {entry.kind}", reason="does not belong to the run")
        return self._views[run_id]


def holds_run(reader: Reads, parts: Parts) -> bool:
    """
    Return whether a store holds everything that the journals of a bundle say.

    It may hold more: the run may have gone on there since.
    """
    for header, lines in parts.streams:
        found = read_stream(reader, header.stream)
        if found is None or len(found.lines) < len(lines) or found.header.first_sequence != 1:
            return False
        if any(not one.says(other) for one, other in zip(lines, found.lines, strict=False)):
            return False
    return True
