"""
By what a session can be found: the index of identities.

An identity is a string (`hdr:abc`, a promoted header, a fingerprint of the content); its record
names the sessions that have it. The index is durable at once: an identity is written in the
unit that makes or changes the session's head. It is never kept in memory, because several
processes share a store, so there is nothing to load and nothing to miss after a restart.

    known, by one session     that session
    known, by several         ambiguous: the candidates are returned, nothing is merged
    unknown                   the next weaker identity is asked

Candidates that were archived, that ended, or that are older than the caller's limit are not
counted.

Invariant: what an identity leads to is decided from what is stored, in the transaction that
acts on it: whoever makes a session expects the index to be as it was read.
"""

import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

import msgspec

from holdfast.core import codec
from holdfast.core.deadline import remaining
from holdfast.core.errors import DamagedError, VersionConflictError
from holdfast.core.key import Key
from holdfast.core.recovery import Phase, Step
from holdfast.core.unit import AtVersion, DeleteRecord, MendRecord, PatchRecord, Unit, Write
from holdfast.core.world import World
from holdfast.runtime.boot import Planning, Progress
from holdfast.runtime.listing import Page, every, first_page, tally
from holdfast.runtime.sessions.image import ACTIVE, HEAD, IDENTITY, Head, candidate
from holdfast.runtime.sessions.state import Shape
from holdfast.store.port import Reads
from holdfast.store.store import Store

log = logging.getLogger("holdfast")


class Found(msgspec.Struct, frozen=True):
    """
    What identities lead to.

    Attributes:
        key: the session, if exactly one was found.
        candidates: all that the deciding identity leads to.
        identity: the one that decided; the empty string if none is known.
    """

    key: Key | None = None
    candidates: tuple[Key, ...] = ()
    identity: str = ""


class Look(msgspec.Struct, frozen=True):
    """
    The index as it was read for some identities.

    Attributes:
        found: what they lead to.
        expects: that the index is still like this.
        free: those that lead to no session.
    """

    found: Found
    expects: tuple[AtVersion, ...]
    free: tuple[str, ...]


def look(
    reader: Reads, world: World, shape: Shape, identities: Sequence[str], within: float | None
) -> Look:
    """
    Look some identities up, the strongest first.

    Args:
        reader: where the index is read.
        world: the clock by which age is told.
        shape: class of the sessions.
        identities: in the order of their strength; the first that is known decides.
        within: seconds since the last change of a session that counts; None for any.
    """
    found = Found()
    expects: list[AtVersion] = []
    free: list[str] = []
    for identity in dict.fromkeys(identities):
        row = reader.record(IDENTITY, (shape.name, identity))
        known = row is not None and row.value is not None
        expects.append(
            AtVersion(IDENTITY, (shape.name, identity), row.version if row and known else 0)
        )
        names: dict[str, Any] = codec.decode(row.value) if row and row.value is not None else {}
        keys = [
            msgspec.json.decode(name.encode(), type=codec.learned(Key)) for name in sorted(names)
        ]
        alive = tuple(key for key in keys if counts(reader, world, shape, key, within))
        if not alive:
            free.append(identity)
        elif not found.candidates:
            found = Found(alive[0] if len(alive) == 1 else None, alive, identity)
    return Look(found, tuple(expects), tuple(free))


def counts(reader: Reads, world: World, shape: Shape, key: Key, within: float | None) -> bool:
    """Return whether a session may be found: active, not ended, young enough."""
    row = reader.record(HEAD, (shape.name, *key))
    if row is None or row.value is None or row.tag != ACTIVE:
        return False
    head = codec.decode_as(row.value, Head, "session head")
    clock = world.clock
    if head.deadline and not remaining(head.deadline, clock.store_time(), clock.wall()):
        return False
    if within is None:
        return True
    at = row.written_at
    for name in head.slots:
        slot = reader.record(shape.kind(name), key)
        at = max(at, slot.written_at if slot else at)
    return clock.wall() - at <= within


class Identities:
    """
    The index's part of the boot: it is whole before anything is served.

    The index is read from end to end, page by page. If a record of it is damaged, all of them
    are compared with the heads of the sessions, which hold the same; if a head is damaged as
    well, nobody knows what is missing, and the runtime does not become ready.
    """

    name = "identities"
    phase = Phase.RESTORING

    def __init__(self, store: Store, *, serving: bool = False) -> None:
        """Take the store, and whether the boot is over."""
        self._store = store
        self._commit = store.commit if serving else store.commit_early

    def look(self, reader: Reads) -> Planning:
        """Read the first page of the index; most have no more."""
        return partial(self._plan, first_page(reader, IDENTITY))

    async def _plan(self, page: Page) -> Sequence[Step]:
        """Read the rest of it; say how large it is, and how much of it is damaged."""
        known, damaged = await tally(self._store, IDENTITY, begun=page)
        steps = [Step(self.name, "read the index", count=known)] if known else []
        if damaged:
            steps.append(
                Step(self.name, "rebuild damaged entries from the sessions", count=damaged)
            )
        return steps

    async def execute(self, steps: Sequence[Step], progress: Progress) -> dict[str, Any]:
        """
        Rebuild what is damaged.

        Returns:
            How many identities are known, and how many were damaged and rebuilt.

        Raises:
            DamagedError: it cannot be rebuilt.
        """
        broken = [step for step in steps if step.what.startswith("rebuild")]
        known = sum(step.count for step in steps if step not in broken)
        progress(known)
        rebuilt = 0
        if broken:
            rebuilt = await self.rebuild(progress)
        return {"known": known, "damaged": sum(step.count for step in broken), "rebuilt": rebuilt}

    async def rebuild(self, progress: Progress) -> int:
        """
        Compare every session with its entries, and put those that are missing.

        Returns:
            How many were put.

        Raises:
            DamagedError: a head is damaged as well, or an entry does not say whose it was.
        """
        rebuilt = await self._compare(progress)
        await self._drop(progress)
        return rebuilt

    async def _compare(self, progress: Progress) -> int:
        rebuilt = 0
        async for listed in every(self._store, HEAD):
            if not listed.intact:
                raise DamagedError(
                    what="session head",
                    name=repr(listed.row.key),
                    reason="with it and an entry of the identity index gone, nobody can tell "
                    "which identities are missing",
                )
            head = codec.decode_as(listed.row.value or b"\xc0", Head, "session head")
            for identity in head.identities:
                done = await self._put(listed.row.key, identity)
                rebuilt += done
                progress(int(done))
        return rebuilt

    async def _put(self, session: Key, identity: str) -> bool:
        """Make sure that an identity leads to a session; return whether it did not."""
        shape, *key = session
        name: Key = (shape, identity)
        entry = candidate(tuple(key))
        value = codec.encode({"at": self._store.world.clock.wall()})
        write: Write
        expects: tuple[AtVersion, ...] = ()
        try:
            row = await self._store.read(lambda reader: reader.record(IDENTITY, name))
        except DamagedError as damage:
            log.error("event=identity_damaged kind=%s reason=%s", shape, damage.reason)
            parts = {entry: msgspec.Raw(value)}
            write = MendRecord(IDENTITY, name, codec.encode_parts(parts))
        else:
            if row is not None and row.value is not None and entry in codec.decode(row.value):
                return False
            write = PatchRecord(IDENTITY, name, {entry: value})
            expects = (AtVersion(IDENTITY, name, row.version if row and row.value else 0),)
        try:
            await self._commit(Unit((write,), expects))
        except VersionConflictError:
            # Another runtime is at it as well; what is there now is looked at again.
            return await self._put(session, identity)
        return True

    async def _drop(self, progress: Progress) -> None:
        """Drop entries that are still damaged: of no session that is there."""
        async for listed in every(self._store, IDENTITY):
            if listed.intact:
                continue
            name = listed.row.key
            if not name:
                raise DamagedError(
                    what=f"record {IDENTITY}", name="", reason="its key cannot be read"
                )
            empty = codec.encode({})
            unit = Unit((MendRecord(IDENTITY, name, empty), DeleteRecord(IDENTITY, name)))
            await self._commit(unit)
            progress(1)
