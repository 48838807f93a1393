"""
Streams: events as server-sent events, or as lines of JSON, for as long as somebody listens.

Replay is live. A reader loops: read a page behind the cursor, write it, wait to be woken, read
again. There is no queue that could overflow, no switch that could lose or double an event, and a
slow reader holds up nobody: it is itself what is slow. One that takes nothing for too long is cut
off and comes again with its cursor.

Frames that are stored have an id; frames that are not (that it is open, ends, was reset) have
none, so they never move a reader's cursor. A heartbeat repeats the id that the reader has. What a
reader of a filtered stream does not get moves its cursor by an id alone.

Invariants: sequences go out growing, without gaps; a page is written once its events are durable,
since it was read from the log; the end is told only behind the last event; who asks is asked for
again at every heartbeat, and nothing is sent to who lost the right.
"""

import asyncio
import logging
import random
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from holdfast.core.access import Right
from holdfast.core.errors import HoldfastError, TooOldError, UnexpectedError
from holdfast.http import access
from holdfast.http.answers import moment
from holdfast.http.call import Call
from holdfast.http.cursor import Place, event_id
from holdfast.http.frames import NDJSON, SSE, Asked, frame
from holdfast.http.problem import problem_of
from holdfast.http.site import Site
from holdfast.runtime.attachment import Attachment, Page
from holdfast.runtime.service import Errand

log = logging.getLogger("holdfast")
RETRY_MS: Final = 2_000
PAGE_FIRST: Final = 16
PAGE_MOST: Final = 512
"""Events of a page; a power of two, so that readers who are apart meet again at its multiples."""
PAGE_BYTES: Final = 128 * 1024
_PART_BYTES: Final = 256 * 1024
_FARTHEST: Final = 1 << 62
_CUT_WAIT: Final = 1.0
_SETTLES: Final = 2.0
_HEADERS: Final = {
    "Cache-Control": "no-store, no-transform",
    # What is encoded already is left alone by who would compress it, and hold it back for that.
    "Content-Encoding": "identity",
    "X-Accel-Buffering": "no",
    "X-Content-Type-Options": "nosniff",
}


class _StuckError(Exception):
    """The reader took nothing for too long."""


class EventStream(Response):
    """The answer to a reader of a log: goes on until the log ends, or the reader does."""

    def __init__(
        self, call: Call, asked: Asked, media_type: str, reader: Attachment, place: Place
    ) -> None:
        """Take who reads what, from where."""
        super().__init__(None, 200, dict(_HEADERS), media_type)
        del self.headers["content-length"]
        self._call = call
        self._site: Site = call.site
        self._asked = asked
        self._reader = reader
        self._place = place
        self._sse = media_type == SSE
        self._type = SSE if self._sse else NDJSON
        self._send: Send
        self._gone = asyncio.Event()
        self._limit = PAGE_FIRST
        now = call.clock.monotonic()
        self._ends_at = now + self._site.settings.stream_seconds_max * random.uniform(0.7, 1.0)
        self._check_at = now + self._site.settings.heartbeat
        self._spoke_at = now
        # One for all waits: it looks how long it is to the next heartbeat when it is over.
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until it ends, or until the reader went away."""
        self._send = send
        watch = Errand("stream-reader")
        with self._site.stream_of(self._call.who.name, self._reader), self._reader:
            start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            await send(start)
            if self._call.request.method == "HEAD":
                await self._part(b"", more=False)
                return
            watch.start(lambda: self._watch(receive))
            self._told(1)
            try:
                await self._run()
            except _StuckError:
                self._told_closed("slow")
                await self._cut(receive)
            finally:
                self._told(0)
                if self._timer is not None:
                    self._timer.cancel()
                await watch.stop()

    async def _watch(self, receive: Receive) -> None:
        """Wait until the reader goes away; nobody waits for more on its behalf then."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone.set()
        self._reader.nudge()

    async def _cut(self, receive: Receive) -> None:
        """Drop the connection of who takes nothing, and with it what waits to be taken."""
        log.info("event=stream_cut reason=slow caller=%s", self._call.who.name)
        if cut(receive):
            # The server ends the exchange by itself then, and we need not be missing in it.
            with suppress(TimeoutError):
                async with asyncio.timeout(_CUT_WAIT):
                    await self._gone.wait()

    async def _run(self) -> None:
        try:
            await self._follow()
        except HoldfastError as error:
            await self._fail(error)
        except _StuckError:
            raise
        except Exception as error:
            # The message may quote what is stored: its type and place have to do.
            log.exception("event=stream_fault request=%s", self._call.id)
            await self._fail(UnexpectedError(reason=type(error).__name__))
        await self._part(b"", more=False)

    async def _fail(self, error: HoldfastError) -> None:
        """Say why it ends, now that the status cannot say it any more."""
        if error.status >= 500:
            log.warning("event=stream_failed request=%s error=%r", self._call.id, error.code)
        self._told_closed(error.code)
        problem = problem_of(error, self._call.root, self._call.id)
        await self._control("stream.error", msgspec.to_builtins(problem))

    async def _follow(self) -> None:
        after = await self._open()
        caught_up = False
        while not self._gone.is_set():
            await self._identify()
            page, after = await self._page(after)
            moved = page.reached > after
            if moved:
                await self._pass_on(page, after, "live" if caught_up else "history")
                after = page.reached
            elif page.ended:
                self._told_closed("end")
                await self._control("stream.end", {"last": self._id(page.last)})
                return
            behind = page.ended or (moved and after < page.last)
            if not behind and not caught_up:
                caught_up = True
                await self._control("stream.caught_up", {"head": self._id(page.last)})
            if self._over():
                await self._close()
                return
            if behind:
                continue
            # Nothing was there behind this page when it was read, and whatever came since wakes.
            await self._wait()
            if self._now() >= self._quiet_until():
                await self._heartbeat(after, page)

    async def _wait(self) -> None:
        """Wait until there may be more, or it is time to say that it lives."""
        if self._timer is None:
            rest = max(0.0, self._quiet_until() - self._now())
            self._timer = asyncio.get_running_loop().call_later(rest, self._awake)
        await self._reader.wait()

    def _awake(self) -> None:
        self._timer = None
        self._reader.nudge()

    async def _open(self) -> int:
        """Say from where on it reads; return after which event."""
        first = await first_look(self._reader, self._place, feed=self._asked.feed)
        after, reason = start_of(self._place, first, self._lineage, feed=self._asked.feed)
        said: dict[str, Any] = {
            "after": self._id(after),
            "earliest": self._id(first.first),
            "head": self._id(first.last),
            "filters": msgspec.Raw(self._asked.filters.encode() or b"{}"),
            "time": self._time(),
        }
        if self._sse:
            await self._write(b"retry: %d\n" % RETRY_MS)
        await self._control("stream.open", said)
        if reason:
            await self._reset(reason, first)
        return after

    async def _reset(self, reason: str, page: Page) -> None:
        """Say that the reader has to begin anew, and where."""
        self._call.rt.telemetry.tell("stream.reset", {"reason": reason.partition(",")[0]})
        said = {
            "reason": reason,
            "earliest": self._id(page.first),
            "head": self._id(page.last),
            "snapshot": self._call.request.url.path.removesuffix("/events"),
        }
        await self._control("stream.reset", said)

    async def _page(self, after: int) -> tuple[Page, int]:
        """Return the next page, and behind which event it is: retention may have been there."""
        limit = self._limit if self._asked.feed else self._limit - after % self._limit
        try:
            return await self._reader.read(after, limit), after
        except TooOldError as error:
            first = await first_look(self._reader, Place(), feed=self._asked.feed)
            await self._reset("is older than what is kept", first)
            after = max(error.first_sequence, first.first) - 1
            return await self._reader.read(after, limit), after

    async def _pass_on(self, page: Page, after: int, mode: str) -> None:
        """Write a page, and let the next one be as large as memory allows."""
        found = self._site.frames.of(page, self._asked, self._lineage, self._type, after)
        await self._write(found.body)
        if found.shown:
            self._spoke_at = self._now()
            telemetry = self._call.rt.telemetry
            if telemetry.listens:
                lag = max(0.0, self._call.clock.wall() - page.events[-1].recorded_at)
                numbers = {"events": found.shown, **({"lag": lag} if mode == "live" else {})}
                telemetry.tell("stream.sent", {"mode": mode}, numbers)
        if len(found.body) > PAGE_BYTES:
            self._limit = max(1, self._limit // 2)
        elif len(found.body) < PAGE_BYTES // 2 and self._is_full(page):
            self._limit = min(PAGE_MOST, self._limit * 2)

    def _is_full(self, page: Page) -> bool:
        """Return whether a page went as far as it might; positions of the feed have gaps."""
        if self._asked.feed:
            return len(page.events) >= self._limit
        return page.reached % self._limit == 0

    async def _identify(self) -> None:
        """
        Look now and then whether who reads may read still.

        Raises:
            UnauthorizedError, ForbiddenError: not any more.
        """
        now = self._now()
        if now < self._check_at:
            return
        self._check_at = now + self._site.settings.heartbeat
        who = await access.identify(self._site, self._call.request, self._call.operation)
        self._asked = self._asked._replace(payloads=Right.PAYLOADS in who.rights)

    async def _heartbeat(self, after: int, page: Page) -> None:
        """Say that it lives, after a while in which the reader saw nothing."""
        said = {"head": self._id(page.last), "time": self._time()}
        await self._control("stream.heartbeat", said, at=after)

    async def _close(self) -> None:
        """Ask the reader to come again, not all readers at the same moment."""
        reason = "drain" if self._site.closing else "age"
        self._told_closed(reason)
        retry = RETRY_MS + random.randrange(RETRY_MS)
        if self._sse:
            await self._write(b"retry: %d\n" % retry)
        await self._control("stream.closing", {"reason": reason, "retry_ms": retry})

    async def _control(self, name: str, said: dict[str, Any], at: int | None = None) -> None:
        self._spoke_at = self._now()
        id = "" if at is None else self._id(at)
        if self._sse:
            await self._write(frame(name, said, id))
            return
        line = {"control": name, **({"id": id} if id else {}), **said}
        await self._write(msgspec.json.encode(line) + b"\n")

    async def _write(self, whole: bytes) -> None:
        if len(whole) <= _PART_BYTES:
            await self._part(whole)
            return
        for begin in range(0, len(whole), _PART_BYTES):
            await self._part(whole[begin : begin + _PART_BYTES])

    async def _part(self, part: bytes, *, more: bool = True) -> None:
        try:
            async with asyncio.timeout(self._site.settings.write_timeout):
                await self._send({"type": "http.response.body", "body": part, "more_body": more})
        except TimeoutError:
            raise _StuckError from None

    def _over(self) -> bool:
        return self._site.closing or self._now() > self._ends_at

    def _quiet_until(self) -> float:
        return self._spoke_at + self._site.settings.heartbeat

    def _id(self, number: int) -> str:
        return event_id(self._lineage, max(number, 0), feed=self._asked.feed)

    def _now(self) -> float:
        return self._call.clock.monotonic()

    def _time(self) -> datetime | None:
        return moment(self._call.clock.wall())

    @property
    def _lineage(self) -> int:
        return self._call.rt.lineage

    def _told(self, change: int) -> None:
        """Tell how many streams of this kind are open."""
        name = "sse" if self._sse else "ndjson"
        numbers = {"clients": float(self._site.count_of(name, 1 if change else -1))}
        self._call.rt.telemetry.tell("stream.clients", {"transport": name}, numbers)

    def _told_closed(self, reason: str) -> None:
        self._call.rt.telemetry.tell("stream.closed", {"reason": reason})


def come_again() -> Response:
    """
    Return a stream that is over at once, in place of a refusal that will pass.

    A browser takes any other status for its last word, and never asks again.
    """
    retry = RETRY_MS + random.randrange(RETRY_MS)
    said = {"reason": "not_ready", "retry_ms": retry}
    body = b"retry: %d\n" % retry + frame("stream.closing", said)
    return Response(body, 200, dict(_HEADERS), SSE)


def cut(receive: Receive) -> bool:
    """
    Drop a connection at once; False where the server does not show it.

    ASGI has no word for this: a server that is only told that the answer is over keeps what it
    could not send until the reader takes it, which a stopped one never does.
    """
    exchange: Any = getattr(receive, "__self__", None)
    abort = getattr(getattr(exchange, "transport", None), "abort", None)
    if abort is None:
        return False
    abort()
    return True


async def first_look(reader: Attachment, place: Place, *, feed: bool) -> Page:
    """
    Return a page that tells where a log begins and ends.

    Where the feed ends may go back for a moment, while another process commits; who is beyond it
    is beyond the end only if it stays so.
    """
    after = _FARTHEST if feed else 0
    while True:
        try:
            page = await reader.read(after, 1)
        except TooOldError as error:
            after = error.first_sequence - 1
            continue
        if not feed or place.number <= page.last or not await reader.wait(_SETTLES):
            return page


def start_of(place: Place, page: Page, lineage: int, *, feed: bool) -> tuple[int, str]:
    """Return behind what to read for a place, and why not behind the place itself."""
    earliest = page.first - 1
    if place.word:
        return (page.last if place.word == "latest" else earliest), ""
    if place.lineage is not None and place.lineage != lineage:
        return earliest, f"is of another lineage, {place.lineage}: the store was restored since"
    if place.number > page.last:
        return earliest, "is beyond the end"
    if place.number < earliest:
        return earliest, "is older than what is kept"
    return place.number, ""
