"""
A site: one runtime that is served, with its settings and what is going on.

The runtime may be there from the start, come with the application's state, or come up while the
socket listens already; `Site.rt` is where everybody asks for it.
"""

from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from holdfast.core.clock import Clock, SystemClock
from holdfast.core.denial import TooManyError
from holdfast.core.refusal import NotReadyError
from holdfast.http.departure import Departure
from holdfast.http.frames import Frames
from holdfast.http.rates import Buckets
from holdfast.runtime.attachment import Attachment
from holdfast.runtime.runtime import Runtime

STATE: Final = "holdfast"
"""Under which name the runtime stands in the state of an application."""
GUESSES_A_SECOND: Final = 1.0
GUESSES_AT_ONCE: Final = 20.0
Source = Runtime | Callable[[], Runtime] | None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a site serves.

    Attributes:
        token: of an administrator, besides those in the store; None for none.
        hosts: names under which it may be reached, besides loopback; `*` for any.
        origins: of pages that may change something, besides its own.
        body_bytes_max: largest body that is taken, artifacts aside.
        artifact_bytes_max: largest artifact that is taken.
        import_bytes_max: largest export that is taken in.
        transfers_max: exports and imports at once.
        heartbeat: seconds of silence on a stream after which it says that it lives.
        write_timeout: seconds after which a reader that takes nothing is cut off.
        stream_seconds_max: after which a stream asks its reader to come again.
        streams_max: open streams at once.
        streams_each: open streams of one caller at once.
        rate: requests a second of one caller; 0 for any number.
        metrics_public: `/metrics` needs no token.
        requests_each: requests of one caller that are answered at once.
        body_seconds_max: within which a body has to come; an export, the next part of it.
        outage_grace: seconds for which a probe stays green while a store is out of reach.
    """

    token: str | None = None
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    body_bytes_max: int = 8 * 1024 * 1024
    artifact_bytes_max: int = 64 * 1024 * 1024
    import_bytes_max: int = 256 * 1024 * 1024
    transfers_max: int = 8
    heartbeat: float = 15.0
    write_timeout: float = 30.0
    stream_seconds_max: float = 2_700.0
    streams_max: int = 2_000
    streams_each: int = 1_100
    rate: float = 0.0
    metrics_public: bool = False
    requests_each: int = 1_000
    body_seconds_max: float = 60.0
    outage_grace: float = 0.0


class Site:
    """
    One runtime that is served.

    Attributes:
        settings: how.
        clock: by which callers are judged, also while there is no runtime yet.
        guesses: how many bad tokens may come from an address.
        rates: how many requests of one caller may come; None for any number.
        under_way: requests that are being answered, by caller.
        leaving: no work is to be sent any more.
        closing: streams have to end, so that the server can.
        hears_signals: whoever serves it does not say that the process ends; it listens itself.
        frames: pages that readers share.
        streams: that are open, with who reads them.
    """

    def __init__(self, source: Source, settings: Settings) -> None:
        """Take where the runtime comes from."""
        self._source = source
        self.settings = settings
        self.clock: Clock = SystemClock()
        self.guesses = Buckets(self.clock, GUESSES_A_SECOND, GUESSES_AT_ONCE)
        rate = settings.rate
        self.rates = Buckets(self.clock, rate, max(1.0, rate)) if rate else None
        self.under_way: Counter[str] = Counter()
        self._departure = Departure(self.close_streams)
        self.leaving = False
        self.closing = False
        self.hears_signals = True
        self.frames = Frames()
        self.streams: dict[Attachment, str] = {}
        self._counts: dict[str, int] = {}
        self._transfers = 0

    def runtime(self, scope: Any) -> Runtime:
        """
        Return the runtime.

        Raises:
            NotReadyError: it is not there yet.
        """
        found = self._source() if callable(self._source) else self._source
        if found is None:
            found = scope.get("state", {}).get(STATE)
        if found is None:
            raise NotReadyError(phase="opening", reason="the runtime is not there yet")
        if not isinstance(found, Runtime):
            raise TypeError(f"the state {STATE!r} of the application is not a runtime")
        return found

    def check_streams(self, caller: str) -> None:
        """
        Return if one more stream may be open.

        Raises:
            TooManyError: there are as many as may be.
        """
        settings = self.settings
        if len(self.streams) >= settings.streams_max:
            raise TooManyError(what="streams", limit=settings.streams_max)
        if list(self.streams.values()).count(caller) >= settings.streams_each:
            raise TooManyError(what="streams of one caller", limit=settings.streams_each)

    def begin_transfer(self) -> None:
        """
        Count an export or an import, until `end_transfer`.

        Raises:
            TooManyError: there are as many as may be.
        """
        if self._transfers >= self.settings.transfers_max:
            limit = self.settings.transfers_max
            raise TooManyError(what="exports and imports at once", limit=limit)
        self._transfers += 1

    def end_transfer(self) -> None:
        """Count one less."""
        self._transfers -= 1

    def count_of(self, transport: str, change: int) -> int:
        """Return how many streams of a transport are open, after one more or less."""
        self._counts[transport] = self._counts.get(transport, 0) + change
        return self._counts[transport]

    @contextmanager
    def stream_of(self, caller: str, reader: Attachment) -> Generator[None]:
        """Know of a stream while it is open."""
        self.streams[reader] = caller
        if self.hears_signals:
            self._departure.listen()
        try:
            yield
        finally:
            del self.streams[reader]
            if not self.streams:
                self._departure.forget()

    def close_streams(self) -> None:
        """Ask all readers to come again later, so that nothing is open any more."""
        self.closing = True
        for reader in self.streams:
            reader.nudge()
