"""
Bugs to plant in runs and pipelines: slips of one line each that break a promise.

They are listed by name in `holdfast.testing.faults.PLANTS`, which is how they are planted.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from types import MappingProxyType
from typing import Any, Final

import msgspec

from holdfast.core.deadline import Deadline
from holdfast.core.journal import (
    Answered,
    Asked,
    ChildEnded,
    Effect,
    Payload,
    SignalTaken,
    StepFailed,
    StepStarted,
    StepSucceeded,
)
from holdfast.core.run import RunView, arrive
from holdfast.core.unit import Append, CloseStream, Committed, PutRecord, Unit, Write
from holdfast.runtime.runs import conduct, execution, executor, step, view
from holdfast.runtime.runs.ending import Ending, ending_of
from holdfast.runtime.runs.execution import Execution
from holdfast.runtime.runs.executor import Executor
from holdfast.runtime.runs.journal import Journal
from holdfast.runtime.runs.view import QUEUED_KIND, Change, Views
from holdfast.runtime.service import carry_on
from holdfast.testing.slips import LATE, replaced

__all__ = ["MISSTEPS"]

Plant = Callable[[], AbstractContextManager[None]]


# Steps.


def _step_recorded_late() -> AbstractContextManager[None]:
    """Hand out the result of a step before it is durable: a kill in between, and it runs again."""
    append = Execution.append

    async def early(self: Execution, *events: Any, **rest: Any) -> None:
        if any(event.type == "step.succeeded" for event in events):
            later = lambda: carry_on(append(self, *events, **rest))  # noqa: E731
            asyncio.get_running_loop().call_later(LATE, later)
        else:
            await append(self, *events, **rest)

    return replaced(Execution, "append", early)


def _once_not_announced() -> AbstractContextManager[None]:
    """Begin what is to be done once without a word: after a kill it is done again."""
    announce = step._Performance._announce  # pyright: ignore[reportPrivateUsage]

    async def silent(self: Any, began: float) -> None:
        if self._asked.effect is not Effect.ONCE:
            await announce(self, began)

    return replaced(step._Performance, "_announce", silent)  # pyright: ignore[reportPrivateUsage]


def _attempts_forgotten() -> AbstractContextManager[None]:
    """Know nothing of earlier attempts after a crash: a limit is never reached."""
    return _journal_without(lambda said: isinstance(said, StepFailed | StepStarted))


def _counters_kept() -> AbstractContextManager[None]:
    """Count on where the last execution stopped: a replay asks for steps that never were."""
    init, kept = Execution.__init__, dict[str, defaultdict[str, int]]()

    def counting_on(self: Execution, views: Views, run_id: str, *rest: Any) -> None:
        init(self, views, run_id, *rest)
        self.counts = kept.setdefault(run_id, self.counts)

    return replaced(Execution, "__init__", counting_on)


def _branch_not_recorded() -> AbstractContextManager[None]:
    """Take a branch of a pipeline for safe in memory: a kill, and it goes back to its fork."""
    change = Execution.change

    async def forgetful(self: Execution, decide: Any, *rest: Any, **more: Any) -> RunView:
        for _, said in decide(self.view) or ():
            if isinstance(said, StepSucceeded) and said.name.startswith("fork/"):
                return self.view
        return await change(self, decide, *rest, **more)

    return replaced(Execution, "change", forgetful)


# Questions, signals, timers.


def _answer_unchecked() -> AbstractContextManager[None]:
    """Write an answer without looking whether the question is still open: two of them count."""
    put_in = Views.put_in

    async def blind(self: Views, run_id: str, type: str, *rest: Any) -> int:
        if type.startswith("question."):
            rest = rest[:2]
        return await put_in(self, run_id, type, *rest)

    return replaced(Views, "put_in", blind)


def _question_asked_again() -> AbstractContextManager[None]:
    """Know nothing of questions after a crash: somebody is asked what was answered."""
    return _journal_without(lambda said: isinstance(said, Asked | Answered))


def _signal_taken_twice() -> AbstractContextManager[None]:
    """Hand out signals from the first one after a crash: the second wait gets it again."""
    take = Journal.take

    def unmoved(self: Journal, type: str, said: Payload) -> None:
        take(self, type, said)
        if isinstance(said, SignalTaken):
            self.handed[said.name] = 0

    return replaced(Journal, "take", unmoved)


def _timer_by_the_wall() -> AbstractContextManager[None]:
    """Believe the wall clock about a timer: set forward, it ends early."""

    def left(deadline: Deadline, _: Any, wall: float) -> float:
        return max(deadline.left - (wall - deadline.written_at), 0.0)

    return replaced(executor, "remaining", left)


# What belongs together.


def _end_in_two_units() -> AbstractContextManager[None]:
    """Append the last event, then write the view and close: a kill between them, and it runs on."""
    commit = Views.commit

    async def apart(self: Views, unit: Unit) -> Committed:
        if not any(isinstance(write, CloseStream) for write in unit.writes):
            return await commit(self, unit)
        said = tuple(write for write in unit.writes if isinstance(write, Append))[:1]
        await commit(self, Unit(said, unit.expects))
        self.store.world.failpoints.reach("run.ended")
        rest = tuple(write for write in unit.writes if write not in said)
        return await commit(self, Unit(rest, unit.expects))

    return replaced(Views, "commit", apart)


@contextmanager
def _place_in_another_unit() -> Generator[None]:
    """Queue who has what he waited for, then give him a place: a kill, and nobody takes him."""
    changed, projected = Views.changed, view.projected

    def without_place(run_id: str, before: Any, after: RunView) -> tuple[Write, ...]:
        writes = projected(run_id, before, after)
        return tuple(write for write in writes if before is None or not _is_place(write))

    async def place_later(
        self: Views, run_id: str, decide: Any
    ) -> tuple[RunView, Committed | None]:
        after, committed = await changed(self, run_id, decide)
        places = tuple(write for write in projected(run_id, None, after) if _is_place(write))
        if places:
            self.store.world.failpoints.reach("run.ended")
            await self.store.commit(Unit(places))
            self.on_queued(run_id)
        return after, committed

    with replaced(view, "projected", without_place), replaced(Views, "changed", place_later):
        yield


def _is_place(write: Write) -> bool:
    return isinstance(write, PutRecord) and write.kind == QUEUED_KIND


@contextmanager
def _child_end_told_apart() -> Generator[None]:
    """End a child, then tell its parent: a kill between them, and the parent waits for ever."""
    after = Executor._after  # pyright: ignore[reportPrivateUsage]

    async def alone(views: Views, run_id: str, view: RunView, *rest: Any, **more: Any) -> Ending:
        return await ending_of(
            views, run_id, msgspec.structs.replace(view, parent=""), *rest, **more
        )

    async def tell_later(self: Any, execution: Execution, ended: Ending) -> None:
        await after(self, execution, ended)
        parent, views = execution.view.parent, execution.views
        if parent:
            end = execution.view
            said = ChildEnded(
                execution.run_id, end.status.value, end.ended, end.result, end.blob, end.error
            )
            await views.change(
                parent, lambda view: Change(*arrive(view, "child.ended", said, end.ended))
            )

    with replaced(conduct, "ending_of", alone), replaced(Executor, "_after", tell_later):
        yield


def _slot_kept() -> AbstractContextManager[None]:
    """Keep the place among those a queue lets run: it lets nobody run any more."""

    def kept(*_: Any) -> tuple[Write, ...]:
        return ()

    return replaced(execution, "freed_slot", kept)


# Who may go on.


@contextmanager
def _cancelled_goes_on() -> Generator[None]:
    """Let a run go on that is to end, to its last step."""

    async def deaf(self: Execution) -> None:
        if self.discarded or self.draining:
            raise asyncio.CancelledError
        if self.unread:
            self.unread = False
            await self.look()
        self.held = self.view.pausing
        if self.held:
            self.stop()

    def unmoved(self: Execution) -> None: ...

    with replaced(Execution, "check", deaf), replaced(Execution, "_hold_for_cancel", unmoved):
        yield


def _child_left_behind() -> AbstractContextManager[None]:
    """Cancel a run and leave what it had started."""

    async def leave(self: Executor, run_id: str) -> None: ...

    return replaced(Executor, "cancel_children", leave)


def _crashes_uncounted() -> AbstractContextManager[None]:
    """Count no dispatch that came to nothing: a run that kills its process does so for ever."""
    take = Journal.take

    def uncounted(self: Journal, type: str, said: Payload) -> None:
        take(self, type, said)
        self.in_vain = 0

    return replaced(Journal, "take", uncounted)


def _journal_without(is_dropped: Callable[[Payload], bool]) -> AbstractContextManager[None]:
    take = Journal.take

    def taking(self: Journal, type: str, said: Payload) -> None:
        if not is_dropped(said):
            take(self, type, said)

    return replaced(Journal, "take", taking)


MISSTEPS: Final[Mapping[str, Plant]] = MappingProxyType(
    {
        "answer-not-checked": _answer_unchecked,
        "attempts-forgotten": _attempts_forgotten,
        "branch-not-recorded": _branch_not_recorded,
        "cancelled-run-goes-on": _cancelled_goes_on,
        "child-end-told-apart": _child_end_told_apart,
        "child-left-behind": _child_left_behind,
        "counters-kept-over-a-replay": _counters_kept,
        "crashes-not-counted": _crashes_uncounted,
        "end-in-two-units": _end_in_two_units,
        "once-not-announced": _once_not_announced,
        "place-in-another-unit": _place_in_another_unit,
        "question-asked-again": _question_asked_again,
        "signal-taken-twice": _signal_taken_twice,
        "slot-kept": _slot_kept,
        "step-recorded-late": _step_recorded_late,
        "timer-by-the-wall": _timer_by_the_wall,
    }
)
