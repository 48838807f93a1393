"""
The journal of a run: what each of its events says.

Events are plain maps to whoever reads the stream `run/<run_id>`; here each has its shape. Values
of the program (arguments, results, answers) are kept as they were encoded, so that reading a
journal does not decode what nobody asks for.

Invariant: a payload that was written is read back equal; an event of an unknown type, or of
another shape, is an error, never skipped.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, Literal

import msgspec

from holdfast.core.errors import DecodeError

USER_PREFIX: Final = "user."
"""How the types of events begin that a program emits itself."""
NOTHING: Final = msgspec.Raw(b"\xc0")


class Effect(StrEnum):
    """What may be done with a step that was begun and has no result after a crash."""

    SAFE = "safe"
    """It runs again."""

    IDEMPOTENT = "idempotent"
    """It runs again, with the same key."""

    ONCE = "once"
    """It may have happened: it never runs again by itself."""


EffectName = Literal["safe", "idempotent", "once"]


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    An error as it is kept.

    Attributes:
        type: name of the exception's class.
        message: what it said.
        code: code of an error of Holdfast.
    """

    type: str
    message: str = ""
    code: str = ""


class Payload(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What an event of a journal says; as plain fields, so that others can read it."""


class Started(Payload, frozen=True, omit_defaults=True):
    """
    `run.started`: everything that is captured of a run when it begins.

    Attributes:
        function, version: what is executed.
        args: encoded arguments; empty if `blob` names where they are.
        inputs: the beginning of the arguments as text, to be searched and shown.
        key: with which it was started, so that starting again gives the same run.
        seed: drawn once, part of the keys of its effects.
        origin: run it was forked from, with the sequence up to which it took the journal over.
        changed: steps whose results were replaced in a fork.
        blocked: steps that the origin did and that must not simply be done again.
    """

    function: str
    version: str
    at: float
    seed: str
    args: list[msgspec.Raw] = []
    blob: bytes = b""
    labels: dict[str, str] = {}
    queue: str = ""
    priority: int = 0
    parent: str = ""
    origin: str = ""
    origin_sequence: int = 0
    changed: list[str] = []
    blocked: list[str] = []
    inputs: str = ""
    key: str = ""


class Dispatched(Payload, frozen=True):
    """`run.dispatched`: a runtime takes it; `attempt` counts these."""

    attempt: int
    at: float
    runtime: str


class StepStarted(Payload, frozen=True, omit_defaults=True):
    """`step.started`: durable before the step, unless it is its first, safe attempt."""

    name: str
    n: int
    at: float
    attempt: int = 1
    effect: Effect = Effect.SAFE


class StepSucceeded(Payload, frozen=True, omit_defaults=True):
    """
    `step.succeeded`: the result is kept, and the step never runs again.

    Attributes:
        result: the encoded result; empty if `blob` names where it is.
        began, at: when it began and ended.
        mark: what the run shows of its progress from here on.
    """

    name: str
    n: int
    began: float
    at: float
    result: msgspec.Raw = NOTHING
    blob: bytes = b""
    attempt: int = 1
    effect: Effect = Effect.SAFE
    mark: Any = None


class StepFailed(Payload, frozen=True, omit_defaults=True):
    """`step.failed`: an attempt failed; `final` if no other follows by itself."""

    name: str
    n: int
    at: float
    error: Failure
    attempt: int = 1
    final: bool = False
    retry_in: float = 0.0
    effect: Effect = Effect.SAFE


class StepResolved(Payload, frozen=True, omit_defaults=True):
    """`step.resolved`: somebody said what became of an uncertain step."""

    name: str
    n: int
    verdict: Literal["done", "failed", "again"]
    at: float
    result: msgspec.Raw = NOTHING
    reason: str = ""
    by: str = ""


class Asked(Payload, frozen=True, omit_defaults=True):
    """
    `question.asked`: durable before anybody sees it.

    Attributes:
        n: which question of the run.
        name, nth: which of that name, by which a replay finds it; without them the n-th at all.
    """

    n: int
    id: str
    prompt: str
    at: float
    choices: list[Any] = []
    timeout: float = 0.0
    name: str = ""
    nth: int = 0


class Answered(Payload, frozen=True, omit_defaults=True):
    """`question.answered` or, with the default, `question.expired`."""

    n: int
    id: str
    value: msgspec.Raw
    at: float
    by: str = ""
    comment: str = ""


class Attached(Payload, frozen=True, omit_defaults=True):
    """`artifact.attached`: the bytes are durable, under their digest."""

    n: int
    id: str
    name: str
    digest: bytes
    size: int
    media_type: str
    at: float


class Received(Payload, frozen=True, omit_defaults=True):
    """`artifact.received`: somebody outside put bytes beside the run; they are durable."""

    n: int
    id: str
    name: str
    digest: bytes
    size: int
    media_type: str
    at: float
    by: str = ""


class TimerSet(Payload, frozen=True):
    """`timer.set`: the run sleeps."""

    n: int
    seconds: float
    at: float


class TimerFired(Payload, frozen=True):
    """`timer.fired`: `wait` is what it ends."""

    wait: str
    at: float


class SignalReceived(Payload, frozen=True, omit_defaults=True):
    """`signal.received`: somebody sent something."""

    name: str
    value: msgspec.Raw
    at: float
    by: str = ""


class SignalTaken(Payload, frozen=True):
    """`signal.taken`: the n-th wait for a name got the signal with this number of that name."""

    name: str
    n: int
    index: int
    at: float


class ChildStarted(Payload, frozen=True):
    """`child.started`: in the unit that starts the child."""

    n: int
    id: str
    at: float


class ChildEnded(Payload, frozen=True, omit_defaults=True):
    """`child.ended`: in the unit that ends the child."""

    id: str
    status: str
    at: float
    result: msgspec.Raw = NOTHING
    blob: bytes = b""
    error: Failure | None = None


class Emitted(Payload, frozen=True):
    """An event of the program's own, its type behind `USER_PREFIX`."""

    n: int
    data: msgspec.Raw


class Waiting(Payload, frozen=True, omit_defaults=True):
    """`run.waiting`: for whichever of these comes first, each as `kind:which`."""

    waits: list[str]
    at: float


class Queued(Payload, frozen=True, omit_defaults=True):
    """`run.queued`: it may go on; `cause` is what arrived, or why its owner let it go."""

    at: float
    cause: str = ""


class Pausing(Payload, frozen=True, omit_defaults=True):
    """`run.pausing`, `run.paused`, `run.cancelled`: why, and who wanted it."""

    at: float
    reason: str = ""
    by: str = ""
    uncertain: list[str] = []


class Resumed(Payload, frozen=True, omit_defaults=True):
    """
    `run.resumed`: it goes on.

    Attributes:
        version: accepted in place of the captured one, if it was forced.
        retry: steps that gave up get their attempts anew.
    """

    at: float
    by: str = ""
    version: str | None = None
    retry: bool = False


class Cancelling(Payload, frozen=True, omit_defaults=True):
    """`run.cancelling`: it ends now, or after the step under way."""

    at: float
    mode: Literal["now", "after_step"] = "now"
    reason: str = ""
    by: str = ""


class Diverged(Payload, frozen=True):
    """`run.diverged`: the function asked for something else than it did before."""

    at: float
    expected: str
    asked: str


class Succeeded(Payload, frozen=True, omit_defaults=True):
    """`run.succeeded`."""

    at: float
    result: msgspec.Raw = NOTHING
    blob: bytes = b""


class Failed(Payload, frozen=True):
    """`run.failed`."""

    at: float
    error: Failure


EVENTS: Final[dict[str, type[Payload]]] = {
    "run.started": Started,
    "run.dispatched": Dispatched,
    "step.started": StepStarted,
    "step.succeeded": StepSucceeded,
    "step.failed": StepFailed,
    "step.resolved": StepResolved,
    "question.asked": Asked,
    "question.answered": Answered,
    "question.expired": Answered,
    "artifact.attached": Attached,
    "artifact.received": Received,
    "timer.set": TimerSet,
    "timer.fired": TimerFired,
    "signal.received": SignalReceived,
    "signal.taken": SignalTaken,
    "child.started": ChildStarted,
    "child.ended": ChildEnded,
    "run.waiting": Waiting,
    "run.queued": Queued,
    "run.pausing": Pausing,
    "run.paused": Pausing,
    "run.resumed": Resumed,
    "run.cancelling": Cancelling,
    "run.diverged": Diverged,
    "run.succeeded": Succeeded,
    "run.failed": Failed,
    "run.cancelled": Pausing,
}
_DECODERS: Final[dict[str, Callable[[bytes], Payload]]] = {
    name: msgspec.msgpack.Decoder(shape).decode for name, shape in EVENTS.items()
}
_EMITTED: Final = msgspec.msgpack.Decoder(Emitted).decode


def read_payload(type: str, payload: bytes) -> Payload:
    """
    Return what an event of a journal says.

    Raises:
        DecodeError: it is no event of a journal.
    """
    decoder = _DECODERS.get(type)
    if decoder is None and type.startswith(USER_PREFIX):
        decoder = _EMITTED
    try:
        if decoder is None:
            raise DecodeError(what=f"journal event {type}", reason="is not known")
        return decoder(payload)
    except msgspec.DecodeError as error:
        raise DecodeError(what=f"journal event {type}", reason="has another shape") from error


def encode_said(said: Payload) -> bytes:
    """Return the payload of an event; its values were checked when they came in."""
    return msgspec.msgpack.encode(said)
