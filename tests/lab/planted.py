"""
Hunts for planted bugs: each layer of the lab has to find its own within its budget.

A hunt runs its layer on Holdfast with the bug, and returns what the layer found; nothing found
means that the layer proves nothing.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import apsw
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

import holdfast
from holdfast import Run, Status
from holdfast.core import codec
from holdfast.core.errors import HoldfastError, StoreBusyError, StoreRefusedError
from holdfast.core.refusal import AnswerConflictError, RunStateError
from holdfast.core.unit import PutRecord, Unit
from holdfast.core.world import World
from holdfast.store.options import Options
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.testing.clock import ManualClock
from holdfast.testing.disk.acts import read_image
from holdfast.testing.disk.decay import Decay
from holdfast.testing.disk.images import Breadth, Scratch, cut_at, images
from holdfast.testing.disk.ioerrors import Accidents
from holdfast.testing.disk.power import NAME, PowerLoss
from holdfast.testing.faults import planted
from holdfast.testing.orders.schedules import explore
from holdfast.testing.process.kills import RECOVERY, Forks, Kills
from holdfast.testing.simulation.simulation import campaign, with_patrons
from holdfast.testing.trials.cases import Application, Cases
from tests.lab import hunted, traced
from tests.lab.mistakes import SEEDS_TO_FIND
from tests.lab.test_machine import Machine

SEED = 20_264
_POINTS: Final = {
    "acknowledge-before-commit": "commit.written",
    "migration-in-pieces": "migrate.statement",
}
_SCENARIOS: Final = {
    "cache-kept-over-foreign-writes": "counter",
    "checked-before-the-lock": "record",
    "fence-not-checked": "fence",
    "lock-taken-late": "append",
}
# Where the program of all nouns is killed, and how often at most; the others show without.
_NOUNS: Final = {
    "": ("ledger.begun", 6),
    "attempt-counted-after-dispatch": ("ledger.begun", 20),
    "flush-in-pieces": ("commit.answered", 40),
    "identity-written-after-the-answer": ("commit.answered", 40),
    "rescue-reported-apart": ("rescue.ended", 2),
}
# Where the program of runs is killed, how often at most, and how often in a row. Most show without
# a kill, since its first life leaves effects under way; the others are killed step by step.
_RUNS: Final = {
    "child-end-told-apart": ("run.ended", 20, 1),
    "crashes-not-counted": ("run.dispatched", 4, 8),
    "end-in-two-units": ("run.ended", 12, 1),
    "place-in-another-unit": ("run.ended", 12, 1),
}
_RUNS_UNKILLED: Final = (
    "attempts-forgotten",
    "branch-not-recorded",
    "cancelled-run-goes-on",
    "child-left-behind",
    "counters-kept-over-a-replay",
    "once-not-announced",
    "question-asked-again",
    "slot-kept",
    "step-recorded-late",
)
# The first has a child that waits for good. Where a kill strikes is a matter of chance: who is not
# found by one program is looked for with the next.
_SEEDS_OF_RUNS: Final = (42, 43, 44)
_DAY: Final = 86_400.0
_FEW = Breadth(prefixes=1, sectors=1, mixtures=2)
_GARBAGE = Breadth(prefixes=0, sectors=0, mixtures=0, garbage=4)


def by_power_loss(plant: str, breadth: Breadth = _FEW) -> list[str]:
    """Cut the power over a few commits."""
    with planted(plant):
        layer = PowerLoss(SEED, "blocks", breadth)
    # What was recorded has the bug; who opens the images has not.
    return layer.survey(enough=1).failures


def by_garbage(plant: str) -> list[str]:
    """Cut the power, and turn the sector in flight to garbage."""
    return by_power_loss(plant, _GARBAGE)


def by_kills(plant: str) -> list[str]:
    """Kill where it hurts: between the answer and the commit, or between two statements."""
    with Scratch() as scratch, Forks() as forks:
        kills = Kills(scratch.lay({}), forks, plant=plant)
        for nth in range(1, 9):
            kills.strike(seed=SEED, point=_POINTS[plant], nth=nth)
            if not kills.tally.clean:
                break
        return kills.tally.failures


def by_kills_of_recovery(plant: str) -> list[str]:
    """Kill behind the mark, then kill the recovery again and again, each time a step further."""
    with Scratch() as scratch, Forks() as forks:
        kills = Kills(scratch.lay({}), forks, plant=plant)
        kills.strike(seed=SEED, point="commit.marked", nth=6, recoveries=RECOVERY * 2)
        return kills.tally.failures


def by_kills_behind_an_edit(plant: str) -> list[str]:
    """Kill an application behind an edit of a session; the durable fields have to be there."""
    with Scratch() as scratch, Forks([str(traced.ROOT)]) as forks:
        folder = scratch.lay({})
        url, progress = f"sqlite:///{folder / NAME}", folder / "progress"
        argument = {"url": url, "progress": str(progress), "plant": plant}
        if forks.run("tests.lab.planted:edit", argument) != signal.SIGKILL:
            return ["the child was not killed"]
        edited = json.loads(progress.read_text())
        found = asyncio.run(_edited(url))
        return [] if found == edited else [f"{edited} was acknowledged, {found} is there"]


@holdfast.state(version=1)
class _Edited:
    n: int = 0
    seen: int = holdfast.field(default=0, tier=holdfast.BUFFERED)


async def _edited(url: str) -> int:
    async with holdfast.open(url) as rt, rt.session(_Edited, "one") as session:
        return session.value.n


def edit(argument: Mapping[str, Any]) -> None:
    """Edit a session, say so, and be killed; called in a child."""

    async def work() -> None:
        async with holdfast.open(argument["url"]) as rt, rt.session(_Edited, "one") as session:
            for number in (1, 2, 3):
                async with session.edit() as draft:
                    draft.n = number
            _end(Path(argument["progress"]), session.value.n)

    with planted(argument["plant"]) if argument["plant"] else nullcontext():
        asyncio.run(work())


def _end(progress: Path, edited: int) -> None:
    progress.write_text(json.dumps(edited))
    os.kill(os.getpid(), signal.SIGKILL)


def by_nouns(plant: str, first: int = 1) -> list[str]:
    """Kill the program of all nouns where it hurts, each time a step further."""
    point, most = _NOUNS.get(plant, ("", 0))
    program = Application(
        work="tests.lab.nouns:work",
        invariant="tests.lab.promises:invariant",
        seed=SEED,
        limit=30.0,
        plant=plant,
    )
    with Scratch() as homes, Forks([str(traced.ROOT)]) as forks:
        cases = Cases(program, forks, homes)
        trouble, _ = cases.rehearse()
        for nth in range(first, first + most):
            trouble = trouble or cases.kill([{"point": point, "nth": nth}])
    return [trouble.what] if trouble else []


def by_runs(plant: str) -> list[str]:
    """Kill the programs of runs where it hurts, each time a step further."""
    with Forks([str(traced.ROOT)]) as forks:
        return next(filter(None, (_killed_runs(plant, forks, seed) for seed in _SEEDS_OF_RUNS)), [])


def _killed_runs(plant: str, forks: Forks, seed: int) -> list[str]:
    point, most, in_a_row = _RUNS.get(plant, ("run.step_recorded", 10, 1))
    program = Application(
        work="tests.lab.runs:work",
        invariant="tests.lab.outcomes:invariant",
        seed=seed,
        limit=30.0,
        plant=plant,
    )
    with Scratch() as homes:
        cases = Cases(program, forks, homes)
        trouble, _ = cases.rehearse()
        for nth in range(1, most + 1):
            trouble = trouble or cases.kill([{"point": point, "nth": nth}] * in_a_row)
    return [trouble.what] if trouble else []


def by_two_answers(plant: str = "") -> list[str]:
    """Let several runtimes answer one question at once; one of them is told that it counts."""
    with Scratch() as scratch, planted(plant) if plant else nullcontext():
        return asyncio.run(_answered(f"sqlite:///{scratch.lay({}) / NAME}"))


async def _asking(run: Run) -> Any:
    return await run.ask("Who?")


async def _answered(url: str) -> list[str]:
    async with AsyncExitStack() as stack:
        runtimes = [await stack.enter_async_context(holdfast.open(url)) for _ in range(4)]
        run = await runtimes[0].runs.start(_asking, run_id="asking")
        async for event in run.follow():
            if event.type == "run.waiting":
                break
        tries = [rt.runs.answer("asking?1", n) for n, rt in enumerate(runtimes)]
        said = await asyncio.gather(*tries, return_exceptions=True)
        winners = [n for n, one in enumerate(said) if not isinstance(one, AnswerConflictError)]
        result = await run.result()
    return [] if winners == [result] else [f"{winners} were told that they won, it is {result}"]


def by_two_signals(plant: str = "") -> list[str]:
    """Close a runtime between two signals of one name; the run has to get each of them once."""
    with Scratch() as scratch, planted(plant) if plant else nullcontext():
        return asyncio.run(_heard(f"sqlite:///{scratch.lay({}) / NAME}"))


async def _listening(run: Run) -> list[Any]:
    return [await run.signal("word"), await run.signal("word")]


async def _heard(url: str) -> list[str]:
    async with holdfast.open(url) as rt:
        run = await rt.runs.start(_listening, run_id="listening")
        await rt.runs.signal("listening", "word", 1)
        async for event in run.follow():
            if event.type == "signal.taken":
                break
    async with holdfast.open(url, functions=[_listening]) as rt:
        with suppress(RunStateError):  # It ended before: it has had one of them twice.
            await rt.runs.signal("listening", "word", 2)
        result = await rt.runs.handle("listening").result()
    return [] if result == [1, 2] else [f"1 and 2 were sent, {result} is what the run has had"]


def by_a_clock_set_forward(plant: str = "") -> list[str]:
    """Set the wall clock forward while a run sleeps; it has to sleep on, and end in time."""
    with Scratch() as scratch, planted(plant) if plant else nullcontext():
        return asyncio.run(_slept(f"sqlite:///{scratch.lay({}) / NAME}"))


async def _sleeping(run: Run, seconds: float) -> None:
    await run.sleep(seconds)


async def _slept(url: str) -> list[str]:
    clock = ManualClock()
    # A lease that outlasts the jumps: what is asked here is when a run wakes, not who owns it.
    async with holdfast.open(url, world=World(clock=clock), lease_ttl=_DAY) as rt:
        run, nap = await rt.runs.start(_sleeping, 100.0), await rt.runs.start(_sleeping, 1.0)
        for one in (run, nap):
            async for event in one.follow():
                if event.type == "run.waiting":
                    break
        clock.advance(2.0)
        clock.wall_time += 3_600.0
        rt.runs.look()
        await nap.result()
        early = (await run.view()).status is not Status.WAITING
        clock.advance(101.0)
        rt.runs.look()
        await run.result()
    return ["it slept as long as the wall clock said"] if early else []


def by_a_foreign_lock(plant: str = "") -> list[str]:
    """Hold the write lock during one flush; the next one has to write what that could not."""
    with Scratch() as scratch, planted(plant) if plant else nullcontext():
        return asyncio.run(_flushed_twice(scratch.lay({}) / NAME))


async def _flushed_twice(path: Path) -> list[str]:
    url, foreign = f"sqlite:///{path}", apsw.Connection(str(path))
    async with holdfast.open(url, busy_wait=0.0) as rt, rt.session(_Edited, "one") as session:
        async with session.edit() as draft:
            draft.seen = 1
        foreign.execute("BEGIN IMMEDIATE")
        with suppress(StoreBusyError):
            await rt.flush()
            return ["somebody else had the lock, and the flush says nothing"]
        foreign.execute("ROLLBACK")
        await rt.flush()
        foreign.close()
    async with holdfast.open(url) as rt, rt.session(_Edited, "one") as session:
        return [] if session.value.seen else ["a flush was acknowledged and is gone"]


def by_zombies(plant: str = "") -> list[str]:
    """Look for the work of a process that was killed and whose parent does not look after it."""
    with Scratch() as scratch, planted(plant) if plant else nullcontext():
        url = f"sqlite:///{scratch.lay({}) / NAME}"
        command = [sys.executable, "-m", "tests.lab.planted", url]
        child = subprocess.Popen(command, cwd=traced.ROOT)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        try:
            found = asyncio.run(_interrupted(url))
        finally:
            child.wait()
    return [] if found == ["work"] else [f"a zombie left work in flight, found is {found}"]


async def _interrupted(url: str) -> list[str]:
    async with holdfast.open(url) as rt:
        return [info.key[0] for info in await rt.ledger.interrupted()]


async def _die_at_work(url: str) -> None:
    async with holdfast.open(url) as rt:
        await rt.ledger.begin("work")
        os.kill(os.getpid(), signal.SIGKILL)


def by_simulation(plant: str) -> list[str]:
    """Run several processes on one store in virtual time, their clients in sessions and at work."""
    with planted(plant):
        return list(campaign(with_patrons(range(1, SEEDS_TO_FIND)), enough=1).broken.values())


def by_accidents(plant: str) -> list[str]:
    """Let calls to the disk fail."""
    with planted(plant):
        return Accidents(SEED, steps=6).survey(every=11, enough=1).failures


def by_reading(plant: str) -> list[str]:
    """Cut the power under a sound store; who opens the images has the bug."""
    layer = PowerLoss(SEED, "blocks", _FEW)
    with planted(plant):
        return layer.survey(enough=1).failures


def by_damages(plant: str) -> list[str]:
    """Damage a sound store; who opens it has the bug."""
    layer = Decay(SEED, "blocks")
    with planted(plant):
        return layer.survey(2_000, enough=1).failures


def by_schedules(plant: str) -> list[str]:
    """Walk the orders of what two instances do."""
    with planted(plant):
        return explore(_SCENARIOS[plant], first_only=True).failures


def by_calls(plant: str) -> list[str]:
    """Cut the power over small files and folders, as strace sees them."""
    what = "folder" if plant.startswith("folder") else "file"
    with Scratch() as scratch:
        bad, number = traced.small_files(scratch.lay({}), what, plant)
    return [f"{bad} of {number} images are bad"] if bad else []


def by_oracle(plant: str) -> list[str]:
    """Hold any program of the public API against the oracle, in memory."""

    class Here(Machine):
        url = staticmethod(lambda: "sqlite:///:memory:")
        keeps = False
        own_clock = False
        reached: ClassVar[Counter[str]] = Counter()

    some = settings(
        max_examples=200,
        stateful_step_count=40,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    with planted(plant):
        try:
            run_state_machine_as_test(Here, settings=some)
        except (AssertionError, HoldfastError) as error:
            return [f"the store and the oracle differ: {error}"]
    return []


def by_another_process(plant: str = "") -> list[str]:
    """Try for SQLite's locks from outside, in the middle of a transaction."""
    world, said = World(), list[str]()
    with Scratch() as scratch, planted(plant) if plant else nullcontext():
        path = scratch.lay({}) / NAME
        driver = SqliteDriver(path, Options(), world)
        driver.open()
        world.failpoints.arm("commit.written", partial(_try_locks, path, said))
        driver.commit([Unit((PutRecord("any", ("one",), codec.encode(1)),), (), bytes(16))])
        driver.close()
    return [line for line in said if line != "busy"] if said else ["nobody tried"]


def _try_locks(path: Path, said: list[str]) -> None:
    for what in ("lock", "take"):
        command = [sys.executable, "-m", "tests.store.partner", what, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=traced.ROOT)
        said.append(done.stdout.strip())


def by_emptying(plant: str = "") -> list[str]:
    """Empty the main file, then take it away: refused, and not a byte of the rest is changed."""
    recording = PowerLoss(SEED, "blocks", _FEW).recording
    cut = cut_at(recording, len(recording.acts) * 2 // 3, sector_bytes=4096)
    whole = next(image.files for image in images(cut, SEED, _FEW) if image.family == "everything")
    rest = {name: content for name, content in whole.items() if name != NAME}
    failures: list[str] = []
    for left in (rest, rest | {NAME: b""}):
        with Scratch() as scratch, planted(plant) if plant else nullcontext():
            folder = scratch.lay(left)
            failures += _refused(SqliteDriver(folder / NAME, Options(), World()))
            found = read_image(folder)
            failures += [f"{name} was changed" for name in left if found.get(name) != left[name]]
    return failures


def _refused(driver: SqliteDriver) -> list[str]:
    try:
        driver.open()
    except StoreRefusedError:
        return []
    finally:
        driver.close()
    return ["an emptied store was opened"]


HUNTS: Mapping[str, Callable[[str], list[str]]] = {
    "answer-not-checked": by_two_answers,
    "signal-taken-twice": by_two_signals,
    "timer-by-the-wall": by_a_clock_set_forward,
    **dict.fromkeys((*_RUNS, *_RUNS_UNKILLED), by_runs),
    "acknowledge-before-commit": by_kills,
    "afresh-on-an-empty-file": by_emptying,
    "cache-kept-over-foreign-writes": by_schedules,
    "chain-not-checked": by_damages,
    "checked-before-the-lock": by_schedules,
    "digest-not-checked": by_damages,
    "durable-fields-written-later": by_kills_behind_an_edit,
    "failed-commit-called-refused": by_accidents,
    "failed-commit-tried-again": by_accidents,
    "fence-not-checked": by_schedules,
    "file-opened-beside-sqlite": by_another_process,
    "file-replaced-in-place": by_calls,
    "file-replaced-without-folder-sync": by_calls,
    "folder-made-without-parent-sync": by_calls,
    "lock-taken-late": by_schedules,
    "log-cut-at-the-first-bad-frame": by_damages,
    "log-ignored-by-readers": by_reading,
    "mark-before-commit": by_power_loss,
    "migration-in-pieces": by_kills,
    "outcome-not-looked-up": by_accidents,
    "powersafe-overwrite": by_garbage,
    "recovery-trusts-its-first-try": by_kills_of_recovery,
    "snapshot-ahead-of-its-stream": by_oracle,
    "synchronous-normal": by_power_loss,
    "attempt-counted-after-dispatch": by_nouns,
    "counter-added-twice": by_simulation,
    "entry-consumed-twice": by_simulation,
    "flush-failure-forgotten": by_a_foreign_lock,
    "flush-in-pieces": by_nouns,
    "generation-reused": by_nouns,
    "identity-written-after-the-answer": by_nouns,
    "rescue-reported-apart": by_nouns,
    "rescue-without-proof-of-death": by_simulation,
    "served-before-restored": by_nouns,
    "stop-forgotten": by_nouns,
    "zombie-counts-as-alive": by_zombies,
    **hunted.HUNTS,
}

if __name__ == "__main__":
    asyncio.run(_die_at_work(sys.argv[1]))
