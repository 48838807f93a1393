"""
Transfers over HTTP: a run or a session out of one store as lines of JSON, and into another one.

An export is complete before its first byte goes out, so that damage is a problem and not a file
that ends too early; its length and digest go ahead of it. An import is complete and checked before
anything is written, and then is one unit: cut, damaged, killed, it leaves nothing behind.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Literal

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from holdfast.core.access import Right
from holdfast.core.errors import (
    DamagedError,
    DamagedFileError,
    DecodeError,
    InvalidValueError,
    LimitError,
    RecordNotFoundError,
    StoreFullError,
)
from holdfast.core.key import Key, quoted_key
from holdfast.core.refusal import (
    AlreadyThereError,
    RunExistsError,
    RunNotFoundError,
    RunStateError,
    SessionBusyError,
)
from holdfast.http.address import quoted
from holdfast.http.answers import HEADERS, answer
from holdfast.http.artifacts import check_digest, digest_of
from holdfast.http.call import Call
from holdfast.http.frames import NDJSON
from holdfast.http.operation import Operation
from holdfast.http.sessions import name_of
from holdfast.http.stream import cut
from holdfast.runtime.parcel import Parcel
from holdfast.runtime.transfers import Arrived


class ImportOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    What an import did.

    Attributes:
        what: a run, or a session.
        id: its id; under it it is found from now on.
        present: it was there already, and nothing was changed.
        resting: runs that were under way, and are paused here until somebody resumes them.
        streams, records, blobs: how many of each came in.
    """

    what: Literal["run", "session"]
    id: str
    present: bool
    resting: list[str]
    streams: int
    records: int
    blobs: int


class Export(Response):
    """An export as an answer; its parcel is gone when it is sent, or its reader is."""

    def __init__(self, call: Call, parcel: Parcel, name: str) -> None:
        """Take what is sent, and how a file of it is called."""
        headers = {
            **HEADERS,
            "Content-Length": str(parcel.size),
            "Content-Digest": digest_of(parcel.digest),
            "Content-Disposition": f"attachment; filename*=UTF-8''{quoted(name)}.ndjson",
        }
        super().__init__(None, 200, headers, NDJSON)
        self._call = call
        self._parcel = parcel

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, piece by piece; who takes nothing for too long is cut off."""
        seconds, at = self._call.site.settings.write_timeout, 0
        head = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        try:
            await send(head)
            while self._call.request.method != "HEAD" and at < self._parcel.size:
                piece = await self._parcel.read(at)
                at += len(piece)
                async with asyncio.timeout(seconds):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            cut(receive)
        finally:
            self._parcel.close()
            self._call.site.end_transfer()


async def export_run(call: Call) -> Response:
    """Return a run with its children, as lines of JSON that another store takes in."""
    run_id = call.param("run_id")
    return await _export(call, partial(call.rt.transfers.pack_run, run_id), run_id)


async def export_session(call: Call) -> Response:
    """Return what is stored of a session, as lines of JSON that another store takes in."""
    kind, *key = name_of(call)
    packing = partial(call.rt.transfers.pack_session, kind, tuple(key))
    return await _export(call, packing, quoted_key((kind, *key)))


async def _export(call: Call, packing: Callable[[], Awaitable[Parcel]], name: str) -> Response:
    call.site.begin_transfer()
    try:
        return Export(call, await packing(), name)
    except BaseException:
        call.site.end_transfer()
        raise


async def take_in(call: Call) -> Response:
    """Make the run or the session of an export be there; what was under way arrives paused."""
    check_digest(call, call.parcel.digest)
    return _arrived(call, await call.rt.transfers.import_parcel(call.parcel))


async def taken_in(call: Call) -> Response:
    """Answer for an import whose answer was lost."""
    return _arrived(call, Arrived(await call.rt.transfers.cover_of(call.parcel), present=True))


async def name_in(call: Call) -> str:
    """Return what an export is of."""
    cover = await call.rt.transfers.cover_of(call.parcel)
    return f"{cover.what} {_id(cover.what, cover.name)}"


def _id(what: str, name: Key) -> str:
    return name[0] if what == "run" else quoted_key(name)


def _arrived(call: Call, done: Arrived) -> Response:
    cover = done.cover
    id = _id(cover.what, cover.name)
    out = ImportOut(
        what=cover.what,
        id=id,
        present=done.present,
        resting=list(done.resting),
        streams=cover.streams,
        records=cover.records,
        blobs=cover.blobs,
    )
    location = f"{call.root}/v1/{cover.what}s/{quoted(id)}"
    return answer(out, 200 if done.present else 201, {"Location": location})


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/runs/{run_id}/export",
        name="run_export",
        summary="Export a run",
        handler=export_run,
        right=Right.PAYLOADS,
        media_types=(NDJSON,),
        errors=(RunNotFoundError, RunStateError, InvalidValueError, DamagedError, StoreFullError),
        tag="runs",
    ),
    Operation(
        method="GET",
        path="/v1/sessions/{session_id}/export",
        name="session_export",
        summary="Export a session",
        handler=export_session,
        right=Right.PAYLOADS,
        media_types=(NDJSON,),
        errors=(
            RecordNotFoundError,
            SessionBusyError,
            InvalidValueError,
            DamagedError,
            StoreFullError,
        ),
        tag="sessions",
    ),
    Operation(
        method="POST",
        path="/v1/import",
        name="import",
        begins=True,
        summary="Take in a run or a session that was exported",
        handler=take_in,
        again=taken_in,
        target=name_in,
        right=Right.ADMIN,
        upload=(NDJSON,),
        answer=ImportOut,
        status=201,
        also=(200,),
        changes=True,
        errors=(
            RunExistsError,
            AlreadyThereError,
            DamagedFileError,
            DecodeError,
            LimitError,
            StoreFullError,
        ),
        tag="service",
    ),
)
