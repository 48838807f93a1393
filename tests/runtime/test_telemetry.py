"""
Telemetry: what happens is told as it was, and whoever listens breaks nothing.

What Prometheus makes of it is in `tests.adapters.test_prometheus`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import Append, AtSequence, Fence, Options, Retry, Run, Runtime, Unit
from holdfast.core.errors import SequenceConflictError, StaleGenerationError, StoreFullError
from holdfast.core.refusal import NotCapturedError
from holdfast.core.telemetry import Notice, Telemetry, bounded
from holdfast.core.world import World
from holdfast.runtime import gauges
from holdfast.testing.clock import ManualClock
from tests.runtime.counters import add, attach
from tests.runtime.heard import Heard
from tests.runtime.test_flush import Meter, use
from tests.runtime.test_runs import until

Work = Callable[[Runtime], Awaitable[Any]]
DAY = 86_400.0


def hear(url: str, work: Work, *functions: Any, world: World | None = None, **more: Any) -> Heard:
    """Open a store, do something, and return what was told."""
    heard = Heard()

    async def run() -> None:
        options: dict[str, Any] = {"functions": functions, "world": world, **more}
        async with holdfast.open(url, telemetry=[heard], **options) as rt:
            await work(rt)

    asyncio.run(run())
    return heard


class Faulty(Heard):
    """A hook that fails whatever it is told."""

    def notice(self, notice: Notice) -> None:
        raise ZeroDivisionError

    def begin(self, span: Any) -> None:
        raise ZeroDivisionError


def test_a_hook_that_raises_breaks_nobody(store_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Issue 7, telemetry: logged once, counted, and the hook behind it is told all the same."""
    heard = Heard()

    async def run() -> None:
        hooks = [Faulty(), heard]
        async with holdfast.open(store_url, telemetry=hooks, functions=[greets]) as rt:
            assert await (await rt.runs.start(greets)).result() == "hello"
            assert rt.telemetry.failures > len(heard.begun) > 0
            assert rt.telemetry.failures == len(heard.notices) + len(heard.begun)

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    failed = [record for record in caplog.records if "hook_failed" in record.getMessage()]
    assert [record.getMessage() for record in failed] == ["event=hook_failed hook=Faulty"]


def test_what_is_no_hook_is_refused_at_once(store_url: str) -> None:
    """Issue 7, telemetry: a mistake shows where it is made."""
    with pytest.raises(TypeError, match="object has neither"):
        holdfast.open(store_url, telemetry=[object()])  # type: ignore[list-item]


async def greets(run: Run) -> str:
    """Take a step."""
    return await run.step("greet", lambda: "hello")


def test_without_hooks_hot_paths_tell_nothing(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 7, telemetry: nothing is made that nobody takes."""
    told: list[str] = []
    monkeypatch.setattr(Telemetry, "tell", lambda self, name, *more: told.append(name))
    monkeypatch.setattr(Telemetry, "begin", lambda self, span: told.append("begin"))
    monkeypatch.setattr(Telemetry, "end", lambda self, span, ended: told.append("end"))

    async def run() -> None:
        async with holdfast.open(store_url, functions=[greets]) as rt:
            told.clear()
            await rt.history("s").append("t")
            await (await rt.runs.start(greets)).result()
            async with rt.ledger.begin("work"):
                pass
            await use(rt.session(Meter, "a"), used=1)
            await rt.flush()

    asyncio.run(run())
    assert told == []


def test_commits_are_told_with_what_was_in_them(store_url: str) -> None:
    """Issue 7, telemetry: refused units count nowhere; stale owners are counted apart."""
    before: list[int] = []

    async def work(rt: Runtime) -> None:
        heard = rt.telemetry.hooks[0]
        assert isinstance(heard, Heard)
        heard.notices.clear()
        event = rt.history("s").event("t", "12345678")
        refused = Unit((Append("s", (event,)),), (AtSequence("s", 77),))
        appends = [rt.history("s").append("t", "12345678") for _ in range(9)]
        first = rt.history("s").append("t", "12345678")
        answers = await asyncio.gather(first, rt.commit(refused), *appends, return_exceptions=True)
        assert isinstance(answers[1], SequenceConflictError)
        lease = await rt.leases.grant("job", ttl=60)
        stale = Fence("job", lease.generation + 1, lease.token.incarnation)
        with pytest.raises(StaleGenerationError):
            await rt.commit(Unit((Append("s", (event,)),), (stale,)))
        before.append(len(await rt.history("s").read()))

    heard = hear(store_url, work)
    assert before == [10]
    assert heard.total("store.committed", "events") == 10
    assert heard.total("store.committed", "event_bytes") == 10 * len(b"\xa812345678")
    assert heard.total("store.committed", "units") >= 11
    assert heard.total("unit.fenced", "count") == 1
    for notice in heard.of("store.committed"):
        assert 0 < notice.numbers["sync"] <= notice.numbers["seconds"]


def test_a_log_that_is_brought_home_is_told(tmp_path: Path) -> None:
    """Issue 7, telemetry: how long compactions take, and nothing where none was due."""

    async def work(rt: Runtime) -> None:
        for _ in range(5):
            await rt.history("s").append("t", b"x" * 10_000)

    url = f"sqlite:///{tmp_path / 'store.db'}"
    assert hear(url, work).of("store.compacted") == []
    compacted = hear(url, work, options=Options(checkpoint_pages=2)).of("store.compacted")
    assert len(compacted) > 1 and all(one.numbers["seconds"] > 0 for one in compacted)


def test_a_commit_that_fails_is_told_by_its_code(store_url: str) -> None:
    """Issue 7, telemetry: sync and commit errors by class."""
    world = World()

    def fail() -> None:
        raise StoreFullError(reason="no space left")

    async def work(rt: Runtime) -> None:
        world.failpoints.arm("commit.written", fail)
        with pytest.raises(StoreFullError):
            await rt.history("s").append("t")
        world.failpoints.arm("commit.written", lambda: None)

    heard = hear(store_url, work, world=world)
    assert heard.labels("store.failed") == [{"class": "store_full"}]


def test_work_in_flight_is_told_from_its_begin_to_its_verdict(store_url: str) -> None:
    """Issue 7, telemetry: entries begun and settled, by kind; a second settlement is none."""

    async def work(rt: Runtime) -> None:
        async with rt.ledger.begin("a", kind="turn") as entry:
            await entry.settle("said something long and new")
            await entry.settle("again")
        with pytest.raises(ZeroDivisionError):
            async with rt.ledger.begin("b", kind="turn"):
                raise ZeroDivisionError

    heard = hear(store_url, work)
    assert heard.labels("entry.begun") == [{"kind": "turn"}] * 2
    verdicts = [labels["verdict"] for labels in heard.labels("entry.judged")]
    assert verdicts == ["done", "failed"]


def test_flushes_are_told_with_what_was_at_risk(store_url: str) -> None:
    """Issue 7, telemetry: one that had nothing to do is none."""
    clock = ManualClock()

    async def work(rt: Runtime) -> None:
        await use(rt.session(Meter, "a"), used=1)
        clock.advance(7.0)
        await use(rt.session(Meter, "b"), used=1)
        await rt.flush()
        await rt.flush()

    heard = hear(store_url, work, world=World(clock=clock), flush_interval=3_600)
    (flush,) = heard.of("flush.finished")
    assert flush.labels == {"result": "written"}
    assert (flush.numbers["sessions"], flush.numbers["oldest"]) == (2, 7.0)


def test_engines_are_told_by_what_they_gave(store_url: str) -> None:
    """Issue 7, N8: the durability a request was given is in the metrics; snapshots, restores."""

    async def work(rt: Runtime) -> None:
        attached = await attach(rt)
        await attached.request(add, "a")
        await attached.snapshot()
        await attached.evict(())
        await attached.request(add, "secret")
        with pytest.raises(NotCapturedError):
            await attached.snapshot()

    heard = hear(store_url, work)
    given = {"engine": "counts", "durability": "durable"}
    assert heard.labels("engine.requested") == [given, given]
    made, refused = heard.of("engine.snapshot")
    assert (made.labels["result"], refused.labels["result"]) == ("made", "refused")
    assert made.numbers["bytes"] > 0
    assert 0 < made.numbers["pause"] <= made.numbers["seconds"]
    assert len(heard.of("engine.restored")) == 2


_tries: list[int] = []


async def tries(run: Run) -> str:
    """Take a step that fails at first, and one that fails for good."""

    def fail_once() -> str:
        _tries.append(1)
        if len(_tries) % 2:
            raise ConnectionError
        return "done"

    def fail() -> None:
        raise ValueError

    word = await run.step("page-17", fail_once, retry=Retry(attempts=3, backoff=0.001))
    await run.step("last", fail)
    return word


async def parent(run: Run) -> str:
    """Start a child and wait for it."""
    return str(await run.child(greets))


def test_runs_and_steps_are_told_whatever_began_and_ended_them(store_url: str) -> None:
    """Issue 7, telemetry: runs by kind and outcome, children and forks too; steps, retries."""

    async def work(rt: Runtime) -> None:
        for function in (greets, tries, parent):
            rt.runs.register(function, name=function.__name__)
        await (await rt.runs.start(parent, run_id="p")).ended()
        await (await rt.runs.start(tries, run_id="t")).ended()
        await (await rt.runs.fork("p", new_id="f")).ended()
        await rt.runs.queues.limit("slow", concurrency=1, rate=1, per=DAY)
        await (await rt.runs.start(greets, queue="slow")).ended()
        await rt.runs.cancel((await rt.runs.start(greets, queue="slow")).id)

    heard = hear(store_url, work)
    started = [labels["kind"] for labels in heard.labels("run.started")]
    assert started == ["parent", "greets", "tries", "parent", "greets", "greets"]
    finished = [tuple(labels.values()) for labels in heard.labels("run.finished")]
    assert sorted(finished) == [
        ("greets", "cancelled"),
        ("greets", "succeeded"),
        ("greets", "succeeded"),
        ("parent", "succeeded"),
        ("parent", "succeeded"),
        ("tries", "failed"),
    ]
    assert heard.labels("step.retried") == [{"reason": "error"}]
    steps = [tuple(labels.values()) for labels in heard.labels("step.finished")]
    assert ("page-#", "succeeded") in steps and ("last", "failed") in steps


async def asks(run: Run) -> Any:
    """Ask, with a default after a hundred seconds."""
    return await run.ask("Well?", default="no", timeout=100)


def test_questions_are_told_when_asked_and_when_their_time_is_over(store_url: str) -> None:
    """Issue 7, telemetry: asked, expired; the wait of a run is no span that stays open."""
    clock = ManualClock()

    async def work(rt: Runtime) -> None:
        run = await rt.runs.start(asks, run_id="r")
        await until(rt, "r", "run.waiting")
        clock.advance(101)
        rt.runs.look()
        assert await run.result() == "no"

    heard = hear(store_url, work, asks, world=World(clock=clock), lease_ttl=DAY)
    assert len(heard.of("question.asked")) == len(heard.of("question.expired")) == 1
    assert [(id, ended.outcome) for id, ended in heard.ended] == [
        ("1", "waiting"),
        ("2", "succeeded"),
    ]
    assert [span.links for span in heard.begun] == [(), ("1",)]


def test_the_store_is_looked_at_no_more_than_it_can_bear(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 7, telemetry: what is sampled is kept for a while, and many share one look."""
    clock = ManualClock()
    looks: list[float] = []
    room = gauges.Gauges._room

    async def counted(self: gauges.Gauges) -> Any:
        looks.append(clock.monotonic())
        return await room(self)

    monkeypatch.setattr(gauges.Gauges, "_room", counted)

    async def work(rt: Runtime) -> None:
        await asyncio.gather(*(rt.gauges.read() for _ in range(20)))
        clock.advance(gauges.AGE / 2)
        await rt.gauges.read()
        assert len(looks) == 1
        clock.advance(gauges.AGE / 2)
        await rt.gauges.read()
        assert len(looks) == 2

    hear(store_url, work, world=World(clock=clock), lease_ttl=DAY)


def test_of_very_many_runs_the_number_is_told(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issue 7, telemetry: a scrape reads so many records of a state, and counts the others."""
    monkeypatch.setattr(gauges, "DETAIL", 4)
    monkeypatch.setattr(gauges, "PAGE", 2)

    async def work(rt: Runtime) -> None:
        for number in range(7):
            await rt.runs.start(asks, run_id=f"r{number}")
            await until(rt, f"r{number}", "run.waiting")
        readings = [one for one in await rt.gauges.read() if one.name == "runs"]
        counts = {(one.labels["kind"], one.labels["state"]): one.value for one in readings}
        kind = f"{__name__}.asks"
        assert counts == {(kind, "waiting"): 4, (gauges.BEYOND, "waiting"): 3}

    hear(store_url, work, asks)


def test_a_loop_that_is_held_up_is_told(store_url: str) -> None:
    """Issue 7, telemetry: how late the loop was."""
    clock, heard = ManualClock(), Heard()

    async def run() -> None:
        world = World(clock=clock, telemetry=Telemetry([heard]))
        async with holdfast.open(store_url, world=world) as rt:
            pulse = gauges.Pulse(rt._store)
            await pulse.tick()
            clock.advance(pulse.interval + 0.25)
            await pulse.tick()

    asyncio.run(run())
    assert heard.total("loop.lag", "seconds") == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("plan", "plan"),
        ("page-17", "page-#"),
        ("fetch_3fa9bc", "fetch_#"),
        ("550e8400-e29b-41d4-a716-446655440000", "#-#-#-#-#"),
        ("x" * 1_000, "x" * 60),
    ],
)
def test_a_name_that_programs_make_up_is_a_label_without_ids(name: str, label: str) -> None:
    """Issue 7, telemetry: labels never hold identifiers."""
    assert bounded(name) == label


def test_a_question_is_due_when_little_of_its_time_is_left(store_url: str) -> None:
    """Issue 7, telemetry: what an alert needs to call somebody before the default counts."""
    clock = ManualClock()

    async def due(rt: Runtime) -> float:
        found = {reading.name: reading.value for reading in await rt.gauges.read()}
        assert found["questions_open"] == 1
        return found["questions_due"]

    async def work(rt: Runtime) -> None:
        await rt.runs.start(asks, run_id="r")
        await until(rt, "r", "run.waiting")
        clock.advance(79)
        assert await due(rt) == 0
        clock.advance(10)
        assert await due(rt) == 1

    hear(store_url, work, asks, world=World(clock=clock), lease_ttl=DAY)


async def stops(run: Run) -> None:
    """Do what is done once, and never come back from it."""
    await run.step("pay", asyncio.get_running_loop().create_future, effect="once")


def test_runs_that_wait_for_an_operator_are_told_by_reason(kept_url: str) -> None:
    """Issue 7, telemetry: an effect that may have happened, a version that is not here."""

    async def leave() -> None:
        async with holdfast.open(kept_url) as rt:
            rt.runs.register(stops, name="stops")
            rt.runs.register(asks, name="asks", version="1")
            await rt.runs.start(stops, run_id="uncertain")
            await rt.runs.start(asks, run_id="older")
            await until(rt, "uncertain", "step.started")
            await until(rt, "older", "run.waiting")

    async def look() -> dict[str, float]:
        async with holdfast.open(kept_url) as rt:
            rt.runs.register(stops, name="stops")
            rt.runs.register(asks, name="asks", version="2")
            await rt.runs.answer("older?1", "yes")
            await until(rt, "uncertain", "run.waiting")
            await until(rt, "older", "run.waiting", 2)
            found = await rt.gauges.read()
            return {
                one.labels["reason"]: one.value for one in found if one.name == "runs_attention"
            }

    asyncio.run(leave())
    attention = asyncio.run(look())
    assert attention["uncertain_effect"] == attention["version_mismatch"] == 1
    assert sum(attention.values()) == 2
