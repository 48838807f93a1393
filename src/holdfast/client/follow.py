"""
Following: every event once, in order, over any number of connections.

The id of the last event, or of what the service let us pass over, is all there is to remember.
Whatever ends a connection (a crash there, a proxy in between, silence for longer than heartbeats
are apart), the next one begins behind it.

Invariant: sequences of a log that is not filtered are handed out without gaps, and none twice.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final

import httpx
import msgspec

from holdfast.client.connection import Connection, pause, problem_from, problem_of, unreachable
from holdfast.client.event import Event, Page
from holdfast.core import codec
from holdfast.core.denial import CursorResetError, UnreachableError
from holdfast.core.errors import DamagedError, HoldfastError

NDJSON: Final = "application/x-ndjson"
OnReset = Callable[[CursorResetError], None]
_WORDS: Final = ("", "earliest", "latest")
_POLL: Final = 20.0
_POLL_LIMIT: Final = 500


class _AgainError(Exception):
    """The connection is over, and the next one may go on at once, or after a while."""

    def __init__(self, error: HoldfastError, after: float = 0.0, *, well: bool = False) -> None:
        super().__init__(error)
        self.error = error
        self.after = after
        self.well = well


class Follower:
    """
    Somebody who follows a log.

    Attributes:
        cursor: behind which it goes on; empty for where the service begins by itself.
        connections: how many there were.
    """

    def __init__(
        self,
        connection: Connection,
        path: str,
        filters: Mapping[str, Any],
        after: str,
        on_reset: OnReset | None,
        *,
        dense: bool,
    ) -> None:
        """Take what is followed, and from where."""
        self._connection = connection
        self._path = path
        self._filters = {name: value for name, value in filters.items() if value}
        self._on_reset = on_reset
        self._dense = dense
        self._last: int | None = None
        self._patience = connection.patience()
        self.cursor = after
        self.connections = 0

    async def events(self) -> AsyncGenerator[Event]:
        """
        Yield events until the log ends.

        Raises:
            CursorResetError: the service cannot go on behind the cursor, and nobody is told.
            HoldfastError: what the service raised.
            UnreachableError: nobody answered for too long.
        """
        one = self._streamed if self._connection.options.streams else self._polled
        while True:
            try:
                async with aclosing(one()) as found:
                    async for event in found:
                        yield event
                return
            except _AgainError as again:
                if again.well:
                    await pause(again.after)
                else:
                    await self._patience.wait(again.error, again.after)
            except httpx.TransportError as error:
                await self._patience.wait(unreachable(error))

    # By a stream.

    async def _streamed(self) -> AsyncGenerator[Event]:
        """Yield what one connection brings; ends with the log."""
        options, http = self._connection.options, self._connection.http
        timeout = httpx.Timeout(options.timeout, read=options.silence)
        params = {**self._filters, **({"after": self.cursor} if self.cursor else {})}
        headers = {"Accept": NDJSON}
        async with http.stream(
            "GET", self._path, params=params, headers=headers, timeout=timeout
        ) as response:
            if response.status_code != 200:
                await response.aread()
                error, may_repeat, after = problem_of(response)
                raise _AgainError(error, after) if may_repeat else error
            self.connections += 1
            async for line in response.aiter_lines():
                if not line:
                    continue
                self._patience.renew()
                told = msgspec.json.decode(line)
                if "control" not in told:
                    if (event := self._new(codec.convert(told, Event))) is not None:
                        yield event
                elif self._heed(told):
                    return
        raise _AgainError(UnreachableError(reason="the stream broke off"))

    def _heed(self, told: dict[str, Any]) -> bool:
        """Do as a line says that is no event; return whether the log is over."""
        match told["control"]:
            case "stream.open" if self.cursor in _WORDS:
                # From here on a place, so that what comes between two connections is not lost.
                self.cursor = told["after"]
            case "stream.heartbeat" | "stream.cursor":
                self.cursor = told["id"]
            case "stream.reset":
                self._reset(told["reason"], told["earliest"], told["head"])
            case "stream.closing":
                waits = float(told["retry_ms"]) / 1e3
                raise _AgainError(UnreachableError(reason="asked to come again"), waits, well=True)
            case "stream.error":
                error, may_repeat, after = problem_from(told, int(told["status"]))
                raise _AgainError(error, after) if may_repeat else error
            case _:
                return bool(told["control"] == "stream.end")
        return False

    # By pages.

    async def _polled(self) -> AsyncGenerator[Event]:
        """Yield page after page; ends with the log."""
        while True:
            asked = {**self._filters, "after": self.cursor, "limit": _POLL_LIMIT, "wait": _POLL}
            try:
                response = await self._connection.request("GET", self._path, params=asked)
            except CursorResetError as error:
                self._reset(error.reason, error.earliest, error.latest)
                continue
            self.connections += 1
            page = msgspec.json.decode(response.content, type=codec.learned(Page))
            for event in page.items:
                if (new := self._new(event)) is not None:
                    yield new
            self.cursor = page.cursor
            if page.ended:
                return

    # Both.

    def _new(self, event: Event) -> Event | None:
        """
        Return an event that was not handed out, and remember it.

        Raises:
            DamagedError: one before it is missing.
        """
        if self._dense and self._last is not None:
            if event.seq <= self._last:
                return None
            if event.seq != self._last + 1:
                raise DamagedError(
                    what="order of",
                    name=event.stream,
                    reason=f"{event.seq} came behind {self._last}",
                    sequence=event.seq,
                )
        self._last = event.seq
        self.cursor = event.id
        return event

    def _reset(self, reason: str, earliest: str, latest: str) -> None:
        """Tell that it begins anew; raises if nobody wants to know."""
        error = CursorResetError(reason=reason, earliest=earliest, latest=latest)
        if self._on_reset is None:
            raise error
        self._last, self.cursor = None, "earliest"
        self._on_reset(error)
