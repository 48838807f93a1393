"""Many clients at once, each in a thread with a connection of its own."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.http.service import BEARER, PATIENCE

Ask = Callable[[httpx.Client, int], httpx.Response]


def raced(bases: Sequence[str], racers: int, ask: Ask) -> list[httpx.Response]:
    """Let so many ask at the same moment, of one server after the other; return all answers."""
    start = threading.Barrier(racers)

    def race(number: int) -> httpx.Response:
        base = bases[number % len(bases)]
        with httpx.Client(base_url=base, headers=BEARER, timeout=PATIENCE) as client:
            client.get("/livez")
            start.wait(PATIENCE)
            return ask(client, number)

    with ThreadPoolExecutor(racers) as threads:
        return list(threads.map(race, range(racers)))
