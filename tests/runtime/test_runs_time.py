"""Runs and time: timers, deadlines, schedules, queues; with a clock that is set by hand."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import holdfast
from holdfast import Run, Runtime, Status
from holdfast.core.clock import StoreTime
from holdfast.core.deadline import ending_in
from holdfast.core.errors import InvalidValueError, VersionConflictError
from holdfast.core.refusal import AnswerConflictError, ScheduleNotFoundError
from holdfast.core.unit import Unit
from holdfast.core.world import World
from holdfast.runtime.runs.view import Timer
from holdfast.testing.clock import ManualClock
from tests.runtime.test_runs import journal, until

Work = Callable[[Runtime], Awaitable[Any]]


async def sleeps(run: Run) -> str:
    """Sleep for a hundred seconds."""
    await run.sleep(100)
    return "awake"


async def asks(run: Run) -> Any:
    """Ask, with a default after a hundred seconds."""
    return await run.ask("Well?", choices=["yes", "no"], default="no", timeout=100)


async def notes(run: Run, what: str) -> str:
    """Do a step."""
    return await run.step("note", lambda: what)


async def holds(run: Run) -> Any:
    """Hold a place of its queue as long as a step takes."""
    return await run.step("hold", run_gate.wait)


run_gate = asyncio.Event()
DAY = 86_400.0  # A lease that outlasts what the clock jumps.


def execute(url: str, clock: ManualClock, work: Work) -> Any:
    """Open a store with the functions and the clock, and do something."""

    async def run() -> Any:
        global run_gate
        run_gate = asyncio.Event()
        functions = [sleeps, asks, notes, holds]
        options: dict[str, Any] = {"functions": functions, "lease_ttl": DAY}
        async with holdfast.open(url, world=World(clock=clock), **options) as rt:
            return await work(rt)

    return asyncio.run(run())


def reboot(clock: ManualClock, down: float, wall: float | None = None) -> None:
    """Boot the machine: store time begins anew, and only the wall clock knows how long it was."""
    clock.domain += "+"
    clock.store_seconds = 5.0
    clock.wall_time += down if wall is None else wall


@pytest.mark.parametrize("function", [sleeps, asks])
@pytest.mark.parametrize(("wall", "left"), [(30.0, 30.0), (-9999.0, 100.0), (9999.0, 0.0)])
def test_the_remaining_time_survives_restarts(
    kept_url: str, function: Any, wall: float, left: float
) -> None:
    """A10, X10. Over a boot too; a clock set back never gives more than was given at first."""
    clock = ManualClock()

    async def begin(rt: Runtime) -> None:
        await rt.runs.start(function, run_id="r")
        await until(rt, "r", "run.waiting")

    async def still(rt: Runtime) -> None:
        rt.runs.look()
        await (await rt.runs.start(notes, "x")).result()  # A look came and went.
        assert (await rt.runs.get("r")).status is Status.WAITING

    async def boot(rt: Runtime) -> Any:
        if left:
            clock.advance(left - 0.5)
            await still(rt)
            clock.advance(1.0)
        rt.runs.look()
        return await rt.runs.result("r")

    execute(kept_url, clock, begin)
    clock.advance(40)
    clock.wall_time += 5_000  # Within a boot the wall clock is not asked at all.
    execute(kept_url, clock, still)
    clock.wall_time -= 5_000
    reboot(clock, 0.0, wall)
    assert execute(kept_url, clock, boot) == ("awake" if function is sleeps else "no")


@pytest.mark.parametrize("domain", ["boot:", "zone:"])
def test_a_timer_is_seen_among_many_of_other_time_domains(store_url: str, domain: str) -> None:
    """A10, F16. More than a look reads, before it or behind it; all others end much later."""
    clock = ManualClock()

    async def work(rt: Runtime) -> Any:
        now, wall = StoreTime(domain, clock.store_seconds), clock.wall()
        others = [Timer(f"other-{n}", "sleep", ending_in(DAY + n, now, wall)) for n in range(450)]
        await rt.runs.start(sleeps, run_id="r")
        await until(rt, "r", "run.waiting")
        await rt._store.commit(Unit(tuple(other.put() for other in others)))
        clock.advance(100.5)
        rt.runs.look()
        async with asyncio.timeout(30):
            return await rt.runs.result("r")

    assert execute(store_url, clock, work) == "awake"


def test_an_answer_that_comes_too_late_is_told_so(store_url: str) -> None:
    """A10, A11. The default counts, as expired and not as cancelled; it names no winner."""
    clock = ManualClock()

    async def work(rt: Runtime) -> None:
        run = await rt.runs.start(asks, run_id="r")
        await until(rt, "r", "run.waiting")
        assert (await rt.runs.questions.get("r?1")).remaining == 100
        clock.advance(25)
        assert (await rt.runs.questions.get("r?1")).remaining == 75
        clock.advance(100)
        rt.runs.look()
        assert await run.result() == "no"
        question = await rt.runs.questions.get("r?1")
        assert (question.state, question.answer) == ("expired", "no")
        with pytest.raises(AnswerConflictError) as conflict:
            await rt.runs.answer("r?1", "yes")
        assert conflict.value.state == "expired"
        assert "question.expired" in await journal(rt, "r")

    execute(store_url, clock, work)


def test_an_answer_is_checked_and_the_same_one_is_accepted_again(store_url: str) -> None:
    """A10. One answer counts; the same with the same key is fine, any other names the winner."""
    clock = ManualClock()

    async def work(rt: Runtime) -> None:
        run = await rt.runs.start(asks, run_id="r")
        await until(rt, "r", "run.waiting")
        with pytest.raises(InvalidValueError):
            await rt.runs.answer("r?1", "maybe")
        for wrong in ("r?2", "r", "x?1", "?", "r?x"):
            with pytest.raises(holdfast.NotFoundError):
                await rt.runs.answer(wrong, "yes")
        await rt.runs.answer("r?1", "yes", by="ann", key="k")
        assert (await rt.runs.answer("r?1", "yes", by="bob", key="k")).by == "ann"
        for value, key in (("yes", ""), ("yes", "other"), ("no", "k")):
            with pytest.raises(AnswerConflictError) as conflict:
                await rt.runs.answer("r?1", value, by="bob", key=key)
            assert conflict.value.winner == "ann"
        assert await run.result() == "yes"
        assert await rt.records.list("holdfast.run.timer") == []

    execute(store_url, clock, work)


def test_a_schedule_starts_each_time_once(store_url: str) -> None:
    """A8. Missed times are made up for by one run, or skipped."""
    clock = ManualClock()

    async def work(rt: Runtime) -> None:
        await rt.runs.schedules.put("hourly", "0 * * * *", notes, "x")
        await rt.runs.schedules.put("strict", "0 * * * *", notes, "y", make_up=False)
        assert await rt.runs.list() == []
        due = (await rt.runs.schedules.get("hourly")).due
        clock.wall_time = due + 1
        rt.runs.look()
        await until_count(rt, 2)
        rt.runs.look()
        clock.wall_time = due + 3 * 3600 + 1
        rt.runs.look()
        await until_count(rt, 3)
        infos = await rt.runs.list()
        assert [info.labels["schedule"] for info in infos] == ["hourly", "hourly", "strict"]
        assert (await rt.runs.schedules.get("hourly")).due == due + 4 * 3600
        await rt.runs.schedules.remove("hourly")
        with pytest.raises(ScheduleNotFoundError):
            await rt.runs.schedules.get("hourly")
        for cron, zone in (("x", "UTC"), ("0 0 30 2 *", "UTC"), ("* * * * *", "Nowhere/At")):
            with pytest.raises(InvalidValueError):
                await rt.runs.schedules.put("wrong", cron, notes, "x", zone=zone)

    execute(store_url, clock, work)


def test_of_several_runtimes_one_starts_what_is_due(kept_url: str) -> None:
    """A8, A9, C5. Each time once, whoever sees first that it has come."""
    clock = ManualClock()

    async def race() -> None:
        opening = [holdfast.open(kept_url, world=World(clock=clock)) for _ in range(3)]
        async with opening[0] as rt, opening[1] as two, opening[2] as three:
            for one in (rt, two, three):
                one.runs.register(notes)
            await rt.runs.schedules.put("hourly", "0 * * * *", notes, "x")
            for count in range(1, 11):
                clock.wall_time = (await rt.runs.schedules.get("hourly")).due + 1
                for one in (rt, two, three):
                    one.runs.look()
                await asyncio.gather(*(looked(one) for one in (rt, two, three)))
                assert (await rt.runs.schedules.get("hourly")).count == count
            started = await rt.runs.list(labels={"schedule": "hourly"})
            assert len(started) == 10
            for info in started:
                await rt.runs.result(info.id)
                assert (await journal(rt, info.id)).count("run.started") == 1
            assert await rt.verify() == []

    asyncio.run(race())


async def looked(rt: Runtime) -> None:
    """Wait until a look of this runtime came and went."""
    await (await rt.runs.start(notes, "look")).result()


async def until_count(rt: Runtime, count: int) -> None:
    """Wait until so many runs ended."""
    async for event in rt.feed.follow():
        count -= event.type == "run.succeeded"
        if not count:
            return


def test_a_queue_lets_no_more_run_than_it_may(store_url: str) -> None:
    """A16. By priority, then by time; another one goes on."""
    clock = ManualClock()

    async def work(rt: Runtime) -> None:
        await rt.runs.queues.limit("q", concurrency=2)
        for number in range(5):
            clock.advance(1)
            id = f"q{number}"
            await rt.runs.start(holds, run_id=id, queue="q", priority=9 if number == 4 else 0)
        other = await rt.runs.start(notes, "x")
        assert await other.result() == "x"
        await until(rt, "q0", "step.started")
        status = [(await rt.runs.get(f"q{number}")).status.value for number in range(5)]
        assert status.count("running") == 2
        run_gate.set()
        for number in range(5):
            await rt.runs.result(f"q{number}")
        begun = [e.stream for e in await rt.feed.read() if e.type == "run.dispatched"]
        queued = [name for name in begun if name.startswith("run/q")]
        assert queued.index("run/q4") < queued.index("run/q3")
        assert await rt.records.list("holdfast.queue.slot") == []

    execute(store_url, clock, work)


def test_several_runtimes_share_what_a_queue_lets_run(kept_url: str) -> None:
    """A9, A16, C5. All of them dispatch at once; none begins one too many."""
    clock = ManualClock()

    async def race() -> None:
        opening = [holdfast.open(kept_url, world=World(clock=clock)) for _ in range(3)]
        async with opening[0] as rt, opening[1] as two, opening[2] as three:
            runtimes = (rt, two, three)
            for one in runtimes:
                one.runs.register(notes)
            await rt.runs.queues.limit("q", rate=4, per=10)
            for begun in (4, 8, 12):
                starts = [one.runs.start(notes, "x", queue="q") for one in runtimes * 4]
                await asyncio.gather(*starts)
                await asyncio.gather(*(looked(one) for one in runtimes))
                await until_begun(rt, begun)
                await asyncio.gather(*(looked(one) for one in runtimes))
                assert await begun_in_queue(rt) == begun
                clock.advance(11)

    asyncio.run(race())


def test_of_two_who_take_the_last_place_of_a_queue_one_gets_it(store_url: str) -> None:
    """A9, C5. Both saw that there is room, each for another run."""

    async def work(rt: Runtime) -> None:
        await rt.runs.queues.limit("q", concurrency=1)
        shares = [await rt.runs.queues.share("q", run_id) for run_id in ("a", "b")]
        first, second = [Unit(share.writes, share.expects) for share in shares if share]
        await rt._store.commit(first)
        with pytest.raises(VersionConflictError):
            await rt._store.commit(second)

    execute(store_url, ManualClock(), work)


async def begun_in_queue(rt: Runtime) -> int:
    """Return how many runs of the queue were dispatched."""
    queued = [info for info in await rt.runs.list(limit=1_000) if info.queue]
    return sum(bool(info.attempt) for info in queued)


async def until_begun(rt: Runtime, count: int) -> None:
    """Wait until so many runs of the queue were dispatched."""
    while await begun_in_queue(rt) < count:
        await looked(rt)


def test_a_queue_begins_no_more_in_a_time_than_it_may(store_url: str) -> None:
    """A16. The rest begins when the time is over."""
    clock = ManualClock()

    async def work(rt: Runtime) -> None:
        await rt.runs.queues.limit("q", rate=2, per=10)
        runs = [await rt.runs.start(notes, str(number), queue="q") for number in range(4)]
        await until_count(rt, 2)
        await looked(rt)
        assert len(await rt.runs.list(status="queued")) == 2
        clock.advance(9)
        await looked(rt)
        assert len(await rt.runs.list(status="queued")) == 2
        clock.advance(2)
        rt.runs.look()
        await asyncio.gather(*(run.result() for run in runs))

    execute(store_url, clock, work)
