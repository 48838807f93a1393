"""
What happens, told to whoever measures: notices and spans, and the hooks that take them.

A *notice* is something that happened, by name, with labels of few values and with numbers; which
metric it feeds is said once, in `core.metrics`. A *span* is a stretch of time of one run: a
segment (from the moment a runtime takes the run until it lets go of it) or a step within one. A
run that lives for weeks is many segments, each linked to the one before.

Identifiers of runs are in spans, never in labels. The id of a span depends on the run and the
attempt alone, so whoever goes on after a crash can name the span of the one that died.

Invariants: a hook that raises breaks nobody: it is counted, and logged the first time; without
hooks `listens` and `traces` are False, and nothing else is asked on a hot path. Hooks are called
where things happen: from the loop and from the thread that commits.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

import msgspec

log = logging.getLogger("holdfast")
WORD_MAX: Final = 60
_NONE: Final[Mapping[str, Any]] = {}
_DIGITS: Final = re.compile(r"(?<![^\W_])[A-Fa-f]*[0-9]\w*|[0-9]\w*")
Attributes = Mapping[str, str | int | float | bool]


class Notice(NamedTuple):
    """
    Something that happened.

    Attributes:
        name: what; a name that `core.metrics` knows.
        labels: of few values each, never an identifier.
        numbers: seconds, bytes, counts.
    """

    name: str
    labels: Mapping[str, str] = _NONE
    numbers: Mapping[str, float] = _NONE


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """
    A stretch of time of one run.

    Attributes:
        kind: `segment` or `step`.
        name: of the function or the step.
        trace: what it belongs to: the id of the run.
        id: which one within the trace.
        parent: id of the span it is part of; empty if none.
        links: ids of spans of the same trace that came before.
        attributes: what else is known.
    """

    kind: str
    name: str
    trace: str
    id: str
    parent: str = ""
    links: tuple[str, ...] = ()
    attributes: Attributes = {}


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """
    How a span ended.

    Attributes:
        outcome: in a word: `succeeded`, `failed`, `waiting`, `cancelled` ...
        error: type of the error; empty unless it failed. Waiting for a person and being
            cancelled are no errors.
        attributes: what else is known by now.
    """

    outcome: str
    error: str = ""
    attributes: Attributes = {}


@runtime_checkable
class Listener(Protocol):
    """A hook that takes notices."""

    def notice(self, notice: Notice) -> None:
        """Take what happened; from any thread, quickly."""
        ...


@runtime_checkable
class Tracer(Protocol):
    """A hook that takes spans."""

    def begin(self, span: Span) -> None:
        """Take a span that begins; of a step, in the task that runs it."""
        ...

    def end(self, span: Span, ended: Ended) -> None:
        """Take its end; of one that never began here, or ended before, nothing is to be done."""
        ...


Hook = Listener | Tracer


class Telemetry:
    """
    The hooks of one runtime.

    Attributes:
        listens: somebody takes notices.
        traces: somebody takes spans.
        failures: how often a hook raised.
    """

    __slots__ = ("_failed", "_listeners", "_tracers", "failures", "listens", "traces")

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        """Take the hooks; more can be added."""
        self._listeners: tuple[Listener, ...] = ()
        self._tracers: tuple[Tracer, ...] = ()
        self._failed: set[int] = set()
        self.failures = 0
        self.listens = self.traces = False
        for hook in hooks:
            self.add(hook)

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """All hooks, each once."""
        return tuple(dict.fromkeys((*self._listeners, *self._tracers)))

    def add(self, hook: object) -> None:
        """
        Tell this hook, too, from now on.

        Raises:
            TypeError: it takes neither notices nor spans.
        """
        if not isinstance(hook, Listener | Tracer):
            raise TypeError(f"{type(hook).__name__} has neither notice() nor begin() and end()")
        if isinstance(hook, Listener):
            self._listeners = (*self._listeners, hook)
            self.listens = True
        if isinstance(hook, Tracer):
            self._tracers = (*self._tracers, hook)
            self.traces = True

    def tell(
        self,
        name: str,
        labels: Mapping[str, str] = _NONE,
        numbers: Mapping[str, float] = _NONE,
    ) -> None:
        """Tell what happened; on a hot path ask `listens` first."""
        notice = Notice(name, labels, numbers)
        for listener in self._listeners:
            self._call(listener, listener.notice, notice)

    def redacted(self, rule: str) -> None:
        """Tell that a value was replaced before it was stored."""
        self.tell("value.redacted", {"rule": rule}, {"count": 1})

    def begin(self, span: Span) -> None:
        """Tell that a span begins; ask `traces` first."""
        for tracer in self._tracers:
            self._call(tracer, tracer.begin, span)

    def end(self, span: Span, ended: Ended) -> None:
        """Tell that a span ended; ask `traces` first."""
        for tracer in self._tracers:
            self._call(tracer, tracer.end, span, ended)

    def _call(self, hook: Hook, function: Callable[..., None], *told: Any) -> None:
        try:
            function(*told)
        except Exception:
            self.failures += 1
            if id(hook) not in self._failed:
                self._failed.add(id(hook))
                log.exception("event=hook_failed hook=%s", type(hook).__name__)


def bounded(name: str) -> str:
    """
    Return a name that programs make up, as a label: numbers and hexadecimal ids become `#`.

    `page-17` and `page-18` are one step to whoever counts steps.
    """
    return _DIGITS.sub("#", name)[:WORD_MAX]
