"""What sessions and the ledger cost: a flush, an edit, and coming back with many of both."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from statistics import mean, median

import msgspec

import holdfast
from bench.bare import Inserts
from bench.loop import longest_stall
from bench.measure import Result, Stopwatch, percentile, rss_mb
from bench.place import Place, opening
from holdfast import BUFFERED, field, state
from holdfast.runtime.runtime import Runtime

SESSION_BYTES = 2_000
CHUNK = 500
EDITS_MIN = 5
VICTIM = """
import asyncio, sys
from bench.state import leave_in_flight
asyncio.run(leave_in_flight(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""
SURVIVOR = """
import asyncio, sys
from bench.state import come_back
asyncio.run(come_back(sys.argv[1]))
"""


@state(version=1)
class Chat:
    """A session as a gateway has them: a little that is durable, more that is buffered."""

    turns: int = 0
    memory: str = field(default="", tier=BUFFERED)


class Back(msgspec.Struct, frozen=True):
    """How a process came back: seconds until it was ready, its resident size, what it found."""

    seconds: float
    rss_mb: float
    entries: int


async def _chunks(count: int, work: Callable[[int], Awaitable[object]]) -> None:
    for start in range(0, count, CHUNK):
        await asyncio.gather(*map(work, range(start, min(start + CHUNK, count))))


async def _spoil(rt: Runtime, count: int, mark: str) -> None:
    """Make so many sessions dirty."""

    async def change(number: int) -> None:
        async with rt.session(Chat, f"user-{number}") as session, session.edit() as chat:
            chat.memory = mark * SESSION_BYTES

    await _chunks(count, change)


async def flush(place: Place, store: str) -> list[Result]:
    """Flush dirty sessions of 2 KB, and insert as much with the bare driver; watch the loop."""
    count = place.plan.sessions
    ours: list[float] = []
    theirs: list[float] = []
    stalls: list[float] = []
    idle: list[float] = []
    syncs: list[float] = []
    bare = place.bare(store)
    inserts = Inserts(bare, "plain", bytes(SESSION_BYTES))
    limits = {"flush_interval": 3_600.0, "sessions_in_memory": count}
    async with holdfast.open(place.url(store), **limits) as rt:
        for round_ in range(place.plan.rounds):
            await _spoil(rt, count, chr(ord("a") + round_))
            syncs.append(place.sync_rate())
            for found, working in ((idle, False), (stalls, True)):
                stop = asyncio.Event()
                ticker = asyncio.create_task(longest_stall(stop))
                await asyncio.sleep(0)
                watch = Stopwatch()
                await (rt.flush() if working else asyncio.sleep(place.plan.seconds))
                if working:
                    ours.append(watch.seconds * 1e3)
                stop.set()
                found.append(await ticker)
            watch = Stopwatch()
            for start in range(0, count, CHUNK):
                inserts.commit(min(CHUNK, count - start))
            theirs.append(watch.seconds * 1e3)
    bare.close()
    return [
        Result(
            name=name,
            store=store,
            value=median(values),
            unit="ms",
            against=against,
            against_value=median(others),
            ratio=median(values) / median(others),
            fsync_per_s=mean(syncs),
            bytes=SESSION_BYTES,
            note=f"{count:,} dirty sessions",
        )
        for name, values, against, others in (
            ("flush", ours, f"bare, {CHUNK} rows a commit", theirs),
            ("flush_stall", stalls, "the loop with nothing to flush", idle),
        )
    ]


async def edit(place: Place, store: str) -> list[Result]:
    """Edit a durable field until it is durable, and commit a row with the bare driver."""
    ours: list[float] = []
    theirs: list[float] = []
    syncs: list[float] = []
    bare = place.bare(store)
    inserts = Inserts(bare, "plain", bytes(100))
    async with opening(place.url(store), lambda: None) as rt, rt.session(Chat, "user") as session:
        for _ in range(place.plan.rounds):
            syncs.append(place.sync_rate())
            slice_ = Stopwatch()
            while slice_.seconds < place.plan.seconds or len(ours) < EDITS_MIN:
                watch = Stopwatch()
                async with session.edit() as chat:
                    chat.turns += 1
                ours.append(watch.seconds * 1e3)
                watch = Stopwatch()
                inserts.commit(1)
                theirs.append(watch.seconds * 1e3)
    bare.close()
    return [
        Result(
            name=f"edit_p{share}",
            store=store,
            value=percentile(ours, share / 100),
            unit="ms",
            against="bare commit of a row",
            against_value=percentile(theirs, share / 100),
            ratio=percentile(ours, share / 100) / percentile(theirs, share / 100),
            fsync_per_s=mean(syncs),
            note="from edit to durable, one caller",
        )
        for share in (50, 99)
    ]


async def leave_in_flight(url: str, sessions: int, entries: int) -> None:
    """Fill a store with sessions and begun work, say so, and wait to be killed."""
    async with holdfast.open(url, sessions_in_memory=CHUNK) as rt:

        async def greet(number: int) -> None:
            name = f"user-{number}"
            session = rt.session(Chat, name, identities=[f"hdr:{name}"])
            async with session, session.edit() as chat:
                chat.turns += 1

        async def begin(number: int) -> None:
            await rt.ledger.begin(f"turn-{number}", policy="resume")

        await _chunks(sessions, greet)
        await _chunks(entries, begin)
        print("full", flush=True)
        await asyncio.Event().wait()


async def come_back(url: str) -> None:
    """Open a store and say how that went."""
    watch = Stopwatch()
    async with holdfast.open(url) as rt:
        seconds = watch.seconds
        entries = len(await rt.ledger.interrupted())
        print(msgspec.json.encode(Back(seconds, rss_mb(), entries)).decode(), flush=True)


def _come_back(url: str) -> Back:
    command = [sys.executable, "-c", SURVIVOR, url]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return msgspec.json.decode(done.stdout, type=Back)


def _be_killed(url: str, sessions: int, entries: int) -> None:
    command = [sys.executable, "-c", VICTIM, url, str(sessions), str(entries)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as victim:
        if victim.stdout is None or victim.stdout.readline() != "full\n":
            raise RuntimeError(f"the store was not filled: {url}")
        victim.kill()


async def boot(place: Place, store: str) -> list[Result]:
    """Come back after SIGKILL with many sessions and much work in flight, and from nothing."""
    plan = place.plan
    url, empty = place.url(store), place.url(store)
    _come_back(empty)
    _be_killed(url, plan.kept, plan.entries)
    full, nothing = _come_back(url), _come_back(empty)
    if full.entries != min(plan.entries, full.entries) or not full.entries:
        raise RuntimeError(f"{full.entries} of {plan.entries} entries were found")
    note = f"{plan.kept:,} sessions, {plan.entries:,} entries in flight at a SIGKILL"
    return [
        Result(
            name=name,
            store=store,
            value=value,
            unit=unit,
            against="an empty store",
            against_value=other,
            ratio=value / other,
            fsync_per_s=place.sync_rate(),
            note=note,
        )
        for name, value, unit, other in (
            ("boot", full.seconds * 1e3, "ms", nothing.seconds * 1e3),
            ("boot_memory", full.rss_mb, "MB", nothing.rss_mb),
        )
    ]
