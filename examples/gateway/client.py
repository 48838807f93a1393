"""
Clients that keep talking: whatever does not get an answer is sent again under the same turn id.

A client names its conversation in one of three ways: by a header the gateway knows, by one it
has to learn, or by nothing but how the conversation began.
"""

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from time import monotonic
from typing import Any, NamedTuple

import httpx

from examples.gateway.model import FRAGILE, PATIENCE

PAUSE = 0.05
FINAL = {200: "answered", 502: "model_failed"}
FINAL_CODES = {"breaker_open", "ambiguous_identity"}


class Conversation(NamedTuple):
    """
    What one client has to say.

    Attributes:
        number: its number, part of its turn ids and headers.
        texts: its messages, one for each turn.
        model: whom it talks to.
        twin: another conversation begins with the same words.
    """

    number: int
    texts: tuple[str, ...]
    model: str = "steady"
    twin: bool = False

    @property
    def ways(self) -> list[dict[str, str]]:
        """The headers of a request, for each way to be known; the last one is the beginning."""
        return [{"x-session-id": f"s{self.number}"}, {"x-thread-id": f"t{self.number}"}, {}]

    def turn(self, index: int) -> str:
        """Return the id of a turn; it stays the same however often it is sent."""
        return f"c{self.number}-t{index}"

    @property
    def turns(self) -> list[str]:
        """The ids of all turns."""
        return [self.turn(index) for index in range(len(self.texts))]

    def headers(self, index: int) -> dict[str, str]:
        """Return the headers of a turn: at first both, so that the second can be learned."""
        if index == 0:
            return {**self.ways[0], **self.ways[1]}
        return self.ways[index % (2 if self.twin else 3)]

    def body(self, index: int) -> dict[str, Any]:
        """Return what is sent for a turn."""
        texts = list(self.texts[: index + 1])
        return {"turn": self.turn(index), "model": self.model, "messages": texts}


class Attempt(NamedTuple):
    """One sending of a turn, and what came back: nothing if the connection broke."""

    conversation: int
    turn: str
    sent_at: float
    ended_at: float
    status: int
    answer: dict[str, Any]

    @property
    def broken(self) -> bool:
        """Whether it was sent, perhaps, and no answer came."""
        return self.status == 0

    @property
    def final(self) -> bool:
        """Whether there is nothing to send again."""
        return self.status in FINAL or self.answer.get("code") in FINAL_CODES


def script(seed: int, conversations: int, turns: int) -> list[Conversation]:
    """
    Return who says what: some say one thing only, two begin alike, one asks a broken model.

    Args:
        seed: decides what is said and how much.
        conversations: how many there are, five or more.
        turns: how many turns a conversation has, about.
    """
    random = Random(seed)
    lengths = [1, 1, *(random.randint(turns // 2, turns * 3 // 2) for _ in range(conversations))]
    said = [
        [f"{random.randbytes(8).hex()} asks {number} for the {index}. time" for index in range(n)]
        for number, n in enumerate(lengths[:conversations])
    ]
    said[3][0] = said[2][0]
    made = [Conversation(number, tuple(texts)) for number, texts in enumerate(said)]
    made[2], made[3] = made[2]._replace(twin=True), made[3]._replace(twin=True)
    made[4] = made[4]._replace(model=FRAGILE)
    return made


class Client:
    """
    All clients of a run.

    Attributes:
        attempts: everything that was sent, and what became of it.
        answered: how many turns came to an end.
    """

    def __init__(self, url: str) -> None:
        """Take the address of the gateway."""
        self.attempts: list[Attempt] = []
        self.answered = 0
        self._moved = asyncio.Condition()
        self._looking = asyncio.Lock()
        self._http = httpx.AsyncClient(base_url=url, timeout=PATIENCE, verify=False)

    async def close(self) -> None:
        """Hang up."""
        await self._http.aclose()

    async def until(self, met: Callable[[], bool]) -> None:
        """Wait until something is so, looking whenever a turn ends."""
        async with self._moved:
            await self._moved.wait_for(met)

    async def talk(self, conversations: Sequence[Conversation]) -> None:
        """Have all conversations, side by side."""
        async with asyncio.TaskGroup() as group:
            for conversation in conversations:
                group.create_task(self._talk(conversation))

    async def _talk(self, conversation: Conversation) -> None:
        for index in range(len(conversation.texts)):
            await self.say(conversation, index, conversation.headers(index))
            async with self._moved:
                self.answered += 1
                self._moved.notify_all()

    async def say(self, conversation: Conversation, index: int, headers: dict[str, str]) -> Attempt:
        """Send a turn until there is an answer."""
        while True:
            attempt = await self.send(conversation, index, headers)
            if attempt is None:
                await self._door()
            elif attempt.final:
                return attempt
            else:
                await asyncio.sleep(PAUSE)

    async def _door(self) -> None:
        """Wait until somebody listens; one looks for all."""
        async with self._looking:
            while True:
                try:
                    _, writer = await asyncio.open_connection(
                        self._http.base_url.host, self._http.base_url.port
                    )
                except OSError:
                    await asyncio.sleep(PAUSE)
                else:
                    writer.close()
                    return

    async def send(
        self, conversation: Conversation, index: int, headers: dict[str, str]
    ) -> Attempt | None:
        """Send a turn once; None if nobody was there to take it."""
        body, (sent_at, status, answer) = conversation.body(index), (monotonic(), 0, {})
        try:
            came = await self._http.post("/v1/chat", json=body, headers=headers)
            status, answer = came.status_code, came.json()
        except httpx.ConnectError:
            return None
        except httpx.TransportError:
            pass
        attempt = Attempt(conversation.number, body["turn"], sent_at, monotonic(), status, answer)
        self.attempts.append(attempt)
        return attempt

    async def look(self, path: str) -> Any:
        """Return what a page of the gateway says, once it answers."""
        while True:
            try:
                came = await self._http.get(path)
                if came.status_code != 503:
                    return came.json()
            except httpx.TransportError:
                pass
            await asyncio.sleep(PAUSE)
