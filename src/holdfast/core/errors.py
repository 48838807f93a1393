"""
Every error a user of Holdfast can meet.

One root, six families (store, conflict, fence, not found, state, codec). An error carries
fields, not prose: the message is rendered from them, `code` is stable over releases and
`status` is the HTTP status a server would answer with. No message contains stored content.
"""

from dataclasses import dataclass, fields
from typing import ClassVar, Self


@dataclass(eq=False, kw_only=True)
class HoldfastError(Exception):
    """
    Root of all errors of Holdfast; never raised itself.

    Attributes:
        code: stable, machine-readable name of the error.
        status: HTTP status that fits.
    """

    code: ClassVar[str] = "holdfast"
    status: ClassVar[int] = 500
    text: ClassVar[str] = "holdfast error"

    def __post_init__(self) -> None:
        """Render the message from the fields."""
        super().__init__(self.text.format(**self.fields()))

    def __str__(self) -> str:
        """Return the rendered message."""
        return str(self.args[0])

    def fresh(self) -> Self:
        """Return an equal error, for another caller; tracebacks are not shared."""
        return type(self)(**self.fields())

    def fields(self) -> dict[str, object]:
        """Return the fields of this error by name, for logs and problem details."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


# Store: the place where things are kept is missing, damaged, full or not to be trusted.


class StoreError(HoldfastError):
    """Something about the store itself, not about the request."""

    code = "store"
    status = 503


@dataclass(eq=False, kw_only=True)
class OutcomeUnknownError(StoreError):
    """The commit failed in a way that leaves open whether it happened; resolve it by id."""

    unit_id: str
    reason: str
    code = "outcome_unknown"
    text = (
        "unit {unit_id}: outcome unknown ({reason}); reopen the store and ask "
        "outcome('{unit_id}') whether it was committed"
    )


@dataclass(eq=False, kw_only=True)
class OutcomeForgottenError(StoreError):
    """The unit is older than the outcomes that are kept, so nobody can tell any more."""

    unit_id: str
    code = "outcome_forgotten"
    status = 410
    text = "unit {unit_id} is older than the kept outcomes; look for its effects instead"


@dataclass(eq=False, kw_only=True)
class PoisonedError(StoreError):
    """An earlier commit failed with an unknown outcome; only reopening the store helps."""

    reason: str
    code = "poisoned"
    text = "the store stopped after a failed commit ({reason}); close it and open it again"


@dataclass(eq=False, kw_only=True)
class StoreFullError(StoreError):
    """No space was left before the commit; nothing of the unit was written."""

    reason: str
    code = "store_full"
    status = 507
    text = "no space left for the store ({reason}); nothing was written; free space and retry"


@dataclass(eq=False, kw_only=True)
class StoreBusyError(StoreError):
    """Another writer held the store longer than the wait limit; nothing was written."""

    waited: float
    code = "store_busy"
    text = "another writer held the store for {waited:g} s; nothing was written; retry"


@dataclass(eq=False, kw_only=True)
class StoreUnavailableError(StoreError):
    """The store could not be reached; nothing was written."""

    reason: str
    code = "store_unavailable"
    text = "the store cannot be reached ({reason}); nothing was written"


@dataclass(eq=False, kw_only=True)
class StoreRefusedError(StoreError):
    """The files found are not what was left behind; the store is not opened and not changed."""

    store: str
    reason: str
    report: str = ""
    code = "store_refused"
    text = "{store} is not opened: {reason}. {report}"


@dataclass(eq=False, kw_only=True)
class UnexpectedError(StoreError):
    """A fault inside Holdfast or its database library; nothing of the unit was written."""

    reason: str
    code = "unexpected"
    status = 500
    text = "nothing was written because of an unexpected {reason}; see the cause and report it"


@dataclass(eq=False, kw_only=True)
class UnsafeStoreError(StoreError):
    """A setting of the database or file system would break the promises."""

    setting: str
    found: str
    needed: str
    code = "unsafe_store"
    text = (
        "{setting} is {found!r}, needed is {needed}; change it, or open with "
        "allow_unsafe=True to run with the weaker promise"
    )


@dataclass(eq=False, kw_only=True)
class SchemaNewerError(StoreError):
    """The store was written by a newer Holdfast; it is not changed."""

    store: str
    found: int
    known: int
    code = "schema_newer"
    text = (
        "{store} has schema {found}, this Holdfast knows {known}; upgrade Holdfast, "
        "or open it with read_only=True to read and export"
    )


@dataclass(eq=False, kw_only=True)
class MigrationChangedError(StoreError):
    """An applied migration is not the one this Holdfast ships."""

    number: int
    code = "migration_changed"
    text = "migration {number:04d} was applied with another text; this is not a released schema"


@dataclass(eq=False, kw_only=True)
class DamagedError(StoreError):
    """A stored item does not match its digest; it is named and not served."""

    what: str
    name: str
    reason: str
    sequence: int | None = None
    code = "damaged"
    status = 500
    text = "damaged {what} {name!r} (sequence {sequence}): {reason}; run `holdfast verify`"


@dataclass(eq=False, kw_only=True)
class UncheckedError(StoreError):
    """A check could not read everything; what it did not reach may be anything."""

    reason: str
    findings: tuple[tuple[str, str, int | None, str], ...] = ()
    code = "unchecked"
    text = "the check could not complete ({reason}); what was not reached may be anything"


@dataclass(eq=False, kw_only=True)
class QueueFullError(StoreError):
    """The write queue stayed full for the whole wait limit; the unit was not accepted."""

    items: int
    size_bytes: int
    waited: float
    code = "queue_full"
    text = (
        "the write queue stayed full ({items} units, {size_bytes} bytes) for {waited:g} s; "
        "nothing was written; slow down or raise queue_items / queue_bytes"
    )


@dataclass(eq=False, kw_only=True)
class MissingExtraError(StoreError):
    """An optional dependency is not installed."""

    feature: str
    extra: str
    code = "missing_extra"
    status = 501
    text = "{feature} needs an extra: pip install 'holdfast[{extra}]'"


# Conflict: somebody else was first.


class ConflictError(HoldfastError):
    """An expectation of the unit does not hold; nothing of it was written."""

    code = "conflict"
    status = 409


@dataclass(eq=False, kw_only=True)
class SequenceConflictError(ConflictError):
    """The stream is not at the expected sequence."""

    stream: str
    expected: int
    actual: int
    code = "sequence_conflict"
    text = "stream {stream!r} is at sequence {actual}, expected {expected}; read on and retry"


@dataclass(eq=False, kw_only=True)
class VersionConflictError(ConflictError):
    """The record is not at the expected version (0 means absent)."""

    kind: str
    key: tuple[str, ...]
    expected: int
    actual: int
    code = "version_conflict"
    text = "record {kind} {key!r} is at version {actual}, expected {expected}; read and retry"


@dataclass(eq=False, kw_only=True)
class StreamClosedError(ConflictError):
    """The stream was closed for good; nothing can be appended."""

    stream: str
    sequence: int
    code = "stream_closed"
    text = "stream {stream!r} was closed at sequence {sequence}; start another stream"


@dataclass(eq=False, kw_only=True)
class SnapshotAheadError(ConflictError):
    """A snapshot claims a sequence that its stream has not reached."""

    name: str
    stream: str
    sequence: int
    actual: int
    code = "snapshot_ahead"
    text = "snapshot {name!r} is of sequence {sequence}, stream {stream!r} is at {actual}"


@dataclass(eq=False, kw_only=True)
class StoreExistsError(ConflictError):
    """A store was to be made where one is; it was not changed."""

    store: str
    code = "store_exists"
    text = "there is a store at {store}; choose another place, or move that one away first"


# Fence: the caller is not, or no longer, the owner.


class FenceError(HoldfastError):
    """The right to act is missing; nothing of the unit was written."""

    code = "fence"
    status = 409


@dataclass(eq=False, kw_only=True)
class LeaseHeldError(FenceError):
    """Somebody else holds the lease."""

    key: str
    holder: str
    generation: int
    remaining: float
    code = "lease_held"
    text = "lease {key!r} is held by {holder} (generation {generation}) for {remaining:.3g} s more"


@dataclass(eq=False, kw_only=True)
class LeaseExpiredError(FenceError):
    """The lease ran out; the owner has to stop and may grant it anew."""

    key: str
    generation: int
    code = "lease_expired"
    text = "lease {key!r} generation {generation} has expired; stop, then ask for a new one"


@dataclass(eq=False, kw_only=True)
class StaleGenerationError(FenceError):
    """The lease is owned under another generation or by another incarnation."""

    key: str
    generation: int
    actual: int
    code = "stale_generation"
    text = "lease {key!r} is at generation {actual}, not {generation}; another owner took over"


@dataclass(eq=False, kw_only=True)
class IncarnationFencedError(FenceError):
    """The store below this process is not the one it opened: replaced, cloned or restored."""

    store: str
    reason: str
    code = "incarnation_fenced"
    text = "{store} is no longer the store this process opened ({reason}); close and open again"


# Not found.


class NotFoundError(HoldfastError):
    """What was asked for does not exist."""

    code = "not_found"
    status = 404


@dataclass(eq=False, kw_only=True)
class StoreNotFoundError(NotFoundError):
    """A store was opened for reading, and there is none."""

    store: str
    code = "store_not_found"
    text = "there is no store at {store}; open it for writing to make one"


@dataclass(eq=False, kw_only=True)
class StreamNotFoundError(NotFoundError):
    """No such stream."""

    stream: str
    code = "stream_not_found"
    text = "there is no stream {stream!r}"


@dataclass(eq=False, kw_only=True)
class RecordNotFoundError(NotFoundError):
    """No such record."""

    kind: str
    key: tuple[str, ...]
    code = "record_not_found"
    text = "there is no record {kind} {key!r}"


@dataclass(eq=False, kw_only=True)
class BlobNotFoundError(NotFoundError):
    """No such blob."""

    digest: str
    code = "blob_not_found"
    text = "there is no blob {digest}"


# State: right request, wrong moment.


class StateError(HoldfastError):
    """The runtime, store or stream is not in a state that allows this."""

    code = "state"
    status = 409


@dataclass(eq=False, kw_only=True)
class ClosedError(StateError):
    """The store was closed."""

    store: str
    code = "closed"
    status = 503
    text = "{store} is closed; open it again"


@dataclass(eq=False, kw_only=True)
class ForkedError(StateError):
    """The store was opened before a fork; connections do not survive one."""

    opened_by: int
    used_by: int
    code = "forked"
    text = "the store was opened by process {opened_by}, not {used_by}; open it after the fork"


@dataclass(eq=False, kw_only=True)
class ReadOnlyError(StateError):
    """The store was opened for reading only."""

    store: str
    code = "read_only"
    text = "{store} was opened with read_only=True"


@dataclass(eq=False, kw_only=True)
class TooOldError(StateError):
    """The events asked for were removed by retention."""

    stream: str
    after: int
    first_sequence: int
    code = "too_old"
    status = 410
    text = "stream {stream!r} begins at sequence {first_sequence}; after={after} is too old"


# Codec: a value cannot be stored or read exactly.


class CodecError(HoldfastError):
    """A value does not survive the way to the disk and back."""

    code = "codec"
    status = 422


@dataclass(eq=False, kw_only=True)
class EncodeError(CodecError):
    """A value cannot be stored exactly."""

    path: str
    reason: str
    code = "encode"
    text = "{path}: {reason}"


@dataclass(eq=False, kw_only=True)
class DecodeError(CodecError):
    """Stored bytes are intact but not of the shape asked for."""

    what: str
    reason: str
    code = "decode"
    text = "{what}: {reason}"


@dataclass(eq=False, kw_only=True)
class DamagedFileError(CodecError):
    """A file that Holdfast wrote is not whole any more; nothing of it was taken over."""

    file: str
    line: int
    reason: str
    code = "damaged_file"
    text = "{file}, line {line}: {reason}; nothing was imported; export it again"


@dataclass(eq=False, kw_only=True)
class InvalidValueError(CodecError):
    """A name, key or option is not acceptable."""

    what: str
    reason: str
    code = "invalid_value"
    text = "{what}: {reason}"


@dataclass(eq=False, kw_only=True)
class LimitError(CodecError):
    """A value is larger than the limit for its kind."""

    what: str
    size: int
    limit: int
    code = "limit"
    status = 413
    text = "{what} is {size}, the limit is {limit}"
