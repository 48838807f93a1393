"""
From commit to a client: server-sent events over sockets, to one subscriber and to a thousand.

The service is a process of its own, so are its subscribers (this one): sockets that look for
nothing but ids, so that what is measured is the service.
"""

import asyncio
import json
import resource
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from bench.measure import Result, Stopwatch, now, percentile
from bench.place import Place
from bench.side_service import RUN, TOKEN

MARK = b"\nevent: user."
ID = b"id: 1."
CALLERS = 100
PATIENCE = 1_200.0
WARM = 5


class Subscriber(asyncio.Protocol):
    """
    One socket that follows.

    Attributes:
        count: events that came.
        last: sequence of the last one.
        at: when that was.
        lost: the connection is over.
    """

    def __init__(self, after: int, crowd: "Crowd") -> None:
        """Follow from behind `after`."""
        self._after = after
        self._crowd = crowd
        self._rest = b""
        self.count = 0
        self.last = after
        self.at = 0.0
        self.lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        asked = (
            f"GET /v1/runs/{RUN}/events?after=1.{self._after} HTTP/1.1\r\nHost: localhost\r\n"
            f"Authorization: Bearer {TOKEN}\r\nAccept: text/event-stream\r\n\r\n"
        )
        cast(asyncio.Transport, transport).write(asked.encode())

    def data_received(self, data: bytes) -> None:
        """Count; what is cut in two at the end is looked at with the next part."""
        whole = self._rest + data
        end = whole.rfind(b"\n\n") + 1
        self._rest = whole[end:]
        found = whole.count(MARK, 0, end)
        if found:
            self.count += found
            begin = whole.rfind(ID, 0, end) + len(ID)
            self.last = int(whole[begin : whole.index(b"\n", begin)])
            self.at = now()
            self._crowd.came(self)
        elif b"stream.caught_up" in whole:
            self._crowd.came(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Note it: nobody is to be cut here."""
        self.lost = True


class Crowd:
    """All subscribers, and when they all are somewhere."""

    def __init__(self) -> None:
        """Begin with none."""
        self.all: list[Subscriber] = []
        self._open = 0
        self._wanted = 0
        self._left = 0
        self._there = asyncio.Event()
        self._joined = asyncio.Event()
        self._count = 0

    async def join(self, port: int, count: int, after: int) -> None:
        """Connect so many, and wait until each caught up."""
        loop, self._count = asyncio.get_running_loop(), count
        self.expect(after + 1)
        for _ in range(count):
            _, made = await loop.create_connection(
                lambda: Subscriber(after, self), "127.0.0.1", port
            )
            self.all.append(made)
        async with asyncio.timeout(PATIENCE):
            await self._joined.wait()

    def expect(self, sequence: int) -> None:
        """Say which sequence all are to have next."""
        self._wanted, self._left = sequence, len(self.all)
        self._there.clear()

    def came(self, one: Subscriber) -> None:
        """Note that one has more."""
        if not one.count:
            self._open += 1
            if self._open == self._count:
                self._joined.set()
        elif one.last >= self._wanted:
            self._left -= 1
            if not self._left:
                self._there.set()

    async def there(self) -> None:
        """Wait until all have it."""
        async with asyncio.timeout(PATIENCE):
            await self._there.wait()

    def check(self, after: int, last: int) -> None:
        """
        Return if everybody has everything, once.

        Raises:
            RuntimeError: somebody has not.
        """
        wrong = [
            (one.count, one.last, one.lost)
            for one in self.all
            if one.lost or one.last != last or one.count != last - after
        ]
        if wrong:
            raise RuntimeError(f"{len(wrong)} of {len(self.all)} missed something: {wrong[:3]}")


class Service:
    """The service in its process."""

    def __init__(self, url: str) -> None:
        """Start it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        program = [sys.executable, "-m", "bench.side_service", url, str(self.port)]
        self.child = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.last = int(self._hear())

    async def ask(self, line: str) -> Any:
        """Let it do something; return what it answers."""
        stdin = self.child.stdin
        if stdin is None:
            raise RuntimeError("the service has no input")
        stdin.write(line + "\n")
        stdin.flush()
        return await asyncio.to_thread(self._hear)

    def _hear(self) -> Any:
        stdout = self.child.stdout
        line = "" if stdout is None else stdout.readline()
        if not line:
            raise RuntimeError(f"the service ended with {self.child.wait()}")
        return json.loads(line)


@contextmanager
def serving(url: str) -> Generator[Service]:
    """Have a service; it is ended at the end."""
    service = Service(url)
    try:
        yield service
    finally:
        service.child.kill()
        service.child.communicate()


async def stream(place: Place, store: str) -> list[Result]:
    """Measure delays of one subscriber and of many, then many while events arrive."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    found: list[Result] = []
    for count in (1, place.plan.subscribers):
        with serving(place.url(store)) as service:
            crowd, after = Crowd(), service.last
            await crowd.join(service.port, count, after)
            rounds = place.plan.streamed_alone if count == 1 else place.plan.streamed_alone // 10
            delays = await _delays(service, crowd, max(rounds, 2))
            found += _told(place, store, count, delays)
            if count > 1:
                found += await _storm(place, store, service, crowd, after)
    return found


async def _delays(service: Service, crowd: Crowd, rounds: int) -> list[float]:
    """Commit one event after the other; return for each and every subscriber how long it took."""
    delays: list[float] = []
    for at in range(rounds + WARM):
        crowd.expect(service.last + 1)
        service.last, committed = await service.ask("one")
        await crowd.there()
        if at >= WARM:
            delays += [(one.at - committed) * 1e3 for one in crowd.all]
    return delays


async def _storm(
    place: Place, store: str, service: Service, crowd: Crowd, after: int
) -> list[Result]:
    count, before = place.plan.streamed, await service.ask("memory")
    crowd.expect(service.last + count)
    watch = Stopwatch()
    service.last, seconds = await service.ask(f"many {count} {CALLERS}")
    await crowd.there()
    took = watch.seconds
    crowd.check(after, service.last)
    grown = await service.ask("memory")
    readers = len(crowd.all)
    common: dict[str, Any] = {"store": store, "fsync_per_s": place.sync_rate(), "callers": readers}
    return [
        Result(
            name="stream_1000",
            value=count * readers / took,
            unit="frames/s",
            against=f"appends a second of {CALLERS} callers meanwhile",
            against_value=count / seconds,
            ratio=count * readers / took / (count / seconds),
            note=f"{count:,} events to {readers} sockets in {took:.1f} s, none lost or doubled",
            **common,
        ),
        Result(
            name="stream_1000_memory",
            value=grown,
            unit="MB",
            against="before the events arrived",
            against_value=before,
            ratio=grown / before,
            note="resident size of the service",
            **common,
        ),
    ]


def _told(place: Place, store: str, count: int, delays: list[float]) -> list[Result]:
    syncs = place.sync_rate()
    bar = 5.0
    return [
        Result(
            name=f"stream_{'1' if count == 1 else '1000'}_{name}",
            store=store,
            value=percentile(delays, share),
            unit="ms",
            against="the bar",
            against_value=bar,
            ratio=percentile(delays, share) / bar,
            fsync_per_s=syncs,
            callers=count,
            note="from the return of COMMIT to the frame in another process",
        )
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]
