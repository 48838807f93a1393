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

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from holdfast.core.errors import (
    InvalidValueError,
    SequenceConflictError,
    StreamNotFoundError,
)
from holdfast.core.event import Event
from holdfast.core.failpoint import Failpoints
from holdfast.core.unit import (
    JOURNALS,
    RESERVED_STREAMS,
    Append,
    AtSequence,
    CloseStream,
    Unit,
)
from holdfast.runtime.history import StreamInfo
from holdfast.runtime.runtime import Runtime
from holdfast.runtime.transfer_file import PAGE_EVENTS, Header, Line, LineReader, LineWriter, chunks
from holdfast.store.files import remove_leftovers, replace_file, replacing


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


@contextmanager
def writing(path: Path) -> Generator[BinaryIO]:
    """Lend a file that becomes `path` as a whole when the block leaves without an error."""
    remove_leftovers(path)
    with replacing(path, Failpoints()) as file:
        yield file


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
    header = Header.of(info)
    remove_leftovers(path)
    with replacing(path, failpoints or Failpoints()) as file:
        writer = LineWriter(file)
        writer.put(header)
        after, previous = info.first_sequence - 1, header.anchor
        while after < info.last_sequence:
            limit = min(PAGE_EVENTS, info.last_sequence - after)
            for event in await history.read(after, limit):
                line = Line.of(event, header.origin, previous)
                writer.put(line)
                after, previous = event.sequence, line.digest
        writer.end()
    return header


async def import_stream(rt: Runtime, path: Path) -> Imported:
    """
    Append the events of an export to the stream of the same name.

    Raises:
        DamagedFileError: the file is not whole; nothing was imported.
        SequenceConflictError: the stream holds something else already.
        InvalidValueError: retention had removed the beginning before the export, so the
            sequences cannot be kept; or it is a journal of Holdfast, which means nothing alone.
    """
    header = check_export(path)
    _check_free(header.stream)
    if header.first_sequence != 1:
        raise InvalidValueError(
            what="export",
            reason=f"begins at sequence {header.first_sequence}; only a whole stream is imported",
        )
    present = await _present(rt, path, header)
    after = present
    for chunk in chunks(_behind(path, present), _size):
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
        reader = LineReader(file, path)
        header = reader.header()
        for _ in reader.stored_events(header):
            pass
        reader.end()
    return header


def _check_free(stream: str) -> None:
    """Refuse what Holdfast writes itself: without the records beside it nobody would find it."""
    if stream.startswith(JOURNALS):
        run_id = stream.removeprefix(JOURNALS)
        next_step = f"`holdfast export --run {run_id!r}` takes the run along"
    elif stream.startswith(RESERVED_STREAMS):
        next_step = "a session is exported with `holdfast export --session`"
    else:
        return
    raise InvalidValueError(
        what=f"export of stream {stream!r}",
        reason=f"is written by Holdfast alone and means nothing by itself; {next_step}",
    )


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
        reader = LineReader(file, path)
        lines = reader.events(reader.header())
        while same < until:
            page = await history.read(same, min(PAGE_EVENTS, until - same))
            for event, line in zip(page, lines, strict=False):
                if not line.says(event):
                    return same
                same += 1
    return same


def _behind(path: Path, after: int) -> Iterator[Line]:
    """Yield the events behind a sequence."""
    with path.open("rb") as file:
        reader = LineReader(file, path)
        for line in reader.events(reader.header()):
            if line.sequence > after:
                yield line


def _size(line: Line) -> int:
    return len(line.payload) + len(line.meta or b"")
