"""
The service on a store of many runs, one of them with a long journal: how long a client waits.

The service is a process of its own, asked over a socket that stays open, one request at a time.
Each is asked of a small store and of a large one in turn.
"""

import asyncio
from contextlib import closing
from http.client import HTTPConnection
from statistics import mean, median
from typing import Any, Final

import msgspec

import holdfast
from bench.measure import Result, Stopwatch
from bench.place import Place
from bench.side_service import TOKEN
from bench.stream import Service, serving
from holdfast import Append, Event, Run, Runtime, Unit

FEW: Final = 1_000
SIDE_BY_SIDE: Final = 2_000
BATCH: Final = 5_000
ROOMS: Final = 100
WINDOW: Final = 200
ASKS: Final = 20
FIRST: Final = "r000000"
RUNS: Final = "/v1/runs?limit=50"
ASKED: Final = ("first", "last", "status", "look", "count", "opened")


async def rests(run: Run, number: int) -> Any:
    """Wait for what never comes; the service does not know it, so nobody executes it there."""
    return await run.signal("never")


async def _fill(url: str, runs: int, events: int) -> None:
    """Leave so many runs, the first one with so many events."""
    async with holdfast.open(url) as rt:
        rt.runs.register(rests, name="rests")
        await rt.runs.queues.limit("slow", rate=1, per=1e6)
        for first in range(0, runs, SIDE_BY_SIDE):
            numbers = range(first, min(runs, first + SIDE_BY_SIDE))
            await asyncio.gather(*(_start(rt, number) for number in numbers))
        async for event in rt.runs.history(FIRST).follow():
            if event.type == "run.waiting":
                break
        tick = Event.of("user.tick", {"text": "x" * 40})
        for first in range(0, events, BATCH):
            unit = Unit((Append(f"run/{FIRST}", (tick,) * min(BATCH, events - first)),))
            # A journal is written by its run alone; this one waits, and is not in our way.
            await rt._store.commit(unit)  # pyright: ignore[reportPrivateUsage]


async def _start(rt: Runtime, number: int) -> None:
    labels = {"room": str(number % ROOMS)}
    await rt.runs.start(rests, number, run_id=f"r{number:06d}", queue="slow", labels=labels)


class Client:
    """One client on a connection that stays open."""

    def __init__(self, service: Service) -> None:
        """Connect, and ask once for what is only made once."""
        self._http = HTTPConnection("127.0.0.1", service.port)
        self._page(RUNS)
        self._near_end = ""
        self._head = self._page(f"/v1/runs/{FIRST}/events?after=latest")["head"]

    def close(self) -> None:
        """Disconnect."""
        self._http.close()

    def first(self) -> float:
        """Return how many ms the first page of runs takes."""
        return self._timed(RUNS)

    def last(self) -> float:
        """Return how many ms a page takes near the end, where the walk came by."""
        return self._timed(RUNS + self._near_end)

    def status(self) -> float:
        """Return how many ms a filter takes that is an index."""
        return self._timed("/v1/runs?status=waiting&count=true")

    def look(self) -> float:
        """Return how many ms a look takes that finds nothing."""
        return self._timed("/v1/runs?label=no:where")

    def count(self) -> float:
        """Return how many ms a count takes that goes as far as counts do."""
        return self._timed("/v1/runs?count=true")

    def opened(self) -> float:
        """Return how many ms it takes to open the long run: itself, its first and last events."""
        lineage, _, number = self._head.partition(".")
        near = f"{lineage}.{max(0, int(number) - WINDOW)}"
        paths = ("", f"/events?limit={WINDOW}", f"/events?after={near}&limit={WINDOW}")
        return sum(self._timed(f"/v1/runs/{FIRST}{path}") for path in paths)

    def walk(self) -> float:
        """Read all pages of runs; return how many ms one took, and remember where the end is."""
        cursors = [""]
        watch = Stopwatch()
        while (page := self._page(RUNS + cursors[-1]))["next_cursor"] is not None:
            cursors.append(f"&cursor={page['next_cursor']}")
        self._near_end = cursors[max(0, len(cursors) - 3)]
        return watch.seconds * 1e3 / len(cursors)

    def _timed(self, path: str) -> float:
        watch = Stopwatch()
        self._page(path)
        return watch.seconds * 1e3

    def _page(self, path: str) -> Any:
        self._http.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = self._http.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{path} was answered with {answer.status}")
        return msgspec.json.decode(body)


async def api(place: Place, store: str) -> list[Result]:
    """Ask a service on a small store and one on a large store the same, in turn."""
    plan = place.plan
    urls = place.url(store), place.url(store)
    await _fill(urls[0], min(FEW, plan.listed), min(FEW, plan.events))
    await _fill(urls[1], plan.listed, plan.events)
    syncs = place.sync_rate()
    with serving(urls[0]) as few, serving(urls[1]) as many:
        before = await many.ask("memory")
        with closing(Client(few)) as small, closing(Client(many)) as large:
            found = {
                "walk": ([large.walk()], [small.walk()]),
                **{name: _in_turn(name, large, small) for name in ASKED},
            }
        after = await many.ask("memory")
    note = f"{plan.listed:,} runs, the first one with {plan.events:,} events"
    lines = [
        Result(
            name=f"api_{name}",
            store=store,
            value=median(ours),
            unit="ms",
            against=f"{FEW:,} runs, {FEW:,} events",
            against_value=median(theirs),
            ratio=median(ours) / median(theirs),
            fsync_per_s=mean((syncs, place.sync_rate())),
            note=note,
        )
        for name, (ours, theirs) in found.items()
    ]
    grown = Result(
        name="api_memory",
        store=store,
        value=after,
        unit="MB",
        against="before anything was read",
        against_value=before,
        ratio=after / before,
        fsync_per_s=syncs,
        note=note,
    )
    return [*lines, grown]


def _in_turn(name: str, large: Client, small: Client) -> tuple[list[float], list[float]]:
    """Return how long each of many requests took, of both."""
    found = [(getattr(large, name)(), getattr(small, name)()) for _ in range(ASKS)]
    return [one for one, _ in found], [other for _, other in found]
