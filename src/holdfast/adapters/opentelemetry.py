"""
Traces for OpenTelemetry: a trace per run, a span per segment of it, a span per step.

    from holdfast.adapters.opentelemetry import Traces

    async with holdfast.open(url, telemetry=[Traces()]) as rt:
        ...

A run that lives for weeks is never one open span. Each time a runtime takes it a span begins,
linked to the one before; it ends when the run waits, pauses, ends or goes elsewhere. After a crash
the next segment says `holdfast.run.recovered` and is linked to the one that never ended. The id of
the trace is made of the run's id, so it can be computed (`trace_id_of`) and is the same in every
process. While a step runs its span is the current one, so whatever it calls is part of it.

Invariants: waiting, pausing and being cancelled are no errors of a span; no content of the store
is in one: of an error only its type. With the SDK's provider also the ids of the spans are made of
run and attempt, so that links lead to the spans of a process that died; with any other provider
the trace is the same and the links name spans that provider numbered differently.
"""

import hashlib
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any, Final, NamedTuple, Protocol

from holdfast.adapters.genai import SCHEMA_URL, GenAi
from holdfast.core.errors import MissingExtraError
from holdfast.core.telemetry import Attributes, Ended, Span, bounded

try:
    from opentelemetry import context as contexts
    from opentelemetry import trace as traces
except ImportError as error:
    raise MissingExtraError(feature="OpenTelemetry", extra="traces") from error

__all__ = ["GenAi", "Traces", "span_id_of", "trace_id_of"]

_OPEN_MAX: Final = 100_000
_NEXT: ContextVar[tuple[int, int] | None] = ContextVar("holdfast_span_ids", default=None)


class _Ids(Protocol):
    """What the SDK asks for ids."""

    def generate_span_id(self) -> int: ...

    def generate_trace_id(self) -> int: ...


class _GivenIds:
    """Gives the ids of the span that is just begun, and those of another source to others."""

    def __init__(self, others: _Ids) -> None:
        self._others = others

    def generate_span_id(self) -> int:
        given = _NEXT.get()
        return self._others.generate_span_id() if given is None else given[1]

    def generate_trace_id(self) -> int:
        given = _NEXT.get()
        return self._others.generate_trace_id() if given is None else given[0]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._others, name)


class _Begun(NamedTuple):
    """A span that began, and what was current before it, if it is the current one."""

    span: traces.Span
    token: Token[contexts.Context] | None


class Traces:
    """A hook that makes spans."""

    def __init__(
        self, provider: traces.TracerProvider | None = None, genai: GenAi | None = None
    ) -> None:
        """
        Take where spans go.

        Args:
            provider: of tracers; the one that is set for the process if not given.
            genai: also say what a span is by the conventions for generative AI.
        """
        chosen = provider or traces.get_tracer_provider()
        self._tracer = chosen.get_tracer("holdfast", schema_url=SCHEMA_URL if genai else None)
        self._genai = genai
        self._begun: dict[tuple[str, str], _Begun] = {}
        others: Any = getattr(self._tracer, "id_generator", None)
        self._gives_ids = others is not None
        if self._gives_ids:
            # Of this tracer alone: it was made for us.
            self._tracer.id_generator = _GivenIds(others)  # type: ignore[attr-defined]

    def begin(self, span: Span) -> None:
        """Begin a span; that of a step becomes the current one."""
        links = [traces.Link(_context_of(span.trace, id)) for id in span.links]
        attributes = {**_named(span.attributes), **(self._genai.of(span) if self._genai else {})}
        given = _NEXT.set((trace_id_of(span.trace), span_id_of(span.trace, span.id)))
        try:
            begun = self._tracer.start_span(
                f"{'run' if span.kind == 'segment' else span.kind} {bounded(span.name)}",
                context=self._parent(span),
                links=links,
                attributes=attributes,
            )
        finally:
            _NEXT.reset(given)
        token = None
        if span.kind == "step":
            token = contexts.attach(traces.set_span_in_context(begun))
        self._begun[span.trace, span.id] = _Begun(begun, token)
        if len(self._begun) > _OPEN_MAX:
            del self._begun[next(iter(self._begun))]

    def end(self, span: Span, ended: Ended) -> None:
        """End a span; one that is not open here is none of ours."""
        found = self._begun.pop((span.trace, span.id), None)
        if found is None:
            return
        if found.token is not None:
            contexts.detach(found.token)
        found.span.set_attributes(_named({"outcome": ended.outcome, **ended.attributes}))
        if ended.error:
            found.span.set_attribute("error.type", ended.error)
            found.span.set_status(traces.Status(traces.StatusCode.ERROR, ended.error))
        found.span.end()

    def _parent(self, span: Span) -> contexts.Context:
        """Return in what a span begins: its parent, or nothing."""
        nothing = contexts.Context()
        if span.parent:
            open = self._begun.get((span.trace, span.parent))
            if open is not None:
                return traces.set_span_in_context(open.span, nothing)
        if span.parent or not self._gives_ids:
            parent = traces.NonRecordingSpan(_context_of(span.trace, span.parent))
            return traces.set_span_in_context(parent, nothing)
        return nothing


def trace_id_of(run_id: str) -> int:
    """Return the id of the trace of a run."""
    return int.from_bytes(hashlib.sha256(f"holdfast.run\0{run_id}".encode()).digest()[:16])


def span_id_of(run_id: str, id: str) -> int:
    """Return the id of a span of a run: of a segment, by the number of its attempt."""
    return int.from_bytes(hashlib.sha256(f"holdfast.span\0{run_id}\0{id}".encode()).digest()[:8])


def _context_of(run_id: str, id: str) -> traces.SpanContext:
    sampled = traces.TraceFlags(traces.TraceFlags.SAMPLED)
    return traces.SpanContext(trace_id_of(run_id), span_id_of(run_id, id), True, sampled)


def _named(attributes: Attributes) -> Mapping[str, str | int | float | bool]:
    """Return attributes under our name, without those that say nothing."""
    return {f"holdfast.{name}": value for name, value in attributes.items() if value != ""}
