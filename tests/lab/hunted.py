"""Hunts for bugs that are planted in engines; `tests.lab.planted` lists them with the others."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from typing import Any, Final

import holdfast
from holdfast.core.errors import HoldfastError
from holdfast.core.refusal import EvaluationError
from holdfast.core.world import World
from holdfast.runtime.engines.attached import AttachedEngine
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
_HASTE: Final = 0.2
# Where the program is killed, one number after the other; most show without.
_KILLED_AT: Final = {
    "": ("commit.written", (12, 24)),
    "answered-when-enqueued": ("commit.written", range(4, 16)),
    "request-id-forgotten": ("commit.answered", (12, 24, 18)),
}
# The same, before something is damaged: what that is depends on how far it came.
_DAMAGED_AT: Final = range(26, 8, -1)
_DAMAGED_AT_IF_SOUND: Final = range(24, 18, -2)


def by_engines(plant: str) -> list[str]:
    """Let the program of engines work; if that shows nothing, kill it at a commit."""
    point, numbers = _KILLED_AT.get(plant, ("", ()))
    with Scratch() as homes, Forks([str(traced.ROOT)]) as forks:
        cases = Cases(_program(plant, "work", SEED), forks, homes)
        trouble, _ = cases.rehearse()
        for nth in numbers:
            trouble = trouble or cases.kill([{"point": point, "nth": nth}])
    return [trouble.what] if trouble else []


def by_damaged_engines(plant: str) -> list[str]:
    """Kill the program of engines, and damage what it left."""
    with Scratch() as homes, Forks([str(traced.ROOT)]) as forks:
        cases = Cases(_program(plant, "work_on_damaged", SEED), forks, homes)
        trouble = None
        for nth in _DAMAGED_AT if plant else _DAMAGED_AT_IF_SOUND:
            trouble = trouble or cases.kill([{"point": "commit.answered", "nth": nth}])
    return [trouble.what] if trouble else []


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
    "journal-trimmed-too-far": by_damaged_engines,
    "loaded-before-it-is-written": by_a_slow_commit,
    "rebase-not-redone": by_damaged_engines,
    "request-id-forgotten": by_engines,
    "snapshot-passed-over-in-silence": by_damaged_engines,
    "twin-not-compared": by_engines,
}
