"""
What is stored of one session, and the units that change it.

A session is a *head* (its identities, the version of its class, when it was made) and a record
per slot. A slot is expected at the version at which it was read, so that two runtimes cannot
overwrite each other, and that no write brings back a session that another one closed; for slots
that were never saved the head is expected instead.

    load      reads head and slots at once; a slot that is damaged counts as never saved
    unit      the writes for some changed fields, and what they expect
    note      takes over what a committed unit answered

A session of an older version of its class is brought up to date in memory; the first unit that
writes it puts all of its slots anew, and drops those that the class has no more, at once.

Invariants: all slots of a session are of the version in its head; a unit writes a group whole
or not at all; what is known here was read or committed, never assumed.
"""

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.deadline import Deadline, ending_in, remaining
from holdfast.core.errors import (
    DamagedError,
    DecodeError,
    VersionConflictError,
)
from holdfast.core.key import Key, encode_key, prefix_end
from holdfast.core.refusal import (
    SessionClosedError,
)
from holdfast.core.tier import DURABLE
from holdfast.core.unit import (
    AtVersion,
    DeleteRecord,
    Expectation,
    MendRecord,
    PatchRecord,
    PutRecord,
    RecordRow,
    Unit,
    Write,
)
from holdfast.runtime.damage import Damages
from holdfast.runtime.sessions.state import VERSION_FIELD, Fields, Shape, Slot, plain_fields
from holdfast.store.port import Reads
from holdfast.store.store import Store

HEAD: Final = "holdfast.session"
ACTIVE: Final = "active"
ARCHIVED: Final = "archived"
IDENTITY: Final = "holdfast.identity"
PAGE_RECORDS: Final = 1_000
log = logging.getLogger("holdfast")
_RAW_FIELDS: Final = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])


class Head(msgspec.Struct, frozen=True):
    """
    What is stored of a session as a whole.

    Attributes:
        version: version of the class its slots are of.
        born: drawn when it was made; a session made again under the same key has another.
        created_at: wall time of that moment.
        slots: names of the slots it may have.
        identities: by what it can be found.
        deadline: when it ends, if it does.
    """

    version: int
    born: str
    created_at: float
    slots: tuple[str, ...]
    identities: tuple[str, ...] = ()
    deadline: Deadline | None = None

    def write(self, name: Key, tag: str = ACTIVE) -> PutRecord:
        """Return the write that puts it."""
        plain = msgspec.to_builtins(
            {field: getattr(self, field) for field in self.__struct_fields__}
        )
        plain = {**plain, "slots": list(self.slots), "identities": list(self.identities)}
        return PutRecord(HEAD, name, codec.encode(plain), tag)


def candidate(key: Key) -> str:
    """Return how the index names a session."""
    return msgspec.json.encode(key).decode()


class Portion(NamedTuple):
    """
    A unit's share of one session.

    Attributes:
        fields: what is written, encoded, by field.
        writes: how.
        expects: under which conditions.
    """

    fields: dict[str, bytes]
    writes: tuple[Write, ...]
    expects: tuple[Expectation, ...]


class Image:
    """
    What is known to be stored of a session.

    Attributes:
        head: its head, or None if it was never saved.
        archived: it was put aside; it can be read.
        stored: encoded fields by name.
        damaged: names of the slots that could not be read.
    """

    def __init__(self, store: Store, damages: Damages, shape: Shape, key: Key) -> None:
        """Take the session's class and key."""
        self._store = store
        self._damages = damages
        self._shape = shape
        self.key = key
        self.name: Key = (shape.name, *key)
        self._forget()

    def _forget(self) -> None:
        self.head: Head | None = None
        self.archived = False
        self.stored: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        self._head_version = 0
        self._versions: dict[str, int] = {}
        self._rewrite = False
        self._vanished: dict[str, int] = {}

    async def load(self) -> int:
        """
        Read what is stored.

        Returns:
            How many of its records were damaged; they begin anew.

        Raises:
            DecodeError: it was stored by a newer version of the class.
        """
        damages = 0
        try:
            found = await self._store.read(self._read)
        except DamagedError as damage:
            await self._damages.note(damage)
            await self._mend_head()
            damages = 1
            found = await self._store.read(self._read)
        self._forget()
        if found.head is not None and found.head.value is not None:
            self._take_head(found.head)
        for broken in found.damages:
            await self._damages.note(broken)
        self._take_slots(found)
        return damages + len(self.damaged)

    async def _mend_head(self) -> None:
        """Put a head in place of a damaged one; the index knows by what it can be found."""
        identities = await self._store.read(self._identities)
        # Its version is in its slots.
        head = msgspec.structs.replace(self.fresh_head(identities), version=0)
        put = head.write(self.name)
        mend = MendRecord(HEAD, self.name, put.value, put.tag)
        with suppress(VersionConflictError):  # Somebody else did it.
            await self._store.commit(Unit((mend,)))

    def _identities(self, reader: Reads) -> tuple[str, ...]:
        """Look through the index for this session."""
        wanted, place = candidate(self.key), encode_key((self._shape.name,))
        until = prefix_end(place)
        found: list[str] = []
        while rows := reader.records(IDENTITY, place, until, PAGE_RECORDS, None):
            place = encode_key(rows[-1].key) + b"\0"
            found += [row.key[1] for row in rows if wanted in codec.decode(row.value or b"\x80")]
        return tuple(found)

    def _read(self, reader: Reads) -> "_Found":
        """Read head and slots in one go; those of an older version include what is gone."""
        row = reader.record(HEAD, self.name)
        names = [slot.name for slot in self._shape.slots]
        if row is not None and row.value is not None:
            names += [name for name in _head(row).slots if name not in names]
        found = _Found(row, {}, [], [])
        for name in names:
            try:
                slot = reader.record(self._shape.kind(name), self.key)
            except DamagedError as damage:
                found.damages.append(damage)
                found.damaged.append(name)
                continue
            if slot is not None and slot.value is not None:
                found.slots[name] = slot
        return found

    def _take_head(self, row: RecordRow) -> None:
        self.head = _head(row)
        self.archived = row.tag == ARCHIVED
        self._head_version = row.version

    def _take_slots(self, found: "_Found") -> None:
        shape = self._shape
        self.damaged = set(found.damaged)
        self._versions = {name: row.version for name, row in found.slots.items()}
        fields: dict[str, dict[str, bytes]] = {}
        told = 0 if self.head is None else self.head.version
        version = told or shape.version
        for name, row in found.slots.items():
            fields[name] = _fields(row)
            if VERSION_FIELD in fields[name]:
                stored = codec.decode(fields[name].pop(VERSION_FIELD))
                version = told or stored
        if version == shape.version:
            for slot in shape.slots:
                self._take(slot, fields.get(slot.name, {}))
            return
        self._upcast(fields, version)

    def _upcast(self, fields: dict[str, dict[str, bytes]], version: int) -> None:
        shape = self._shape
        old: Fields = {}
        for part in fields.values():
            old.update(plain_fields(part))
        new = shape.upcast(old, version)
        encoded = {name: codec.encode(item, f"{shape.name}.{name}") for name, item in new.items()}
        for slot in shape.slots:
            self._take(slot, {name: encoded[name] for name in slot.fields if name in encoded})
        self._rewrite = True
        known = {slot.name for slot in shape.slots}
        self._vanished = {name: row for name, row in self._versions.items() if name not in known}

    def _take(self, slot: Slot, fields: Mapping[str, bytes]) -> None:
        """Take over the fields of a slot that can be read; of a group all or none."""
        good: dict[str, bytes] = {}
        for name in slot.fields:
            if name not in fields:
                continue
            try:
                self._shape.exact[name].decode(fields[name])
            except DecodeError:
                log.warning("event=field_unreadable kind=%s field=%s", slot.kind, name)
                self.damaged.add(slot.name)
                if slot.grouped:
                    return
                continue
            good[name] = fields[name]
        self.stored.update(good)

    @property
    def _tag(self) -> str:
        return ARCHIVED if self.archived else ACTIVE

    def unreadable(self) -> set[str]:
        """Return the names of the fields of slots that could not be read."""
        slots = [slot for slot in self._shape.slots if slot.name in self.damaged]
        return {name for slot in slots for name in slot.fields if name not in self.stored}

    def left(self) -> float | None:
        """Return the seconds until the session ends; None if it does not."""
        if self.head is None or self.head.deadline is None:
            return None
        clock = self._store.world.clock
        return remaining(self.head.deadline, clock.store_time(), clock.wall())

    def unit(self, now: Mapping[str, bytes], changed: Iterable[str]) -> Portion:
        """
        Return what writes some fields.

        Args:
            now: all fields, encoded.
            changed: names of those to write; their groups are written whole.
        """
        wanted = set(changed)
        fields: dict[str, bytes] = {}
        writes: list[Write] = []
        expects: list[AtVersion] = []
        for slot in self._shape.slots:
            names = [name for name in slot.fields if name in wanted]
            if names and slot.grouped:
                names = list(slot.fields)
            if self._rewrite:
                names = [name for name in slot.fields if name in names or name in self.stored]
            if not names:
                continue
            part = {name: now[name] for name in names}
            fields.update(part)
            writes.append(self._write(slot, part))
            if slot.name not in self.damaged or slot.name in self._versions:
                expects.append(AtVersion(slot.kind, self.key, self._versions.get(slot.name, 0)))
        head = self._head_writes()
        if head or not any(part.version for part in expects):
            # A slot that is still at its version says that the session was not closed.
            expects.append(self._as_known())
        return Portion(fields, (*head, *writes), tuple(expects))

    def _as_known(self) -> AtVersion:
        """Return that the head is still as it was read."""
        return AtVersion(HEAD, self.name, self._head_version)

    def _write(self, slot: Slot, part: dict[str, bytes]) -> Write:
        part = {**part, VERSION_FIELD: codec.encode(self._shape.version)}
        if slot.name in self.damaged:
            whole = codec.encode_parts({name: msgspec.Raw(item) for name, item in part.items()})
            if slot.name in self._versions:
                return PutRecord(slot.kind, self.key, whole)
            return MendRecord(slot.kind, self.key, whole)
        if self._rewrite:
            whole = codec.encode_parts({name: msgspec.Raw(item) for name, item in part.items()})
            return PutRecord(slot.kind, self.key, whole)
        return PatchRecord(slot.kind, self.key, part)

    def _head_writes(self) -> tuple[Write, ...]:
        """Return what has to be written of the head, and of slots the class has no more."""
        head, shape = self.head, self._shape
        if head is None:
            return (self.fresh_head().write(self.name),)
        if not self._rewrite and shape.ttl is None:
            return ()
        changed = msgspec.structs.replace(
            head,
            version=shape.version if self._rewrite else head.version,
            slots=tuple(slot.name for slot in shape.slots),
            deadline=self._deadline(),
        )
        vanished = [DeleteRecord(shape.kind(name), self.key) for name in self._vanished]
        return (changed.write(self.name, self._tag), *vanished)

    def _deadline(self) -> Deadline | None:
        """Return when the session ends if it is not changed again."""
        clock, ttl = self._store.world.clock, self._shape.ttl
        return None if ttl is None else ending_in(ttl, clock.store_time(), clock.wall())

    def fresh_head(self, identities: tuple[str, ...] = ()) -> Head:
        """Return the head of a session that is saved for the first time."""
        world, shape = self._store.world, self._shape
        slots = tuple(slot.name for slot in shape.slots)
        born = world.ids.incarnation().hex()
        return Head(shape.version, born, world.clock.wall(), slots, identities, self._deadline())

    def note(self, portion: Portion, rows: Iterable[RecordRow]) -> None:
        """Take over what was committed."""
        slots = self._shape.slot_of
        for row in rows:
            if row.kind == HEAD and row.key == self.name:
                self._take_head(row)
            elif row.key == self.key and row.kind in slots:
                self._versions[slots[row.kind]] = row.version
                self.damaged.discard(slots[row.kind])
        self.stored.update(portion.fields)
        if portion.fields:
            self._rewrite = False
            self._vanished = {}

    def attaching(self, identities: Iterable[str]) -> Portion:
        """Return what lets the session be found by these identities; makes it if it is new."""
        known = self.head.identities if self.head else ()
        fresh = tuple(one for one in dict.fromkeys(identities) if one not in known)
        if self.head is not None and not fresh:
            return Portion({}, (), ())
        head = self.fresh_head(fresh)
        if self.head is not None:
            head = msgspec.structs.replace(self.head, identities=(*known, *fresh))
        at = codec.encode({"at": self._store.world.clock.wall()})
        entries = (
            PatchRecord(IDENTITY, (self._shape.name, one), {candidate(self.key): at})
            for one in fresh
        )
        return Portion({}, (head.write(self.name, self._tag), *entries), (self._as_known(),))

    def moving(self, tag: str) -> Portion:
        """Return what puts the session aside, or takes it up again."""
        if self.head is None or tag == self._tag:
            return Portion({}, (), ())
        # A new version of each slot, so that another runtime that changes one takes notice.
        versions = {slot.kind: self._versions.get(slot.name, 0) for slot in self._shape.slots}
        touches = [PatchRecord(kind, self.key) for kind, version in versions.items() if version]
        expects = [AtVersion(kind, self.key, version) for kind, version in versions.items()]
        return Portion(
            {}, (self.head.write(self.name, tag), *touches), (self._as_known(), *expects)
        )

    async def closing(self) -> Portion:
        """Return what removes the session and its entries in the index."""
        if self.head is None:
            return Portion({}, (), ())
        names = {slot.name for slot in self._shape.slots} | set(self.head.slots)
        writes: list[Write] = [DeleteRecord(HEAD, self.name)]
        writes += [DeleteRecord(self._shape.kind(name), self.key) for name in sorted(names)]
        expects = [self._as_known()]
        keys = [(self._shape.name, one) for one in self.head.identities]
        for row in await self._store.read(
            lambda reader: [reader.record(IDENTITY, k) for k in keys]
        ):
            if row is None or row.value is None:
                continue
            others = codec.decode(row.value).keys() - {candidate(self.key)}
            expects.append(AtVersion(IDENTITY, row.key, row.version))
            if others:
                writes.append(PatchRecord(IDENTITY, row.key, remove=(candidate(self.key),)))
            else:
                writes.append(DeleteRecord(IDENTITY, row.key))
        return Portion({}, tuple(writes), tuple(expects))

    async def look_again(self, *, durable: bool) -> bool:
        """
        Read again what another runtime may have changed.

        Args:
            durable: also what is stored of the durable fields; otherwise it stays as it was
                known, so that who edits them meets the conflict.

        Returns:
            Whether it is still the session that was known.
        """
        head, stored, versions = self.head, self.stored, self._versions
        await self.load()
        for slot in self._shape.slots:
            if slot.tier is DURABLE and not durable:
                for name in slot.fields:
                    self.stored.pop(name, None)
                self.stored.update({n: stored[n] for n in slot.fields if n in stored})
                self._versions[slot.name] = versions.get(slot.name, 0)
        return head is None or (self.head is not None and self.head.born == head.born)

    async def same(self) -> bool:
        """
        Look at the head again, after a conflict.

        Returns:
            Whether it is still the session that was known.

        Raises:
            SessionClosedError: another runtime closed it.
        """
        before = self.head
        row = await self._store.read(lambda reader: reader.record(HEAD, self.name))
        if row is None or row.value is None:
            if before is None:
                return True
            raise SessionClosedError(kind=self._shape.name, key=self.key)
        if before is not None and _head(row).born != before.born:
            raise SessionClosedError(kind=self._shape.name, key=self.key)
        self._take_head(row)
        return before is not None


class _Found(NamedTuple):
    """What was read of a session."""

    head: RecordRow | None
    slots: dict[str, RecordRow]
    damages: list[DamagedError]
    damaged: list[str]


def _head(row: RecordRow) -> Head:
    return codec.decode_as(row.value or b"\xc0", Head, "session head")


def _fields(row: RecordRow) -> dict[str, bytes]:
    try:
        raw = _RAW_FIELDS.decode(row.value or b"")
    except msgspec.DecodeError as error:
        raise DecodeError(what=row.kind, reason="holds no fields") from error
    return {name: bytes(item) for name, item in raw.items()}


def known_values(shape: Shape, stored: Mapping[str, bytes]) -> Any:
    """Return the state object of stored fields; those that were never saved are defaults."""
    value = shape.fresh()
    for name, encoded in stored.items():
        setattr(value, name, shape.exact[name].decode(encoded))
    return shape.derive(value)
