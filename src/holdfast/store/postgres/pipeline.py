"""
Statements that travel together: sent at once, answered at once, each prepared only once.

A transaction of one small unit is nine statements. One by one they cost a round trip each, and
more time in the driver than in the server. Here they are sent through libpq's pipeline mode in
the binary format; the server still runs them one after the other, in the order they were given.

Invariants:
- the answers of all statements are taken in before anything is raised, so the connection is
  ready for the next call, or known to be lost;
- after a statement that failed, the server runs none of those behind it.
"""

import re
import struct
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final, NamedTuple

import psycopg
from psycopg import errors, pq
from psycopg.waiting import Ready, Wait

from holdfast.store.rows import Row

_CAST: Final = re.compile(r"CAST\(%\((\w+)\)s AS ([A-Z ]+)(\[\])?\)")
_PLACE: Final = re.compile(r"%\((\w+)\)s")
_NULL: Final = b"\xff\xff\xff\xff"
_LENGTH: Final = struct.Struct(">i").pack
_ARRAY: Final = struct.Struct(">5i").pack
_INT2: Final = struct.Struct(">h").pack
_INT8: Final = struct.Struct(">q").pack
_FLOAT8: Final = struct.Struct(">d").pack
Dump = Callable[[Any], bytes]


class _Kind(NamedTuple):
    """A type: its number, that of its array, and how a value becomes bytes."""

    oid: int
    array_oid: int
    dump: Dump


_KINDS: Final = {
    "BYTEA": _Kind(17, 1001, bytes),
    "TEXT": _Kind(25, 1009, str.encode),
    "SMALLINT": _Kind(21, 1005, _INT2),
    "BIGINT": _Kind(20, 1016, _INT8),
    "DOUBLE PRECISION": _Kind(701, 1022, _FLOAT8),
}
_PLAIN: Final = {bytes: "BYTEA", str: "TEXT", int: "BIGINT", float: "DOUBLE PRECISION"}
_LOAD: Final[dict[int, Callable[[bytes], Any]]] = {
    16: lambda value: value == b"\1",
    17: bytes,
    20: lambda value: int.from_bytes(value, "big", signed=True),
    21: lambda value: int.from_bytes(value, "big", signed=True),
    25: bytes.decode,
    701: lambda value: struct.unpack(">d", value)[0],
    1016: lambda value: struct.unpack(">" + "4xq" * ((len(value) - 20) // 12), value[20:]),
    2278: lambda _: None,
}


class Call(NamedTuple):
    """One statement with its parameters; the text has psycopg's named placeholders."""

    text: str
    parameters: dict[str, Any]


class Answer(NamedTuple):
    """What a statement returned: its rows, and how many rows it changed or returned."""

    rows: list[Row]
    touched: int


class _Prepared(NamedTuple):
    name: bytes
    parameters: tuple[tuple[str, Dump], ...]


class Pipeline:
    """Runs statements together on one connection."""

    def __init__(self, raw: psycopg.Connection[Any]) -> None:
        """Take a connection that commits only when it is told to."""
        self._raw = raw
        self._prepared: dict[str, _Prepared] = {}

    def run(self, calls: Sequence[Call]) -> list[Answer]:
        """
        Run statements in order and return an answer for each.

        Raises:
            psycopg.Error: the first statement that failed, or the loss of the connection.
        """
        sent: list[tuple[bytes, list[bytes | None]]] = []
        for call in calls:
            prepared = self._prepared.get(call.text) or self._prepare(call)
            values = call.parameters
            sent.append(
                (
                    prepared.name,
                    [dump(values[name]) for name, dump in prepared.parameters],
                )
            )
        connection = self._raw.pgconn
        connection.enter_pipeline_mode()
        for name, dumped in sent:
            formats = [pq.Format.BINARY] * len(dumped)
            connection.send_query_prepared(name, dumped, formats, pq.Format.BINARY)
        connection.pipeline_sync()
        results = self._raw.wait(_exchange(connection))
        connection.exit_pipeline_mode()
        for result in results:
            if result.status == pq.ExecStatus.FATAL_ERROR:
                raise _error(result)
        return [_answer(result) for result in results]

    def _prepare(self, call: Call) -> _Prepared:
        """Let the server prepare a statement under the types that its text or values name."""
        kinds: dict[str, tuple[int, Dump]] = {}
        for name, word, many in _CAST.findall(call.text):
            kind = _KINDS[word]
            kinds[name] = (kind.array_oid, _array(kind)) if many else (kind.oid, kind.dump)
        for name in _PLACE.findall(call.text):
            if name not in kinds:
                kind = _KINDS[_PLAIN[type(call.parameters[name])]]
                kinds[name] = kind.oid, kind.dump
        numbers = {name: f"${number}" for number, name in enumerate(kinds, 1)}
        text = _PLACE.sub(lambda found: numbers[found[1]], call.text).replace("%%", "%")
        name = f"holdfast_{len(self._prepared)}".encode()
        oids = [oid for oid, _ in kinds.values()]
        result = self._raw.pgconn.prepare(name, text.encode(), oids)
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise _error(result)
        parameters = tuple((name, dump) for name, (_, dump) in kinds.items())
        prepared = self._prepared[call.text] = _Prepared(name, parameters)
        return prepared


def _exchange(connection: Any) -> Generator[Wait, Ready | int, list[Any]]:
    """Send what is queued while taking in what comes, up to the end of the pipeline."""
    while connection.flush():
        if (yield Wait.RW) & Ready.R:
            connection.consume_input()
    results: list[Any] = []
    while True:
        while connection.is_busy():
            if (yield Wait.R):
                connection.consume_input()
        result = connection.get_result()
        if result is None:
            if connection.status == pq.ConnStatus.BAD:
                raise psycopg.OperationalError("the connection is lost")
        elif result.status == pq.ExecStatus.PIPELINE_SYNC:
            return results
        else:
            results.append(result)


def _answer(result: Any) -> Answer:
    if result.status != pq.ExecStatus.TUPLES_OK:
        return Answer([], result.command_tuples or 0)
    width = range(result.nfields)
    loads = [_LOAD[result.ftype(column)] for column in width]
    rows: list[Row] = []
    for number in range(result.ntuples):
        values = [result.get_value(number, column) for column in width]
        rows.append(
            [
                None if value is None else load(value)
                for value, load in zip(values, loads, strict=True)
            ]
        )
    return Answer(rows, len(rows))


def _error(result: Any) -> psycopg.Error:
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    message = result.error_message.decode(errors="replace")
    if not state:
        return psycopg.OperationalError(message)
    try:
        return errors.lookup(state.decode())(message)
    except KeyError:
        return psycopg.DatabaseError(message)


def _array(kind: _Kind) -> Dump:
    """Return what packs a list as an array of one dimension."""
    oid, dump = kind.oid, kind.dump

    def pack(values: Sequence[Any]) -> bytes:
        if not values:
            return struct.pack(">3i", 0, 0, oid)
        parts = [_ARRAY(1, 1, oid, len(values), 1)]
        for value in values:
            if value is None:
                parts.append(_NULL)
            else:
                encoded = dump(value)
                parts.append(_LENGTH(len(encoded)))
                parts.append(encoded)
        return b"".join(parts)

    return pack
