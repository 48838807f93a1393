"""
What the service refuses before it asks the runtime: who asks, from where, in which form; and
what only those meet who look at runs from outside.

They belong to the families of `core.errors` and are made like the errors there.
"""

from dataclasses import dataclass, field

from holdfast.core.errors import CodecError, ConflictError, NotFoundError, StateError, StoreError

# The form of a request.


@dataclass(eq=False, kw_only=True)
class MalformedError(CodecError):
    """The body, a parameter or a header is not of the form it has to have."""

    what: str
    reason: str
    code = "malformed"
    status = 400
    text = "{what} {reason}"


@dataclass(eq=False, kw_only=True)
class InvalidRequestError(CodecError):
    """A field of the request is not acceptable; `errors` says which, by JSON pointer."""

    errors: tuple[tuple[str, str], ...] = field(default=())
    code = "invalid_request"
    text = "the request is not acceptable: {errors}"

    def __post_init__(self) -> None:
        """Render the message from the fields."""
        words = "; ".join(f"{pointer or '/'}: {reason}" for pointer, reason in self.errors)
        Exception.__init__(self, self.text.format(errors=words))


@dataclass(eq=False, kw_only=True)
class CursorError(CodecError):
    """A cursor is not one of ours, or belongs to another listing."""

    reason: str
    code = "bad_cursor"
    status = 400
    text = "the cursor {reason}; begin again without it"


@dataclass(eq=False, kw_only=True)
class CursorResetError(StateError):
    """The cursor is of another life of this store, or beyond its end; begin at `earliest`."""

    reason: str
    earliest: str
    latest: str
    code = "cursor_reset"
    status = 410
    text = "the cursor {reason}; the log has {earliest} to {latest}"


@dataclass(eq=False, kw_only=True)
class MediaTypeError(CodecError):
    """The body is of a media type that is not taken here."""

    found: str
    needed: str
    code = "media_type"
    status = 415
    text = "the body is {found!r}, needed is {needed}"


@dataclass(eq=False, kw_only=True)
class RouteNotFoundError(NotFoundError):
    """
    There is nothing under this path.

    Which path is not repeated: what was asked for may hold a secret.
    """

    code = "route_not_found"
    text = "there is nothing at this path; see /v1/openapi.json"


@dataclass(eq=False, kw_only=True)
class MethodNotAllowedError(StateError):
    """The path takes other methods."""

    method: str
    allowed: tuple[str, ...]
    code = "method_not_allowed"
    status = 405
    text = "{method} is not taken here, only {allowed}"


@dataclass(eq=False, kw_only=True)
class DiskLowError(StoreError):
    """Too little room is left on the disk of the store for work that begins."""

    free: int
    floor: int
    code = "disk_low"
    text = "{free} bytes are free on the disk of the store, {floor} have to be; make room"


@dataclass(eq=False, kw_only=True)
class FunctionNotFoundError(NotFoundError):
    """No function of this name is registered with the runtime."""

    function: str
    known: tuple[str, ...]
    code = "function_not_found"
    status = 422
    text = "no function {function!r} is registered here; known: {known}"


# Doing a thing once.


@dataclass(eq=False, kw_only=True)
class KeyReusedError(CodecError):
    """An idempotency key came with other content before."""

    key: str
    code = "idempotency_key_reused"
    text = "the idempotency key {key!r} was used for another request; draw a new one"


@dataclass(eq=False, kw_only=True)
class KeyBusyError(ConflictError):
    """A request with this idempotency key is being worked on."""

    key: str
    code = "idempotency_key_busy"
    text = "a request with the idempotency key {key!r} is under way; ask again soon"


@dataclass(eq=False, kw_only=True)
class PreconditionFailedError(ConflictError):
    """What is there is not the version that `If-Match` names."""

    expected: str
    actual: str
    code = "precondition_failed"
    status = 412
    text = "it is at version {actual}, not {expected}; read and decide again"


@dataclass(eq=False, kw_only=True)
class PreconditionRequiredError(StateError):
    """The request needs `If-Match`, so that nothing is changed that was not seen."""

    header: str
    code = "precondition_required"
    status = 428
    text = "the header {header} is needed; read first and send the ETag"


# Who asks, and from where.


@dataclass(eq=False, kw_only=True)
class UnauthorizedError(StateError):
    """No token came with the request, or none that is valid."""

    reason: str
    code = "unauthorized"
    status = 401
    text = "{reason}; send `Authorization: Bearer TOKEN`, see `holdfast token --help`"


@dataclass(eq=False, kw_only=True)
class ForbiddenError(StateError):
    """The token is valid, and does not allow this."""

    needed: str
    reason: str = ""
    code = "forbidden"
    status = 403
    text = "this needs the right {needed!r}; {reason}"


@dataclass(eq=False, kw_only=True)
class CrossSiteError(StateError):
    """A browser sent the request on behalf of another site."""

    reason: str
    code = "cross_site"
    status = 403
    text = "refused: {reason}"


@dataclass(eq=False, kw_only=True)
class HostRefusedError(StateError):
    """The request names a host that is not served here, as after DNS rebinding."""

    host: str
    code = "host_refused"
    status = 421
    text = "the host {host!r} is not served here; allow it with --host-name"


@dataclass(eq=False, kw_only=True)
class TooManyError(StateError):
    """More requests or streams than one caller may have."""

    what: str
    limit: float
    retry_after: float = 1.0
    code = "too_many"
    status = 429
    text = "too many {what}, at most {limit:g}; come back in {retry_after:g} s"


# What only who looks from outside asks for.


@dataclass(eq=False, kw_only=True)
class QuestionClaimedError(ConflictError):
    """Somebody else is about to answer the question; after a while it is free again."""

    question_id: str
    by: str
    remaining: float
    code = "question_claimed"
    text = "question {question_id!r} is claimed by {by!r} for {remaining:.0f} s"


@dataclass(eq=False, kw_only=True)
class CheckpointNotFoundError(NotFoundError):
    """The journal of the run has no such place."""

    run_id: str
    checkpoint: int
    code = "checkpoint_not_found"
    text = "run {run_id!r} has no checkpoint {checkpoint}"


@dataclass(eq=False, kw_only=True)
class ArtifactExistsError(ConflictError):
    """The run has an artifact of this name with other bytes; artifacts do not change."""

    run_id: str
    name: str
    digest: str
    code = "artifact_exists"
    text = "run {run_id!r} has an artifact {name!r} with the digest {digest}; take another name"


@dataclass(eq=False, kw_only=True)
class RangeError(CodecError):
    """The range lies behind the end of the bytes."""

    size: int
    code = "range"
    status = 416
    text = "there are {size} bytes; the range is not within them"


@dataclass(eq=False, kw_only=True)
class OperationNotFoundError(NotFoundError):
    """There is no operation on many runs with this id."""

    operation_id: str
    code = "operation_not_found"
    text = "there is no operation {operation_id!r}"


@dataclass(eq=False, kw_only=True)
class BulkCountError(ConflictError):
    """The selection has another number of runs than expected; nothing was begun."""

    expected: int
    count: int
    code = "bulk_count"
    text = "the selection has {count} runs, expected were {expected}; look again what it selects"


# What only a client meets.


@dataclass(eq=False, kw_only=True)
class UnreachableError(StoreError):
    """No service answered; whether the last request was done is known to its key alone."""

    reason: str
    code = "unreachable"
    text = "the service cannot be reached ({reason}); ask again with the same idempotency key"


@dataclass(eq=False, kw_only=True)
class TokenNotFoundError(NotFoundError):
    """There is no token of this id, or it was revoked."""

    token_id: str
    code = "token_not_found"
    text = "there is no token {token_id!r}; `holdfast token list` shows those there are"


@dataclass(eq=False, kw_only=True)
class WorkerNotFoundError(NotFoundError):
    """No runtime of this id has the store open."""

    worker_id: str
    code = "worker_not_found"
    text = "there is no worker {worker_id!r}; `holdfast worker list` shows those there are"


# Requests that are too much.


@dataclass(eq=False, kw_only=True)
class UrlTooLongError(CodecError):
    """The address is longer than anybody needs."""

    size: int
    limit: int
    code = "url_too_long"
    status = 414
    text = "the address has {size} characters, at most {limit}"


@dataclass(eq=False, kw_only=True)
class HeadersTooLargeError(CodecError):
    """More headers than anybody needs."""

    size: int
    limit: int
    code = "headers_too_large"
    status = 431
    text = "the request has {size} headers, at most {limit}"


@dataclass(eq=False, kw_only=True)
class SlowRequestError(StateError):
    """The body did not come in time."""

    seconds: float
    code = "slow_request"
    status = 408
    text = "the body did not come within {seconds:g} s"
