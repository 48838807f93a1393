"""Several processes on one store: nothing acknowledged is lost, doubled or out of place."""

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from random import Random
from typing import Any

import pytest

import holdfast
from holdfast import RecordedEvent, Runtime
from tests.store.racer import STREAMS
from tests.store.remote import Remote

PROCESSES = 3
ROUNDS = 30
SEED = int(os.environ.get("HOLDFAST_SEED") or Random().randrange(2**32))
PATIENCE = 60.0


@pytest.fixture
def seed() -> int:
    """The seed of this run; a failing test shows it."""
    sys.stdout.write(f"replay with HOLDFAST_SEED={SEED}\n")
    return SEED


def race(url: str, seed: int) -> list[dict[str, Any]]:
    """Let the processes open the store at once, work at once, and return what they printed."""
    command = [sys.executable, "-m", "tests.store.racer", url]
    said: list[dict[str, Any]] = []
    with ExitStack() as stack:
        racers = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, f"p{n}", str(seed), str(ROUNDS)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for n in range(PROCESSES)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert json.loads(racer.stdout.readline()) == {"what": "ready"}
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
        for racer in racers:
            lines = [json.loads(line) for line in racer.communicate()[0].splitlines()]
            assert racer.returncode == 0
            assert lines.pop() == {"what": "done"}
            said += lines
    return said


def test_what_racing_processes_were_told_explains_what_is_there(kept_url: str, seed: int) -> None:
    """X5, A4, R10, L7, F14. Dense sequences, every event once, counters and versions add up."""
    said = race(kept_url, seed)
    asyncio.run(_explain(kept_url, said))


async def _explain(url: str, said: list[dict[str, Any]]) -> None:
    async with holdfast.open(url) as rt:
        events = [event for name in STREAMS for event in await rt.history(name).read(0, 10_000)]
        for name in STREAMS:
            own = [event for event in events if event.stream == name]
            assert [event.sequence for event in own] == list(range(1, len(own) + 1))
        found = Counter((e.stream, e.sequence, e.position, e.data) for e in events)
        acknowledged = Counter((*s["place"], s["name"]) for s in said if s["what"] == "event")
        assert found == acknowledged
        counts = Counter(one["what"] for one in said)
        assert min(counts[what] for what in ("event", "pair", "swap", "put", "owned")) > 0
        assert (await rt.records.get("k", "pairs")).value == {"n": counts["pair"]}
        counter = await rt.records.get("k", "counter")
        assert (counter.value, counter.version) == ({"n": counts["swap"]}, counts["swap"])
        befores = sorted(one["before"] for one in said if one["what"] == "swap")
        assert befores == list(range(counts["swap"]))
        puts = {one["version"]: one["name"] for one in said if one["what"] == "put"}
        assert sorted(puts) == list(range(1, counts["put"] + 1))
        last = await rt.records.get("k", "last")
        assert (last.version, last.value) == (counts["put"], puts[counts["put"]])
        await _explain_owners(rt, [one for one in said if one["what"] == "owned"])
        feed = await rt.feed.read(0, 10_000)
        assert [e.position for e in feed] == sorted({e.position for e in feed})
        assert len(feed) == len(events) + 2 * counts["owned"]
        assert await rt.verify() == []


async def _explain_owners(rt: Runtime, owned: list[dict[str, Any]]) -> None:
    """Each generation had one owner, who wrote twice before the next one wrote."""
    written = [tuple(event.data) for event in await rt.history("owned").read(0, 10_000)]
    owners = sorted((one["generation"], one["name"]) for one in owned)
    assert [generation for generation, _ in owners] == list(range(1, len(owners) + 1))
    assert written == [owner for owner in owners for _ in range(2)]


def test_the_feed_misses_nothing_while_processes_commit_out_of_order(
    postgres_url: str, seed: int
) -> None:
    """A4. Held commits of several processes; a reader never passes what is still to come."""
    rng = Random(seed)
    with ExitStack() as stack:
        remotes = [stack.enter_context(Remote(postgres_url, "hold")) for _ in range(PROCESSES)]
        acked, seen = asyncio.run(_read_beside(postgres_url, remotes, rng))
    assert sorted(acked) == [event.position for event in seen]
    assert acked != sorted(acked), "the commits happened to be in order; the test shows nothing"


async def _read_beside(
    url: str, remotes: list[Remote], rng: Random
) -> tuple[list[int], list[RecordedEvent]]:
    held: set[int] = set()
    acked: list[int] = []
    seen: list[RecordedEvent] = []

    def step(number: int) -> None:
        remote = remotes[number]
        if number in held:
            remote.say("go")
            acked.extend(remote.hear("acked"))
        else:
            remote.say(f"append s{number}-{rng.randrange(3)} {rng.randint(1, 3)}")
            remote.hear("written")
        held.symmetric_difference_update({number})

    async with holdfast.open(url) as rt:

        async def advance() -> None:
            after = seen[-1].position if seen else 0
            page = await rt.feed.read(after, rng.choice((1, 2, 100)))
            positions = [after, *(event.position for event in page)]
            assert positions == sorted(set(positions))
            assert {event.position for event in page} <= set(acked)
            seen.extend(page)

        for _ in range(150):
            await asyncio.to_thread(step, rng.randrange(len(remotes)))
            if rng.random() < 0.7:
                await advance()
        for number in tuple(held):
            await asyncio.to_thread(step, number)
        while len(seen) < len(acked):
            before = len(seen)
            await advance()
            assert len(seen) > before, "the reader is stuck before events that are committed"
    return acked, seen


def test_a_follower_is_woken_by_another_process(kept_url: str) -> None:
    """A4, A5. What another process appends arrives, in order; its closing ends the follower."""

    async def follow() -> None:
        async with holdfast.open(kept_url) as rt:
            with await asyncio.to_thread(Remote, kept_url) as remote:
                async with asyncio.timeout(PATIENCE):
                    stream, feed = rt.history("s").follow(), rt.feed.follow()
                    for number in range(1, 6):
                        own = asyncio.gather(anext(stream), anext(feed))
                        remote.say("append s 1")
                        (position,) = await asyncio.to_thread(remote.hear, "acked")
                        for event in await own:
                            assert (event.sequence, event.position) == (number, position)
                    end = asyncio.gather(anext(stream, None))
                    remote.say("close s")
                    await asyncio.to_thread(remote.hear, "closed")
                    assert await end == [None]
                    await feed.aclose()

    asyncio.run(follow())
