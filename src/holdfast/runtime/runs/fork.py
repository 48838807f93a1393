"""
Forks: a new run that takes over what an older one did, up to a place, and goes on from there.

What is taken over is copied into the new journal and looks as if the new run had done it: results
are read back, questions have their answers. Steps behind the place are done again, except those
that may be done once only: these are uncertain in the new run, and somebody says what becomes of
them. The origin is only read.

Invariant: two forks of one run at one place with the same changes begin with equal journals,
their ids and times aside; the origin does not change.
"""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from holdfast.core import codec
from holdfast.core.errors import InvalidValueError
from holdfast.core.journal import (
    Answered,
    Asked,
    Attached,
    ChildEnded,
    ChildStarted,
    Effect,
    Emitted,
    Payload,
    SignalReceived,
    SignalTaken,
    Started,
    StepFailed,
    StepResolved,
    StepStarted,
    StepSucceeded,
    TimerFired,
    TimerSet,
    read_payload,
)
from holdfast.core.key import encode_key, prefix_end
from holdfast.core.run import Said, begun, fold
from holdfast.core.unit import Append, AtVersion, PutRecord, Unit, Write
from holdfast.runtime.names import named_by, naming, still
from holdfast.runtime.runs.artifact import put_artifact
from holdfast.runtime.runs.journal import stream_of
from holdfast.runtime.runs.view import KIND, Views, events_of, projected

LINK_KIND: Final = "holdfast.run.fork"
PAGE: Final = 5_000
LISTED_MAX: Final = 10_000
Fate = Literal["reused", "replaced", "repeated", "blocked"]


class Planned(msgspec.Struct, frozen=True):
    """
    What becomes of a step of the origin.

    Attributes:
        step: name and number.
        effect: what it is.
        fate: `reused` (its result is taken over), `replaced` (by the patch), `repeated` (done
            again), or `blocked` (done once by the origin; somebody has to say what becomes of it).
    """

    step: str
    effect: Effect
    fate: Fate


class ForkPlan(msgspec.Struct, frozen=True):
    """
    What a fork would do.

    Attributes:
        origin: run it is made from.
        sequence: place in its journal up to which it is taken over.
        steps: what becomes of each step of the origin.
    """

    origin: str
    sequence: int
    steps: tuple[Planned, ...]


class Fork:
    """One fork being made."""

    def __init__(
        self, views: Views, origin: str, at: int | str | None, patch: Mapping[str, Any]
    ) -> None:
        """Take the origin, the place, and what is changed."""
        self._views = views
        self._origin = origin
        self._at = at
        self._patch = dict(patch)
        self._journal: list[tuple[int, str, Payload]] = []

    async def plan(self) -> ForkPlan:
        """
        Return what the fork would do; changes nothing.

        Raises:
            InvalidValueError: there is no such place, or nothing there that is to be changed.
        """
        await self._read()
        cut = self._cut()
        steps: list[Planned] = []
        known: dict[str, tuple[int, Effect]] = {}
        for sequence, _, said in self._journal:
            if isinstance(said, StepStarted | StepSucceeded | StepFailed):
                name = f"{said.name}#{said.n}"
                over = isinstance(said, StepSucceeded)
                before = known.get(name)
                if before is None or over:
                    known[name] = (sequence if over else 0, said.effect)
            elif isinstance(said, StepResolved) and said.verdict == "done":
                known[f"{said.name}#{said.n}"] = (sequence, Effect.ONCE)
        for name, (sequence, effect) in known.items():
            steps.append(Planned(name, effect, self._fate(name, sequence, effect, cut)))
        unknown = set(self._patch) - set(known)
        if unknown:
            raise InvalidValueError(what="patch", reason=f"names no step: {sorted(unknown)}")
        return ForkPlan(self._origin, cut, tuple(steps))

    def _fate(self, name: str, sequence: int, effect: Effect, cut: int) -> Fate:
        if 0 < sequence <= cut:
            return "replaced" if name in self._patch else "reused"
        if effect is Effect.ONCE:
            return "blocked"
        return "repeated"

    async def unit(self, run_id: str) -> Unit:
        """Return the unit that starts the new run."""
        plan = await self.plan()
        started, copies = self._copies(run_id, plan)
        digests = [named_by(one) for one in (started, *(one for _, one in copies))]
        bytes_still = await self._views.store.read(
            lambda reader: still(reader, [one for one in digests if one])
        )
        # As long as the origin is there, so are the bytes it names.
        origin = (await self._views.get(self._origin))[0]
        said = msgspec.structs.replace(
            started,
            at=self._views.wall(),
            seed=self._views.store.world.ids.incarnation().hex(),
            version=origin.version,
            origin=self._origin,
            origin_sequence=plan.sequence,
            changed=sorted(self._patch),
            blocked=[one.step for one in plan.steps if one.fate == "blocked"],
            parent="",
            key="",
        )
        view = begun(said)
        for type, one in copies:
            view = fold(view, type, one)
        events = events_of([("run.started", said), *copies])
        named = [write for _, one in copies for write in _named(run_id, one)]
        link = PutRecord(LINK_KIND, (self._origin, run_id), codec.encode(plan.sequence))
        writes: tuple[Write, ...] = (
            Append(stream_of(run_id), events),
            *projected(run_id, None, view),
            *naming(run_id, said.blob),
            *named,
            link,
        )
        return Unit(writes, (AtVersion(KIND, (run_id,), 0), *bytes_still))

    async def _read(self) -> None:
        """Read the origin's journal."""
        await self._views.get(self._origin)
        stream, after = stream_of(self._origin), 0
        while True:
            head, page = await self._views.store.events(stream, after, PAGE)
            for row in page:
                said = read_payload(row.type, row.payload)
                self._journal.append((row.sequence, row.type, said))
                after = row.sequence
            if head is None or after >= head.last_sequence:
                return

    def _cut(self) -> int:
        """Return the sequence up to which the journal is taken over."""
        last = self._journal[-1][0]
        if self._at is None:
            return last
        if isinstance(self._at, int):
            if not 1 <= self._at <= last:
                raise InvalidValueError(what="at", reason=f"is {self._at}, not within 1 to {last}")
            return self._at
        for sequence, _, said in self._journal:
            if isinstance(said, StepStarted | StepSucceeded | StepFailed) and (
                f"{said.name}#{said.n}" == self._at
            ):
                return sequence - 1
        raise InvalidValueError(what="at", reason=f"there is no step {self._at!r}")

    def _copies(self, run_id: str, plan: ForkPlan) -> tuple[Started, list[Said]]:
        """Return how the origin began, and what is taken over of it."""
        kept = [(type, said) for sequence, type, said in self._journal if sequence <= plan.sequence]
        started = self._journal[0][2]
        if not isinstance(started, Started):
            raise InvalidValueError(what="origin", reason="its beginning was removed")
        over = {said.id for _, said in kept if isinstance(said, Answered | ChildEnded)}
        fired = {said.wait for _, said in kept if isinstance(said, TimerFired)}
        return started, [
            (type, self._renamed(said, run_id))
            for type, said in kept
            if _goes_along(said, over, fired)
        ]

    def _renamed(self, said: Payload, run_id: str) -> Payload:
        """Return an event as the new run would have written it."""
        if isinstance(said, StepSucceeded) and f"{said.name}#{said.n}" in self._patch:
            value = codec.encode(self._patch[f"{said.name}#{said.n}"], "patch")
            return msgspec.structs.replace(said, result=msgspec.Raw(value), blob=b"")
        if isinstance(said, Asked | Answered | Attached | ChildStarted | ChildEnded):
            return msgspec.structs.replace(said, id=run_id + said.id[len(self._origin) :])
        return said


def _named(run_id: str, said: Payload) -> tuple[Write, ...]:
    """Return what belongs to an event that was taken over and names bytes."""
    if isinstance(said, Attached):
        return put_artifact(run_id, said)
    return naming(run_id, named_by(said))


def _goes_along(said: Payload, over: set[str], fired: set[str]) -> bool:
    """Return whether something is taken over: what is complete is, what is under way is not."""
    match said:
        case StepSucceeded() | Emitted() | Attached() | SignalReceived() | SignalTaken():
            return True
        case Asked() | Answered() | ChildStarted() | ChildEnded():
            return said.id in over
        case TimerSet():
            return f"timer:{said.n}" in fired
        case TimerFired():
            return said.wait.startswith("timer:")
        case StepResolved():
            return said.verdict == "done"
        case _:
            return False


async def forks_of(views: Views, run_id: str) -> list[str]:
    """Return the runs that were forked from a run."""
    begin = encode_key((run_id,))
    rows = await views.damages.records(LINK_KIND, begin, prefix_end(begin), LISTED_MAX, None)
    return [row.key[1] for row in rows]
