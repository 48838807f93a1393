"""
Durable appends: callers that append one event, wait until it is durable, and append the next.

All callers of a row append to one stream; `append_spread_1000` gives each a stream of its own.
"""

import asyncio
from statistics import mean

import msgspec

from bench.bare import Inserts
from bench.measure import Rate, Result, Stopwatch, middle
from bench.place import Place, opening
from holdfast import Runtime

SMALL = 200
LARGE = 10_000
FIXED_BATCH = 1_000
CALLERS = (1, 10, 100, 1_000, 10_000)
CALLERS_LARGE = (1, 10, 100, 1_000)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What callers do: how many they are, how much they write, and to how many streams."""

    name: str
    callers: int
    bytes: int
    spread: bool = False


LOADS = (
    *(Load(name=f"append_{n}", callers=n, bytes=SMALL) for n in CALLERS),
    Load(name="append_spread_1000", callers=1_000, bytes=SMALL, spread=True),
    *(Load(name=f"append_10k_{n}", callers=n, bytes=LARGE) for n in CALLERS_LARGE),
)


def data_of(size: int) -> dict[str, str]:
    """Return data that takes `size` bytes when it is stored."""
    filler = size - len(msgspec.msgpack.encode({"text": "x" * size})) + size
    return {"text": "x" * filler}


class Commits:
    """How many transactions there were."""

    def __init__(self) -> None:
        """Start at none."""
        self.count = 0

    def add(self) -> None:
        """Count one; called in the writer's thread."""
        self.count += 1


async def drive(rt: Runtime, load: Load, seconds: float) -> Rate:
    """Let the callers append for some seconds, each at least once."""
    data = data_of(load.bytes)
    names = [f"s/{caller}" if load.spread else "s" for caller in range(load.callers)]
    counts = [0] * load.callers
    watch = Stopwatch()

    async def call(caller: int) -> None:
        history = rt.history(names[caller])
        while not counts[caller] or watch.seconds < seconds:
            await history.append("appended", data)
            counts[caller] += 1

    await asyncio.gather(*map(call, range(load.callers)))
    return watch.rate(sum(counts))


async def append(place: Place, store: str, load: Load) -> list[Result]:
    """Measure ours, the bare table and the bare table with our columns and index in turn."""
    commits, seconds = Commits(), place.plan.seconds
    payload = msgspec.msgpack.encode(data_of(load.bytes))
    ours: list[Rate] = []
    syncs: list[float] = []
    batches: list[float] = []
    bare = place.bare(store)
    others = {
        "bare": Inserts(bare, "plain", payload),
        "bare_indexed": Inserts(bare, "indexed", payload),
    }
    found: dict[str, list[Rate]] = {name: [] for name in others}
    if load.name == "append_1000":
        found["bare_1000"] = []
    async with opening(place.url(store), commits.add) as rt:
        await drive(rt, load, 0)
        for _ in range(place.plan.rounds):
            before = commits.count
            ours.append(await drive(rt, load, seconds))
            batches.append(ours[-1].count / max(1, commits.count - before))
            syncs.append(place.sync_rate())
            size = max(1, round(min(batches[-1], load.callers)))
            for name, inserts in others.items():
                found[name].append(inserts.run(size, seconds / 2))
            if "bare_1000" in found:
                found["bare_1000"].append(others["bare"].run(FIXED_BATCH, seconds / 2))
    bare.close()
    value = middle(ours)
    return [
        Result(
            name=load.name,
            store=store,
            value=value.per_s,
            unit="events/s",
            against=name,
            against_value=other.per_s,
            ratio=value.per_s / other.per_s,
            fsync_per_s=mean(syncs),
            callers=load.callers,
            bytes=load.bytes,
            batch=FIXED_BATCH if name == "bare_1000" else mean(batches),
            cpu_us=value.cpu_us,
            against_cpu_us=other.cpu_us,
        )
        for name, rates in found.items()
        for other in (middle(rates),)
    ]
