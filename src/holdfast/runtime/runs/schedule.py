"""
Schedules: runs that are started by the clock.

A schedule is a record with the next time it is due. Whoever sees that it is due starts the run
and moves the schedule on, in one unit that expects the schedule as it was read: so each time is
started once, by one runtime. Times that were missed while nothing ran are made up for by one
run, or skipped.

Invariants: the id of a run says of which time it is; no time is started twice; one schedule that
cannot be started here holds up no other one.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec
from cronsim import CronSim, CronSimError

from holdfast.core import codec
from holdfast.core.errors import ConflictError, HoldfastError, InvalidValueError
from holdfast.core.journal import Started
from holdfast.core.key import prefix_end
from holdfast.core.refusal import ScheduleNotFoundError
from holdfast.core.unit import AtVersion, DeleteRecord, PutRecord, RecordRow, Unit
from holdfast.runtime.names import commit_keeping
from holdfast.runtime.runs.telling import tell_started
from holdfast.runtime.runs.view import KIND as RUN_KIND
from holdfast.runtime.runs.view import Views
from holdfast.store.port import Lists

log = logging.getLogger("holdfast")
KIND: Final = "holdfast.schedule"
LISTED_MAX: Final = 10_000


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What is started by the clock.

    Attributes:
        name: how it is called; part of the ids of its runs.
        cron: when, as five fields: minute, hour, day of month, month, day of week.
        zone: time zone in which that is meant.
        due: when next, in seconds since 1970 UTC.
        make_up: start one run for times that were missed.
        started: how its runs begin.
        count: how many it started.
    """

    name: str
    cron: str
    zone: str
    due: float
    make_up: bool
    started: Started
    count: int = 0

    def after(self, wall: float) -> "Schedule":
        """Return the schedule moved on behind a moment."""
        return msgspec.structs.replace(
            self, due=next_time(self.cron, self.zone, wall), count=self.count + 1
        )

    def put(self) -> PutRecord:
        """Return the write of this schedule."""
        return PutRecord(KIND, (self.name,), msgspec.msgpack.encode(self))


class Schedules:
    """The schedules in one store."""

    def __init__(self, views: Views) -> None:
        """Take the views of the runs."""
        self._views = views

    async def put(
        self,
        name: str,
        cron: str,
        fn: Callable[..., Any],
        *args: Any,
        zone: str = "UTC",
        make_up: bool = True,
        queue: str = "",
    ) -> Schedule:
        """
        Start a run of a function at certain times; one of the same name is replaced.

        Args:
            name: of the schedule.
            cron: five fields: minute, hour, day of month, month, day of week.
            fn: what is run.
            args: what it is called with behind the run.
            zone: time zone of the times.
            make_up: start one run for all times that were missed while nothing ran.
            queue: in which the runs wait.

        Raises:
            InvalidValueError: the times or the zone are not understood.
            EncodeError: an argument cannot be stored exactly.
        """
        due = next_time(cron, zone, self._views.wall())
        said, also = self._views.started(fn, args, queue=queue, labels={"schedule": name})
        schedule = Schedule(name, cron, zone, due, make_up, said)
        await commit_keeping(self._views.store, Unit((schedule.put(), *also)))
        return schedule

    async def get(self, name: str) -> Schedule:
        """
        Return a schedule.

        Raises:
            ScheduleNotFoundError: there is none with this name.
        """
        row = await self._views.store.read(lambda reader: reader.record(KIND, (name,)))
        if row is None or row.value is None:
            raise ScheduleNotFoundError(name=name)
        return read_schedule(row)

    async def list(self) -> list[Schedule]:
        """Return all schedules by name."""
        return [read_schedule(row) for row in await self._views.damages.around(stored_schedules)]

    async def remove(self, name: str) -> None:
        """Start nothing more; what was started goes on."""
        await self._views.store.commit(Unit((DeleteRecord(KIND, (name,)),)))

    async def start_due(self, rows: Sequence[RecordRow]) -> None:
        """Start what is due of the schedules that were read; who cannot start one leaves it."""
        now = self._views.wall()
        for row in rows:
            try:
                await self._start_if_due(row, now)
            except HoldfastError as error:
                log.warning("event=schedule_not_started name=%s code=%s", row.key[0], error.code)

    async def _start_if_due(self, row: RecordRow, now: float) -> None:
        schedule = read_schedule(row)
        if schedule.due <= now:
            await self._start(row, schedule, now)

    async def _start(self, row: RecordRow, schedule: Schedule, now: float) -> None:
        moved = schedule.after(now)
        # A time is late if the one behind it has come as well.
        late = next_time(schedule.cron, schedule.zone, schedule.due) <= now
        writes: tuple[Any, ...] = (moved.put(),)
        expects = [AtVersion(KIND, row.key, row.version)]
        moment = datetime.fromtimestamp(schedule.due, UTC).strftime("%Y-%m-%dT%H:%MZ")
        run_id = f"{schedule.name}@{moment}"
        if schedule.make_up or not late:
            ids = self._views.store.world.ids
            said = msgspec.structs.replace(schedule.started, at=now, seed=ids.incarnation().hex())
            writes = (*writes, *self._views.begin(run_id, said))
            expects.append(AtVersion(RUN_KIND, (run_id,), 0))
        try:
            await self._views.store.commit(Unit(writes, tuple(expects)))
        except ConflictError as conflict:
            if getattr(conflict, "kind", KIND) != KIND:  # That run is there: only move on.
                await self._views.store.commit(Unit((moved.put(),), tuple(expects[:1])))
            return
        tell_started(self._views.telemetry, RUN_KIND, writes)
        self._views.on_queued(run_id)


def next_time(cron: str, zone: str, wall: float) -> float:
    """
    Return the first time behind a moment.

    Raises:
        InvalidValueError: the times or the zone are not understood, or there is no such time.
    """
    try:
        moment = datetime.fromtimestamp(wall, ZoneInfo(zone))
        return next(CronSim(cron, moment)).timestamp()
    except CronSimError as error:
        raise InvalidValueError(what="cron", reason=str(error)) from error
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise InvalidValueError(what="zone", reason=f"{zone!r} is not known") from error
    except StopIteration as error:
        raise InvalidValueError(what="cron", reason="names no time that ever comes") from error


def stored_schedules(reader: Lists) -> Sequence[RecordRow]:
    """Return all schedules as they are stored, by name, due or not."""
    return reader.records(KIND, b"", prefix_end(b""), LISTED_MAX, None)


def read_schedule(row: RecordRow) -> Schedule:
    """
    Return a stored schedule.

    Raises:
        DecodeError: it was written by something else.
    """
    return codec.decode_as(row.value or b"", Schedule, "schedule")
