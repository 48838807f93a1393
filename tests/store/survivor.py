"""
A process that writes to a store whose server is killed under it.

It says `ack N` behind each durable event, `down N …` with the events whose outcome it does not
know, waits for a line, opens again and says `found N committed|absent` for each of them.
Ends in order at the line `stop`.
"""

import asyncio
import sys
from itertools import count

import holdfast
from holdfast.core.errors import HoldfastError, OutcomeUnknownError

WRITERS = 8


async def write(
    rt: holdfast.Runtime, writer: int, numbers: "count[int]", open_units: dict[int, bytes]
) -> None:
    """Append until the store stops."""
    while True:
        number = next(numbers)
        open_units[number] = rt.unit_id()
        try:
            await rt.history(f"writer/{writer}").append("n", number, unit_id=open_units[number])
        except OutcomeUnknownError:
            raise
        except HoldfastError:
            del open_units[number]
            raise
        del open_units[number]
        say(f"ack {number}")


async def live(url: str, numbers: "count[int]", open_units: dict[int, bytes]) -> bool:
    """Open, resolve what is open, write until the store stops; return whether to go on."""
    async with holdfast.open(url, busy_wait=30.0) as rt:
        for number, unit_id in sorted(open_units.items()):
            say(f"found {number} {await rt.outcome(unit_id)}")
        open_units.clear()
        writers = (write(rt, writer, numbers, open_units) for writer in range(WRITERS))
        await asyncio.gather(*writers, return_exceptions=True)
        say(f"down {' '.join(map(str, open_units))}")
    return sys.stdin.readline() != "stop\n"


def say(line: str) -> None:
    """Say something to the parent."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    shared: dict[int, bytes] = {}
    counter = count(1)
    while asyncio.run(live(sys.argv[1], counter, shared)):
        pass
