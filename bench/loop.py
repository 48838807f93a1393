"""How long the event loop stands still while the writer works."""

import asyncio
from statistics import mean, median

from bench.append import SMALL, Commits, Load, drive
from bench.measure import Result, Stopwatch
from bench.place import Place, opening

TICK = 0.001
CALLERS = 1_000


async def longest_stall(stop: asyncio.Event) -> float:
    """Return the longest time in ms by which a tick of 1 ms was late."""
    longest = 0.0
    while not stop.is_set():
        watch = Stopwatch()
        await asyncio.sleep(TICK)
        longest = max(longest, watch.seconds - TICK)
    return longest * 1e3


async def stall(place: Place, store: str) -> list[Result]:
    """Tick while 1,000 callers append, and while nobody does."""
    busy: list[float] = []
    idle: list[float] = []
    syncs: list[float] = []
    load = Load(name="stall", callers=CALLERS, bytes=SMALL)
    async with opening(place.url(store), Commits().add) as rt:
        await drive(rt, load, 0)
        for _ in range(place.plan.rounds):
            syncs.append(place.sync_rate())
            for found, working in ((idle, False), (busy, True)):
                stop = asyncio.Event()
                ticker = asyncio.create_task(longest_stall(stop))
                if working:
                    await drive(rt, load, place.plan.seconds)
                else:
                    await asyncio.sleep(place.plan.seconds)
                stop.set()
                found.append(await ticker)
    return [
        Result(
            name="stall",
            store=store,
            value=median(busy),
            unit="ms",
            against="the loop with the writer idle",
            against_value=median(idle),
            ratio=median(busy) / median(idle),
            fsync_per_s=mean(syncs),
            callers=CALLERS,
            bytes=SMALL,
            note="longest delay of a 1 ms tick",
        )
    ]
