"""
The gateway under fire: clients keep talking while it is killed again and again.

`run` gives the evidence of one run; `trial` compares a run with kills with a quiet one.
"""

import asyncio
import secrets
import tempfile
from pathlib import Path
from random import Random
from time import monotonic
from typing import NamedTuple

from examples.gateway.client import Attempt, Client, Conversation, script
from examples.gateway.judge import Evidence, judge
from examples.gateway.model import Call, Model
from examples.gateway.process import Process

CONVERSATIONS, TURNS, KILLS = 12, 40, 20
DELAY = 0.25
FLUSH_INTERVAL = 0.1
SOON = 0.2
EARLY, STARTING = 0.25, (0.3, 1.0)
LIMIT = 240.0


class Trial(NamedTuple):
    """
    What a trial came to.

    Attributes:
        seed: decides what is said and when the kills come.
        kills: how many there were.
        troubles: promises that did not hold, in words.
        detail: what was done, in a line.
    """

    seed: int
    kills: int
    troubles: list[str]
    detail: str


def trial(seed: int | None = None, kills: int = KILLS) -> Trial:
    """Run the same script quietly and with kills, and judge."""
    drawn = secrets.randbelow(2**31) if seed is None else seed
    print(f"gateway: seed {drawn}", flush=True)
    with tempfile.TemporaryDirectory(prefix="gateway-") as folder:
        quiet = asyncio.run(run(Path(folder, "quiet"), drawn, 0))
        shot = asyncio.run(run(Path(folder, "shot"), drawn, kills))
    broken = sum(attempt.broken for attempt in shot.attempts)
    turns, cost = total(shot, "turns"), total(shot, "cost")
    return Trial(
        drawn,
        len(shot.kills),
        judge(shot, quiet),
        f"{len(shot.kills)} kills, {turns} turns, {broken} broken and {len(shot.reported)} "
        f"interrupted; {cost} of {total(quiet, 'cost')} micro-dollars counted",
    )


def total(run: Evidence, name: str) -> int:
    """Return a counter over all sessions."""
    return sum(chat[name] for chat in run.sessions.values())


async def run(path: Path, seed: int, kills: int) -> Evidence:
    """
    Have the whole script talked through, with so many kills, and collect the evidence.

    Args:
        path: where the store is, and beside it what the gateway has to say.
        seed: decides what is said and when the kills come.
        kills: how many there are.
    """
    store = f"sqlite:///{path}.db"
    said = script(seed, CONVERSATIONS, TURNS)
    with (
        Model(DELAY if kills else 0) as model,
        Process(
            store, model.url, path.with_suffix(".log"), flush_interval=FLUSH_INTERVAL
        ) as process,
    ):
        client = Client(process.url)
        try:
            async with asyncio.timeout(LIMIT):
                killing = asyncio.create_task(kill(process, client, said, Random(seed), kills))
                await client.talk(said)
                killed = await killing
                calls = list(model.journal)
                process.stop()
                process.start()
                return await collect(client, said, calls, killed)
        except TimeoutError:
            raise RuntimeError(f"the gateway hangs; it said: {process.log.read_text()}") from None
        finally:
            await client.close()


async def kill(
    process: Process, client: Client, said: list[Conversation], random: Random, times: int
) -> list[float]:
    """Kill the gateway at random instants, some of them while it comes back from the last."""
    turns = sum(len(conversation.texts) for conversation in said)
    killed: list[float] = []
    for at in sorted(random.randrange(turns) for _ in range(times)):
        if random.random() < EARLY:
            await asyncio.sleep(random.uniform(*STARTING))
        else:
            await client.until(lambda at=at: client.answered >= at)  # type: ignore[misc]
            await asyncio.sleep(random.uniform(0, SOON))
        process.kill()
        killed.append(monotonic())
        process.start()
    return killed


async def collect(
    client: Client, said: list[Conversation], calls: list[Call], killed: list[float]
) -> Evidence:
    """Ask a gateway that came back for everything it knows."""
    attempts = list(client.attempts)
    known: dict[int, list[Attempt]] = {}
    for conversation in said:
        last = len(conversation.texts) - 1
        known[conversation.number] = [
            await client.say(conversation, last, headers) for headers in conversation.ways
        ]
    keys = await client.look("/sessions")
    sessions = {key: await client.look(f"/sessions/{key}") for key in keys}
    reported = [(key, number) for key, number in await client.look("/interrupted")]
    return Evidence(said, attempts, calls, reported, killed, sessions, known, FLUSH_INTERVAL)
