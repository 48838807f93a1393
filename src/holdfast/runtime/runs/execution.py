"""
One run being executed by its owner: what is known of it here, and how the owner changes it.

    dispatch --> [owned: the ledger entry is ours] --park--> [nobody's; the task stays in memory]
                        |          ^                                      |
                        |          +---------- dispatch by us ------------+
                        |                      dispatch by others: this one is discarded
                        +-- finish / release / lost --> gone

Steps are appended under the fence alone and side by side. What changes the view goes through
`change`, one at a time, expects the view known here, and is decided anew if others were faster.

A run parks when it begins to wait while no step is under way: wait, view and settlement of the
entry are one unit. Whatever it begins while it is parked first makes it owned again.

Invariants: nothing is appended by an execution that is not the owner; what a wait is for and
arrived before the run parked is never slept over; a discarded execution writes nothing.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from holdfast.core.errors import (
    FenceError,
    HoldfastError,
    StoreError,
    StreamClosedError,
    VersionConflictError,
)
from holdfast.core.event import Event
from holdfast.core.journal import Payload, Queued, Waiting
from holdfast.core.run import RunView, Said, Status, fold, wait_ended_by
from holdfast.core.unit import Append, AtVersion, CloseStream, Committed, Expectation, Unit, Write
from holdfast.runtime.runs.journal import Journal, StepKey, read_arrivals, stream_of
from holdfast.runtime.runs.telling import tell_left, tell_lost, tell_taken
from holdfast.runtime.runs.view import KIND, Views, events_of, freed_slot, projected
from holdfast.runtime.runs.waits import Waits
from holdfast.runtime.service import Errand, carry_on
from holdfast.runtime.work.entry import Entry
from holdfast.store.store import Store


class Execution:
    """
    A run in the hands of this runtime.

    Attributes:
        run_id, view, journal: which run, and what is known of it here.
        working: steps under way.
        parked: it waits, and nobody owns it.
        discarded: it goes on elsewhere or later; nothing here writes any more.
        held, unread: something, or what others put in, is to be looked at before the next step.
        draining: the runtime is on its way out.
        root, alone: the task of the function, and whether only it asked for anything.
        diverged, gave_up, stranded: why it stopped: what was asked for, a step, the store.
        result_writes: what belongs to a result that is too large for an event.
        over: done when it is over here.
    """

    def __init__(
        self, views: Views, run_id: str, entry: Entry, view: RunView, version: int
    ) -> None:
        """Take a run that was just dispatched."""
        self.run_id = run_id
        self.views = views
        self.store: Store = views.store
        self.stream = stream_of(run_id)
        self.view: RunView = view
        self.journal = Journal()
        self.working = 0
        self.parked = False
        self.discarded = False
        self.held = False
        self.unread = False
        self.draining = False
        self.alone = True
        self.root: asyncio.Task[Any] | None = None
        self.diverged: tuple[str, str] | None = None
        self.gave_up = ""
        self.result_writes: tuple[Write, ...] = ()
        self.stranded: StoreError | None = None
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.errand = Errand(f"run {run_id}")
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.on_unpark: Callable[[Execution], Any] = lambda _: None
        self.on_parked: Callable[[str], None] = lambda _: None
        self._entry = entry
        self._fence: tuple[Expectation, ...] = (entry.fence,)
        self._version: int = version
        self._waits = Waits()
        self._submitted: dict[StepKey, Event] = {}
        self._told = False
        self.lock = asyncio.Lock()
        tell_taken(views.telemetry, run_id, entry, view)

    @property
    def version(self) -> int:
        """Version of the view as it is known here."""
        return self._version

    def now(self) -> float:
        """Return the wall time, for people."""
        return self.views.wall()

    # What the owner appends.

    def submit(self, key: StepKey, event: Event) -> None:
        """Append an event soon: with the next one, or at the next turn of the loop."""
        self._submitted[key] = event
        if len(self._submitted) == 1:
            asyncio.get_running_loop().call_soon(self._send)

    def drop_submitted(self, key: StepKey) -> None:
        """Append an event no more that was submitted and did not go yet."""
        self._submitted.pop(key, None)

    def _send(self) -> None:
        if self._submitted:
            carry_on(self._send_submitted())

    async def _send_submitted(self) -> None:
        """Append what was submitted and did not go along with anything yet."""
        if self._submitted and not self.discarded and not self.parked:
            try:
                await self.views.commit(self._unit(self._along(())))
            except (FenceError, StreamClosedError):
                self.discard()
            except HoldfastError:
                return  # What comes of the step is recorded, or the run stops there.

    async def append(
        self,
        *events: Event,
        writes: tuple[Write, ...] = (),
        expects: tuple[Expectation, ...] = (),
    ) -> None:
        """
        Append as the owner; when this returns, it is durable.

        Raises:
            CancelledError: this is not the owner any more, or the store cannot write.
            VersionConflictError: something else that was expected does not hold.
        """
        if self.discarded:
            raise asyncio.CancelledError
        try:
            unit = self._unit(events if expects else self._along(events), writes)
            if expects:
                unit = Unit(unit.writes, (*unit.expects, *expects))
            await self.views.commit(unit)
        except (FenceError, StreamClosedError):
            self._lose()
        except StoreError as error:
            self._strand(error)

    def _along(self, events: tuple[Event, ...]) -> tuple[Event, ...]:
        """
        Put what was submitted before events.

        Only where nothing but the owner is expected: what was refused would come again behind
        events that went meanwhile.
        """
        submitted, self._submitted = self._submitted, {}
        return (*submitted.values(), *events)

    def _unit(self, events: tuple[Event, ...], writes: tuple[Write, ...] = ()) -> Unit:
        return Unit((Append(self.stream, events), *writes), self._fence)

    def _lose(self) -> NoReturn:
        self.discard()
        raise asyncio.CancelledError

    def _strand(self, error: StoreError) -> NoReturn:
        """Stop, since nothing can be recorded; the run is let go as soon as the store can."""
        self.stranded = error
        self._lose()

    async def change(
        self,
        decide: Callable[[RunView], Sequence[Said] | None],
        *also: Write,
        settle: str = "",
        close: bool = False,
        expects: tuple[Expectation, ...] = (),
    ) -> RunView:
        """
        Change the view as the owner.

        Args:
            decide: returns the events, given the view; None to leave it as it is.
            also: what else is written.
            settle: outcome of the ledger entry, if it ends with this.
            close: the journal ends with this.
            expects: what else has to hold.
        """
        async with self.lock:
            return await self._change(decide, also, settle, close, expects)

    async def _change(
        self,
        decide: Callable[[RunView], Sequence[Said] | None],
        also: tuple[Write, ...] = (),
        settle: str = "",
        close: bool = False,
        expects: tuple[Expectation, ...] = (),
    ) -> RunView:
        while True:
            if self.discarded:
                raise asyncio.CancelledError
            said = decide(self.view)
            if said is None:
                return self.view
            after: RunView = self.view
            for type, one in said:
                after = fold(after, type, one)
            extra: tuple[Write, ...] = projected(self.run_id, self.view, after) + also
            if close:
                extra = (*extra, CloseStream(self.stream))
            unit = self._unit(events_of(said), extra)
            at = (AtVersion(KIND, (self.run_id,), self._version), *expects)
            if settle:
                settlement = self._entry.settlement(settle)
                freed = freed_slot(self.run_id, after)
                writes = (*unit.writes, *settlement.writes, *freed)
                unit = Unit(writes, (*settlement.expects, *at))
            else:
                unit = Unit(unit.writes, (*unit.expects, *at))
            try:
                committed = await self.views.commit(unit)
            except VersionConflictError as conflict:
                if (conflict.kind, conflict.key) != (KIND, (self.run_id,)):
                    raise
                await self._take_in()
                continue
            except (FenceError, StreamClosedError):
                self._lose()
            except StoreError as error:
                self._strand(error)
            self._accept(after, committed, settled=bool(settle))
            return after

    def _accept(self, after: RunView, committed: Committed, *, settled: bool) -> None:
        before, self.view = self.view, after
        self._version += 1
        if settled:
            tell_left(self.views.telemetry, self.run_id, before, after)
            self._entry.note_settled(committed)

    # What others put in.

    async def look(self) -> None:
        """Take in what others put in."""
        if self.parked or self.discarded:
            return
        async with self.lock:
            if not self.parked:
                self.held = self.unread or self.draining  # What else holds it is taken in.
                await self._take_in()

    async def _take_in(self) -> None:
        """Bring view and journal up to date; who waited for what arrived goes on."""
        found = await self.views.find(self.run_id)
        if found is None:
            self._lose()
        if found[1] != self._version:
            view, version = found
            if view.attempt != self.view.attempt:
                self._lose()
            await self._hand_out()
            self.view, self._version = view, version
        if self.view.status is Status.CANCELLING:
            self._hold_for_cancel()
        self.held = self.held or self.view.pausing

    async def _hand_out(self) -> None:
        found = await read_arrivals(self.store, self.run_id, self.journal)
        self._waits.wake({wait_ended_by(type, said) for type, said in found})

    def _hold_for_cancel(self) -> None:
        self.held = True
        # Once: a second time would interrupt the recording of the end.
        if not self._told and (self.view.mode == "now" or not self.working):
            self._told = True
            self.errand.cancel()

    # Waiting.

    async def wait(
        self,
        wait: str,
        arrived: Callable[[], bool],
        events: Sequence[Said] = (),
        writes: tuple[Write, ...] = (),
    ) -> None:
        """
        Wait until something arrives; the run parks if it does nothing else.

        Args:
            wait: what for, as it stands in `waits`.
            arrived: says whether it has.
            events: what begins the wait, if that is not durable yet.
            writes: what else belongs to that.
        """
        with self._waits.begin(wait) as woken:
            await self._begin_wait(arrived, events, writes)
            if not arrived():
                self.views.on_wait()
                self.stop_if_idle()
            while not arrived():
                await woken.wait()
                woken.clear()
        if self.held or self.discarded:
            await self.check()

    def stop_if_idle(self) -> bool:
        """Stop, once, what is to end and only waits, and so would not look for itself any more."""
        is_to_end = self.view.status is Status.CANCELLING or self.view.pausing or self.draining
        if is_to_end and self._waits and not (self.working or self.parked or self._told):
            self._told = True
            self.errand.cancel()
        return self._told

    async def _begin_wait(
        self, arrived: Callable[[], bool], events: Sequence[Said], writes: tuple[Write, ...]
    ) -> None:
        """Park with what begins the wait, or, if that cannot be now, append it alone."""
        async with self.lock:
            await self._own()

            def decide(_: RunView) -> Sequence[Said] | None:
                if self.working or self.held or (arrived() and not events):
                    return None
                return [*events, ("run.waiting", Waiting(self._waits.names(), self.now()))]

            await self._change(decide, writes, settle="waiting")
            if self.view.status is Status.WAITING:
                self._park()
            elif events:
                await self.append(*events_of(events), writes=writes)

    def _park(self) -> None:
        self.parked = True
        self.on_parked(self.run_id)

    async def park_if_idle(self) -> None:
        """Park a run whose steps ended while it was waiting for something."""
        if self.parked or self.working or not self._waits or self.lock.locked():
            return
        if self.stop_if_idle():
            return
        async with self.lock:

            def decide(_: RunView) -> Sequence[Said] | None:
                if self.working or self.held or self._waits.any_woken():
                    return None
                return [("run.waiting", Waiting(self._waits.names(), self.now()))]

            if self._waits and not self.parked:
                await self._change(decide, settle="waiting")
                if self.view.status is Status.WAITING:
                    self._park()

    async def _own(self) -> None:
        """Own the run again, if it was parked."""
        if self.parked:
            await self.on_unpark(self)
            if self.parked:
                self._lose()

    async def go_on(self, entry: Entry, view: RunView, version: int) -> None:
        """Own the run again: it was dispatched by this runtime."""
        self._entry, self._fence = entry, (entry.fence,)
        self.view, self._version = view, version
        self.parked = False
        tell_taken(self.views.telemetry, self.run_id, entry, view)
        await self._hand_out()
        if view.status is Status.CANCELLING:
            self._hold_for_cancel()

    # Steps.

    async def begin_work(self) -> None:
        """Begin something that is not waiting; the run is owned as long as it lasts."""
        if self.parked or self.lock.locked():
            async with self.lock:
                await self._own()
                self.working += 1
        else:
            self.working += 1

    def end_work(self) -> None:
        """End it; whoever is last stops a run that is to end and only waits from here on."""
        self.working -= 1
        self.stop_if_idle()

    async def check(self) -> None:
        """
        Return if the run may go on.

        Raises:
            CancelledError: it is to end, to pause, or is not executed here any more.
        """
        while self.unread:
            self.unread = False
            await self.look()
        if self.discarded or self.draining:
            raise asyncio.CancelledError
        self.held = self.view.pausing or self.view.status is Status.CANCELLING
        if self.held:
            self.stop()

    def check_course(self, asked: str) -> None:
        """
        Return if something new may be asked for.

        Raises:
            CancelledError: the function did something else before; it diverged.
        """
        left = self.journal.left
        if left and self.alone:
            self.diverged = (left, asked)
            self.stop()

    # Endings.

    def stop(self) -> NoReturn:
        """Stop the function, from within it; what becomes of the run is noted already."""
        if asyncio.current_task() is not self.root:
            self.errand.cancel()
        raise asyncio.CancelledError

    def discard(self) -> None:
        """Stop here without a trace; the run goes on elsewhere or later."""
        if not self.discarded:
            self.discarded = True
            tell_lost(self.views.telemetry, self.run_id, self.view)
            if asyncio.current_task() is not self.root:
                self.errand.cancel()

    async def finish(
        self, ending: Said, writes: tuple[Write, ...], expects: tuple[Expectation, ...]
    ) -> bool:
        """
        End the run with its terminal event, together with what depends on it.

        Returns:
            Whether it ended; not if it is to be cancelled since, and the ending is another one.

        Raises:
            VersionConflictError: what depends on it changed meanwhile; decide anew.
        """

        def decide(view: RunView) -> Sequence[Said] | None:
            cancelled = ending[0] == "run.cancelled"
            return [ending] if cancelled is (view.status is Status.CANCELLING) else None

        async with self.lock:
            await self._own()
            after = await self._change(decide, writes, "ended", close=True, expects=expects)
        return after.is_terminal

    async def release(self, type: str, said: Payload) -> bool:
        """
        Let go of a run that is not executed any more: it is queued, paused, or has diverged.

        Returns:
            Whether it did; not if it is to be cancelled since.
        """

        def decide(view: RunView) -> Sequence[Said] | None:
            return None if view.status is Status.CANCELLING else [(type, said)]

        async with self.lock:
            if self.parked:
                return True
            after = await self._change(decide, settle="released")
        return after.status is not Status.CANCELLING

    async def let_go(self) -> bool:
        """
        Let go of a run that was stranded, now that the store may write again and so may this.

        Returns:
            Whether it did; not if it is to be cancelled since.
        """
        await self.look()  # A view that was damaged is made anew by that.
        code = "" if self.stranded is None else self.stranded.code
        return await self.release("run.queued", Queued(self.now(), code))
