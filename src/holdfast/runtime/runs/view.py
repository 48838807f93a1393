"""
Views of runs: the records that show where each run is, and how others change a run.

Beside the view there are small records by which runs are found again: the place of a queued run
in its queue, a timer by its end, a run whose function is not known here by the function's name.
They are written and deleted in the unit that changes the view.

Invariant: who changes a run from outside expects the view it decided by; so of two who decide
at once, the second one decides anew.
"""

import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.clock import Clock
from holdfast.core.deadline import Deadline, ending_in
from holdfast.core.errors import (
    ConflictError,
    DamagedError,
    HoldfastError,
    VersionConflictError,
)
from holdfast.core.event import Event
from holdfast.core.journal import Payload, Started, TimerFired, encode_said, read_payload
from holdfast.core.key import Key
from holdfast.core.redaction import Redactor
from holdfast.core.refusal import RunNotFoundError, RunStateError
from holdfast.core.run import RunView, Said, Status, arrive, begun, decode_view, encode_view
from holdfast.core.unit import (
    Append,
    AtVersion,
    Committed,
    DeleteRecord,
    Expectation,
    MendRecord,
    PutBlob,
    PutRecord,
    RecordRow,
    Unit,
    Write,
)
from holdfast.runtime.blob import Blobs
from holdfast.runtime.damage import Damages
from holdfast.runtime.names import naming
from holdfast.runtime.runs.function import INLINE_BYTES_MAX, Functions
from holdfast.runtime.runs.journal import folded, stream_of
from holdfast.runtime.runs.telling import tell_asked
from holdfast.store.store import Store

log = logging.getLogger("holdfast")
KIND: Final = "holdfast.run"
QUEUED_KIND: Final = "holdfast.run.queued"
CODE_KIND: Final = "holdfast.run.code"
SLOT_KIND: Final = "holdfast.queue.slot"
TIMER_KIND: Final = "holdfast.run.timer"
NO_QUEUE: Final = " "
_PRIORITY_MIDDLE: Final = 500_000
NO_CODE: Final = "no_code"
VERSION_MISMATCH: Final = "version_mismatch"
TRIES_MAX: Final = 1_000
INPUT_BYTES_SHOWN: Final = 2_000


class Timer(msgspec.Struct, frozen=True):
    """
    What ends a wait by the clock.

    Attributes:
        run_id: whose.
        wait: which wait.
        deadline: when.
    """

    run_id: str
    wait: str
    deadline: Deadline

    @property
    def key(self) -> Key:
        """Where it is found: by its end within its domain."""
        return (self.deadline.domain, f"{self.deadline.ends_at:020.6f}", self.run_id, self.wait)

    def put(self) -> PutRecord:
        """Return the write that sets it."""
        return PutRecord(TIMER_KIND, self.key, msgspec.msgpack.encode(self))

    @staticmethod
    def read(row: RecordRow) -> "Timer":
        """Return a stored timer."""
        return codec.decode_as(row.value or b"", Timer, "timer")


class Change(NamedTuple):
    """
    What somebody outside does to a run.

    Attributes:
        events: what is appended.
        after: the view then.
        writes, expects: what else belongs to it.
    """

    events: Sequence[Said]
    after: RunView
    writes: tuple[Write, ...] = ()
    expects: tuple[Expectation, ...] = ()


class Views:
    """
    The views in one store.

    Attributes:
        functions: what can be run here.
        damages: where damage is noted that somebody meets.
        telemetry: who is told what happens.
        on_queued, on_arrival: called with the id of a run to which something happened here.
        on_wait: called when a run began to wait here, perhaps for a timer.
    """

    def __init__(self, store: Store, redaction: Redactor, damages: Damages) -> None:
        """Take the store."""
        self.store = store
        self.damages = damages
        damages.put_back = self._put_back
        self.functions = Functions()
        self.redaction = redaction
        self.clock: Clock = store.world.clock
        self.telemetry = store.world.telemetry
        self.blobs = Blobs(store, redaction)
        self.on_queued: Callable[[str], None] = lambda _: None
        self.on_wait: Callable[[], None] = lambda: None
        self.on_arrival: Callable[[str], None] = lambda _: None

    def commit(self, unit: Unit) -> Coroutine[None, None, Committed]:
        """Commit a unit of an owner, which passes also while the runtime is on its way out."""
        committing = self.store.commit_early(unit)
        return self._telling(unit, committing) if self.telemetry.listens else committing

    async def _telling(self, unit: Unit, committing: Coroutine[None, None, Committed]) -> Committed:
        committed = await committing
        tell_asked(self.telemetry, unit)
        return committed

    def wall(self) -> float:
        """Return the wall time."""
        return self.clock.wall()

    def timer(self, run_id: str, wait: str, seconds: float) -> Timer:
        """Return a timer that ends a wait so many seconds from now."""
        now, wall = self.clock.store_time(), self.clock.wall()
        return Timer(run_id, wait, ending_in(max(seconds, 1e-6), now, wall))

    def checked(self, value: object, what: str) -> bytes:
        """
        Return a plain value encoded, redacted.

        Raises:
            EncodeError: it cannot be stored exactly.
        """
        return codec.encode(self.redaction(value), what)

    def started(
        self, fn: Callable[..., Any], args: tuple[Any, ...], **fields: Any
    ) -> tuple[Started, tuple[Write, ...]]:
        """
        Return how a run of a function begins, and what else has to be written for that.

        Raises:
            EncodeError: an argument would not come back equal.
        """
        function = self.functions.of(fn)
        args = tuple([self.redaction(value) for value in args])
        raws = function.encode_args(args)
        fields.setdefault("inputs", text_of(raws))
        encoded = msgspec.msgpack.encode(raws)
        writes: tuple[Write, ...] = ()
        if len(encoded) > INLINE_BYTES_MAX:
            blob = PutBlob.of(encoded)
            writes, fields["blob"], raws = (blob,), blob.digest, []
        seed = self.store.world.ids.incarnation().hex()
        said = Started(function.name, function.version, self.wall(), seed, raws, **fields)
        return said, writes

    def starting(
        self, fn: Callable[..., Any], args: tuple[Any, ...], run_id: str, parent: str
    ) -> tuple[Write, ...]:
        """Return the writes that start a child of a run."""
        said, writes = self.started(fn, args, parent=parent)
        return (*self.begin(run_id, said), *writes)

    def begin(self, run_id: str, said: Started) -> tuple[Write, ...]:
        """Return the writes with which a run begins to be."""
        append = Append(stream_of(run_id), (event_of("run.started", said),))
        return (append, *projected(run_id, None, begun(said)), *naming(run_id, said.blob))

    async def find(self, run_id: str) -> tuple[RunView, int] | None:
        """Return a view and its version, or None; one that is damaged is made anew."""
        try:
            row = await self._row(run_id)
        except DamagedError as damage:
            row = await self._mended(run_id, damage)
        if row is None or row.value is None:
            return None
        return decode_view(row.value), row.version

    async def _row(self, run_id: str) -> RecordRow | None:
        return await self.store.read(lambda reader: reader.record(KIND, (run_id,)))

    async def _mended(self, run_id: str, damage: DamagedError) -> RecordRow | None:
        """Fold the journal, which is the authority, and put that in place of a damaged view."""
        log.error("event=run_mended run=%s reason=%s", run_id, damage.reason)
        view = await folded(self.store, run_id)
        if view is None:
            raise damage
        mend = MendRecord(KIND, (run_id,), encode_view(view), view.status.value)
        try:
            await self.commit(Unit((mend,)))
        except ConflictError:
            return await self._row(run_id)  # Somebody else was faster.
        except HoldfastError as error:
            raise damage from error
        return await self._row(run_id)

    async def _put_back(self, kind: str, key: Key) -> bool:
        """Write a damaged view anew from its journal, and a damaged place from its view."""
        if kind not in (KIND, QUEUED_KIND, CODE_KIND) or not key:
            return False
        try:
            found = await self.find(key[-1])
            if kind == KIND or found is None:
                return found is not None
            return await self._put_place(kind, key, *found)
        except ConflictError:
            return True  # Somebody else was faster, or the run moved on.
        except (HoldfastError, RuntimeError) as error:
            log.warning("event=not_put_back kind=%s key=%s reason=%s", kind, key, error)
            return False

    async def _put_place(self, kind: str, key: Key, view: RunView, version: int) -> bool:
        place = next(
            (
                MendRecord(kind, key, write.value)
                for write in projected(key[-1], None, view)
                if isinstance(write, PutRecord) and (write.kind, write.key) == (kind, key)
            ),
            None,
        )
        if place is None:
            return False
        log.error("event=place_mended kind=%s run=%s", kind, key[-1])
        await self.commit(Unit((place,), (AtVersion(KIND, key[-1:], version),)))
        return True

    async def get(self, run_id: str) -> tuple[RunView, int]:
        """
        Return a view and its version.

        Raises:
            RunNotFoundError: there is no such run.
        """
        found = await self.find(run_id)
        if found is None:
            raise RunNotFoundError(run_id=run_id)
        return found

    async def plain_args(self, run_id: str) -> list[Any]:
        """
        Return the arguments with which a run was started, as plain values.

        Raises:
            RunNotFoundError: there is no such run.
        """
        _, page = await self.store.events(stream_of(run_id), 0, 1)
        started = page and read_payload(page[0].type, page[0].payload)
        if not isinstance(started, Started):
            raise RunNotFoundError(run_id=run_id)
        if started.blob:
            args: list[Any] = codec.decode(await self.blobs.get(started.blob.hex()))
            return args
        return [codec.decode(bytes(raw)) for raw in started.args]

    async def change(self, run_id: str, decide: Callable[[RunView], Change | None]) -> RunView:
        """
        Change a run from outside, deciding anew as long as somebody else is faster.

        Args:
            run_id: which run.
            decide: returns what to do, given the view; None to leave it as it is.

        Raises:
            RunNotFoundError: there is no such run.
            HoldfastError: what `decide` raises, or what the store refuses.
        """
        return (await self.changed(run_id, decide))[0]

    async def changed(
        self, run_id: str, decide: Callable[[RunView], Change | None]
    ) -> tuple[RunView, Committed | None]:
        """Change a run as `change` does; return how it is then, and what was committed."""
        for _ in range(TRIES_MAX):
            view, version = await self.get(run_id)
            change = decide(view)
            if change is None:
                return view, None
            unit = Unit(
                (
                    Append(stream_of(run_id), events_of(change.events)),
                    *projected(run_id, view, change.after),
                    *change.writes,
                ),
                (AtVersion(KIND, (run_id,), version), *change.expects),
            )
            try:
                committed = await self.store.commit(unit)
            except VersionConflictError as conflict:
                if (conflict.kind, conflict.key) != (KIND, (run_id,)):
                    raise
                continue
            self.tell(run_id, change.after)
            return change.after, committed
        raise RunStateError(
            run_id=run_id, state="changing", action="changed", reason="it changes all the time"
        )

    def tell(self, run_id: str, view: RunView) -> None:
        """Let the executor know that something happened to a run."""
        if view.status is Status.QUEUED:
            self.on_queued(run_id)
        else:
            self.on_arrival(run_id)

    async def put_in(
        self,
        run_id: str,
        type: str,
        said: Payload,
        writes: tuple[Write, ...] = (),
        expects: tuple[Expectation, ...] = (),
    ) -> int:
        """
        Put something into a run; who waits for it goes on.

        Returns:
            Its sequence in the journal.

        Raises:
            RunNotFoundError: there is no such run.
            RunStateError: it ended.
        """

        def decide(view: RunView) -> Change:
            if view.is_terminal:
                raise RunStateError(
                    run_id=run_id,
                    state=view.status.value,
                    action=f"given {type}",
                    reason="a run that ended does not change any more",
                )
            events, after = arrive(view, type, said, self.wall())
            return Change(events, after, writes, expects)

        committed = (await self.changed(run_id, decide))[1]
        return committed.events[0][1].sequence if committed is not None else 0

    async def fire(self, row: RecordRow) -> None:
        """Let a timer end its wait; of several who see that it is due, one does."""
        timer = Timer.read(row)
        said = TimerFired(timer.wait, self.wall())
        gone = DeleteRecord(TIMER_KIND, row.key)
        still = AtVersion(TIMER_KIND, row.key, row.version)
        try:
            await self.put_in(timer.run_id, "timer.fired", said, (gone,), (still,))
        except (RunNotFoundError, RunStateError):
            await self.forget(row)
        except VersionConflictError:
            return

    async def forget(self, row: RecordRow) -> None:
        """Drop a record that stands for nothing any more."""
        try:
            unit = Unit(
                (DeleteRecord(row.kind, row.key),), (AtVersion(row.kind, row.key, row.version),)
            )
            await self.store.commit(unit)
        except VersionConflictError:
            return


def event_of(type: str, said: Payload) -> Event:
    """Return an event of a journal."""
    return Event(type, encode_said(said))


def events_of(said: Sequence[Said]) -> tuple[Event, ...]:
    """Return events of a journal."""
    return tuple([Event(type, encode_said(one)) for type, one in said])


def projected(run_id: str, before: RunView | None, after: RunView) -> tuple[Write, ...]:
    """Return the writes that make the store show a view in place of the one before."""
    writes: list[Write] = [PutRecord(KIND, (run_id,), encode_view(after), after.status.value)]
    for kind, place in ((QUEUED_KIND, queue_place), (CODE_KIND, code_place)):
        old = None if before is None else place(run_id, before)
        new = place(run_id, after)
        if old is not None and old != new:
            writes.append(DeleteRecord(kind, old))
        if new is not None and old != new:
            said = after.function if kind == QUEUED_KIND else [after.function, after.version]
            writes.append(PutRecord(kind, new, codec.encode(said)))
    return tuple(writes)


def queue_place(run_id: str, view: RunView) -> Key | None:
    """Return the place of a queued run: by queue, then priority, then time."""
    if view.status is not Status.QUEUED:
        return None
    order = f"{_PRIORITY_MIDDLE - view.priority:07d} {view.queued:020.6f}"
    return (view.queue or NO_QUEUE, order, run_id)


def freed_slot(run_id: str, view: RunView) -> tuple[Write, ...]:
    """Return the write that gives back the place of a run among those its queue lets run."""
    return (DeleteRecord(SLOT_KIND, (view.queue, run_id)),) if view.queue else ()


def code_place(run_id: str, view: RunView) -> Key | None:
    """Return where a run is found that waits for code."""
    if view.status is Status.WAITING and view.reason in (NO_CODE, VERSION_MISMATCH):
        return (view.function, run_id)
    return None


def is_for(row: RecordRow, version: str) -> bool:
    """Return whether a run that waits for code may wait for this version of its function."""
    said: object = codec.decode(row.value or b"")
    # Earlier, only the function was written; then the run's view tells.
    return not isinstance(said, list) or version in said[1:]


def text_of(raws: list[msgspec.Raw]) -> str:
    """Return the beginning of encoded arguments as text."""
    try:
        plain = [msgspec.msgpack.decode(bytes(raw)) for raw in raws]
        return msgspec.json.encode(plain)[:INPUT_BYTES_SHOWN].decode(errors="ignore")
    except (msgspec.MsgspecError, TypeError, ValueError):
        return ""
