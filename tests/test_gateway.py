"""
The gateway example, as a test: killed again and again, and two of them on one store.

What is judged is what clients and the model outside have seen; see `examples.gateway.judge`.
"""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

from examples.gateway.client import Attempt, Client, Conversation
from examples.gateway.lab import trial
from examples.gateway.model import Call, Model
from examples.gateway.process import Process

TTL = 1.0
SEED = 4


def test_a_gateway_killed_twenty_times_ends_like_one_that_was_not() -> None:
    """L1, L2, L7, H1: equal totals, no session orphaned or doubled, exact reports."""
    result = trial(SEED)
    assert result.kills == 20
    assert result.troubles == [], result.detail


def test_of_two_gateways_neither_a_killed_nor_a_frozen_one_makes_a_turn_run_twice(
    postgres_url: str, tmp_path: Path
) -> None:
    """H10, A9: the frozen one's work is taken over and its writes are refused when it wakes."""
    asyncio.run(two_gateways(postgres_url, tmp_path))


async def two_gateways(store: str, folder: Path) -> None:
    """Freeze the first in the middle of a turn and wake it later; kill the second in another."""
    frozen_in = Conversation(0, ("one", "two", "three", "four"))
    killed_in = Conversation(1, ("eins", "zwei"))
    with (
        Model() as model,
        Process(store, model.url, folder / "1", flush_interval=0.2, lease_ttl=TTL) as first,
        Process(store, model.url, folder / "2", flush_interval=0.2, lease_ttl=TTL) as second,
    ):
        clients = Client(first.url), Client(second.url)
        await say(clients[0], frozen_in, 0)
        await say(clients[1], frozen_in, 1)  # The conversation goes over to the other one,
        await say(clients[0], frozen_in, 2)  # and comes back.
        await say(clients[1], killed_in, 0)
        await freeze(model, first, clients, frozen_in)
        first.start()
        await kill(model, second, clients, killed_in)
        keys = await clients[0].look("/sessions")
        sessions = {key: await clients[0].look(f"/sessions/{key}") for key in keys}
        reported = [(key, number) for key, number in await clients[0].look("/interrupted")]
        for client in clients:
            await client.close()
        first.stop()
    judge_two(sessions, reported, model.journal, frozen_in, killed_in)


async def freeze(
    model: Model, first: Process, clients: tuple[Client, Client], talk: Conversation
) -> None:
    """Freeze the first gateway while the model thinks, for longer than its lease."""
    model.hold(talk.turn(3))
    frozen = asyncio.create_task(clients[0].send(talk, 3, talk.headers(3)))
    await asyncio.to_thread(model.wait, talk.turn(3))
    first.freeze()
    again = asyncio.create_task(say(clients[1], talk, 3))
    await asyncio.to_thread(model.wait, talk.turn(3), 2)
    model.release(talk.turn(3))
    assert (await again).answer["replayed"] is False
    assert any(attempt.status == 409 for attempt in clients[1].attempts), "it did not wait"
    first.wake()
    woken = await frozen
    assert woken is not None and woken.status == 503, woken
    await asyncio.to_thread(first.ended)


async def kill(
    model: Model, second: Process, clients: tuple[Client, Client], talk: Conversation
) -> None:
    """Kill the second gateway while the model thinks; the first one goes on at once."""
    await clients[0].look("/readyz")
    model.hold(talk.turn(1))
    killed = asyncio.create_task(clients[1].send(talk, 1, talk.headers(1)))
    await asyncio.to_thread(model.wait, talk.turn(1))
    second.kill()
    broken = await killed
    assert broken is not None and broken.broken
    model.release(talk.turn(1))
    assert (await say(clients[0], talk, 1)).answer["replayed"] is False


async def say(client: Client, talk: Conversation, index: int) -> Attempt:
    """Send a turn until it is answered."""
    return await client.say(talk, index, talk.headers(index))


def judge_two(
    sessions: dict[str, dict[str, Any]],
    reported: list[tuple[str, int]],
    journal: list[Call],
    *talks: Conversation,
) -> None:
    """Each turn is kept once; the model was asked again only for the two that were reported."""
    kept = [(key, turn) for key, chat in sessions.items() for turn in chat["transcript"]]
    turns = [turn for talk in talks for turn in talk.turns]
    assert sorted(turn["turn"] for _, turn in kept) == sorted(turns)
    assert Counter(call.turn for call in journal) == Counter(
        [*turns, *(talk.turns[-1] for talk in talks)]
    )
    ended = {(key, turn["generation"]) for key, turn in kept}
    asked = [(call.session, call.generation) for call in journal]
    assert len(set(asked)) == len(asked), asked
    assert sorted(reported) == sorted(set(asked) - ended)
    for chat in sessions.values():
        assert chat["turns"] == len(chat["transcript"])
