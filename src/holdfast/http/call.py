"""
A call: one request that came in, read and checked, with the runtime it is about.

Bodies are read with a limit, as JSON, into the shape the operation names; a field nobody knows is
refused, so that a misspelt one is never silently without effect.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from holdfast.core import codec
from holdfast.core.access import Right
from holdfast.core.clock import Clock
from holdfast.core.denial import (
    ForbiddenError,
    InvalidRequestError,
    MalformedError,
    MediaTypeError,
    SlowRequestError,
)
from holdfast.core.errors import LimitError
from holdfast.http.access import Principal
from holdfast.http.address import released
from holdfast.http.operation import Operation, media_type_of
from holdfast.http.site import Site
from holdfast.runtime.parcel import Parcel
from holdfast.runtime.runtime import Runtime

T = TypeVar("T", bound=msgspec.Struct)
V = TypeVar("V")
_LISTS: Final = ("key", "label", "run", "types", "fields")
_DEPTH_MAX: Final = 100
_VALUES_MAX: Final = 200_000


class Call:
    """
    One request.

    Attributes:
        site: what is served.
        rt: the runtime.
        request: as it came.
        operation: what is asked for.
        who: asks.
        id: of the request, as in the logs.
        raw: the body as it came, once it was loaded.
        parcel: the body in a file, if the operation takes an upload.
        loaded: the body in the shape that the operation names.
    """

    def __init__(
        self, site: Site, request: Request, operation: Operation, who: Principal, id: str
    ) -> None:
        """Take what came in."""
        self.site = site
        self.request = request
        self.operation = operation
        self.who = who
        self.id = id
        self.raw = b""
        self._parcel: Parcel | None = None
        self.loaded: Any = None

    @property
    def rt(self) -> Runtime:
        """
        Return the runtime.

        Raises:
            NotReadyError: it is not there yet.
        """
        return self.site.runtime(self.request.scope)

    @property
    def clock(self) -> Clock:
        """The clock of the runtime."""
        return self.rt.clock

    @property
    def root(self) -> str:
        """Path under which the service is mounted, without a slash at its end."""
        return str(self.request.scope.get("root_path", "")).rstrip("/")

    def param(self, name: str) -> str:
        """Return a parameter of the path."""
        return released(str(self.request.path_params[name]))

    def header(self, name: str) -> str | None:
        """Return a header, or None."""
        return self.request.headers.get(name)

    def query(self, shape: type[T]) -> T:
        """
        Return the parameters behind the question mark.

        Raises:
            InvalidRequestError: one is unknown or not acceptable.
        """
        found: dict[str, Any] = {}
        for name in self.request.query_params:
            values = self.request.query_params.getlist(name)
            found[name] = values if name in _LISTS else values[-1]
        return _shaped(found, shape, strict=False)

    def body(self, shape: type[T]) -> T:
        """Return the body, which was read and checked before the operation began."""
        if not isinstance(self.loaded, shape):
            raise TypeError(f"{self.operation.name} does not declare a body {shape.__name__}")
        return self.loaded

    async def load(self) -> None:
        """
        Read and check the body.

        Raises:
            MediaTypeError: it is not JSON.
            MalformedError: it is not well-formed.
            InvalidRequestError: a field is unknown or not acceptable.
            LimitError: it is too large.
        """
        shape = self.operation.body
        if self.operation.upload:
            await self._take_in()
        if self.operation.raw:
            self.raw = await self.bytes(self.site.settings.artifact_bytes_max)
        if shape is None or self.operation.raw:
            return
        raw = await self.bytes(self.site.settings.body_bytes_max)
        self.loaded = _shaped(self._plain(raw), shape, strict=True)
        self.raw = raw

    def _plain(self, raw: bytes) -> Any:
        media_type, taken = media_type_of(self.header("content-type")), self.operation.takes
        text_types, field = self.operation.text
        try:
            if media_type in text_types:
                return {field: raw.decode()}
            if raw and media_type not in taken:
                raise MediaTypeError(found=media_type, needed=" or ".join(taken))
            plain = msgspec.json.decode(raw or b"{}")
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise MalformedError(what="the body", reason="is not well-formed") from error
        check_depth(plain)
        return plain

    async def bytes(self, limit: int) -> bytes:
        """
        Return the body as bytes.

        Raises:
            LimitError: it is larger than `limit`.
        """
        parts: list[bytes] = []
        seconds = self.site.settings.body_seconds_max
        try:
            async with asyncio.timeout(seconds):
                async for part in _parts_of(self, limit):
                    parts.append(part)
        except TimeoutError:
            raise SlowRequestError(seconds=seconds) from None
        return b"".join(parts)

    async def _take_in(self) -> None:
        """Let an upload come, as long as it comes."""
        self.site.begin_transfer()
        self._parcel = self.rt.transfers.parcel()
        seconds = self.site.settings.body_seconds_max
        try:
            async with asyncio.timeout(seconds) as limit:
                async for part in _parts_of(self, self.site.settings.import_bytes_max):
                    await self._parcel.add(part)
                    limit.reschedule(asyncio.get_running_loop().time() + seconds)
                limit.reschedule(None)
                await self._parcel.seal()
        except TimeoutError:
            raise SlowRequestError(seconds=seconds) from None

    @property
    def parcel(self) -> Parcel:
        """The upload, which was read before the operation began."""
        if self._parcel is None:
            raise TypeError(f"{self.operation.name} does not declare an upload")
        return self._parcel

    def close(self) -> None:
        """Let go of an upload."""
        if self._parcel is not None:
            self._parcel.close()
            self.site.end_transfer()

    async def within(self, seconds: float, work: Awaitable[V]) -> V | None:
        """Wait for something, so long at most; None if it was not done."""
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError:
            return None

    def check(self, right: Right) -> None:
        """
        Return if the caller may do this.

        Raises:
            ForbiddenError: it may not.
        """
        if right not in self.who.rights:
            raise ForbiddenError(needed=right.value, reason=f"{self.who.name} does not have it")

    @property
    def sees(self) -> bool:
        """Whether the caller may see content."""
        return Right.PAYLOADS in self.who.rights


async def _parts_of(call: Call, limit: int) -> AsyncGenerator[bytes]:
    """Yield a body as it comes, so many bytes at most."""
    said = call.header("content-length") or ""
    if said.isdigit() and int(said) > limit:
        raise LimitError(what="body in bytes", size=int(said), limit=limit)
    size = 0
    try:
        async for part in call.request.stream():
            size += len(part)
            if size > limit:
                raise LimitError(what="body in bytes", size=size, limit=limit)
            yield part
    except ClientDisconnect:
        raise asyncio.CancelledError from None


def check_depth(value: object) -> None:
    """
    Return if a plain value is not nested deeper than anybody needs.

    Raises:
        MalformedError: it is.
        LimitError: it holds more values than anybody needs.
    """
    level, values = [value], 1
    for _ in range(_DEPTH_MAX):
        values += len(level)
        if values > _VALUES_MAX:
            raise LimitError(what="values in the body", size=values, limit=_VALUES_MAX)
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return
    raise MalformedError(what="the body", reason=f"is nested deeper than {_DEPTH_MAX} levels")


def _inside(value: object) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]


def _shaped(plain: object, shape: type[T], *, strict: bool) -> T:
    try:
        return codec.convert(plain, shape, strict=strict)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        pointer = place.rstrip("`").replace(".", "/").replace("[", "/").replace("]", "")
        raise InvalidRequestError(errors=((pointer, reason),)) from error
