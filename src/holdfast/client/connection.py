"""
A connection: requests that are made again until they are answered, and errors as they were raised.

A request whose connection breaks may have been done. What changes something therefore carries a
key, and the same one when it is made again: the service does it once and answers as before.

Invariant: an answer that says no is raised at once; only what may go better later is repeated.
"""

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import httpx
import msgspec

from holdfast.core.catalogue import error_of
from holdfast.core.clock import SystemClock
from holdfast.core.denial import InvalidRequestError, TooManyError, UnreachableError
from holdfast.core.errors import HoldfastError

KEY: Final = "Idempotency-Key"
JSON: Final = "application/json"
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LATER: Final = frozenset({429, 503})
_BUSY: Final = "idempotency_key_busy"
_BACKOFF: Final = 0.1
_BACKOFF_MOST: Final = 5.0
_DOUBLINGS: Final = 10


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a client behaves.

    Attributes:
        timeout: seconds a single request may take.
        patience: seconds for which a request that meets nobody, or a service that is not
            ready, is made again before that is raised.
        silence: seconds without a word after which a stream is taken for dead; more than the
            heartbeat of the service.
        streams: follow by streams; False asks for page after page, as behind a proxy that holds
            streams back, or in process.
    """

    timeout: float = 60.0
    patience: float = 60.0
    silence: float = 40.0
    streams: bool = True


class Patience:
    """How long somebody has met no success, and how long to wait before the next attempt."""

    def __init__(self, seconds: float, clock: SystemClock) -> None:
        """Begin with all of it."""
        self._seconds = seconds
        self._clock = clock
        self.renew()

    def renew(self) -> None:
        """Begin anew, after a success."""
        self._attempts = 0
        self._until = self._clock.monotonic() + self._seconds

    async def wait(self, error: HoldfastError, at_least: float = 0.0) -> None:
        """
        Wait before the next attempt, each time longer and never as long as others do.

        Raises:
            HoldfastError: the error, if no patience is left.
        """
        most = min(_BACKOFF_MOST, _BACKOFF * 2 ** min(self._attempts, _DOUBLINGS))
        delay = max(at_least, most * random.uniform(0.5, 1.0))
        self._attempts += 1
        if self._clock.monotonic() + delay > self._until:
            raise error
        await pause(delay)


class Connection:
    """
    Requests to one service.

    Attributes:
        options: how it behaves.
        http: what makes them.
        clock: by which patience is measured.
    """

    def __init__(
        self,
        url: str,
        token: str | None,
        options: Options,
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        """Take where the service is; nothing is sent yet."""
        self.options = options
        self.clock = SystemClock()
        self.http = httpx.AsyncClient(
            base_url=url,
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=options.timeout,
            transport=transport,
            follow_redirects=False,
        )

    def patience(self) -> Patience:
        """Return fresh patience."""
        return Patience(self.options.patience, self.clock)

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | Callable[[], AsyncIterator[bytes]] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> httpx.Response:
        """
        Make a request until it is answered.

        Args:
            method: of HTTP.
            path: below the address of the service.
            body: plain value, sent as JSON.
            content: bytes, sent as they are; or what yields them, from the beginning each time.
            params: behind the question mark; what is None or empty is left out.
            headers: more of them.
            key: idempotency key; drawn for what changes something.

        Raises:
            HoldfastError: what the service raised, by the same class.
            UnreachableError: nobody answered.
        """
        sent = dict(headers or {})
        if method not in _SAFE:
            sent[KEY] = key or secrets.token_urlsafe(18)
        if content is None and body is not None:
            content = msgspec.json.encode(body)
            sent["Content-Type"] = JSON
        patience = self.patience()
        while True:
            try:
                whole = content() if callable(content) else content
                response = await self.http.request(
                    method, path, content=whole, params=_filled(params), headers=sent
                )
            except httpx.TransportError as broken:
                await patience.wait(unreachable(broken))
                continue
            if response.is_success or response.status_code == 304:
                return response
            error, may_repeat, after = problem_of(response)
            if not may_repeat:
                raise error
            await patience.wait(error, after)

    async def plain(self, method: str, path: str, **asked: Any) -> Any:
        """Make a request and return its JSON; None if there is none."""
        response = await self.request(method, path, **asked)
        return msgspec.json.decode(response.content) if response.content else None


def unreachable(error: httpx.TransportError) -> UnreachableError:
    """Return that nobody answered; the type says enough, the message may hold an address."""
    return UnreachableError(reason=type(error).__name__)


def problem_of(response: httpx.Response) -> tuple[HoldfastError, bool, float]:
    """Return what the service raised, whether it may go better later, and when."""
    status = response.status_code
    try:
        told = msgspec.json.decode(response.content)
    except msgspec.DecodeError:
        told = None
    if not isinstance(told, dict) or "code" not in told:
        # Somebody else answered, such as a proxy in between.
        error: HoldfastError = UnreachableError(reason=f"status {status} without a problem")
        return error, status in (502, 504, *_LATER), 0.0
    return problem_from(told, status)  # pyright: ignore[reportUnknownArgumentType]


def problem_from(told: dict[str, Any], status: int) -> tuple[HoldfastError, bool, float]:
    """Return the error that a problem tells of, whether it may go better later, and when."""
    known = dict(told.get("context") or {})
    if told.get("errors"):
        known["errors"] = [[one["pointer"], one["message"]] for one in told["errors"]]
    after = float(told.get("retry_after") or 0.0)
    error = error_of(str(told["code"]), str(told.get("detail", "")), known)
    if isinstance(error, TooManyError):
        error.retry_after = after
    may_repeat = status in _LATER or told["code"] == _BUSY
    return error, may_repeat and not isinstance(error, InvalidRequestError), after


async def pause(seconds: float) -> None:
    """Let time pass; whoever is cancelled meanwhile is so at once."""
    never = asyncio.get_running_loop().create_future()
    await asyncio.wait((never,), timeout=seconds)


def _filled(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the parameters that say something."""
    return {name: value for name, value in (params or {}).items() if value not in (None, "", ())}
