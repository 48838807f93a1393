"""Hunts for bugs that are planted in engines; `tests.lab.planted` lists them with the others."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import Any, Final

import apsw

import holdfast
from holdfast.core.errors import HoldfastError
from holdfast.core.refusal import EvaluationError
from holdfast.core.world import World
from holdfast.runtime.engines.attached import AttachedEngine
from holdfast.runtime.engines.snapshot import Cadence
from holdfast.testing.disk.images import Scratch
from holdfast.testing.disk.power import NAME
from holdfast.testing.faults import planted
from holdfast.testing.process.kills import Forks
from holdfast.testing.trials.cases import Application, Cases
from tests.lab import traced
from tests.lab.pile import PileEngine
from tests.lab.piles import do, fail, look

SEED: Final = 1
# Seconds in which a memory is loaded that does not wait for what is on its way to the store.
_HASTE: Final = 1.0
# Where the program is killed, one number after the other; most show without.
_KILLED_AT: Final = {
    "": ("commit.written", (12, 24)),
    "answered-when-enqueued": ("commit.written", range(4, 16)),
    "request-id-forgotten": ("commit.answered", (12, 24, 18)),
}
_BY_HAND: Final = Cadence(requests=10**6, seconds=1e9, idle=1e9, on_close=False, kept=2)
_REQUESTS: Final = 9
_SPOIL: Final = (
    "UPDATE snapshot SET stored = x'00' WHERE sequence = (SELECT max(sequence) FROM snapshot)"
)


def by_engines(plant: str) -> list[str]:
    """Let the program of engines work; if that shows nothing, kill it at a commit."""
    point, numbers = _KILLED_AT.get(plant, ("", ()))
    with Scratch() as homes, Forks([str(traced.ROOT)]) as forks:
        cases = Cases(_program(plant, "work", SEED), forks, homes)
        trouble, _ = cases.rehearse()
        for nth in numbers:
            trouble = trouble or cases.kill([{"point": point, "nth": nth}])
    return [trouble.what] if trouble else []


def by_a_damaged_snapshot(plant: str = "") -> list[str]:
    """Damage the newest snapshot: the one before it and the journal have to make up for it."""
    with Scratch() as scratch, planted(plant) if plant else nullcontext():
        return asyncio.run(_passed_over(scratch.lay({}) / NAME))


async def _passed_over(path: Path) -> list[str]:
    url = f"sqlite:///{path}"
    async with holdfast.open(url) as rt:
        engine = await rt.engines.attach("pile", PileEngine(), cadence=_BY_HAND)
        for number in range(_REQUESTS):
            await engine.request(do, number)
            if number % 2:
                await engine.snapshot()
        expected = (await engine.request(look)).value
    with closing(apsw.Connection(str(path))) as store:
        store.execute(_SPOIL)
    try:
        async with holdfast.open(url, engines={"pile": PileEngine()}) as rt:
            found = (await rt.engines["pile"].request(look)).value
            said = " ".join(rt.health().degraded)
    except HoldfastError as error:
        return [f"one snapshot is damaged, and it says: {error}"]
    different = [] if found == expected else [f"left is {found}, not {expected}"]
    silent = [] if "damaged" in said else [f"passed over, and nobody says so: {said!r}"]
    return different + silent


def _program(plant: str, work: str, seed: int) -> Application:
    return Application(
        work=f"tests.lab.piles:{work}",
        invariant="tests.lab.piles:invariant",
        seed=seed,
        limit=30.0,
        plant=plant,
    )


def by_a_slow_commit(plant: str = "") -> list[str]:
    """Let a request fail while the one before it is being written; the next needs both."""
    with Scratch() as scratch, planted(plant) if plant else nullcontext():
        return asyncio.run(_overtaken(f"sqlite:///{scratch.lay({}) / NAME}"))


async def _overtaken(url: str) -> list[str]:
    world, written = World(), threading.Event()
    async with holdfast.open(url, world=world) as rt:
        engine = await rt.engines.attach("pile", PileEngine())
        await engine.request(do, 0)
        world.failpoints.arm("commit.written", written.wait)
        tasks = [asyncio.create_task(engine.request(do, 1))]
        tasks += [asyncio.create_task(_failing(engine)), asyncio.create_task(engine.request(do, 2))]
        await asyncio.wait(tasks, timeout=_HASTE)
        written.set()
        said = await asyncio.gather(*tasks, return_exceptions=True)
        facts, *_ = (await engine.request(look)).value
    lost = [error for error in said if error is not None and isinstance(error, HoldfastError)]
    return [f"nobody else was there, and it says: {lost[0]}"] if lost else _missing(facts)


async def _failing(engine: AttachedEngine) -> None:
    with suppress(EvaluationError):
        await engine.request(fail)


def _missing(facts: dict[str, Any]) -> list[str]:
    return [] if len(facts) == 4 and "half" not in facts else [f"left is {facts}"]


HUNTS: Final[Mapping[str, Callable[[str], list[str]]]] = {
    "answered-when-enqueued": by_engines,
    "fired-facts-fire-again": by_engines,
    "heard-forgotten": by_engines,
    "journal-trimmed-too-far": by_a_damaged_snapshot,
    "loaded-before-it-is-written": by_a_slow_commit,
    "rebase-not-redone": by_a_damaged_snapshot,
    "request-id-forgotten": by_engines,
    "snapshot-passed-over-in-silence": by_a_damaged_snapshot,
    "twin-not-compared": by_engines,
}
