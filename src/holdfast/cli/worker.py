"""
The worker of the demo: a process that ingests files and is killed while it does.

Started by `holdfast.cli.lives` as `python -m holdfast.cli.worker OUT LIFE`; its order is on
standard input, its words go to the descriptor OUT, one JSON line each. It says that a file is
acknowledged only after the `await` on the store has returned.

Invariant: a word is written in one call, so a torn last line is one that was never said.
"""

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

import holdfast
from holdfast.cli.ingest import (
    FLUSH_INTERVAL,
    TRY_AGAIN,
    Acknowledged,
    Fact,
    Order,
    Package,
    Ready,
    Running,
    Totals,
    Tried,
    Word,
    measured,
    stream_of,
)
from holdfast.core import codec
from holdfast.core.errors import HoldfastError, VersionConflictError
from holdfast.runtime.service import together
from holdfast.runtime.sessions.session import Session

SIDE_BY_SIDE: Final = 32


class Worker:
    """One life of the ingestion."""

    def __init__(self, order: Order, out: int, life: int) -> None:
        """Take the order, where to speak, and the number of this life."""
        self._order = order
        self._out = out
        self._life = life
        files = sum(len(package.files) for package in order.packages)
        # Few files side by side if there are few, so that there is a moment to be killed in.
        self._gate = asyncio.Semaphore(max(2, min(SIDE_BY_SIDE, files // SIDE_BY_SIDE)))

    async def run(self) -> None:
        """Open the store, find out where to go on, ingest what is left."""
        order = self._order
        async with holdfast.open(order.store, flush_interval=FLUSH_INTERVAL) as rt:
            sessions = {
                package.name: rt.session(Totals, (order.label, package.name))
                for package in order.packages
            }
            running = rt.session(Running, order.label)
            await together(running.load, *(session.load for session in sessions.values()))
            found = [session.value for session in sessions.values()]
            self._say(Ready(sum(totals.files for totals in found), running.value.files))
            async with running.edit() as whole:
                # What the last life had not flushed is in the durable totals.
                whole.files = sum(totals.files for totals in found)
                whole.lines = sum(totals.lines for totals in found)
                whole.bytes = sum(totals.bytes for totals in found)
            # So that short lives one after the other do not add up to more than one interval.
            await rt.flush()
            await together(
                *(
                    partial(self._package, one, sessions[one.name], running)
                    for one in order.packages
                )
            )

    async def _package(
        self, package: Package, session: Session[Totals], running: Session[Running]
    ) -> None:
        stream = stream_of(self._order.label, package.name)
        for path in package.files[session.value.files :]:
            async with self._gate:
                fact = self._read(path)
                self._say(Tried(path))
                async with session.edit(holdfast.Append(stream, (fact.event(),))) as totals:
                    totals.files += 1
                    totals.lines += fact.lines
                    totals.bytes += fact.bytes
                self._say(Acknowledged(stream, session.value.files, fact))
            async with running.edit() as whole:
                whole.files += 1
                whole.lines += fact.lines
                whole.bytes += fact.bytes

    def _read(self, path: str) -> Fact:
        try:
            content = Path(self._order.root, path).read_bytes()
        except OSError:
            return Fact(path, 0, 0, "", self._life)
        return measured(path, content, self._life)

    def _say(self, word: Word) -> None:
        os.write(self._out, msgspec.json.encode(word) + b"\n")


def main(arguments: Sequence[str]) -> int:
    """Run one life; return the exit code."""
    out, life = map(int, arguments)
    # Read at a place, so that the next life finds the same file unread.
    order = msgspec.json.decode(os.pread(0, os.fstat(0).st_size, 0), type=codec.learned(Order))
    code = 0
    try:
        with _plant(order.plant):
            asyncio.run(Worker(order, out, life).run())
    except* VersionConflictError:
        # PostgreSQL finished a commit of the killed life after this one had looked.
        code = TRY_AGAIN
    except* HoldfastError as errors:
        print(errors.exceptions[0], file=sys.stderr)
        code = 1
    return code


def _plant(name: str) -> AbstractContextManager[None]:
    if not name:
        return nullcontext()
    from holdfast.testing.faults import planted

    return planted(name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
