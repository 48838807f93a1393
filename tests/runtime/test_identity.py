"""Identities: what they lead to, who makes a session for them, and how their index comes back."""

import asyncio
import json
import subprocess
import sys
from itertools import combinations

import pytest

import holdfast
from holdfast import BUFFERED, Runtime, field, state
from holdfast.core.errors import DamagedError
from holdfast.core.refusal import AmbiguousIdentityError
from holdfast.core.world import World
from holdfast.testing.clock import ManualClock
from tests.runtime.behind import damage, execute

RACERS = 6


@state(version=1)
class Talk:
    """What a gateway keeps of a conversation."""

    turns: int = 0
    cost: float = field(default=0.0, tier=BUFFERED)


async def reached(rt: Runtime, *identities: str) -> tuple[str, ...]:
    """Return the key of the session that identities lead to, found or made."""
    return (await rt.sessions.reach(Talk, identities)).key


def shared(store_url: str) -> None:
    """Skip what needs a store that others can open."""
    if ":memory:" in store_url:
        pytest.skip("nobody else can reach a store in memory")


def test_the_first_known_identity_decides_and_the_others_are_attached(store_url: str) -> None:
    """L2. A header that was never seen leads to the session its fingerprint leads to, for good."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            first = await reached(rt, "fp:1")
            assert await reached(rt, "hdr:1", "fp:1") == first
            assert await reached(rt, "hdr:1", "fp:2") == first
            assert await reached(rt, "fp:2") == first
            assert await reached(rt, "fp:3") != first
            assert len(await rt.sessions.list(Talk)) == 2
            found = await rt.sessions.find(Talk, ["hdr:9", "hdr:1"])
            assert (found.key, found.identity) == (first, "hdr:1")
            assert await rt.sessions.find(Talk, ["hdr:9"]) == type(found)()

    asyncio.run(run())


def test_a_stronger_identity_outweighs_a_weaker_one_of_another_session(store_url: str) -> None:
    """L11. And the weaker one stays where it is."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            one, two = await reached(rt, "hdr:1", "fp:1"), await reached(rt, "hdr:2", "fp:2")
            assert await reached(rt, "hdr:1", "fp:2") == one
            assert await reached(rt, "fp:2") == two

    asyncio.run(run())


def test_two_candidates_are_returned_and_never_merged(store_url: str) -> None:
    """L11. A fork, a sub-agent: one fingerprint, two conversations."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            for key in ("main", "fork"):
                async with rt.session(Talk, key, identities=[f"hdr:{key}", "fp:1"]):
                    pass
            found = await rt.sessions.find(Talk, ["hdr:new", "fp:1"])
            assert (found.key, found.candidates) == (None, (("fork",), ("main",)))
            with pytest.raises(AmbiguousIdentityError) as refusal:
                await rt.sessions.reach(Talk, ["hdr:new", "fp:1"])
            assert refusal.value.candidates == (("fork",), ("main",))
            assert (await rt.sessions.find(Talk, ["hdr:new"])).key is None
            assert await reached(rt, "hdr:fork", "fp:1") == ("fork",)
            await rt.sessions.archive(Talk, "main")
            assert await reached(rt, "fp:1") == ("fork",)

    asyncio.run(run())


def test_a_session_older_than_the_limit_is_not_found_but_kept(store_url: str) -> None:
    """L11. A conversation that comes back later than that is another one."""

    async def run() -> None:
        clock = ManualClock()
        async with holdfast.open(store_url, world=World(clock=clock)) as rt:
            old = await reached(rt, "fp:1")
            clock.advance(100.0)
            async with rt.session(Talk, old) as session, session.edit() as draft:
                draft.cost = 1.0
            await rt.flush()
            clock.advance(200.0)
            assert (await rt.sessions.find(Talk, ["fp:1"], within=250.0)).key == old
            assert (await rt.sessions.find(Talk, ["fp:1"], within=150.0)).key is None
            made = await rt.sessions.reach(Talk, ["fp:1"], within=150.0)
            assert made.key != old
            assert (await rt.sessions.find(Talk, ["fp:1"], within=150.0)).key == made.key
            assert len((await rt.sessions.find(Talk, ["fp:1"])).candidates) == 2

    asyncio.run(run())


def test_of_many_who_reach_at_once_one_makes_the_session(store_url: str) -> None:
    """C5, L2. In one process: the same object for all, one row."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            pairs = list(combinations(["hdr:1", "hdr:2", "fp:1"], 2))
            keys = await asyncio.gather(*(reached(rt, *pairs[n % 3]) for n in range(32)))
            listed = await rt.sessions.list(Talk)
            assert {info.key for info in listed} >= set(keys)
            assert len({await reached(rt, "hdr:1"), *keys}) == len(set(keys))
            assert (await rt.sessions.find(Talk, ["hdr:1"])).key is not None
            same = await asyncio.gather(*(rt.sessions.reach(Talk, ["one"]) for _ in range(32)))
            assert len({id(session) for session in same}) == 1
            assert len(await rt.sessions.list(Talk)) == len(listed) + 1

    asyncio.run(run())


RACER = """
import asyncio, json, sys, holdfast
from tests.runtime.test_identity import Talk, reached

async def race(url: str) -> None:
    async with holdfast.open(url, busy_wait=60.0) as rt:
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps([await reached(rt, f"hdr:{n}", f"fp:{n}") for n in range(20)]))

asyncio.run(race(sys.argv[1]))
"""


def test_of_many_processes_one_makes_the_session(store_url: str) -> None:
    """C5, L11. Real processes; all of them reach the same sessions, one for each identity."""
    shared(store_url)

    async def prepare() -> None:
        async with holdfast.open(store_url) as rt:
            assert await rt.sessions.list(Talk) == []

    asyncio.run(prepare())
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, store_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(RACERS)
    ]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [json.loads(racer.communicate()[0]) for racer in racers]
    assert all(answer == answers[0] for answer in answers)

    async def judge() -> None:
        async with holdfast.open(store_url) as rt:
            listed = {info.key for info in await rt.sessions.list(Talk)}
            assert listed == {tuple(key) for key in answers[0]} and len(listed) == 20

    asyncio.run(judge())


@pytest.mark.parametrize("column", ["value", "version", "key", "kind"])
def test_a_damaged_index_is_whole_again_before_anything_is_served(
    store_url: str, column: str
) -> None:
    """L3. Rebuilt from the heads of the sessions; the report says how much."""
    shared(store_url)

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            keys = {name: await reached(rt, f"hdr:{name}", f"fp:{name}") for name in "abc"}
            for fork in ("one", "two"):
                async with rt.session(Talk, fork, identities=["fp:fork"]):
                    pass
        if column in ("key", "kind"):
            # One row: two of them cannot be told apart by a name that is gone.
            one = "digest = (SELECT min(digest) FROM {record} WHERE kind = 'holdfast.identity')"
            value = "'x'" if column == "kind" else "digest"
            execute(store_url, f"UPDATE {{record}} SET {column} = {value} WHERE {one}")
        else:
            other = "digest" if column == "value" else "version + 1"
            where = "kind = 'holdfast.identity'"
            execute(store_url, f"UPDATE {{record}} SET {column} = {other} WHERE {where}")
        async with holdfast.open(store_url) as rt:
            report = rt.health().report
            assert report is not None
            if column != "kind":
                section = report.parts["identities"]
                assert section["damaged"] == (1 if column == "key" else 7)
                assert section["rebuilt"] >= section["damaged"], "an entry names each session"
            for name, key in keys.items():
                for kind in ("hdr", "fp"):
                    assert (await rt.sessions.find(Talk, [f"{kind}:{name}"])).key == key
            found = await rt.sessions.find(Talk, ["fp:fork"])
            assert found.candidates == (("one",), ("two",))
            assert len(await rt.sessions.list(Talk)) == 5
            assert await rt.verify() == []

    asyncio.run(run())


def test_an_index_that_cannot_be_rebuilt_keeps_the_runtime_from_being_ready(
    store_url: str,
) -> None:
    """L3. A head is damaged as well: which identities it had nobody knows; nothing is made."""
    shared(store_url)

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            await reached(rt, "hdr:1", "fp:1")
        for kind in ("holdfast.identity", "holdfast.session"):
            damage(store_url, kind)
        for _ in range(2):
            with pytest.raises(DamagedError, match="identity index"):
                async with holdfast.open(store_url):
                    pytest.fail("it became ready")
        async with holdfast.open(store_url, wait_ready=False) as rt:
            with pytest.raises(holdfast.HoldfastError):
                await rt.ready()
            with pytest.raises(holdfast.HoldfastError):
                await reached(rt, "hdr:2")
        found = execute(store_url, "SELECT count(*) FROM {record} WHERE kind = 'holdfast.session'")
        assert found[0][0] == 1

    asyncio.run(run())


def test_an_index_damaged_while_serving_makes_no_second_session(store_url: str) -> None:
    """L2, L11. The lookup mends it; if it cannot, it fails: nobody guesses that it is new."""
    shared(store_url)

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            key = await reached(rt, "hdr:1")
            damage(store_url, "holdfast.identity")
            assert await reached(rt, "hdr:1") == key
            damage(store_url, "holdfast.identity")
            damage(store_url, "holdfast.session")
            for _ in range(2):
                with pytest.raises(DamagedError):
                    await reached(rt, "hdr:1")
        found = execute(store_url, "SELECT count(*) FROM {record} WHERE kind = 'holdfast.session'")
        assert found[0][0] == 1

    asyncio.run(run())


def test_the_time_window_leaves_out_what_the_ledger_knows(store_url: str) -> None:
    """H9. The guess for programs that never used the ledger; by any change, not by the making."""

    async def run() -> None:
        clock = ManualClock()
        async with holdfast.open(store_url, world=World(clock=clock)) as rt:
            for key in "abcd":
                await rt.session(Talk, key, identities=[key]).load()
                async with rt.session(Talk, key):
                    pass
            clock.advance(500.0)
            async with rt.session(Talk, "b") as session, session.edit() as draft:
                draft.turns = 1
            async with rt.session(Talk, "c") as session, session.edit() as draft:
                draft.cost = 1.0
            await rt.flush()
            clock.advance(100.0)
            assert await rt.sessions.recently_active(Talk) == [("b",), ("c",)]
            assert await rt.sessions.recently_active(Talk, within=50.0) == []
            async with rt.ledger.begin("b"):
                assert await rt.sessions.recently_active(Talk) == [("c",)]

    asyncio.run(run())
