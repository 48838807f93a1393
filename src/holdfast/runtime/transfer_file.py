"""
The file of an export: lines of JSON, each checked, the last one with the digest of all others.

A stream is a header, then one line per event with its digest, as `holdfast.runtime.transfer`
shows. A run or a session is a *bundle*: a cover that counts what follows, then its streams, each
like that, then records and blobs:

    {"format":"holdfast-bundle-1","what":"run","name":["report-7"],"streams":1,"records":2, …}
    {"format":"holdfast-stream-1","stream":"run/report-7","count":9, …}
    {"sequence":1,"type":"run.started","payload":"…","digest":"…", …}
    {"kind":"holdfast.question","key":["report-7","000000001"],"tag":"open","value":"…"}
    {"digest":"…","size":70000,"encoding":"zstd","stored":"…"}
    {"sha256":"…"}

Payloads and values are the stored bytes (base64 of MessagePack), because JSON has no bytes, NaN
or infinities, and an import has to be exact.

Invariant: what a reader returned without an error is a file as it was written, to the last bit.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple, TypeVar

import msgspec

from holdfast.core import codec
from holdfast.core.errors import CodecError, DamagedError, DamagedFileError, DecodeError
from holdfast.core.event import EventRow, Head, RecordedEvent, chained_digest
from holdfast.core.key import Key, check_word
from holdfast.core.unit import UNIT_BYTES_MAX, PutBlob, RecordRow
from holdfast.store.port import Reads

T = TypeVar("T")
STREAM_FORMAT: Final = "holdfast-stream-1"
BUNDLE_FORMAT: Final = "holdfast-bundle-1"
# The largest blob in base64, with room for the rest.
LINE_BYTES_MAX: Final = 2 * UNIT_BYTES_MAX
# Unpacked: a small frame must not make us take all the memory there is.
BLOB_BYTES_MAX: Final = 1024 * 1024 * 1024
PAGE_EVENTS: Final = 1_000
CHUNK_ITEMS: Final = 1_000
CHUNK_BYTES: Final = 4 * 1024 * 1024
_HEXADECIMAL: Final = re.compile("[0-9a-f]{32}")


class Header(msgspec.Struct, frozen=True):
    """
    What begins a stream in an export.

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

    @staticmethod
    def of(head: Head) -> "Header":
        """Return the header of a stream."""
        return Header(
            STREAM_FORMAT,
            head.name,
            head.origin,
            head.first_sequence,
            head.last_sequence - head.first_sequence + 1,
            head.anchor.hex(),
            head.closed,
        )


class Line(msgspec.Struct, frozen=True):
    """One event of an export; its digest continues the chain of the file, which is not sealed."""

    sequence: int
    position: int
    type: str
    payload: bytes
    meta: bytes | None
    recorded_at: float
    digest: str

    @staticmethod
    def of(event: RecordedEvent | EventRow, origin: int, previous: str) -> "Line":
        """Return the line of an event behind another one, whose digest is in hexadecimal."""
        said = (event.type, event.payload, event.meta, event.recorded_at)
        row = EventRow(event.position, origin, event.sequence, *said, b"")
        digest = chained_digest(bytes.fromhex(previous), row).hex()
        return Line(event.sequence, event.position, *said, digest)

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

    def says(self, event: "RecordedEvent | EventRow | Line") -> bool:
        """Return whether a stored event is this one, wherever and whenever it was stored."""
        return (event.type, event.payload, event.meta) == (self.type, self.payload, self.meta)


class Cover(msgspec.Struct, frozen=True):
    """
    The first line of a bundle.

    Attributes:
        format: name and version of the file format.
        what: a run, or a session.
        name: the id of the run; the class and the key of the session.
        streams, records, blobs: how many of each follow.
    """

    format: str
    what: Literal["run", "session"]
    name: Key
    streams: int
    records: int
    blobs: int


class Entry(msgspec.Struct, frozen=True):
    """A record of a bundle, as it was stored."""

    kind: str
    key: Key
    tag: str | None
    value: bytes

    @staticmethod
    def of(row: RecordRow) -> "Entry":
        """Return the line of a stored record."""
        return Entry(row.kind, row.key, row.tag, row.value or b"")


class Trailer(msgspec.Struct, frozen=True):
    """The last line of an export: the digest of all lines before it, hexadecimal."""

    sha256: str


class StreamPart(NamedTuple):
    """A stream of a bundle."""

    header: Header
    lines: list[Line]


class Parts(NamedTuple):
    """
    What a bundle holds, but for the bytes of its blobs.

    Attributes:
        what, name: as on the cover.
        streams, records: in the order of the file.
        blobs: their digests.
    """

    what: Literal["run", "session"]
    name: Key
    streams: list[StreamPart]
    records: list[Entry]
    blobs: Sequence[bytes]

    @property
    def cover(self) -> Cover:
        """The first line."""
        return Cover(
            BUNDLE_FORMAT,
            self.what,
            self.name,
            len(self.streams),
            len(self.records),
            len(self.blobs),
        )


class _First(msgspec.Struct, frozen=True):
    format: str


class LineWriter:
    """Writes lines, and at the end the digest of them."""

    def __init__(self, file: BinaryIO) -> None:
        """Take a file that is open for writing."""
        self._file = file
        self._whole = sha256()

    def put(self, value: msgspec.Struct) -> None:
        """Write a line."""
        line = msgspec.json.encode(value) + b"\n"
        self._file.write(line)
        self._whole.update(line)

    def end(self) -> None:
        """Write the last line."""
        self._file.write(msgspec.json.encode(Trailer(self._whole.hexdigest())) + b"\n")


class LineReader:
    """
    Reads lines and names the one that is wrong.

    Every method raises DamagedFileError for a line that is damaged, missing or too much.
    """

    def __init__(self, file: BinaryIO, name: str | Path) -> None:
        """Take a file that is open for reading, and what to call it in errors."""
        file.seek(0)
        self._file = file
        self._name = str(name)
        self._whole = sha256()
        self._number = 0

    def take(self, shape: type[T]) -> T:
        """Read one line."""
        raw = self._file.readline(LINE_BYTES_MAX)
        self._number += 1
        value = self._decoded(raw, shape)
        self._whole.update(raw)
        return value

    def header(self) -> Header:
        """Read the line that begins a stream."""
        header = self.take(Header)
        if header.format != STREAM_FORMAT or not _HEXADECIMAL.fullmatch(header.anchor):
            raise self.damaged(f"is not of the format {STREAM_FORMAT}")
        return header

    def events(self, header: Header) -> Iterator[Line]:
        """Read the events of a stream, each with its place in the chain."""
        previous = bytes.fromhex(header.anchor)
        for number in range(header.count):
            line = self.take(Line)
            if line.sequence != header.first_sequence + number:
                raise self.damaged("another event was expected here")
            if not line.follows(previous, header.origin):
                raise self.damaged("event and digest differ")
            previous = bytes.fromhex(line.digest)
            yield line

    def stored_events(self, header: Header) -> Iterator[Line]:
        """Read the events of a stream; each could be stored as it is."""
        for line in self.events(header):
            try:
                check_word("event type", line.type)
                codec.decode(line.payload)
                codec.decode(b"\xc0" if line.meta is None else line.meta)
            except CodecError as error:
                raise self.damaged("is no event that could be stored") from error
            yield line

    def cover(self) -> Cover:
        """Read the first line of a bundle."""
        cover = self.take(Cover)
        if cover.format != BUNDLE_FORMAT or not cover.name:
            raise self.damaged(f"is not of the format {BUNDLE_FORMAT}")
        return cover

    def entry(self) -> Entry:
        """Read a record; it could be stored as it is."""
        entry = self.take(Entry)
        try:
            check_word("kind", entry.kind)
            codec.decode(entry.value)
        except CodecError as error:
            raise self.damaged("is no record that could be stored") from error
        return entry

    def blob(self) -> PutBlob:
        """Read a blob; its content is what its digest names."""
        blob = self.take(PutBlob)
        if not 0 <= blob.size <= BLOB_BYTES_MAX:
            raise self.damaged(f"is a blob of more than {BLOB_BYTES_MAX} bytes")
        if not holds_what_it_names(blob):
            raise self.damaged("content and digest differ")
        return blob

    def end(self) -> None:
        """Read the last line, and that nothing follows."""
        whole = self._whole.hexdigest()
        if self.take(Trailer).sha256 != whole:
            raise self.damaged("the digest of the whole differs")
        self._number += 1
        if self._file.read(1):
            raise self.damaged("nothing was expected behind the last line")

    def damaged(self, reason: str) -> DamagedFileError:
        """Return the error that names the line that was read last."""
        return DamagedFileError(file=self._name, line=self._number, reason=reason)

    def _decoded(self, raw: bytes, shape: type[T]) -> T:
        if not raw.endswith(b"\n"):
            raise self.damaged("the file was cut")
        try:
            return msgspec.json.decode(raw, type=codec.learned(shape), strict=True)
        except (msgspec.DecodeError, ValueError):
            # No cause: it would quote what it read, and that may be content.
            raise self.damaged("is not a line of an export") from None


def is_bundle(path: Path) -> bool:
    """
    Return whether a file is a bundle and not one stream.

    Raises:
        DamagedFileError: it is no export at all.
    """
    with path.open("rb") as file:
        reader = LineReader(file, path)
        found = reader.take(_First).format
        if found not in (STREAM_FORMAT, BUNDLE_FORMAT):
            raise reader.damaged(f"is of the format {found!r}, which this Holdfast does not know")
    return found == BUNDLE_FORMAT


def read_stream(reader: Reads, name: str) -> StreamPart | None:
    """
    Return a whole stream, as far as it is there now; None if there is none.

    Raises:
        DamagedError: an event is damaged.
    """
    head = reader.head(name)
    if head is None:
        return None
    lines: list[Line] = []
    after = head.first_sequence - 1
    while after < head.last_sequence:
        limit = min(PAGE_EVENTS, head.last_sequence - after)
        for row in reader.events(name, after, limit)[1]:
            previous = lines[-1].digest if lines else head.anchor.hex()
            lines.append(Line.of(row, head.origin, previous))
        after = lines[-1].sequence
    return StreamPart(Header.of(head), lines)


def write_parts(reader: Reads, parts: Parts, file: BinaryIO) -> None:
    """
    Write a bundle into a file that is open for writing.

    Raises:
        DamagedError: a blob is damaged, or not there.
    """
    writer = LineWriter(file)
    writer.put(parts.cover)
    for header, lines in parts.streams:
        writer.put(header)
        for line in lines:
            writer.put(line)
    for entry in parts.records:
        writer.put(entry)
    for digest in parts.blobs:
        writer.put(_blob(reader, digest))
    writer.end()


def _blob(reader: Reads, digest: bytes) -> PutBlob:
    row = reader.blob(digest)
    reason = "is named, and is not there"
    if row is not None:
        blob = PutBlob(digest, row.size, row.encoding, row.stored)
        if holds_what_it_names(blob):
            return blob
        reason = "content and digest differ"
    raise DamagedError(what="blob", name=digest.hex(), reason=reason)


def holds_what_it_names(blob: PutBlob) -> bool:
    """Return whether the content of a blob has the digest and the size it is kept under."""
    try:
        data = codec.unpack(blob.encoding, blob.stored, blob.size)
    except DecodeError:
        return False
    return len(data) == blob.size and codec.content_digest(data) == blob.digest


def read_parts(file: BinaryIO, name: str | Path) -> Parts:
    """
    Read a bundle to its end and return what it holds.

    Args:
        file: open for reading; it is read from its beginning.
        name: what to call it in errors.

    Raises:
        DamagedFileError: a line is damaged, missing or too much; names it.
    """
    reader = LineReader(file, name)
    cover = reader.cover()
    streams: list[StreamPart] = []
    for _ in range(cover.streams):
        header = reader.header()
        streams.append(StreamPart(header, list(reader.stored_events(header))))
    records = [reader.entry() for _ in range(cover.records)]
    blobs = [reader.blob().digest for _ in range(cover.blobs)]
    reader.end()
    return Parts(cover.what, cover.name, streams, records, blobs)


def read_blobs(file: BinaryIO, name: str | Path) -> Iterator[PutBlob]:
    """Yield the blobs of a bundle, one at a time; each is what its digest names."""
    reader = LineReader(file, name)
    cover = reader.cover()
    for _ in range(cover.streams):
        header = reader.header()
        for _ in reader.events(header):
            pass
    for _ in range(cover.records):
        reader.entry()
    for _ in range(cover.blobs):
        yield reader.blob()


def chunks(items: Iterable[T], size: Callable[[T], int]) -> Iterator[tuple[T, ...]]:
    """Yield as many at once as make a good unit, by their number and by the bytes of each."""
    chunk: list[T] = []
    total = 0
    for item in items:
        chunk.append(item)
        total += size(item)
        if len(chunk) >= CHUNK_ITEMS or total >= CHUNK_BYTES:
            yield tuple(chunk)
            chunk, total = [], 0
    if chunk:
        yield tuple(chunk)
