"""From commit to subscriber, and reading back."""

import asyncio
from contextlib import aclosing
from statistics import mean, median

import msgspec

from bench.append import SMALL, Commits, Load, data_of, drive
from bench.bare import Bare, Inserts
from bench.measure import Result, Stopwatch, percentile
from bench.place import Place, opening
from holdfast import Event, Runtime

SUBSCRIBERS = 1_000
PAGE = 1_000
STORED = 20_000


class Times:
    """When each commit returned, in seconds of one watch."""

    def __init__(self) -> None:
        """Start the watch."""
        self.watch = Stopwatch()
        self.committed: list[float] = []

    def add(self) -> None:
        """Note a commit; called in the writer's thread."""
        self.committed.append(self.watch.seconds)


async def follow(place: Place, store: str) -> list[Result]:
    """Measure one subscriber's delay, then a thousand subscribers' rate and losses."""
    return [*await _latency(place, store), await _fan_out(place, store)]


async def _latency(place: Place, store: str) -> list[Result]:
    times, seconds = Times(), place.plan.seconds
    seen: list[float] = []
    acknowledged: list[float] = []
    async with opening(place.url(store), times.add) as rt:
        history = rt.history("s")
        await history.append("appended")
        times.committed.clear()
        arrived = asyncio.Event()

        async def subscribe() -> None:
            async with aclosing(history.follow(after=1)) as events:
                async for _ in events:
                    seen.append(times.watch.seconds)
                    arrived.set()

        subscriber = asyncio.create_task(subscribe())
        until = times.watch.seconds + 2 * seconds
        while len(seen) < 20 or times.watch.seconds < until:
            arrived.clear()
            await history.append("appended", data_of(SMALL))
            acknowledged.append(times.watch.seconds)
            await arrived.wait()
        subscriber.cancel()
    delays = [(b - a) * 1e3 for a, b in zip(times.committed, seen, strict=False)]
    answers = [(b - a) * 1e3 for a, b in zip(times.committed, acknowledged, strict=False)]
    syncs = place.sync_rate()
    return [
        Result(
            name=f"follow_{shown}",
            store=store,
            value=percentile(delays, share),
            unit="ms",
            against="answer to the caller",
            against_value=percentile(answers, share),
            ratio=percentile(delays, share) / percentile(answers, share),
            fsync_per_s=syncs,
            callers=1,
            bytes=SMALL,
            note="from commit to subscriber, one subscriber",
        )
        for shown, share in (("p50", 0.5), ("p99", 0.99))
    ]


async def _fan_out(place: Place, store: str) -> Result:
    """Let many subscribers follow one stream while 100 callers append to it."""
    rates: list[float] = []
    lost, appends = 0, Load(name="", callers=100, bytes=SMALL)
    commits = Commits()
    async with opening(place.url(store), commits.add) as rt:
        alone = (await drive(rt, appends, place.plan.seconds)).per_s
        for _ in range(place.plan.rounds):
            watch = Stopwatch()
            first = (await rt.history("s").info()).last_sequence
            last = await _deliver(rt, appends, first)
            delivered = sum(count for count, _ in last)
            lost += sum(not whole for _, whole in last)
            rates.append(delivered / watch.seconds)
    if lost:
        raise RuntimeError(f"{lost} subscribers missed events or saw them out of order")
    return Result(
        name="follow_1000",
        store=store,
        value=median(rates),
        unit="events/s",
        against="appends of 100 callers without subscribers",
        against_value=alone,
        ratio=median(rates) / alone,
        fsync_per_s=place.sync_rate(),
        callers=SUBSCRIBERS,
        bytes=SMALL,
        note=f"delivered to {SUBSCRIBERS} subscribers, none lost",
    )


async def _deliver(rt: Runtime, load: Load, first: int) -> list[tuple[int, bool]]:
    """Return per subscriber how many events it saw, and whether each came once, in order."""
    end = asyncio.get_running_loop().create_future()

    async def subscribe() -> tuple[int, bool]:
        sequence, whole = first, True
        async with aclosing(rt.history("s").follow(after=first)) as events:
            async for event in events:
                whole = whole and event.sequence == sequence + 1
                sequence = event.sequence
                if event.type == "ended":
                    break
        return sequence - first, whole and sequence == await end

    tasks = [asyncio.create_task(subscribe()) for _ in range(SUBSCRIBERS)]
    await drive(rt, load, 0)
    end.set_result((await rt.history("s").append("ended")).sequence)
    return await asyncio.gather(*tasks)


async def read(place: Place, store: str) -> list[Result]:
    """Read a stream from its beginning, page by page, beside the same SELECT."""
    payload = msgspec.msgpack.encode(data_of(SMALL))
    bare, syncs = place.bare(store), [place.sync_rate()]
    Inserts(bare, "indexed", payload).commit(STORED)
    async with opening(place.url(store), Commits().add) as rt:
        history = rt.history("s")
        await history.append_all([Event.of("appended", data_of(SMALL))] * STORED)
        rates: list[float] = []
        for _ in range(place.plan.rounds):
            watch = Stopwatch()
            for after in range(0, STORED, PAGE):
                await history.read(after, PAGE)
            rates.append(watch.rate(STORED).per_s)
            syncs.append(place.sync_rate())
            rates.append(_read_bare(bare))
    bare.close()
    ours, other = median(rates[::2]), median(rates[1::2])
    return [
        Result(
            name="read",
            store=store,
            value=ours,
            unit="events/s",
            against="bare SELECT",
            against_value=other,
            ratio=ours / other,
            fsync_per_s=mean(syncs),
            callers=1,
            bytes=SMALL,
            note="each event's digest is checked along the chain",
        )
    ]


def _read_bare(bare: Bare) -> float:
    watch = Stopwatch()
    for after in range(0, STORED, PAGE):
        bare.read(after, PAGE)
    return watch.rate(STORED).per_s
