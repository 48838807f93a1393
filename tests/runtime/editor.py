"""
A process that edits sessions under load until it is killed.

It says a line of JSON before (`try`) and behind (`ack`) everything it does: edits, barriers,
identities. With a failpoint and a number it kills itself when the point is reached for the
so-manieth time behind the boot; otherwise it goes on until somebody else does.
"""

import asyncio
import json
import os
import random
import signal
import sys
from typing import Any

import holdfast
from holdfast import BUFFERED, field, state
from holdfast.core.world import World

KEYS = ("a", "b", "c", "d")
FLUSH_INTERVAL = 0.05


@state(version=1)
class Kept:
    """A state whose fields all tell the number of the last edit."""

    number: int = 0
    first: int = field(default=0, group="own")
    turns: int = field(default=0, tier=BUFFERED, kind="counter")
    plain: int = field(default=0, tier=BUFFERED)
    left: int = field(default=0, tier=BUFFERED, group="left")
    right: int = field(default=0, tier=BUFFERED, group="right")


def newer() -> type[Any]:
    """Return the next version of the class, with a field in another tier and one less."""

    def upcast(fields: dict[str, Any]) -> dict[str, Any]:
        return {**fields, "turns": fields.get("turns", 0) * 10}

    @state(version=2, upcast={1: upcast})
    class Kept:
        number: int = 0
        first: int = 0
        turns: int = field(default=0, tier=BUFFERED)
        right: int = field(default=0, tier=BUFFERED, group="right")

    return Kept


KeptTwice = newer()


def say(what: str, **more: Any) -> None:
    """Say something to the parent, in one write."""
    os.write(1, json.dumps({"what": what, **more}).encode() + b"\n")


class Editor:
    """What one life does."""

    def __init__(self, rt: holdfast.Runtime, seed: int) -> None:
        """Take the runtime and where the choices come from."""
        self._rt = rt
        self._rng = random.Random(seed)
        self._count = 0

    async def edit(self, key: str) -> None:
        """Change every field of a session."""
        session = self._rt.session(Kept, key)
        async with session.edit() as draft:
            draft.number += 1
            draft.first = draft.plain = draft.left = draft.right = draft.number
            draft.turns += 1
            say("try", key=key, number=draft.number)
        say("ack", key=key, number=draft.number)

    async def flush(self) -> None:
        """Wait until everything is durable."""
        numbers = {key: self._rt.session(Kept, key).value.left for key in KEYS}
        await self._rt.flush()
        say("flushed", numbers=numbers)

    async def reach(self) -> None:
        """Ask once for a session by identities that nobody has seen, and never again."""
        self._count += 1
        name = f"{self._rng.getrandbits(40)}-{self._count}"
        identities = [f"hdr:{name}", f"fp:{name}"]
        say("trying", identities=identities)
        session = await self._rt.sessions.reach(Kept, identities)
        say("reached", identities=identities, key=session.key)

    async def work(self) -> None:
        """Go on for ever."""
        while True:
            keys = self._rng.sample(KEYS, self._rng.randint(1, len(KEYS)))
            more = self._rng.choice((self.flush, self.reach, self.reach))
            await asyncio.gather(*(self.edit(key) for key in keys), more())


def die() -> None:
    """End as nothing can hinder."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(world: World, point: str, nth: int) -> None:
    """Die when a point is reached for the so-manieth time."""
    left = nth

    def reached() -> None:
        nonlocal left
        left -= 1
        if not left:
            die()

    world.failpoints.arm(point, reached)


async def live(url: str, seed: int, point: str, nth: int) -> None:
    """Load, say what was found, edit."""
    world = World()
    async with holdfast.open(url, flush_interval=FLUSH_INTERVAL, world=world) as rt:
        for key in KEYS:
            async with rt.session(Kept, key) as session:
                say("found", key=key, number=session.value.number, turns=session.value.turns)
        if point:
            arm(world, point, nth)
        await Editor(rt, seed).work()


async def flush(url: str, point: str, nth: int) -> None:
    """Change all sessions, then die while they are flushed, or behind it."""
    world = World()
    async with holdfast.open(url, flush_interval=3_600, world=world) as rt:
        editor = Editor(rt, 0)
        for key in KEYS:
            async with rt.session(Kept, key) as session:
                say("found", key=key, number=session.value.number, turns=session.value.turns)
            await editor.edit(key)
        arm(world, point, nth)
        await editor.flush()
        die()


async def upcast(url: str, point: str, nth: int) -> None:
    """Bring sessions of an older version along by changing them."""
    world = World()
    async with holdfast.open(url, flush_interval=3_600, world=world) as rt:
        sessions = [rt.session(KeptTwice, key) for key in KEYS]
        for session in sessions:
            await session.load()
        arm(world, point, nth)
        for session in sessions[::2]:
            async with session.edit() as draft:
                draft.number += 1
        for session in sessions[1::2]:
            async with session.edit() as draft:
                draft.right += 1
        await rt.flush()
        die()


if __name__ == "__main__":
    _, kind, url, *rest = sys.argv
    if kind == "live":
        asyncio.run(live(url, int(rest[0]), rest[1], int(rest[2])))
    else:
        work = flush if kind == "flush" else upcast
        asyncio.run(work(url, rest[0], int(rest[1])))
