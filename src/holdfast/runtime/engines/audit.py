"""
The audit of an engine: one event per request that changed something, and how long it stays.

    holdfast/audit/NAME       what was decided, in the order of commits, a `Decided` each
    holdfast.engine.audited   per memory: what was trimmed of it, an `Audited`

Who trims the audit says, in the same unit and for every memory that is concerned, how many of
its requests that were and what the last one left. So it stays checkable: what is said to be
trimmed and what is still there are together one event per request, without a gap, and who folds
an audit begins at what the last trimmed one left.

Invariants: the audit is trimmed from its beginning only, never without that note; two who trim
at once do not both count.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.engine import AUDITED, Audited, audit_of
from holdfast.core.errors import ConflictError, DamagedError, InvalidValueError, TooOldError
from holdfast.core.event import EventRow
from holdfast.core.key import Key
from holdfast.core.unit import AtVersion, PutRecord, TrimStream, Unit, Write
from holdfast.runtime.engines.place import Place
from holdfast.store.port import Reads

PAGE: Final = 1_000


class AuditKept(msgspec.Struct, frozen=True, kw_only=True):
    """
    How much of an audit is kept; all of it, for ever, unless something is said.

    Attributes:
        events: so many of the last ones, about; None keeps all.
        seconds: those that are not older, about; None keeps all.
    """

    events: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        """
        Refuse what cannot work.

        Raises:
            InvalidValueError: a number is not positive.
        """
        for name in ("events", "seconds"):
            given = getattr(self, name)
            if given is not None and not given > 0:
                raise InvalidValueError(what=name, reason=f"is {given}, more than 0")

    @property
    def is_all(self) -> bool:
        """Whether nothing is ever trimmed."""
        return self.events is None and self.seconds is None


async def audited(place: Place) -> Audited:
    """Return what was trimmed of the audit of a memory."""
    key = (place.name, *place.key)
    row = await place.store.read(lambda reader: reader.record(AUDITED, key))
    return _audited(None if row is None else row.value)


def _audited(value: bytes | None) -> Audited:
    return Audited() if value is None else codec.decode_as(value, Audited, "audit")


async def trim(place: Place, kept: AuditKept) -> int:
    """Trim what is not kept of the audit of an engine; return how many events went."""
    gone = 0
    while not kept.is_all:
        try:
            rows = await _due(place, kept)
            unit = await place.store.read(partial(_unit, place, rows)) if rows else None
            if unit is None:
                break
            await place.store.commit(unit)
        except DamagedError as damage:
            # What cannot be counted stays, and whoever asks for the audit is told as well.
            await place.damages.note(damage)
            break
        except (ConflictError, TooOldError):
            break  # Another one trims; what is left is looked at the next time.
        gone += len(rows)
    return gone


async def _due(place: Place, kept: AuditKept) -> list[EventRow]:
    """Return the first events of an audit that are not kept, a page at most."""
    stream = audit_of(place.name)
    head = await place.store.read(lambda reader: reader.head(stream))
    if head is None:
        return []
    surplus = 0
    if kept.events is not None:
        surplus = max(0, head.last_sequence - head.first_sequence + 1 - kept.events)
    if kept.seconds is None and not surplus:
        return []
    limit = PAGE if kept.seconds is not None else min(PAGE, surplus)
    _, rows = await place.store.events(stream, head.first_sequence - 1, limit)
    oldest = 0.0 if kept.seconds is None else place.store.world.clock.wall() - kept.seconds
    count = 0
    for row in rows:
        if count >= surplus and row.recorded_at >= oldest:
            break
        count += 1
    return rows[:count]


def _unit(place: Place, rows: Sequence[EventRow], reader: Reads) -> Unit | None:
    """Return what trims these events and notes what they were; None if another just did."""
    writes: list[Write] = [TrimStream(audit_of(place.name), rows[-1].sequence + 1)]
    expects: list[AtVersion] = []
    for key, decided in _by_memory(rows).items():
        path = (place.name, *key)
        row = reader.record(AUDITED, path)
        before = _audited(None if row is None else row.value)
        last = decided[-1]
        after = Audited(before.count + len(decided), last["sequence"], last["facts"])
        expects.append(AtVersion(AUDITED, path, row.version if row and row.value else 0))
        writes.append(PutRecord(AUDITED, path, msgspec.msgpack.encode(after)))
    # Asked last: as long as the audit begins here, nobody has noted more than was read above.
    head = reader.head(audit_of(place.name))
    if head is None or head.first_sequence != rows[0].sequence:
        return None
    return Unit(tuple(writes), tuple(expects))


def _by_memory(rows: Sequence[EventRow]) -> dict[Key, list[dict[str, Any]]]:
    found: dict[Key, list[dict[str, Any]]] = {}
    for row in rows:
        decided = codec.decode(row.payload, "audit")
        found.setdefault(tuple(decided["key"]), []).append(decided)
    return found
