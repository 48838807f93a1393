"""A program that forks with an open store; run by test_process.py. Ends with 0 if all is well."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable

import holdfast
from holdfast import Runtime
from holdfast.core.errors import ForkedError

USES: list[Callable[[Runtime], Awaitable[object]]] = [
    lambda rt: rt.history("s").append("t"),
    lambda rt: rt.history("s").read(),
    lambda rt: anext(rt.history("s").follow()),
    lambda rt: rt.feed.read(),
    lambda rt: rt.records.put("k", "a", 1),
    lambda rt: rt.records.find("k", "a"),
    lambda rt: rt.leases.grant("a", 60.0),
    lambda rt: rt.blobs.put(b"data"),
    lambda rt: rt.outcome(rt.unit_id()),
    lambda rt: rt.verify(),
]


async def use(rt: Runtime) -> None:
    """Try everything; each has to be refused."""
    for number, one in enumerate(USES):
        try:
            async with asyncio.timeout(10):
                await one(rt)
        except ForkedError as error:
            if (error.opened_by, error.used_by) == (os.getppid(), os.getpid()):
                continue
        os._exit(10 + number)
    os._exit(0)


async def main(url: str) -> None:
    """Fork in the middle of work; the parent goes on undisturbed."""
    async with holdfast.open(url) as rt:
        await rt.history("s").append("t", "before")
        child = os.fork()
        if not child:
            asyncio.run(use(rt))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        await rt.history("s").append("t", "after")
        events = [event.data for event in await rt.history("s").read()]
        if events != ["before", "after"] or await rt.verify():
            sys.exit(2)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
