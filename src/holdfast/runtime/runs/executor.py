"""
The executor: takes runs that are to go on, executes them, fires timers.

A run is taken in one unit: its ledger entry is begun (or, if its owner died, claimed), its
attempt is counted, and it is shown as running. Of any number of runtimes one gets it. What is
queued is found by a look at the queue, what was interrupted by a look at the ledger; whoever
puts a run into the queue here says so, so that the look comes at once.

Invariants: no run is executed whose ledger entry is not this runtime's; one fault in one run
holds up no other one; on the way out every run is either let go in good order or left as it is
for the next recovery.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from holdfast.core.deadline import remaining
from holdfast.core.errors import (
    FenceError,
    HoldfastError,
    StateError,
    StoreError,
    VersionConflictError,
)
from holdfast.core.journal import Dispatched, Queued
from holdfast.core.key import Key
from holdfast.core.ledger import RESUME, Terms
from holdfast.core.run import RunView, Status, fold
from holdfast.core.unit import Append, AtVersion, Committed, RecordRow, Unit
from holdfast.runtime.presence import Presence
from holdfast.runtime.runs.conduct import conduct, let_go
from holdfast.runtime.runs.ending import Ending, open_children, orphans_note
from holdfast.runtime.runs.execution import Execution
from holdfast.runtime.runs.journal import PREFIX, stream_of
from holdfast.runtime.runs.look import ENTRY_KIND, PAGE, Asked, Look, look_for
from holdfast.runtime.runs.question import Questions
from holdfast.runtime.runs.queue import Queues
from holdfast.runtime.runs.schedule import Schedules
from holdfast.runtime.runs.view import (
    KIND,
    NO_QUEUE,
    Change,
    Timer,
    Views,
    code_place,
    event_of,
    projected,
)
from holdfast.runtime.service import Service, together, unbroken
from holdfast.runtime.work.ledger import Ledger
from holdfast.store.port import Reads

log = logging.getLogger("holdfast")
LOOK: Final = 0.5
HEARD: Final = 0.02
_VIEWS_APART: Final = 0.1  # Seconds between two looks at all views; nudges come much closer.
# Seconds between two looks for runs that wait for code. One may be set aside, here or elsewhere,
# just after its function was registered and looked for, and of that nobody is told.
_CODE_APART: Final = 2.0
IN_MEMORY: Final = 1_000
GRACE: Final = 2.0
_TERMS: Final = Terms(ENTRY_KIND, RESUME, attempts=2**31, fresh_for=float("inf"))


def entry_key(run_id: str) -> Key:
    """Return the key of a run in the ledger."""
    return ("holdfast.run", run_id)


class Executor(Service):
    """
    Executes the runs this runtime owns.

    Attributes:
        live: runs in memory, parked ones included.
        capacity: how many are executed side by side.
        on_orphan: cancels the child of a run that was cancelled.
    """

    def __init__(self, views: Views, ledger: Ledger, presence: Presence) -> None:
        """Take the views of the runs, and the ledger by which they are owned."""
        super().__init__("runs", LOOK)
        self.live: dict[str, Execution] = {}
        self.capacity = IN_MEMORY
        self._views = views
        self._store = views.store
        self._ledger = ledger
        self._presence = presence
        self._questions = Questions(views)
        self._queues = Queues(views)
        self._schedules = Schedules(views)
        self._waiters: dict[str, list[asyncio.Future[RunView | None]]] = {}
        self._refused = False
        self._hearing = False
        self._looked_at = self._looked_for_code = float("-inf")
        self.on_orphan: Callable[[str], Any] = lambda _: None
        views.on_queued = lambda _: self.nudge()
        views.on_arrival = self._poke
        views.on_wait = self.nudge

    # A look.

    async def tick(self) -> None:
        """Look once for what is to be done."""
        if self._store.poisoned is not None:
            self.let_go_of_waiters()
        if self._refused or self._presence.fenced is not None:
            return
        await self._let_go()
        found = await self._look()
        for damaged in found.damaged:
            await self._views.damages.meet(damaged)
        await self._schedules.start_due(found.schedules)
        await self._fire(found.timers)
        await self._take(found)
        await self._queue_coded(found.coded)
        await self._look_after(found.versions)
        await self._cancel_orphans(found.orphaned)

    async def _look(self) -> Look:
        """Look in one read: each goes to a thread and back."""
        asked = Asked(self._room(), self._seen_to(), self._look_for_code())

        def read(reader: Reads) -> Look:
            self._presence.recall(reader)
            return look_for(reader, self._views, asked)

        try:
            return await self._store.read(read)
        except BaseException:
            if asked.coded:
                self._looked_for_code = float("-inf")
            raise

    def _seen_to(self) -> list[str]:
        """Return the runs whose views are to be looked at: all, but not at every nudge."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_at < _VIEWS_APART:
            return []
        self._looked_at = now
        return list(self.live)

    def _look_for_code(self) -> bool:
        """Return whether it is time to look for runs that wait for code."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_for_code < _CODE_APART:
            return False
        self._looked_for_code = now
        return True

    def look(self) -> None:
        """Look at once, also at what others may have done to the runs here."""
        self._looked_at = float("-inf")
        self.nudge()

    def heard(self, streams: Sequence[str]) -> None:
        """Look soon, since others wrote into journals; once for all that comes until then."""
        runs = [name.removeprefix(PREFIX) for name in streams if name.startswith(PREFIX)]
        for run_id in runs:
            self._poke(run_id)
        if runs and not self._hearing:
            self._hearing = True
            asyncio.get_running_loop().call_later(HEARD, self._look_soon)

    def _look_soon(self) -> None:
        self._hearing = False
        self.nudge()

    def _room(self) -> int:
        active = sum(not one.parked for one in self.live.values())
        return 0 if self._presence.drained_at else self.capacity - active

    async def _let_go(self) -> None:
        """Let go of runs that could not record what they did."""
        for run_id, execution in list(self.live.items()):
            if execution.stranded is not None and execution.over.done():
                await self._quietly(self._let_go_of(execution))
                if execution.view.status not in (Status.RUNNING, Status.CANCELLING):
                    self.live.pop(run_id, None)

    async def _let_go_of(self, execution: Execution) -> None:
        """Let go of one, or end it if it is to be cancelled since."""
        ended = await let_go(self._views, execution)
        if ended is not None:
            await self._after(execution, ended)
            self.tell_who_waits(execution.run_id, execution.view)

    async def _fire(self, timers: list[tuple[RecordRow, Timer]]) -> None:
        """End the waits whose time is over; be back when the next one is."""
        now, wall = self._views.clock.store_time(), self._views.clock.wall()
        timed = [(remaining(timer.deadline, now, wall), row, timer) for row, timer in timers]
        # One that is due and cannot be ended is tried again at the next look, not at once.
        self.interval = min([LOOK, *(max(left, 0.001) for left, _, _ in timed if left > 0)])
        due = [partial(self._fire_one, row, timer) for left, row, timer in timed if left <= 0]
        await together(*due)

    async def _fire_one(self, row: RecordRow, timer: Timer) -> None:
        question = timer.wait.startswith("question:")
        end = self._questions.expire(row, timer) if question else self._views.fire(row)
        await self._alone("timer_not_fired", timer.run_id, end)

    async def _take(self, found: Look) -> None:
        """Take what is queued and what was interrupted, as far as there is room."""
        chains: dict[str, list[str]] = {}
        for row in found.queued:
            # Those of a queue one after the other, so that its order counts.
            chain = "" if row.key[0] == NO_QUEUE else row.key[0]
            chains.setdefault(chain or row.key[-1] + NO_QUEUE, []).append(row.key[-1])
        chains |= {run_id + NO_QUEUE: [run_id] for run_id in found.interrupted}
        await together(*(partial(self._try, chain, found.views) for chain in chains.values()))
        if len(found.queued) >= PAGE:
            self.nudge()

    async def _queue_coded(self, rows: Sequence[RecordRow]) -> None:
        """Queue runs whose code is here, while there is room: who lacks it would set them aside."""
        for row in rows[: max(0, self._room())]:
            run_id = row.key[1]
            await self._alone("run_not_queued", run_id, self._views.change(run_id, self._coded))

    def _coded(self, view: RunView) -> Change | None:
        function = self._views.functions.find(view.function)
        if function is None or function.version != view.version or code_place("", view) is None:
            return None
        said = Queued(self._views.wall(), "code")
        return Change([("run.queued", said)], fold(view, "run.queued", said))

    async def _try(self, run_ids: Sequence[str], views: dict[str, tuple[RunView, int]]) -> None:
        for run_id in run_ids:
            taking = unbroken(self.dispatch(run_id, views.get(run_id)))
            await self._alone("run_not_taken", run_id, taking)

    async def _alone(self, event: str, run_id: str, work: Coroutine[Any, Any, object]) -> None:
        """Do something for one run; a fault in it holds up no other one."""
        try:
            await work
        except HoldfastError as error:
            log.warning("event=%s run=%s code=%s", event, run_id, error.code)

    async def _look_after(self, versions: dict[str, int]) -> None:
        for run_id, execution in list(self.live.items()):
            version = versions.get(run_id, execution.version)
            if execution.parked and version != execution.version:
                await self._drop_if_gone(execution)
            if execution.parked or execution.over.done():
                continue
            if execution.unread or version > execution.version:
                execution.unread = False
                await self._quietly(execution.look())
            await self._quietly(execution.park_if_idle())

    async def _drop_if_gone(self, execution: Execution) -> None:
        """Forget a parked run that ended, or that another runtime went on with."""
        async with execution.lock:  # Nobody here is just going on with it.
            found = await self._views.find(execution.run_id)
            gone = found is None or found[0].is_terminal
            if gone or (found is not None and found[0].attempt != execution.view.attempt):
                execution.discard()

    async def _quietly(self, work: Any) -> None:
        """Do something for a run whose loss it learns of itself."""
        try:
            await work
        except (asyncio.CancelledError, StoreError):
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise

    def _poke(self, run_id: str) -> None:
        execution = self.live.get(run_id)
        if execution is not None and not execution.parked:
            execution.held = execution.unread = True  # It looks before its next step.
            self.nudge()

    # Taking a run.

    async def dispatch(self, run_id: str, seen: tuple[RunView, int] | None = None) -> None:
        """Take a run, unless somebody else does or did; `seen` is its view as it was just now."""
        execution = self.live.get(run_id)
        if execution is None or execution.over.done():
            found = await self._begin(run_id, seen) or (seen and await self._begin(run_id))
            if found is not None:
                self._execute_new(run_id, *found)
            return
        async with execution.lock:
            if execution.parked and not execution.discarded:
                await self._go_on(execution)

    async def _go_on(self, execution: Execution) -> None:
        """Take a run that is in memory; if somebody else had it meanwhile, begin anew."""
        before, of = execution.view.attempt, execution.view.version
        found = await self._begin(execution.run_id)
        if found is None:
            return
        entry, view, version = found
        # A version that was accepted meanwhile is another function than the one in memory.
        if view.attempt == before + 1 and view.version == of:
            with suppress(StoreError):  # What arrived could not be read: it begins anew.
                await execution.go_on(entry, view, version)
                return
        execution.discard()
        self._execute_new(execution.run_id, entry, view, version)

    async def _unpark(self, execution: Execution) -> None:
        """Take a parked run back, since it does something; its lock is held."""
        while True:
            view, version = await self._views.get(execution.run_id)
            if view.status is not Status.WAITING or view.attempt != execution.view.attempt:
                break
            queued = Queued(self._views.wall(), "goes on")
            unit = Unit(
                (
                    Append(stream_of(execution.run_id), (event_of("run.queued", queued),)),
                    *projected(execution.run_id, view, fold(view, "run.queued", queued)),
                ),
                (AtVersion(KIND, (execution.run_id,), version),),
            )
            with suppress(VersionConflictError):  # Something arrived: it is looked at anew.
                await self._views.commit(unit)
                break
        await unbroken(self._go_on(execution))

    async def _begin(
        self, run_id: str, seen: tuple[RunView, int] | None = None
    ) -> tuple[Any, RunView, int] | None:
        """Begin or claim the ledger entry of a run, in the unit that counts the attempt."""
        found = seen or await self._views.find(run_id)
        if found is None:
            return None
        view, version = found
        taken_up = view.status in (Status.QUEUED, Status.RUNNING, Status.CANCELLING)
        if not taken_up or not self._may_take(view):
            return None
        said = Dispatched(view.attempt + 1, self._views.wall(), self._presence.incarnation)
        after = fold(view, "run.dispatched", said)
        share = await self._queues.share(view.queue, run_id)
        if share is None:
            return None
        also = Unit(
            (
                Append(stream_of(run_id), (event_of("run.dispatched", said),)),
                *projected(run_id, view, after),
                *share.writes,
            ),
            (AtVersion(KIND, (run_id,), version), *share.expects),
        )
        try:
            if view.status is Status.QUEUED:
                entry = await self._ledger.start(entry_key(run_id), _TERMS, None, also)
            else:
                entry = await self._ledger.claim(entry_key(run_id), also)
        except (VersionConflictError, FenceError, StateError):
            return None
        self._store.world.failpoints.reach("run.dispatched")
        return entry, after, version + 1

    def _may_take(self, view: RunView) -> bool:
        """Leave a run whose function is not known here to others, for a moment."""
        if self._views.functions.find(view.function) is not None:
            return True
        return self._views.wall() - view.updated >= GRACE

    def _execute_new(self, run_id: str, entry: Any, view: RunView, version: int) -> None:
        execution = Execution(self._views, run_id, entry, view, version)
        execution.on_unpark = self._unpark
        execution.on_parked = self.tell_who_waits
        self.live[run_id] = execution
        execution.errand.start(lambda: self._execute(execution))

    async def _execute(self, execution: Execution) -> None:
        """Execute a run until it ended, was let go, or goes on elsewhere."""
        try:
            ended = await conduct(self._views, execution)
            if ended is not None:
                await self._after(execution, ended)
        except asyncio.CancelledError:
            log.debug("event=run_left run=%s", execution.run_id)
        except StoreError as error:
            execution.stranded = error  # What could not be read is as bad as what was not written.
            log.warning("event=run_left code=%s", error.code)
        except HoldfastError as error:
            log.warning("event=run_left code=%s", error.code)
        finally:
            execution.over.set_result(None)
            if execution.stranded is None and self.live.get(execution.run_id) is execution:
                del self.live[execution.run_id]
            execution.discarded = True
            last = execution.view
            self.tell_who_waits(execution.run_id, last if last.is_terminal else None)
            self.nudge()

    async def _after(self, execution: Execution, ended: Ending) -> None:
        """Tell whom it concerns that a run ended."""
        self._store.world.failpoints.reach("run.ended")
        if ended.parent is not None:
            self._views.tell(*ended.parent)
        if execution.view.status is Status.CANCELLED:
            await self.cancel_children(execution.run_id)

    async def cancel_children(self, run_id: str) -> None:
        """Cancel what a cancelled run had started; a second time does nothing."""
        note = await orphans_note(self._views, run_id)
        if note is not None:
            for child in await open_children(self._views, run_id):
                await self.on_orphan(child)
            await self._views.forget(note)

    async def _cancel_orphans(self, run_ids: Sequence[str]) -> None:
        """Do what somebody who cancelled a run did not come to."""
        for run_id in run_ids:
            await self._alone("children_not_cancelled", run_id, self.cancel_children(run_id))

    # Waiting for an end.

    def executes(self, run_id: str) -> bool:
        """Return whether a run is executed here and does not just wait."""
        execution = self.live.get(run_id)
        return execution is not None and not execution.parked and not execution.over.done()

    def moved(self, run_id: str) -> asyncio.Future[RunView | None] | None:
        """
        Return what is done when a run that is executed here ends, with its last view, or when it
        parks or goes on elsewhere; None if none is, or if it will not be seen here.
        """
        unseen = self._presence.fenced is not None or self._store.poisoned is not None
        if unseen or not self.executes(run_id):
            return None
        future: asyncio.Future[RunView | None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(run_id, []).append(future)
        return future

    def drop(self, run_id: str) -> None:
        """Forget a run that ended while it was parked."""
        if (execution := self.live.get(run_id)) is not None:
            execution.discard()

    def nudge_for_code(self) -> None:
        """Look for runs that waited for a function that is known now."""
        self._looked_for_code = float("-inf")
        self.nudge()

    def tell_who_waits(self, run_id: str, last: RunView | None = None) -> None:
        """Tell who waits here for a run that it ended, parked, or is not executed here any more."""
        for future in self._waiters.pop(run_id, ()):
            if not future.done():
                future.set_result(last)

    def let_go_of_waiters(self) -> None:
        """Have everybody who waits for a run look for themselves what became of it."""
        for run_id in list(self._waiters):
            self.tell_who_waits(run_id)

    # The way in and out.

    def entering(self) -> Unit:
        """Nothing is written for it."""
        return Unit(())

    def entered(self, committed: Committed) -> None:
        """Nothing is executed before the runtime is ready."""

    def refuse(self) -> None:
        """Take nothing from now on; what runs is let go at its next step."""
        self._refused = True
        for execution in self.live.values():
            execution.draining = execution.held = True
            execution.stop_if_idle()

    def running(self) -> Sequence[str]:
        """Return the runs that are executed and not parked."""
        return []

    async def idle(self) -> None:
        """Wait until no step is under way."""
        while active := [one.over for one in self.live.values() if not one.parked]:
            await asyncio.wait(active)

    async def leave(self) -> None:
        """Let go of every run in good order; a step under way is interrupted."""
        await self.end()

    async def end(self) -> None:
        """Execute nothing any more; what cannot be let go is left to the next recovery."""
        await self.stop()
        self.refuse()
        for execution in list(self.live.values()):
            if execution.parked:
                execution.discard()
            else:
                execution.errand.cancel()
        if overs := [one.over for one in self.live.values()]:
            await asyncio.wait(overs)
        self.let_go_of_waiters()
