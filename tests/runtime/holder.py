"""
A runtime in a process of its own that does what it is told; run by tests of the ledger.

It opens a store, says `ready`, then reads one call per line (JSON: name and arguments) and
answers each with a line: a value, or the code of an error. Its input's end closes the store.
"""

import asyncio
import json
import os
import signal
import sys
from functools import partial
from typing import Any

import holdfast
from holdfast import Append, Policy, Runtime, Unit
from holdfast.core.errors import HoldfastError
from holdfast.core.failpoint import Failpoints
from holdfast.core.world import World
from holdfast.runtime.work.entry import Entry
from holdfast.testing.clock import ManualClock


class Holder:
    """The calls."""

    def __init__(self, rt: Runtime, failpoints: Failpoints) -> None:
        self.rt = rt
        self.failpoints = failpoints
        self.entries: dict[str, Entry] = {}

    async def begin(self, key: str, policy: str = "report", **terms: Any) -> int:
        self.entries[key] = await self.rt.ledger.begin(key, policy=Policy(policy), **terms)
        return self.entries[key].generation

    async def begin_all(self, keys: list[str], policy: str = "report") -> int:
        await asyncio.gather(*(self.begin(key, policy) for key in keys))
        return len(keys)

    async def claim(self, key: str) -> list[int]:
        entry = self.entries[key] = await self.rt.ledger.claim(key)
        return [entry.generation, entry.attempt]

    async def settle(self, key: str, outcome: object = "done") -> None:
        await self.entries[key].settle(outcome)

    async def renew(self, key: str) -> str | None:
        await self.entries[key].renew()
        return self.entries[key].stopped

    async def work(self, key: str) -> None:
        """Write something that only the owner of the work may write."""
        event = self.rt.history("work").event("worked", key)
        await self.rt.commit(Unit((Append("work", (event,)),), (self.entries[key].fence,)))

    async def stop(self, key: str, reason: str) -> None:
        await self.rt.ledger.stop(key, reason)

    async def put(self, value: object) -> None:
        await self.rt.records.put("k", "plain", value)

    async def crashed(self) -> list[list[Any]]:
        found = await self.rt.ledger.interrupted()
        return [["/".join(info.key), info.state.value] for info in found]

    async def ended(self, stream: str) -> int:
        """Wait until a stream is closed."""
        return len([event async for event in self.rt.history(stream).follow()])

    async def phase(self) -> str:
        return self.rt.health().phase.value

    async def report(self) -> dict[str, Any]:
        report = self.rt.health().report
        return {} if report is None else report.parts["ledger"]

    async def effect(self, key: str, name: str, die: bool = False) -> bool:
        async with self.entries[key].effect(name) as effect:
            if not effect.done:
                await self.rt.history("effects").append("did", name)
            if die:
                os.kill(os.getpid(), signal.SIGKILL)
        return effect.done

    async def die_at(self, point: str) -> None:
        self.failpoints.arm(point, partial(os.kill, os.getpid(), signal.SIGKILL))


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def main(url: str, options: dict[str, Any]) -> None:
    failpoints = Failpoints()
    point, nth = options.pop("point", ""), options.pop("nth", 1)
    if point:
        failpoints.arm(point, _nth(nth))
    world = World(failpoints=failpoints)
    clock = options.pop("clock", None)
    if clock is not None:
        world.clock = ManualClock(clock)
    async with holdfast.open(url, world=world, busy_wait=60.0, **options) as rt:
        holder = Holder(rt, failpoints)
        say("ready")
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, arguments = json.loads(line)
            try:
                say({"value": await getattr(holder, name)(**arguments)})
            except HoldfastError as error:
                say({"error": error.code})


def _nth(left: int) -> Any:
    def reached() -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    return reached


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
