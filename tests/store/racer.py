"""
A process that races others on one store; run by test_processes.py.

It opens the store, says `ready`, waits for a line, works with several tasks at once and prints
each acknowledged thing as a line of JSON.
"""

import asyncio
import json
import sys
from random import Random

import holdfast
from holdfast import Append, PatchRecord, Runtime, Unit
from holdfast.core.errors import LeaseHeldError, VersionConflictError

STREAMS = ("a", "b", "c")
TASKS = 4


async def append(rt: Runtime, rng: Random, name: str) -> None:
    event = await rt.history(rng.choice(STREAMS)).append("t", name)
    say("event", place=[event.stream, event.sequence, event.position], name=name)


async def pair(rt: Runtime, rng: Random, name: str) -> None:
    event = rt.history("a").event("t", name)
    one, two = rng.sample(STREAMS, 2)
    count = PatchRecord("k", ("pairs",), add={"n": 1})
    answer = await rt.commit(Unit((Append(one, (event,)), count, Append(two, (event,)))))
    for stream, row in answer.events:
        say("event", place=[stream, row.sequence, row.position], name=name)
    say("pair")


async def swap(rt: Runtime, rng: Random, name: str) -> None:
    found = await rt.records.find("k", "counter")
    value, version = (found.value["n"], found.version) if found else (0, 0)
    try:
        await rt.records.put("k", "counter", {"n": value + 1}, expected=version)
    except VersionConflictError:
        return
    say("swap", before=value)


async def overwrite(rt: Runtime, rng: Random, name: str) -> None:
    record = await rt.records.put("k", "last", name)
    say("put", version=record.version, name=name)


async def own(rt: Runtime, rng: Random, name: str) -> None:
    try:
        lease = await rt.leases.grant("right", 600.0, holder=name)
    except LeaseHeldError:
        return
    for _ in range(2):
        data = [lease.generation, name]
        event = rt.history("owned").event("t", data)
        await rt.commit(Unit((Append("owned", (event,)),), (lease.token,)))
    await lease.release()
    say("owned", generation=lease.generation, name=name)


async def work(rt: Runtime, rng: Random, author: str, rounds: int) -> None:
    for number in range(rounds):
        action = rng.choice((append, append, pair, swap, overwrite, own))
        await action(rt, rng, f"{author}-{number}")


def say(what: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"what": what, **fields}) + "\n")


async def main(url: str, author: str, seed: int, rounds: int) -> None:
    async with holdfast.open(url, busy_wait=60.0) as rt:
        say("ready")
        sys.stdout.flush()
        sys.stdin.readline()
        tasks = [(Random(f"{seed}-{author}-{n}"), f"{author}-{n}") for n in range(TASKS)]
        await asyncio.gather(*(work(rt, rng, name, rounds) for rng, name in tasks))
        say("done")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
