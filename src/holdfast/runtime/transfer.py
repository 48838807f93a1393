"""
One stream as a file: written so that a crash leaves all of it or nothing, read back only whole.

The file is lines of JSON. The first says which stream it is and where its chain begins, then
one line per event with its digest, the last holds the SHA-256 of everything before it:

    {"format":"holdfast-stream-1","stream":"chat/user-42","count":2,"anchor":"…", …}
    {"sequence":1,"type":"turn_added","payload":"…","digest":"…", …}
    {"sequence":2, …}
    {"sha256":"…"}

Payload and metadata are the stored bytes (base64 of MessagePack), because JSON has no bytes,
NaN or infinities, and an import has to be exact.

Invariants: an import commits nothing before the whole file was checked; it appends only to a
stream that is empty or holds the beginning of the very same events, so that one that was
killed can be run again. Position, time and digest of an imported event are of the new store.
"""

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

import msgspec

from holdfast.core import codec
from holdfast.core.errors import (
    CodecError,
    DamagedFileError,
    InvalidValueError,
    SequenceConflictError,
    StreamNotFoundError,
)
from holdfast.core.event import Event, EventRow, RecordedEvent, chained_digest
from holdfast.core.failpoint import Failpoints
from holdfast.core.key import check_word
from holdfast.core.unit import Append, AtSequence, CloseStream, Unit
from holdfast.runtime.history import StreamInfo
from holdfast.runtime.runtime import Runtime
from holdfast.store.files import remove_leftovers, replace_file, replacing

T = TypeVar("T")
FORMAT: Final = "holdfast-stream-1"
PAGE_EVENTS: Final = 1_000
CHUNK_EVENTS: Final = 1_000
CHUNK_BYTES: Final = 4 * 1024 * 1024
# A payload of the largest size in base64, with room for the rest.
LINE_BYTES_MAX: Final = 3 * codec.PAYLOAD_BYTES_MAX
_HEXADECIMAL: Final = re.compile("[0-9a-f]{32}")


class Header(msgspec.Struct, frozen=True):
    """
    The first line of an export.

    Attributes:
        format: name and version of the file format.
        stream: name of the stream.
        origin: number of the stream in the store it comes from.
        first_sequence: sequence of its first event.
        count: how many events follow.
        anchor: digest before the first event, hexadecimal.
        closed: the stream was closed.
    """

    format: str
    stream: str
    origin: int
    first_sequence: int
    count: int
    anchor: str
    closed: bool


class Line(msgspec.Struct, frozen=True):
    """One event of an export, as it was stored."""

    sequence: int
    position: int
    type: str
    payload: bytes
    meta: bytes | None
    recorded_at: float
    digest: str

    def follows(self, previous: bytes, origin: int) -> bool:
        """Return whether this event's digest fits to the digest of the one before."""
        row = EventRow(
            self.position,
            origin,
            self.sequence,
            self.type,
            self.payload,
            self.meta,
            self.recorded_at,
            b"",
        )
        try:
            return chained_digest(previous, row).hex() == self.digest
        except (TypeError, ValueError, OverflowError):
            return False


class Trailer(msgspec.Struct, frozen=True):
    """The last line of an export: the digest of all lines before it, hexadecimal."""

    sha256: str


class Imported(msgspec.Struct, frozen=True):
    """
    What an import did.

    Attributes:
        stream: name of the stream.
        appended: events that were appended.
        present: events that were there already, from an import that was killed.
    """

    stream: str
    appended: int
    present: int


def write_file(path: Path, data: bytes, failpoints: Failpoints | None = None) -> None:
    """Write a file whole: the old one or the new one survives a crash; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    replace_file(path, data, failpoints or Failpoints())


async def export_stream(
    rt: Runtime, stream: str, path: Path, failpoints: Failpoints | None = None
) -> Header:
    """
    Write one stream into a file, readable by its owner only.

    Args:
        rt: an open runtime; `read_only=True` is enough.
        stream: name of the stream.
        path: the file; what is there is replaced as a whole, when everything is written.
        failpoints: places for tests.

    Raises:
        StreamNotFoundError: there is no such stream.
        DamagedError: an event does not match its digest; nothing was written.
    """
    history = rt.history(stream)
    info = await history.info()
    header = Header(
        FORMAT,
        stream,
        info.origin,
        info.first_sequence,
        info.last_sequence - info.first_sequence + 1,
        info.anchor.hex(),
        info.closed,
    )
    remove_leftovers(path)
    whole = sha256()
    with replacing(path, failpoints or Failpoints()) as file:
        whole.update(_write(file, header))
        after = info.first_sequence - 1
        while after < info.last_sequence:
            limit = min(PAGE_EVENTS, info.last_sequence - after)
            for event in await history.read(after, limit):
                whole.update(_write(file, _line(event)))
                after = event.sequence
        _write(file, Trailer(whole.hexdigest()))
    return header


async def import_stream(rt: Runtime, path: Path) -> Imported:
    """
    Append the events of an export to the stream of the same name.

    Raises:
        DamagedFileError: the file is not whole; nothing was imported.
        SequenceConflictError: the stream holds something else already.
        InvalidValueError: retention had removed the beginning before the export, so the
            sequences cannot be kept.
    """
    header = check_export(path)
    if header.first_sequence != 1:
        raise InvalidValueError(
            what="export",
            reason=f"begins at sequence {header.first_sequence}; only a whole stream is imported",
        )
    present = await _present(rt, path, header)
    after = present
    for chunk in _chunks(path, present):
        events = tuple(Event(line.type, line.payload, line.meta) for line in chunk)
        expects = (AtSequence(header.stream, after),)
        await rt.commit(Unit((Append(header.stream, events),), expects))
        after += len(chunk)
    if header.closed:
        await rt.commit(Unit((CloseStream(header.stream),)))
    return Imported(header.stream, after - present, present)


def check_export(path: Path) -> Header:
    """
    Read an export to its end and return what it holds.

    Raises:
        DamagedFileError: a line is damaged, missing or too much; names it.
    """
    with path.open("rb") as file:
        header = _header(file, path)
        for number, line in enumerate(_lines(file, path, header), start=2):
            try:
                check_word("event type", line.type)
                codec.decode(line.payload)
                codec.decode(b"\xc0" if line.meta is None else line.meta)
            except CodecError as error:
                raise _damaged(path, number, "is no event that could be stored") from error
    return header


async def _present(rt: Runtime, path: Path, header: Header) -> int:
    """Return how many events of the file the stream holds already; refuse anything else."""
    history = rt.history(header.stream)
    try:
        info: StreamInfo = await history.info()
    except StreamNotFoundError:
        return 0
    same = 0
    if info.first_sequence == 1 and info.last_sequence <= header.count:
        same = await _same(rt, path, header, info.last_sequence)
    if same < info.last_sequence or (info.closed and not header.closed):
        raise SequenceConflictError(stream=header.stream, expected=0, actual=info.last_sequence)
    return same


async def _same(rt: Runtime, path: Path, header: Header, until: int) -> int:
    """Return how many events at the beginning of the stream are those of the file."""
    history = rt.history(header.stream)
    same = 0
    with path.open("rb") as file:
        lines = _lines(file, path, _header(file, path))
        while same < until:
            page = await history.read(same, min(PAGE_EVENTS, until - same))
            for event, line in zip(page, lines, strict=False):
                if (event.type, event.payload, event.meta) != (line.type, line.payload, line.meta):
                    return same
                same += 1
    return same


def _chunks(path: Path, after: int) -> Iterator[list[Line]]:
    """Yield the events behind a sequence, as many at once as make a good unit."""
    chunk: list[Line] = []
    size = 0
    with path.open("rb") as file:
        for line in _lines(file, path, _header(file, path)):
            if line.sequence <= after:
                continue
            chunk.append(line)
            size += len(line.payload) + len(line.meta or b"")
            if len(chunk) >= CHUNK_EVENTS or size >= CHUNK_BYTES:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def _line(event: RecordedEvent) -> Line:
    return Line(
        event.sequence,
        event.position,
        event.type,
        event.payload,
        event.meta,
        event.recorded_at,
        event.digest.hex(),
    )


def _header(file: BinaryIO, path: Path) -> Header:
    header = _decode(file.readline(LINE_BYTES_MAX), Header, path, 1)
    if header.format != FORMAT or not _HEXADECIMAL.fullmatch(header.anchor):
        raise _damaged(path, 1, f"is not of the format {FORMAT}")
    file.seek(0)
    return header


def _lines(file: BinaryIO, path: Path, header: Header) -> Iterator[Line]:
    """Yield the events of a file from its beginning, each checked; at the end, the whole."""
    whole = sha256(file.readline(LINE_BYTES_MAX))
    previous = bytes.fromhex(header.anchor)
    for number in range(2, header.count + 2):
        raw = file.readline(LINE_BYTES_MAX)
        line = _decode(raw, Line, path, number)
        if line.sequence != header.first_sequence + number - 2:
            raise _damaged(path, number, "another event was expected here")
        if not line.follows(previous, header.origin):
            raise _damaged(path, number, "event and digest differ")
        whole.update(raw)
        previous = bytes.fromhex(line.digest)
        yield line
    number = header.count + 2
    if _decode(file.readline(LINE_BYTES_MAX), Trailer, path, number).sha256 != whole.hexdigest():
        raise _damaged(path, number, "the digest of the whole differs")
    if file.read(1):
        raise _damaged(path, number + 1, "nothing was expected behind the last line")


def _decode(raw: bytes, shape: type[T], path: Path, number: int) -> T:
    if not raw.endswith(b"\n"):
        raise _damaged(path, number, "the file was cut")
    try:
        return msgspec.json.decode(raw, type=shape, strict=True)
    except (msgspec.DecodeError, ValueError):
        # No cause: it would quote what it read, and that may be content.
        raise _damaged(path, number, "is not a line of an export") from None


def _damaged(path: Path, line: int, reason: str) -> DamagedFileError:
    return DamagedFileError(file=str(path), line=line, reason=reason)


def _write(file: BinaryIO, value: msgspec.Struct) -> bytes:
    line = msgspec.json.encode(value) + b"\n"
    file.write(line)
    return line
