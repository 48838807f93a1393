"""
`holdfast serve`: one store, one socket, from the first connection to the last goodbye.

    listening   connections are let in; probes say how far it is, everything else answers 503
    restoring   the store is opened beside that
    ready       all operations answer
    unready     after SIGTERM: readiness is off, all still answer, for `drain_delay` seconds
    draining    nothing new begins, streams are closed, steps come to their next checkpoint
    leaving     leases are given back, the store is released, the socket is closed

A second signal hands over at once what is under way. SIGKILL is as safe as all of this: the way
out only saves whoever comes next from having to find out.

Invariants: the socket listens before the store is opened; nothing is released while a step runs,
unless the deadline has passed or somebody said so twice.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from holdfast.core.errors import HoldfastError
from holdfast.core.machine import Machine
from holdfast.core.recovery import Phase
from holdfast.core.refusal import NotReadyError
from holdfast.http.app import app
from holdfast.http.listening import address_of, bound, bound_at, check_exposure, token_of
from holdfast.http.notify import Reporter
from holdfast.http.server import Server
from holdfast.http.site import Settings, Site
from holdfast.runtime.drain import Drained
from holdfast.runtime.engines.engine import Engine
from holdfast.runtime.opening import open as open_runtime
from holdfast.runtime.runtime import Runtime
from holdfast.runtime.service import Errand

log = logging.getLogger("holdfast")
DRAIN_DEADLINE: Final = 30.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a program brings along: functions, engines and machines of its own.

    Attributes:
        functions: whose runs go on here.
        engines: restored before it is ready, by name.
        machines: whose pipelines go on here.
    """

    functions: tuple[Callable[..., Any], ...] = ()
    engines: dict[str, Engine] = {}
    machines: tuple[Machine, ...] = ()


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is served, and where.

    Attributes:
        url: of the store.
        token_file: with the token of an administrator; made if it is not there.
        host, port: where it listens.
        uds: path of a socket to listen at instead.
        offer: functions, engines and machines.
        settings: hosts, origins, limits; the token comes from the file.
        drain_delay: seconds it still serves after it said that it is going.
        drain_deadline: seconds that steps have to come to their next checkpoint.
        options: for `holdfast.open`.
    """

    url: str
    token_file: Path | None
    host: str = "127.0.0.1"
    port: int = 8_080
    uds: Path | None = None
    offer: Offer = Offer()
    settings: Settings = Settings()
    drain_delay: float = 0.0
    drain_deadline: float = DRAIN_DEADLINE
    options: Mapping[str, Any] = {}

    def listen(self) -> socket.socket:
        """
        Return the socket, which listens from now on.

        Raises:
            InvalidValueError: others would be let in without a token, or something is in the way.
        """
        host = "localhost" if self.uds is not None else self.host
        check_exposure(host, has_token=self.token_file is not None)
        return bound(self.host, self.port) if self.uds is None else bound_at(self.uds)


async def serve(serving: Serving, listening: socket.socket) -> Drained:
    """
    Serve until a signal comes, or until the store stops.

    Args:
        serving: what is served.
        listening: the socket, which listens already.

    Returns:
        What was still under way when it left.

    Raises:
        HoldfastError: the store could not be opened, or stopped.
    """
    token = None if serving.token_file is None else token_of(serving.token_file)
    settings = msgspec.structs.replace(
        serving.settings, token=token, hosts=(*serving.settings.hosts, serving.host)
    )
    return await Host(serving, settings, listening).run()


class Host:
    """One process that serves one store."""

    def __init__(self, serving: Serving, settings: Settings, listening: socket.socket) -> None:
        """Take what is served on which socket."""
        self._serving = serving
        self._listening = listening
        self._runtime: Runtime | None = None
        served = app(self._source, settings)
        self._site: Site = served.state.site
        self._site.hears_signals = False  # Streams end in their turn, not at the signal.
        self._server = Server(served)
        self._leave = asyncio.Event()
        self._hurry = asyncio.Event()
        self._gone = asyncio.Event()
        self._reporter = Reporter(self._site, os.environ, self._stopped)
        self._failure: BaseException | None = None

    def _source(self) -> Runtime:
        if self._runtime is None:
            raise NotReadyError(phase="opening", reason="the runtime is not there yet")
        return self._runtime

    async def run(self) -> Drained:
        """Serve until it is told to leave; then leave in good order."""
        loop = asyncio.get_running_loop()
        for one in _SIGNALS:
            loop.add_signal_handler(one, self._signalled)
        server, watch = Errand("server"), Errand("server-watch")
        server.start(self._serve)
        self._reporter.start()
        try:
            drained = await self._open_and_leave(watch)
        finally:
            await self._reporter.leave()
            await watch.stop()
            self._server.should_exit = True
            await self._gone.wait()
            await server.stop()
            for one in _SIGNALS:
                loop.remove_signal_handler(one)
        if self._failure is not None:
            raise self._failure
        return drained

    async def _open_and_leave(self, watch: Errand) -> Drained:
        serving, offer = self._serving, self._serving.offer
        opening = open_runtime(
            serving.url,
            wait_ready=False,
            functions=offer.functions,
            engines=offer.engines,
            **serving.options,
        )
        async with opening as rt:
            for machine in offer.machines:
                rt.pipelines.add(machine)
            self._runtime = rt
            watch.start(lambda: self._wait_ready(rt))
            await self._leave.wait()
            return await self._drain(rt)

    async def _serve(self) -> None:
        try:
            await self._server.run_on(self._listening)
        finally:
            self._gone.set()
            self._leave.set()

    async def _wait_ready(self, rt: Runtime) -> None:
        """Say when it is ready; leave if it will not be."""
        try:
            await rt.ready()
            log.info("event=serving store_epoch=%d", rt.opened.epoch)
        except NotReadyError as error:
            if not self._leave.is_set():
                self._failed(error.__cause__ or error)

    def _failed(self, failure: BaseException) -> None:
        """Leave because of a failure: whoever supervises this process starts it anew."""
        if self._failure is None:
            self._failure = failure
            code = failure.code if isinstance(failure, HoldfastError) else type(failure).__name__
            log.error("event=serve_failed reason=%s", code)
        self._hurry.set()
        self._leave.set()

    def _stopped(self) -> None:
        """Leave because the store stopped: only opening it anew helps."""
        rt = self._source()
        reason = rt.poisoned or rt.health().reason
        self._failed(NotReadyError(phase=Phase.FAILED.value, reason=reason))

    def _signalled(self) -> None:
        """Leave; when told twice, at once."""
        if self._leave.is_set():
            log.warning("event=drain phase=hurry reason=second_signal")
            self._hurry.set()
        self._leave.set()

    async def _drain(self, rt: Runtime) -> Drained:
        site, serving = self._site, self._serving
        site.leaving = True
        self._reporter.stopping()
        _told("unready", streams=len(site.streams))
        await _unless(self._hurry, serving.drain_delay)
        if rt.health().phase is not Phase.READY:
            site.close_streams()
            return Drained(())
        streams = Errand("streams")
        streams.start(self._end_streams)
        drained = await rt.drain(serving.drain_deadline, hurry=self._hurry)
        await streams.stop()
        _told("done", unfinished=len(drained.unfinished))
        return drained

    async def _end_streams(self) -> None:
        """Close the streams once nothing new begins."""
        _told("streams", remaining=len(self._site.streams))
        self._site.close_streams()


async def _unless(event: asyncio.Event, seconds: float) -> None:
    """Wait so long, or until something happens."""
    if seconds > 0:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


def _told(phase: str, **counts: int) -> None:
    """Say how far the way out is."""
    log.info("event=drain phase=%s %s", phase, _words(counts.items()))


def _words(counts: Iterable[tuple[str, int]]) -> str:
    return " ".join(f"{name}={count}" for name, count in counts)


def announcement(listening: socket.socket, url: str) -> str:
    """Return the line that says where it listens."""
    kind = url.partition(":")[0]
    return f"listening on {address_of(listening)}, {kind} store"
