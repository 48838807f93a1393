"""
Runs beside those of DBOS: steps, replay, recovery after SIGKILL; and a boot with many in flight.

Each side is a process of its own on a store of its own; they take turns. The rows say what a
step costs when it is durable: DBOS syncs at every commit on both stores, as we do.
"""

from collections.abc import Callable
from contextlib import ExitStack
from statistics import mean, median
from typing import Any

import msgspec

from bench.measure import Rate, Result, middle
from bench.pair import OURS, Side, home
from bench.place import Place


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Runs side by side, and the steps of each; `unit` is what is counted."""

    name: str
    runs: int
    steps: int
    unit: str = "steps/s"


LOADS = (
    Load(name="steps_1", runs=1, steps=500),
    Load(name="steps_100", runs=100, steps=20),
    Load(name="runs_100", runs=100, steps=1, unit="runs/s"),
)
RECOVERED_STEPS = 10


def _peers(store: str) -> tuple[str, ...]:
    return ("dbos", "dbos_async", "dbos_wal") if store == "sqlite" else ("dbos", "dbos_async")


def _result(name: str, store: str, ours: Rate, against: tuple[str, Rate], **more: Any) -> Result:
    other, theirs = against
    return Result(
        name=name,
        store=store,
        value=ours.per_s,
        against=other,
        against_value=theirs.per_s,
        ratio=ours.per_s / theirs.per_s,
        cpu_us=ours.cpu_us,
        against_cpu_us=theirs.cpu_us,
        **more,
    )


def _durability(name: str, side: Side) -> str:
    """Say how a peer commits; one that does not wait for the disk is not compared."""
    said = side.ask("durability")
    if not said["durable"]:
        raise RuntimeError(f"{name} does not sync its commits: {said['words']}")
    return str(said["words"])


async def steps(place: Place, store: str, load: Load) -> list[Result]:
    """Let each side start runs and wait for their results, in turn."""
    names = (OURS, *_peers(store))
    found: dict[str, list[Rate]] = {name: [] for name in names}
    syncs: list[float] = []
    runs, size = min(load.runs, place.plan.runs), min(load.steps, place.plan.steps)
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(Side(home(place, store, name), place.folder / "log"))
            for name in names
        }
        commits = {name: _durability(name, sides[name]) for name in names[1:]}
        for side in sides.values():
            side.ask("steps", runs=min(runs, 10), steps=size)
        for _ in range(place.plan.rounds):
            for name, side in sides.items():
                found[name].append(side.rate(runs, size))
            syncs.append(place.sync_rate())
    return [
        _result(
            load.name,
            store,
            middle(found[OURS]),
            (name, middle(found[name])),
            unit=load.unit,
            fsync_per_s=mean(syncs),
            callers=runs,
            note=f"{runs} x {size} steps; theirs with {commits[name]}",
        )
        for name in names[1:]
    ]


def _killed(place: Place, store: str, name: str, load: Load, at: int, job: str) -> dict[str, Any]:
    """Let a side be killed while runs are in a step, and say how the next process went on."""
    where, log = home(place, store, name), place.folder / "log"
    with Side(where, log) as victim:
        victim.ask("hold", runs=load.runs, steps=load.steps, at=at)
        victim.kill()
    given = {"steps": at} if job == "replay" else {"runs": load.runs}
    with Side(where, log, mark=at) as survivor:
        said = survivor.ask(job, **given)
    if said["ended"] != load.runs * load.steps:
        raise RuntimeError(f"{name}: {said['ended']} of {load.runs * load.steps} steps came back")
    return said


async def replay(place: Place, store: str) -> list[Result]:
    """Read back the steps of a long run whose process was killed."""
    count = place.plan.replayed
    load = Load(name="replay", runs=1, steps=count + 1)
    found: dict[str, list[Rate]] = {OURS: [], "dbos": []}
    syncs: list[float] = []
    for _ in range(place.plan.repeats):
        for name, rates in found.items():
            said = _killed(place, store, name, load, count, "replay")
            rates.append(Rate(count, count / said["seconds"], said["cpu"] / count * 1e6))
        syncs.append(place.sync_rate())
    return [
        _result(
            "replay",
            store,
            middle(found[OURS]),
            ("dbos", middle(found["dbos"])),
            unit="steps/s",
            fsync_per_s=mean(syncs),
            note=f"{count:,} steps, ours from readiness, theirs from the workflow's first line",
        )
    ]


async def recovery(place: Place, store: str) -> list[Result]:
    """Kill 100 runs in the middle; time and CPU until all are complete in the next process."""
    load = Load(name="recovery", runs=place.plan.runs, steps=RECOVERED_STEPS)
    found: dict[str, list[dict[str, Any]]] = {OURS: [], "dbos": []}
    syncs: list[float] = []
    for _ in range(place.plan.rounds):
        for name, answers in found.items():
            answers.append(_killed(place, store, name, load, load.steps // 2, "recover"))
        syncs.append(place.sync_rate())

    def lines(name: str, take: Callable[[dict[str, Any]], float]) -> Result:
        value, other = (median(map(take, found[side])) for side in (OURS, "dbos"))
        return Result(
            name=name,
            store=store,
            value=value,
            unit="ms",
            against="dbos",
            against_value=other,
            ratio=value / other,
            fsync_per_s=mean(syncs),
            callers=load.runs,
            note=f"{load.runs} x {load.steps} steps, from the opening of the store",
        )

    return [
        lines("recovery", lambda said: said["seconds"] * 1e3),
        lines("recovery_cpu", lambda said: said["cpu"] * 1e3),
    ]


async def inflight(place: Place, store: str) -> list[Result]:
    """Come back after SIGKILL with many runs in a step; how soon ready, how the loop stands."""
    runs = place.plan.inflight
    load = Load(name="inflight", runs=runs, steps=2)
    full = _killed(place, store, OURS, load, 1, "back")
    nothing = _killed(place, store, OURS, Load(name="inflight", runs=1, steps=2), 1, "back")
    lines = {
        "inflight": ("ms", lambda said: said["ready"] * 1e3),
        "inflight_cpu": ("ms", lambda said: said["ready_cpu"] * 1e3),
        "inflight_stall": ("ms", lambda said: said["stall_ms"]),
        "inflight_memory": ("MB", lambda said: said["rss_mb"]),
        "inflight_ended": ("ms", lambda said: said["seconds"] * 1e3),
    }
    syncs = place.sync_rate()
    return [
        Result(
            name=name,
            store=store,
            value=take(full),
            unit=unit,
            against="one run in flight",
            against_value=take(nothing),
            ratio=take(full) / take(nothing),
            fsync_per_s=syncs,
            note=f"{runs:,} runs in a step at a SIGKILL",
        )
        for name, (unit, take) in lines.items()
    ]
