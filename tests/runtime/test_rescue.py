"""Work of runtimes that died: found exactly, taken over once, by processes that really die."""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest

import holdfast
from holdfast.core.errors import DamagedError, StoreFullError
from holdfast.core.ledger import REPORT
from holdfast.core.unit import GrantLease, Unit
from holdfast.core.world import World
from holdfast.runtime.presence import lease_of
from holdfast.testing.clock import ManualClock
from tests.runtime import behind
from tests.runtime.process import Process, RefusedError

NewUrl = Callable[[], str]
DAMAGE_FIRST = (
    "UPDATE {record} SET value = digest WHERE kind = 'holdfast.runtime' AND written_at = "
    "(SELECT min(written_at) FROM {record} WHERE kind = 'holdfast.runtime')"
)
KEYS = [f"turn-{number}" for number in range(6)]


@pytest.fixture(params=["sqlite", "postgresql"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> NewUrl:
    """Return what gives the address of an empty store that several processes can open."""
    numbers = count(1)
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path / f'{next(numbers)}.db'}"
    url = str(request.getfixturevalue("postgres_url"))
    joint = "&" if "?" in url else "?"
    return lambda: f"{url}{joint}schema=ledger_{next(numbers)}"


@pytest.fixture
def url(new_url: NewUrl) -> str:
    """Address of one such store."""
    return new_url()


def killed_with(url: str, keys: list[str], policy: str = "report") -> None:
    """Leave work in flight behind."""
    with Process(url) as process:
        process.call("begin_all", keys=keys, policy=policy)
        process.kill()


def crashed(url: str) -> list[list[str]]:
    """Return what the next start finds."""
    with Process(url) as process:
        return list(process.call("crashed"))


def test_exactly_the_work_in_flight_at_a_kill_is_reported(url: str) -> None:
    """H1, F1. Not what was settled a moment before, not sessions that were touched."""
    with Process(url) as process:
        process.call("begin_all", keys=[*KEYS, "settled"])
        process.call("settle", key="settled")
        process.call("put", value="touched")
        process.kill()
    with Process(url) as process:
        assert process.call("crashed") == [[key, "interrupted"] for key in KEYS]
        report = process.call("report")
        assert report["rescued"] == {"interrupted": len(KEYS)}
        assert [entry[0] for entry in report["entries"]] == [[key] for key in KEYS]


@pytest.mark.parametrize(
    ("point", "listed"), [("commit.taken", []), ("ledger.begun", ["interrupted"])]
)
def test_killed_around_the_marker_it_is_listed_if_it_was_durable(
    url: str, point: str, listed: list[str]
) -> None:
    """H2. Before the commit nothing happened; behind it the work is listed, begun or not."""
    with Process(url) as process:
        process.call("die_at", point=point)
        with pytest.raises(EOFError):
            process.call("begin", key="a")
    assert [state for _, state in crashed(url)] == listed


def test_work_that_is_settled_is_not_listed_if_the_process_dies_at_once(url: str) -> None:
    """H1, H6. Behind the settlement nothing is in flight."""
    with Process(url) as process:
        process.call("begin", key="a")
        process.call("die_at", point="ledger.settled")
        with pytest.raises(EOFError):
            process.call("settle", key="a")
    assert crashed(url) == []


@pytest.mark.parametrize("point", ["presence.entered", "rescue.taken", "rescue.entry"])
def test_a_rescue_killed_again_and_again_comes_to_the_same_list(
    new_url: NewUrl, point: str
) -> None:
    """H5, F2. Each start is killed at that point; what is left alone finds what one start does."""
    killed_with(url := new_url(), KEYS)
    expected = crashed(url)
    killed_with(url := new_url(), KEYS)
    for nth in (1, 2, 3, 1):
        with Process(url, point=point, nth=nth) as process:
            # Those that have less to do than before come to their end.
            if process.is_ready:
                assert process.close() == 0
    assert crashed(url) == expected


def test_a_rescue_killed_at_its_end_is_over(url: str) -> None:
    """H5, F2. The verdicts are durable, and the dead runtime is forgotten."""
    killed_with(url, KEYS)
    with Process(url, point="rescue.ended") as process:
        assert not process.is_ready
    with Process(url) as process:
        assert len(process.call("crashed")) == len(KEYS)
        # The one that died in the rescue had nothing in flight.
        assert process.call("report")["rescued"] == {}


def test_a_clean_end_leaves_nothing_and_an_end_with_work_in_flight_leaves_exactly_that(
    url: str,
) -> None:
    """H6. What nobody waited for is found by the next start, also by the same process."""
    with Process(url) as process:
        process.call("begin_all", keys=KEYS)
        for key in KEYS:
            process.call("settle", key=key)
        assert process.close() == 0
    assert crashed(url) == []
    with Process(url) as process:
        process.call("begin_all", keys=["a", "b"])
        process.call("settle", key="b")
        assert process.close() == 0
    assert crashed(url) == [["a", "interrupted"]]


def test_two_live_runtimes_never_rescue_each_others_work(url: str) -> None:
    """H10, F14. A neighbour that starts finds nothing, and is told who works on it."""
    with Process(url) as one, Process(url) as two:
        one.call("begin", key="a")
        assert two.call("report")["runtimes"] == []
        assert two.call("crashed") == []
        for name in ("begin", "claim"):
            with pytest.raises(RefusedError, match="entry_held"):
                two.call(name, key="a")
        with Process(url) as three:
            assert three.call("crashed") == []
        one.call("settle", key="a")
        two.call("begin", key="a")
        two.call("settle", key="a")


def test_a_neighbour_takes_over_the_work_of_one_that_dies(url: str) -> None:
    """H10, F1. Without a start: the living look for the dead at every heartbeat."""
    with Process(url) as one, Process(url, lease_ttl=3.0) as two:
        one.call("begin", key="a", policy="resume")
        one.kill()
        two.call("ended", stream="holdfast/ledger/1")
        assert two.call("claim", key="a") == [2, 2]
        two.call("settle", key="a")


def test_who_is_taken_for_dead_itself_rescues_nobody_until_it_entered_anew(tmp_path: Path) -> None:
    """F16, H4. Its own token passes no more: no fault and nothing done; the next look goes on."""

    async def run() -> None:
        url, world = f"sqlite:///{tmp_path / 'store.db'}", World(clock=(clock := ManualClock()))
        opening = partial(holdfast.open, url, world=world, lease_ttl=1e6)
        async with opening() as rt, opening() as other:
            await other.ledger.begin(("turn", "1"), kind="turn", policy=REPORT)
            clock.advance(2e6)
            rescue = rt._lifeline._rescue
            assert (await rescue.sweep()).runtimes == []
            await rt._presence.beat()
            found = await rescue.sweep()
            assert found.runtimes == [other.opened.epoch]
            assert [entry[0] for entry in found.entries] == [["turn", "1"]]

    asyncio.run(run())


def test_one_dead_runtime_that_cannot_be_rescued_hides_none_behind_it(url: str) -> None:
    """H10, F1. Its fault is raised when all were tried; the next look tries it again."""

    async def run() -> None:
        world = World()
        async with holdfast.open(url, world=world, lease_ttl=1e6) as rt:
            with Process(url) as one, Process(url) as two:
                one.call("begin", key="a")
                two.call("begin", key="b")
                one.kill()
                two.kill()
            faults = iter([StoreFullError(reason="no space left")])
            world.failpoints.arm("rescue.taken", partial(raise_next, faults))
            with pytest.raises(StoreFullError):
                await rt._lifeline.tick()
            assert [info.key for info in await rt.ledger.interrupted()] == [("b",)]
            await rt._lifeline.tick()
            assert [info.key for info in await rt.ledger.interrupted()] == [("a",), ("b",)]

    asyncio.run(run())


def raise_next(faults: Iterator[Exception]) -> None:
    """Raise what is left, if anything."""
    for fault in faults:
        raise fault


def test_a_damaged_entry_in_flight_here_holds_up_no_rescue(tmp_path: Path) -> None:
    """H10, H11. The look at it fails, every time; the dead are looked for all the same."""
    url = f"sqlite:///{tmp_path / 'a.db'}"

    async def run() -> None:
        async with holdfast.open(url, lease_ttl=1e6) as rt:
            entry = await rt.ledger.begin("mine")
            killed_with(url, ["theirs"])
            mine = entry.row.owner.incarnation
            behind.execute(url, f"UPDATE {{record}} SET value = x'c0' WHERE tag = '{mine}'")
            with pytest.raises(DamagedError):
                await rt._lifeline.tick()
            info = await rt.ledger.find("theirs")
            assert info is not None and info.state == "interrupted"
            await entry.settle()

    asyncio.run(run())


def test_work_of_a_runtime_whose_presence_is_damaged_is_found_once_its_lease_is_over(
    kept_url: str,
) -> None:
    """F9, H1. Its records stand alone; until then nobody can tell that it is dead."""
    with Process(kept_url, lease_ttl=1.0) as process:
        process.call("begin_all", keys=KEYS)
        process.kill()
    behind.damage(kept_url, "holdfast.runtime")

    async def run() -> None:
        async with holdfast.open(kept_url) as rt, asyncio.timeout(60):
            while not (found := await rt.ledger.interrupted()):
                await rt._lifeline.tick()
            assert [info.key[0] for info in found] == KEYS
            assert [worker.here for worker in await rt.workers.list()] == [True]

    asyncio.run(run())


def test_who_lives_is_not_taken_for_dead_for_a_damaged_presence(kept_url: str) -> None:
    """F9, H10. It goes on with its work, and says anew that it is there."""

    async def run() -> None:
        async with holdfast.open(kept_url) as heir:
            with Process(kept_url) as process:
                process.call("begin_all", keys=KEYS)
                behind.damage(kept_url, "holdfast.runtime")
                await heir._presence.beat()
                assert [worker.here for worker in await heir.workers.list()] == [True]
                await heir._lifeline.tick()
                assert await heir.ledger.interrupted() == []
                running = await heir.ledger.list("running")
                assert [info.key[0] for info in running] == KEYS
                for key in KEYS:
                    process.call("settle", key=key)

    asyncio.run(run())


def test_who_is_at_a_rescue_is_not_taken_for_gone_for_a_damaged_presence(kept_url: str) -> None:
    """F9, F14. The lease of the dead one is in living hands, though nobody can read whose."""

    async def run() -> None:
        async with holdfast.open(kept_url, lease_ttl=1e6) as rescuer:
            killed_with(kept_url, KEYS)
            present = await rescuer.records.list("holdfast.runtime")
            here = rescuer.opened.incarnation.hex()
            [dead] = [row.key[0] for row in present if row.key[0] != here]
            lease = await rescuer.leases.find(lease_of(dead))
            assert lease is not None
            grant = GrantLease(lease.key, 1e6, "the rescuer", over=lease.generation)
            await rescuer._store.commit(Unit((grant,)))
            behind.execute(kept_url, DAMAGE_FIRST)
            async with holdfast.open(kept_url) as other:
                assert await other.ledger.interrupted() == []
                await other._lifeline.tick()
                assert await other.ledger.interrupted() == []

    asyncio.run(run())


def test_the_same_crash_gives_the_same_list_and_report_twice(tmp_path: Path) -> None:
    """C6. Recovered on two copies of the file, and once more after a clean end."""
    home = tmp_path / "one"
    home.mkdir()
    killed_with(f"sqlite:///{home / 'a.db'}", KEYS, policy="resume")
    found: list[tuple[list[list[str]], dict[str, object]]] = []
    for copy in ("x", "y"):
        target = tmp_path / copy
        target.mkdir()
        for part in home.iterdir():
            if part.is_file():
                (target / part.name).write_bytes(part.read_bytes())
        with Process(f"sqlite:///{target / 'a.db'}") as process:
            found.append((process.call("crashed"), process.call("report")))
    assert found[0] == found[1]
    assert len(found[0][0]) == len(KEYS)


def test_work_that_crashes_its_runtime_three_times_is_quarantined(url: str) -> None:
    """H8, F22. Counted before it is handed out; other work goes on; a person lets it go again."""
    with Process(url) as process:
        process.call("begin_all", keys=["poison", "other"], policy="resume")
        process.kill()
    for attempt in (2, 3):
        with Process(url) as process:
            assert process.call("claim", key="poison") == [attempt, attempt]
            process.kill()
    with Process(url) as process:
        assert dict(process.call("crashed")) == {"other": "resumable", "poison": "quarantined"}
        for name in ("begin", "claim"):
            with pytest.raises(RefusedError, match=r"entry_(quarantined|state)"):
                process.call(name, key="poison")
        assert process.call("claim", key="other") == [2, 2]
        process.call("settle", key="other")

    async def resolve() -> None:
        async with holdfast.open(url) as rt:
            info = await rt.ledger.resolve("poison", "resume", by="ann", reason="fixed")
            assert (info.state, info.by) == ("resumable", "ann")
            async with await rt.ledger.claim("poison") as entry:
                assert (entry.generation, entry.attempt) == (4, 1)
            assert await rt.ledger.interrupted() == []

    asyncio.run(resolve())


def test_effects_that_are_done_are_not_repeated_and_uncertain_ones_are_said(url: str) -> None:
    """H12. A kill inside an effect leaves it uncertain; it is not done again by itself."""
    with Process(url) as process:
        process.call("begin", key="a", policy="resume")
        assert process.call("effect", key="a", name="mail") is True
        with pytest.raises(EOFError):
            process.call("effect", key="a", name="pay", die=True)
    with Process(url) as process:
        process.call("claim", key="a")
        assert process.call("effect", key="a", name="mail") is True
        with pytest.raises(RefusedError, match="effect_uncertain"):
            process.call("effect", key="a", name="pay")
        process.call("settle", key="a")

    async def look() -> list[object]:
        async with holdfast.open(url) as rt:
            return [event.data for event in await rt.history("effects").read()]

    assert asyncio.run(look()) == ["mail", "pay"]


def test_stopped_beats_resume(url: str) -> None:
    """H7. Asked for by a neighbour while the work ran, before or behind the crash."""
    with Process(url) as one, Process(url) as two:
        one.call("begin_all", keys=["a", "b", "c"], policy="resume")
        two.call("stop", key="a", reason="enough")
        assert one.call("renew", key="a") == "enough"
        one.kill()
    with Process(url) as process:
        process.call("stop", key="b", reason="later")
        assert dict(process.call("crashed")) == {"a": "stopped", "b": "stopped", "c": "resumable"}
        for key in ("a", "b"):
            with pytest.raises(RefusedError, match="entry_state"):
                process.call("claim", key=key)


def test_each_policy_and_the_age_of_work_decide_what_becomes_of_it(tmp_path: Path) -> None:
    """H7, H9. Old work is listed as expired, with its true last activity; suspended stays so."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    policies = {"ask": "asking", "report": "interrupted", "resume": "resumable"}
    for key, policy in {**{p: p for p in policies}, "suspend": "suspend"}.items():
        with Process(url, clock=0.0) as process:
            process.call("begin", key=key, policy=policy, fresh_for=60.0)
            process.kill()

    async def look(clock: ManualClock) -> dict[str, tuple[str, float]]:
        async with holdfast.open(url, world=World(clock=clock)) as rt:
            found = await rt.ledger.interrupted()
            return {info.key[0]: (info.state.value, info.active.wall) for info in found}

    began = ManualClock(0.0).wall_time
    found = asyncio.run(look(ManualClock(30.0)))
    # Each was found by the start of the next; the last one by this.
    assert found == {
        **{key: (state, began) for key, state in policies.items()},
        "suspend": ("suspended", began),
    }
    with Process(url, clock=100.0) as process:
        for key in ("ask", "resume", "suspend"):
            process.call("begin", key=key, policy=key, fresh_for=60.0)
        process.kill()
    found = asyncio.run(look(ManualClock(200.0)))
    assert found["suspend"] == ("suspended", began + 100.0)
    assert found["ask"] == found["resume"] == ("expired", began + 100.0)


@pytest.mark.parametrize("harm", ["value", "tag", "gone"])
def test_a_damaged_entry_is_rebuilt_from_the_log_and_reported(tmp_path: Path, harm: str) -> None:
    """H11. Never an empty list because something could not be read."""
    file = tmp_path / "a.db"
    killed_with(f"sqlite:///{file}", KEYS, policy="resume")
    statement = {
        "value": "UPDATE record SET value = x'c0' WHERE kind = 'holdfast.ledger'",
        "tag": "UPDATE record SET tag = 'settled' WHERE kind = 'holdfast.ledger'",
        "gone": "DELETE FROM record WHERE kind = 'holdfast.ledger'",
    }[harm]
    with sqlite3.connect(file) as db:
        db.execute(statement)
    db.close()
    with Process(f"sqlite:///{file}") as process:
        assert process.call("crashed") == [[key, "resumable"] for key in KEYS]
        report = process.call("report")
        assert report["rebuilt"] == [[key] for key in KEYS]
        assert (report["damaged"] == []) is (harm == "gone")
        assert process.call("claim", key=KEYS[0]) == [2, 2]
        process.call("settle", key=KEYS[0])


def test_a_damaged_log_is_reported_and_the_records_stand(tmp_path: Path) -> None:
    """H11. Two sources; either is enough."""
    file = tmp_path / "a.db"
    killed_with(f"sqlite:///{file}", KEYS, policy="resume")
    with sqlite3.connect(file) as db:
        db.execute("DROP TRIGGER IF EXISTS event_is_immutable")
        names = [
            row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type='trigger'")
        ]
        for name in names:
            db.execute(f"DROP TRIGGER {name}")
        db.execute("UPDATE event SET payload = x'c0' WHERE type LIKE 'entry.%'")
    db.close()
    with Process(f"sqlite:///{file}") as process:
        assert process.call("crashed") == [[key, "resumable"] for key in KEYS]
        assert len(process.call("report")["damaged"]) == 1
