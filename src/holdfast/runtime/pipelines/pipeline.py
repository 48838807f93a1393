"""
Pipelines: machines that are run with checkpoints, by key and content.

    pipeline = rt.pipeline(ingest, key=("bank", "source"))
    fields = await pipeline.run(text)             # killed and called again: it goes on

A pipeline is a run, so everything that holds for runs holds here: the transitions are its steps,
its journal is `run/<run_id>`, its owner is found dead or alive by the ledger. What is added is
the content: the first unit of a version binds key, content and run together, so that a version
without its run, or a run without its content, is never there.

Invariants: one key works on one content at a time; new content gets a new version; who finds
another content under way is told so and changes nothing.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.context import Context, Withheld
from holdfast.core.errors import ConflictError, DamagedError, LimitError, VersionConflictError
from holdfast.core.key import Key, as_key, encode_key, prefix_end
from holdfast.core.machine import Machine
from holdfast.core.pipeline import (
    FUNCTION,
    HEAD,
    VERSION,
    Version,
    encode_input,
    joined,
    read_version,
    run_id_of,
)
from holdfast.core.refusal import (
    InputMismatchError,
    PipelineNotFoundError,
    PipelinePausedError,
    RunStateError,
)
from holdfast.core.run import Status
from holdfast.core.unit import (
    AtVersion,
    MendRecord,
    PutBlob,
    PutRecord,
    RecordRow,
    Unit,
    Write,
)
from holdfast.runtime.names import naming
from holdfast.runtime.pipelines.steplog import StepLog, read_log
from holdfast.runtime.pipelines.walk import Place, Walk
from holdfast.runtime.runs.handle import RunInfo
from holdfast.runtime.runs.journal import read_journal, stream_of
from holdfast.runtime.runs.run import Run
from holdfast.runtime.runs.runs import Runs
from holdfast.runtime.runs.telling import tell_started
from holdfast.runtime.runs.view import KIND, VERSION_MISMATCH, Views

log = logging.getLogger("holdfast")
LISTED_MAX: Final = 10_000
_RESTING: Final = ("no_code", VERSION_MISMATCH, "diverged", "uncertain_effect")


class Checkpoint(msgspec.Struct, frozen=True):
    """
    Where a version of a pipeline is.

    Attributes:
        version: which version.
        run_id: the run that works on it.
        status: how that run is.
        done: the state that was done last, None before the first.
        next: the state that comes next; a final one if it is over.
        attempt: how often the next state was begun.
        branches: done and next of every branch under way, by its way.
        reason: why it rests, waits or ended, if it does.
    """

    version: Version
    run_id: str
    status: Status
    done: str | None
    next: str
    attempt: int
    branches: dict[str, Any]
    reason: str


class Pipelines:
    """
    The pipelines on a store.

    Attributes:
        views, store, runs: what they are made of.
        known: machines by name, with fingerprint and the function that walks them.
        supplied: content that is not kept, by digest, as long as this runtime lives.
    """

    def __init__(self, views: Views, runs: Runs) -> None:
        """Take the runs they are made of."""
        self.views = views
        self.store = views.store
        self.runs = runs
        self.supplied: dict[bytes, Any] = {}
        self.known: dict[str, tuple[Machine, str, Callable[..., Any]]] = {}

    def add(self, machine: Machine) -> None:
        """
        Let pipelines of a machine go on here, also those that were begun before a restart.

        Raises:
            InvalidMachineError: the table has faults.
        """
        known = self.known.get(machine.name)
        fingerprint = machine.fingerprint
        if known is not None and known[0] is machine and known[1] == fingerprint:
            return
        machine.check()

        async def walk(run: Run, names: list[str], digest: bytes, kept: bool) -> Any:
            content = await self._content(machine, tuple(names), digest, kept=kept)
            ctx = Context(input=content, derived=machine.derived)
            await Walk(machine, run).go(machine.initial, ctx, machine.final, Place())
            return dict(ctx)

        self.known[machine.name] = (machine, fingerprint, walk)
        self.runs.register(walk, name=FUNCTION + machine.name, version=fingerprint)

    def of(self, machine: Machine, key: str | Key, *, keep_input: bool = True) -> "Pipeline":
        """
        Return the pipeline of a machine with a key.

        Args:
            machine: the table.
            key: a string, or a tuple of strings.
            keep_input: keep the content in the store; otherwise it has to be supplied again
                after a restart, and only its digest is kept.

        Raises:
            InvalidMachineError: the table has faults.
            InvalidValueError, LimitError: the key is not acceptable.
        """
        path = as_key(key)
        encode_key((machine.name, *path)) if path else encode_key(path)
        self.add(machine)
        return Pipeline(self, machine, path, keep_input=keep_input)

    async def list(
        self, machine: str, *, prefix: Key = (), after: Key | None = None, limit: int = 100
    ) -> Sequence[Version]:
        """
        Return the newest version of each key of a machine, in the order of the keys.

        Args:
            machine: name of the machine.
            prefix: parts with which the keys begin.
            after: key behind which to go on.
            limit: how many at most.
        """
        begin = encode_key((machine, *prefix))
        first = begin if after is None else encode_key((machine, *after)) + b"\0"
        return await self.page(HEAD, first, prefix_end(begin), limit)

    async def page(self, kind: str, first: bytes, until: bytes, limit: int) -> Sequence[Version]:
        """Return versions by the place of their records."""
        if not 1 <= limit <= LISTED_MAX:
            raise LimitError(what="limit", size=limit, limit=LISTED_MAX)
        rows = await self.views.damages.records(kind, first, until, limit, None)
        return [codec.decode_as(row.value or b"", Version, "pipeline") for row in rows]

    async def _content(self, machine: Machine, key: Key, digest: bytes, *, kept: bool) -> Any:
        if digest in self.supplied:
            return codec.decode(codec.encode(self.supplied[digest]))
        if kept:
            return codec.decode(await self.views.blobs.get(digest.hex()))
        return Withheld(joined((machine.name, *key)), digest.hex())


class Pipeline:
    """One key of one machine; made by `rt.pipeline`."""

    def __init__(self, owner: Pipelines, machine: Machine, key: Key, *, keep_input: bool) -> None:
        """Take the machine and the key."""
        self.machine = machine
        self.key = key
        self._keep_input = keep_input
        self._owner = owner
        self._views = owner.views
        self._store = owner.store
        self._runs = owner.runs

    @property
    def name(self) -> str:
        """Machine and key as one string, for people."""
        return joined((self.machine.name, *self.key))

    async def run(self, content: Any = None, *, restart: bool = False) -> dict[str, Any]:
        """
        Work on a content until it is done, and return the fields then.

        Content that is under way goes on where it stands; content that is done is not worked on
        again; other content starts a new version.

        Args:
            content: what the pipeline works on, a plain value such as a text.
            restart: if other content is under way, cancel that.

        Raises:
            InputMismatchError: other content is under way.
            PipelinePausedError: a state was tried often enough; running it again goes on.
            RunFailedError, RunCancelledError: it ended without reaching a final state.
        """
        version = await self.start(content, restart=restart)
        return await self._settled(version.run_id)

    async def start(self, content: Any = None, *, restart: bool = False) -> Version:
        """
        Let it work on a content; when this returns, that is durable and goes on by itself.

        Args:
            content: what the pipeline works on, a plain value such as a text.
            restart: if other content is under way, cancel that.

        Raises:
            InputMismatchError: other content is under way.
            EncodeError: the content cannot be stored exactly.
        """
        encoded = encode_input(self._views.redaction(content))
        digest = codec.content_digest(encoded)
        while True:
            found = await self._head()
            if found is not None:
                newest, _ = found
                info = await self._runs.get(newest.run_id)
                if newest.digest == digest and info.status not in (
                    Status.FAILED,
                    Status.CANCELLED,
                ):
                    self._supply(newest, content)
                    await self._wake(info)
                    return newest
                if not info.is_terminal:
                    await self._give_way(newest, digest, restart=restart)
            begun = await self._begin(found, encoded, content)
            if begun is not None:
                return begun

    async def resume(self, *, force: bool = False) -> dict[str, Any]:
        """
        Let the newest version go on with the content it has, and return the fields when done.

        Args:
            force: go on although the machine's table changed since; that is recorded.

        Raises:
            PipelineNotFoundError: it was never run.
            PipelinePausedError: a state was tried often enough again.
        """
        newest = await self.newest()
        info = await self._runs.get(newest.run_id)
        await self._wake(info, force=force)
        return await self._settled(newest.run_id, force=force)

    async def newest(self) -> Version:
        """
        Return the newest version.

        Raises:
            PipelineNotFoundError: it was never run.
            DamagedError: its record is damaged.
        """
        found = await self._head()
        if found is None:
            raise PipelineNotFoundError(pipeline=self.name)
        return found[0]

    async def versions(self, *, after: int = 0, limit: int = 100) -> Sequence[Version]:
        """Return the versions behind a number, in order."""
        begin = encode_key((self.machine.name, joined(self.key)))
        first = encode_key((self.machine.name, joined(self.key), f"{after:012d}")) + b"\0"
        return await self._owner.page(VERSION, first, prefix_end(begin), limit)

    async def checkpoint(self, version: int | None = None) -> Checkpoint:
        """
        Say where it is: what is done, what comes next, for the how-many-th time.

        Raises:
            PipelineNotFoundError: there is no such version.
        """
        which = await self._version(version)
        info = await self._runs.get(which.run_id)
        mark: dict[str, Any] = info.mark or {"done": None, "next": self.machine.initial}
        attempt = 0
        if not info.is_terminal:
            journal = await read_journal(self._store, which.run_id)
            tried = [
                one.attempts for (name, _), one in journal.open.items() if name == mark["next"]
            ]
            attempt = max(tried, default=0)
        error = f"{info.error.type}: {info.error.message}" if info.error else ""
        return Checkpoint(
            which,
            which.run_id,
            info.status,
            mark["done"],
            mark["next"],
            attempt,
            mark.get("branches", {}),
            error or info.why or ", ".join(info.waits),
        )

    async def log(self, version: int | None = None) -> list[StepLog]:
        """
        Return every attempt at a state, in the order in which they ended.

        Raises:
            PipelineNotFoundError: there is no such version.
            DamagedError: the journal is damaged; says at which event.
        """
        which = await self._version(version)
        return await read_log(self._store, self._views.blobs, which.run_id)

    async def _version(self, version: int | None) -> Version:
        if version is None:
            return await self.newest()
        key = (self.machine.name, joined(self.key), f"{version:012d}")
        row = await self._store.read(lambda reader: reader.record(VERSION, key))
        if row is None or row.value is None:
            raise PipelineNotFoundError(pipeline=f"{self.name}, version {version}")
        return read_version(row.value, self.machine.name, self.key)

    async def _head(self) -> tuple[Version, int] | None:
        try:
            row = await self._head_row()
        except DamagedError as damage:
            await self._mend(damage)
            row = await self._head_row()
        if row is None or row.value is None:
            return None
        return read_version(row.value, self.machine.name, self.key), row.version

    async def _head_row(self) -> RecordRow | None:
        key = (self.machine.name, *self.key)
        return await self._store.read(lambda reader: reader.record(HEAD, key))

    async def _mend(self, damage: DamagedError) -> None:
        """Put the newest version in place of a head that is damaged."""
        begin = encode_key((self.machine.name, joined(self.key)))
        found = await self._owner.page(VERSION, begin, prefix_end(begin), LISTED_MAX)
        if not found:
            raise damage
        log.error("event=pipeline_mended pipeline=%s reason=%s", self.name, damage.reason)
        value = msgspec.msgpack.encode(found[-1])
        with suppress(ConflictError):  # Somebody else was faster.
            await self._store.commit(Unit((MendRecord(HEAD, found[-1].head_key, value),)))

    async def _give_way(self, newest: Version, digest: bytes, *, restart: bool) -> None:
        """End what is under way, or refuse to begin something else beside it."""
        if not restart:
            raise InputMismatchError(
                pipeline=self.name, expected=newest.digest.hex(), found=digest.hex()
            )
        try:
            await self._runs.cancel(newest.run_id, reason="restarted with other content")
        except RunStateError:
            return
        await self._runs.ended(newest.run_id)

    async def _begin(
        self, found: tuple[Version, int] | None, encoded: bytes, content: Any
    ) -> Version | None:
        """Begin the next version; None if somebody else was faster."""
        number, at = (1, 0) if found is None else (found[0].version + 1, found[1])
        run_id = run_id_of(self.machine.name, number, self.key)
        begun = Version(
            self.machine.name,
            self.key,
            number,
            codec.content_digest(encoded),
            self._keep_input,
            self.machine.fingerprint,
            run_id,
            self._views.wall(),
        )
        self._supply(begun, content)
        walk = self._owner.known[self.machine.name][2]
        said, also = self._views.started(
            walk,
            (list(self.key), begun.digest, begun.kept),
            labels={"machine": self.machine.name, "version": str(number)},
        )
        value = msgspec.msgpack.encode(begun)
        writes: list[Write] = [
            PutRecord(HEAD, begun.head_key, value),
            PutRecord(VERSION, begun.version_key, value),
            *self._views.begin(run_id, said),
            *also,
        ]
        if begun.kept:
            writes += (PutBlob.of(encoded), *naming(run_id, begun.digest))
        expects = (AtVersion(HEAD, begun.head_key, at), AtVersion(KIND, (run_id,), 0))
        try:
            await self._store.commit(Unit(tuple(writes), expects))
        except VersionConflictError:
            return None
        tell_started(self._views.telemetry, KIND, writes)
        self._views.on_queued(run_id)
        return begun

    def _supply(self, version: Version, content: Any) -> None:
        if not version.kept:
            self._owner.supplied[version.digest] = content

    async def _wake(self, info: RunInfo, *, force: bool = False) -> None:
        """Let a run go on that rests; one that goes on already is left alone."""
        try:
            if info.status is Status.PAUSED:
                await self._runs.retry(info.id)
            elif force and info.status is Status.WAITING:
                await self._runs.resume(info.id, force=True)
        except RunStateError:
            return

    def _changed(self, info: RunInfo) -> str:
        """Say that a run waits, for whatever, and began with another table; empty if not."""
        here = self.machine.fingerprint
        if info.status is not Status.WAITING or info.version == here:
            return ""
        return f"{VERSION_MISMATCH}:{info.version}->{here}"

    async def _settled(self, run_id: str, *, force: bool = False) -> dict[str, Any]:
        """Wait until a run ended or rests, and return its result."""
        while True:
            waiter = self._store.wakes.register(stream_of(run_id))
            try:
                info = await self._runs.get(run_id)
                if info.is_terminal:
                    fields: dict[str, Any] = await self._runs.result(run_id)
                    return fields
                changed = self._changed(info)
                if changed and force:
                    await self._wake(info, force=True)
                elif changed or info.status is Status.PAUSED or info.reason in _RESTING:
                    raise PipelinePausedError(
                        pipeline=self.name,
                        state=info.status.value,
                        reason=changed or info.why or ", ".join(info.waits),
                    )
                self._store.check_writable()
                await waiter
            finally:
                self._store.wakes.forget(stream_of(run_id), waiter)
