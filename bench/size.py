"""What size costs: a long stream, an idle runtime, an import."""

import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, median

from bench.append import SMALL, Commits, Load, data_of, drive
from bench.measure import Result, Stopwatch, repeat, rss_mb
from bench.place import Place, opening
from holdfast import Event, Runtime

SHORT = 1_000
FILL = 5_000
IMPORTS = 7
IDLE = """
import asyncio, holdfast, sys
async def main():
    async with holdfast.open(sys.argv[1]):
        print(open("/proc/self/status").read())
asyncio.run(main())
"""
NOTHING = 'print(open("/proc/self/status").read())'


async def _fill(rt: Runtime, events: int) -> None:
    history, event = rt.history("s"), Event.of("appended", data_of(SMALL))
    left = events
    while left > 0:
        await history.append_all([event] * min(left, FILL))
        left -= FILL


async def growth(place: Place, store: str) -> list[Result]:
    """Append to a stream of 1,000 and to one of 1,000,000 events, in turn; watch the memory."""
    events = place.plan.events
    load = Load(name="growth", callers=100, bytes=SMALL)
    short: list[float] = []
    long: list[float] = []
    syncs: list[float] = []
    before = rss_mb()
    async with (
        opening(place.url(store), Commits().add) as small,
        opening(place.url(store), Commits().add) as large,
    ):
        await _fill(small, SHORT)
        await _fill(large, events)
        after = rss_mb()
        for _ in range(2 * place.plan.rounds):
            short.append(1e6 / (await drive(small, load, place.plan.seconds)).per_s)
            syncs.append(place.sync_rate())
            long.append(1e6 / (await drive(large, load, place.plan.seconds)).per_s)
    return [
        Result(
            name="growth",
            store=store,
            value=median(long),
            unit="µs/append",
            against=f"a stream of {SHORT:,} events",
            against_value=median(short),
            ratio=median(long) / median(short),
            fsync_per_s=mean(syncs),
            callers=load.callers,
            bytes=SMALL,
            note=f"a stream of {events:,} events",
        ),
        Result(
            name="growth_memory",
            store=store,
            value=after,
            unit="MB",
            against="before the events were appended",
            against_value=before,
            ratio=after / before if before else 0.0,
            fsync_per_s=mean(syncs),
            note=f"this process after {events:,} events",
        ),
    ]


async def memory(place: Place, store: str) -> list[Result]:
    """Measure the resident size of an idle runtime in a process of its own."""
    url = place.url(store)
    value, against = repeat(
        place.plan.rounds, lambda: _child_rss(IDLE, url), lambda: _child_rss(NOTHING)
    )
    return [
        Result(
            name="memory",
            store=store,
            value=value,
            unit="MB",
            against="a bare interpreter",
            against_value=against,
            ratio=value / against,
            fsync_per_s=place.sync_rate(),
            note="resident size of an idle runtime",
        )
    ]


async def import_time(place: Place, store: str) -> list[Result]:
    """Measure how long `import holdfast` takes in a fresh process, with its bytecode cached."""
    cache = place.folder / "bytecode"
    _run_ms("import holdfast", cache)
    ours, nothing = repeat(
        IMPORTS, lambda: _run_ms("import holdfast", cache), lambda: _run_ms("pass", cache)
    )
    return [
        Result(
            name="import",
            store=store,
            value=ours - nothing,
            unit="ms",
            against="python -c pass",
            against_value=nothing,
            ratio=(ours - nothing) / nothing,
            fsync_per_s=place.sync_rate(),
        )
    ]


def _child_rss(program: str, *arguments: str) -> float:
    done = _python([program, *arguments], dict(os.environ))
    found = [line for line in done.splitlines() if line.startswith("VmRSS")]
    return int(found[0].split()[1]) / 1000 if found else 0.0


def _run_ms(program: str, cache: Path) -> float:
    environment = dict(os.environ) | {"PYTHONPYCACHEPREFIX": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    watch = Stopwatch()
    _python([program], environment)
    return watch.seconds * 1e3


def _python(arguments: list[str], environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout
