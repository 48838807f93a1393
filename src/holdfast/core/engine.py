"""
Engines: working memories of foreign programs, kept by what was done to them.

A working memory (the facts of a rule engine, what has fired, what is pending) is kept as a
stream of *requests*. A request is what one caller did at a stretch: its operations, what the
caller's functions answered meanwhile, and digests of what came of it. Done again, in order, in
an empty memory of the same rules, the operations lead to the same state; the digests show it.

    engine.begun      rules by their fingerprint; whatever came before does not count any more
    engine.requested  a `Request`
    engine.rebased    a `Rebased`: from here on the memory is one restored from a snapshot

A snapshot alone is never exact to the last order of a list inside an engine. So the living
memory is itself replaced by the restored one, and the journal says after which request: who
crashed and who did not go on from the same bytes. A replay that passes that request without
the snapshot captures and restores there too.

Invariants: a journal begins with `engine.begun`; how many requests came before one decides its
seed, so a replay draws the same numbers, with snapshots or without; nobody's clock is asked in
a replay.
"""

from typing import Any, Final
from zlib import crc32

import msgspec

from holdfast.core import codec
from holdfast.core.errors import LimitError
from holdfast.core.event import Event
from holdfast.core.key import Key, encode_key

_encode: Final = msgspec.msgpack.Encoder().encode
STREAMS: Final = "holdfast/engine/"
KIND: Final = "holdfast.engine"
"""Kind of the records of working memories, by engine and key."""
RULES: Final = "holdfast.engine.rules"
"""Kind of the descriptions of rules, by fingerprint."""
ANSWERS: Final = "holdfast.engine.answer"
"""Kind of the answers that can be asked for again, by engine, key and request id."""
AUDITED: Final = "holdfast.engine.audited"
"""Kind of the records that say what was trimmed of an audit, by engine and key."""
BEGUN: Final = "engine.begun"
AUDITS: Final = "holdfast/audit/"
REQUESTED: Final = "engine.requested"
REBASED: Final = "engine.rebased"
DECIDED: Final = "decided"
"""Type of the events of an audit stream."""


class Request(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """
    What one caller did to a working memory.

    Attributes:
        operations: in order; plain values that the engine understands.
        heard: what functions of the program answered meanwhile, in order.
        fired: how many rules fired.
        trace: digest of what fired on what, in order.
        facts: digest of what is in the memory afterwards; equal contents, equal digest.
        id: under which the caller may ask again; empty if it gave none.
    """

    operations: list[Any]
    heard: list[Any]
    fired: int
    trace: bytes
    facts: bytes
    id: str = ""

    def agrees(self, other: "Request") -> bool:
        """Return whether two came to the same: what fired, and what is there afterwards."""
        return (self.fired, self.trace, self.facts) == (other.fired, other.trace, other.facts)


class Begun(msgspec.Struct, frozen=True, array_like=True):
    """A working memory begins, empty, with these rules."""

    fingerprint: str


class Rebased(msgspec.Struct, frozen=True, array_like=True):
    """The memory is one restored from a snapshot after the event `sequence`."""

    sequence: int


class Known(msgspec.Struct, frozen=True):
    """
    What is known of a working memory without loading it.

    Attributes:
        fingerprint: of its rules.
        begun: sequence of the event with which it began.
    """

    fingerprint: str
    begun: int


class Answered(msgspec.Struct, frozen=True):
    """
    What a request was answered.

    Attributes:
        sequence: of the request in its journal.
        value: what the caller's function returned.
        fired: how many rules fired.
        facts: digest of what was in the memory afterwards.
    """

    sequence: int
    value: Any
    fired: int
    facts: bytes


class Decided(msgspec.Struct, frozen=True, gc=False):
    """
    What a request came to, as the audit stream of its engine says it.

    Attributes:
        key: of the memory.
        sequence: of the request in its journal.
        id: under which it was asked; empty if under none.
        answer: what the caller's function returned, encoded.
        fired: how many rules fired.
        trace: digest of what fired on what, in order.
        facts: digest of what was in the memory afterwards.
    """

    key: list[str]
    sequence: int
    id: str
    answer: msgspec.Raw
    fired: int
    trace: bytes
    facts: bytes


class Audited(msgspec.Struct, frozen=True):
    """
    What was trimmed of the audit of one memory.

    Attributes:
        count: how many of its requests.
        sequence: of the last of them in its journal; 0 if nothing was trimmed.
        facts: digest of what was in the memory after it.
    """

    count: int = 0
    sequence: int = 0
    facts: bytes = b""


def stream_of(name: str, key: Key) -> str:
    """Return the stream of a working memory; different keys have different ones."""
    return STREAMS + "".join(f"{len(part)}:{part}/" for part in (name, *key))


def shown(name: str, key: Key) -> str:
    """Return a working memory in words."""
    return f"{name!r} of {'/'.join(key)!r}" if key else repr(name)


def seed_of(stream: str, before: int) -> int:
    """
    Return the seed from which a request draws, 31 bits, the same in every replay.

    Args:
        stream: the journal.
        before: how many requests came before, since the memory began.
    """
    return crc32(f"{stream}#{before}".encode()) & 0x7FFFFFFF


def event_of(type: str, said: Request | Begun | Rebased | Decided) -> Event:
    """
    Return the event of a journal, or of an audit.

    Raises:
        LimitError: the request takes more than `codec.PAYLOAD_BYTES_MAX` bytes; split it.
    """
    payload = _encode(said)
    if len(payload) > codec.PAYLOAD_BYTES_MAX:
        raise LimitError(what="request in bytes", size=len(payload), limit=codec.PAYLOAD_BYTES_MAX)
    return Event(type, payload)


def check_key(name: str, key: Key) -> None:
    """
    Return if a working memory may be called so.

    Raises:
        InvalidValueError, LimitError: it has no UTF-8 form, or is too long.
    """
    encode_key((name, *key))


def audit_of(name: str) -> str:
    """Return the stream with one event per request of an engine: what was decided, and why."""
    return f"{AUDITS}{name}"
