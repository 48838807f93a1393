"""
The service on a store of 100,000 runs, one of them with a long journal: an answer costs the same.

No second is measured here, which would be those of the machine. Counted is what SQLite does for
an answer: steps of its virtual machine, rows it walks over without an index, rows it has to sort.
`make bench BENCH_ARGS="--only listing"` measures the time, and 1,000,000 events.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import apsw
import httpx
import msgspec
import pytest

import holdfast
from holdfast import Runtime
from holdfast.core.journal import Emitted
from holdfast.core.unit import Append, Unit
from holdfast.http.app import OPERATIONS
from holdfast.runtime.runs import search
from holdfast.runtime.runs.journal import stream_of
from holdfast.runtime.runs.view import event_of
from tests.http.conftest import client_of
from tests.http.functions import FUNCTIONS
from tests.http.service import BEARER, Service

FEW, MANY, ON_SERVER = 1_000, 100_000, 10_000
SHORT, EVENTS, BATCH = 10_000, 200_000, 5_000
"""Of the journal: in the small store, too, it is longer than what one look goes through."""
SIDE_BY_SIDE = 2_000
ROOMS = 100
ASKS = "tests.http.functions.asks"
STEPS_OF_ROW = 25
"""Steps of the virtual machine for a row that is read by an index, at most."""
BESIDE = 5_000
"""Steps that the duties of a runtime may take meanwhile; all runs are many more."""
TRIES = 3
MB = 1024 * 1024


class Cost(NamedTuple):
    """
    What SQLite did for an answer.

    Attributes:
        answer: that was given.
        steps: of its virtual machine.
        walked: rows it went over without an index.
        sorted: how often it had to sort.
    """

    answer: Any
    steps: int
    walked: int
    sorted: int


class Counter:
    """Counts what SQLite does on every connection that is made from now on."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.done: list[dict[str, int]] = []

    def watch(self, connection: apsw.Connection) -> None:
        """Count what is done on a connection."""

        def profiled(event: dict[str, Any]) -> None:
            self.done.append(event["stmt_status"])

        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, profiled)

    async def least(self, client: httpx.AsyncClient, path: str, **query: Any) -> Cost:
        """Ask several times, and return what it cost when nothing else was done meanwhile."""
        costs = [await self.cost(client, path, **query) for _ in range(TRIES)]
        return min(costs, key=lambda one: one.steps)

    async def cost(self, client: httpx.AsyncClient, path: str, **query: Any) -> Cost:
        """Ask, and return what it cost."""
        self.done.clear()
        answer = await client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        steps, walked, sorted = (
            sum(one[f"SQLITE_STMTSTATUS_{name}"] for one in self.done)
            for name in ("VM_STEP", "FULLSCAN_STEP", "SORT")
        )
        return Cost(answer.json(), steps, walked, sorted)


@pytest.fixture
def counter() -> Iterator[Counter]:
    """Watch the connections of this process."""
    made = Counter()
    apsw.connection_hooks.append(made.watch)
    yield made
    apsw.connection_hooks.remove(made.watch)


def id_of(number: int) -> str:
    """Return the id of a run."""
    return f"r{number:06d}"


async def fill(url: str, runs: int, events: int) -> None:
    """Leave so many runs: the first one waits, with so many events; the last one is cancelled."""
    async with holdfast.open(url, functions=FUNCTIONS) as rt:
        await rt.runs.queues.limit("slow", rate=1, per=1e6)
        for first in range(0, runs, SIDE_BY_SIDE):
            numbers = range(first, min(runs, first + SIDE_BY_SIDE))
            await asyncio.gather(*(start(rt, number) for number in numbers))
        last = id_of(runs)
        await rt.runs.start(ASKS, run_id=last, queue="slow", labels={"rare": "yes"})
        await rt.runs.cancel(last)
        async for event in rt.runs.history(id_of(0)).follow():
            if event.type == "run.waiting":
                break
        await emit(rt, events)


async def start(rt: Runtime, number: int) -> None:
    """Start a run that waits in its queue; of all of them the first one is taken."""
    labels = {"room": str(number % ROOMS)}
    await rt.runs.start(ASKS, run_id=id_of(number), queue="slow", labels=labels)


async def emit(rt: Runtime, events: int) -> None:
    """Append events of the program's own to the journal of the first run."""
    for first in range(0, events, BATCH):
        numbers = range(first, min(events, first + BATCH))
        said = [event_of("user.tick", Emitted(n, msgspec.Raw(b"\x01"))) for n in numbers]
        await rt._store.commit(Unit((Append(stream_of(id_of(0)), tuple(said)),)))


def both(folder: Path) -> tuple[str, str]:
    """Fill a small store and a large one; return their addresses."""
    urls = (f"sqlite:///{folder / 'small.db'}", f"sqlite:///{folder / 'large.db'}")
    asyncio.run(fill(urls[0], FEW, SHORT))
    asyncio.run(fill(urls[1], MANY, EVENTS))
    return urls


def test_no_answer_costs_more_on_a_store_of_many_runs(tmp_path: Path, counter: Counter) -> None:
    """Section 8 test 14, 4.4, A15. Lists, filters, counts, a long journal; and memory."""

    async def work(small: str, large: str) -> None:
        async with (
            holdfast.open(small, functions=FUNCTIONS) as few,
            holdfast.open(large, functions=FUNCTIONS) as many,
            client_of(few) as one,
            client_of(many) as other,
        ):
            await check_every_look(counter, one, other)
            await check_pages(counter, other)
            await check_filters(counter, other)
            await check_journal(counter, other)

    urls = both(tmp_path)
    asyncio.run(work(*urls))
    check_memory(urls[1], MANY)


async def check_every_look(
    counter: Counter, few: httpx.AsyncClient, many: httpx.AsyncClient
) -> None:
    """Ask for everything that can be looked at, in both stores; from the table of operations."""
    looks = [one for one in OPERATIONS if one.method == "GET" and one.path.startswith("/v1/")]
    places = {"run_id": id_of(0), "question_id": f"{id_of(0)}%3F1", "seq": "2", "checkpoint": "2"}
    queries = {"diff": {"from": f"{id_of(0)}@1", "to": f"{id_of(0)}@2"}}
    asked = 0
    for look in looks:
        if not {name for name, _ in look.parameters} <= set(places) or look.name == "run_export":
            continue
        path = look.address.format_map(places)
        query = queries.get(look.name, {})
        small = await counter.least(few, path, **query)
        large = await counter.least(many, path, **query)
        assert large.steps <= small.steps * 1.3 + BESIDE, (look.name, small[1:], large[1:])
        assert large.walked <= small.walked + 100 and not large.sorted, (look.name, large[1:])
        asked += 1
    assert asked >= 20


async def check_pages(counter: Counter, client: httpx.AsyncClient) -> None:
    """Read all runs page by page: each is there once, and the last page costs as the first."""
    found: list[str] = []
    costs: list[int] = []
    query = {"limit": "500"}
    while True:
        page = await counter.cost(client, "/v1/runs", **query)
        found += [one["id"] for one in page.answer["items"]]
        costs.append(page.steps)
        if page.answer["next_cursor"] is None:
            break
        query["cursor"] = page.answer["next_cursor"]
    assert found == [id_of(number) for number in range(MANY + 1)]
    assert sum(costs[-20:]) <= sum(costs[:20]) * 1.5, "steps of the last pages"
    assert max(costs) <= 500 * STEPS_OF_ROW + BESIDE, max(costs)


async def check_filters(counter: Counter, client: httpx.AsyncClient) -> None:
    """By status through an index; by anything else a bounded number of runs at once."""
    for status, id in (("waiting", id_of(0)), ("cancelled", id_of(MANY))):
        found = await counter.cost(client, "/v1/runs", status=status, count=True)
        assert [one["id"] for one in found.answer["items"]] == [id]
        assert found.answer["count"] == {"value": 1, "relation": "eq"}
        assert found.steps <= BESIDE and found.answer["next_cursor"] is None
    counted = await counter.cost(client, "/v1/runs", count=True, limit=1)
    assert counted.answer["count"] == {"value": search.COUNTED_MAX, "relation": "gte"}
    assert counted.steps <= (search.COUNTED_MAX + 1_000) * STEPS_OF_ROW + BESIDE
    bound = (search.SCANNED_MAX + search._PAGE) * STEPS_OF_ROW  # pyright: ignore[reportPrivateUsage]
    for query in ({"label": "no:where"}, {"function": "none"}, {"q": "none"}, {"parent": "none"}):
        found = await counter.cost(client, "/v1/runs", **query)
        assert not found.answer["items"] and found.answer["next_cursor"], query
        assert found.steps <= bound, (query, found.steps)
    looks, cursor = 0, {}
    while not (found := await counter.cost(client, "/v1/runs", label="rare:yes", **cursor)).answer[
        "items"
    ]:
        cursor = {"cursor": found.answer["next_cursor"]}
        looks += 1
        assert found.steps <= bound
    assert looks <= MANY / search.SCANNED_MAX + 1
    assert [one["id"] for one in found.answer["items"]] == [id_of(MANY)]


async def check_journal(counter: Counter, client: httpx.AsyncClient) -> None:
    """A page of a long journal costs the same at its beginning, in the middle, and at its end."""
    path = f"/v1/runs/{id_of(0)}/events"
    costs: list[int] = []
    for after in (1, EVENTS // 2, EVENTS - 100):
        page = await counter.least(client, path, after=f"1.{after}", limit=100)
        assert [one["seq"] for one in page.answer["items"]] == list(range(after + 1, after + 101))
        assert not page.walked and not page.sorted
        costs.append(page.steps)
    assert max(costs) <= 100 * STEPS_OF_ROW + BESIDE, costs


def check_memory(url: str, runs: int) -> None:
    """Read everything through a socket; the process that serves it does not grow with it."""
    with (
        Service(url) as service,
        httpx.Client(base_url=service.base, headers=BEARER, timeout=60) as client,
    ):
        walked(client, 5)
        before = service.memory()
        assert walked(client, 10_000) == runs + 1
        for query in ("label=no:where", "count=true", "q=none"):
            assert client.get(f"/v1/runs?{query}").status_code == 200
        grown = service.memory() - before
    assert grown < 24 * MB, f"{grown / MB:.1f} MB more after all pages were read"


def walked(client: httpx.Client, pages: int) -> int:
    """Read pages of runs, so many at most; return how many runs there were."""
    count, cursor = 0, ""
    for _ in range(pages):
        page = client.get(f"/v1/runs?limit=500{cursor}").json()
        count += len(page["items"])
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    return count


def test_a_server_with_many_runs_holds_a_page_of_them(postgres_url: str) -> None:
    """Section 8 test 14. The same memory where the runs are in PostgreSQL, every tenth of them."""
    asyncio.run(fill(postgres_url, ON_SERVER, SHORT))
    check_memory(postgres_url, ON_SERVER)
