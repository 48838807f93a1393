"""
Clients that insist: whatever does not get an answer is sent again under the same id.

A client asks for one session, one request after the other; clients ask side by side. Some
requests are sent twice at the same time, and some can never be decided: what they name is not
in the catalogue, so a rule fails in the middle of its work.
"""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, NamedTuple

import httpx

from examples.broker.policy import CATALOGUE

PAUSE: Final = 0.05
PATIENCE: Final = 60.0
THOUGHT: Final = 0.1
AGAIN: Final = {0, 409, 503}
"""No answer, another process was there, not ready: send it again."""
UNKNOWN: Final = "nowhere/0"
STRAY, TWICE, LOST = 0.08, 0.1, 0.04


class Asking(NamedTuple):
    """
    What a client asks once.

    Attributes:
        session: for which session.
        id: of the request, the same whenever it is sent.
        sources: what it wants to read.
        twice: it is sent twice at the same time.
    """

    session: str
    id: str
    sources: tuple[str, ...]
    twice: bool

    @property
    def body(self) -> dict[str, Any]:
        """What is sent."""
        return {"session": self.session, "id": self.id, "sources": list(self.sources)}


class Attempt(NamedTuple):
    """One sending of a request, and what came back: status 0 if the connection broke."""

    asking: Asking
    status: int
    answer: dict[str, Any]

    @property
    def final(self) -> bool:
        """Whether there is nothing to send again."""
        return self.status not in AGAIN


def script(random: Random, sessions: int, requests: int) -> list[list[Asking]]:
    """Draw what is asked, session by session."""
    return [[_asking(random, f"s{n}", i) for i in range(requests)] for n in range(sessions)]


def _asking(random: Random, session: str, number: int) -> Asking:
    """Draw a request; a session keeps to its own shelves, and seldom strays."""
    own = ("handbook", "payroll" if int(session[1:]) % 2 else "inbox")
    strays = random.random() < STRAY
    shelf = [name for name in CATALOGUE if strays or name.startswith(own)]
    # Later requests reach further into the shelves, and most of what they find is known.
    near = [name for name in shelf if int(name.rpartition("/")[2]) <= number // 2]
    sources = random.sample(near, min(len(near), random.randint(1, 3)))
    if random.random() < LOST:
        sources.append(UNKNOWN)
    return Asking(session, f"{session}-r{number}", tuple(sources), random.random() < TWICE)


class Client:
    """
    All clients of a run.

    Attributes:
        attempts: everything that was sent, and what became of it.
        answered: how many requests came to an end.
        thought: seconds between an answer and the next request of a session.
    """

    def __init__(self, url: str) -> None:
        """Take the address of the broker."""
        self.attempts: list[Attempt] = []
        self.answered = 0
        self.thought = THOUGHT
        self._moved = asyncio.Condition()
        self._http = httpx.AsyncClient(base_url=url, timeout=PATIENCE, trust_env=False)

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait until something is so, looking whenever a request ends."""
        async with self._moved:
            await self._moved.wait_for(met)

    async def ask_all(self, said: Sequence[Sequence[Asking]]) -> None:
        """Ask for all sessions, side by side."""
        async with asyncio.TaskGroup() as group:
            for session in said:
                group.create_task(self._ask_for(session))

    async def _ask_for(self, session: Sequence[Asking]) -> None:
        for asking in session:
            await asyncio.gather(*[self.insist(asking) for _ in range(1 + asking.twice)])
            async with self._moved:
                self.answered += 1
                self._moved.notify_all()
            if self.thought:
                await asyncio.sleep(self.thought)

    async def insist(self, asking: Asking) -> Attempt:
        """Send a request until it is answered."""
        while True:
            attempt = await self.send(asking)
            if attempt.final:
                return attempt
            await asyncio.sleep(PAUSE)

    async def send(self, asking: Asking) -> Attempt:
        """Send a request once; that nobody was there to take it is no attempt."""
        status, answer = 0, dict[str, Any]()
        try:
            came = await self._http.post("/v1/request", json=asking.body)
            status, answer = came.status_code, came.json()
        except httpx.ConnectError:
            return Attempt(asking, status, answer)
        except httpx.TransportError:
            pass
        attempt = Attempt(asking, status, answer)
        self.attempts.append(attempt)
        return attempt

    async def look(self, path: str) -> tuple[int, Any]:
        """Return what a page of the broker says, once somebody is there."""
        while True:
            try:
                came = await self._http.get(path)
            except httpx.TransportError:
                await asyncio.sleep(PAUSE)
            else:
                return came.status_code, came.json()

    async def look_until(
        self, path: str, met: Callable[[int, Any], bool]
    ) -> tuple[int, dict[str, Any]]:
        """Return what a page says, as soon as that is what somebody waits for."""
        while True:
            status, shown = await self.look(path)
            if met(status, shown):
                return status, shown
            await asyncio.sleep(PAUSE)
