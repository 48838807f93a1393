"""
Traces: a span per segment of a run, linked over a SIGKILL; steps within them.
"""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace as traces
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import holdfast
from holdfast import Run
from holdfast.adapters.opentelemetry import GenAi, Traces, span_id_of, trace_id_of
from holdfast.core.telemetry import Ended, Span
from tests.adapters.measured import (
    ASKING,
    ENDED,
    HALTED,
    KIND,
    asked,
    finish,
    live_and_die,
    report,
    told,
    tracing,
)

Spans = list[dict[str, Any]]


@pytest.fixture
def lives(kept_url: str, tmp_path: Path) -> tuple[Spans, Spans]:
    """The spans that had ended before a kill, and those of the next life."""
    live_and_die(kept_url, tmp_path)
    before = [json.loads(line) for line in (tmp_path / "spans").read_text().splitlines()]
    hook, exporter = tracing()

    async def live() -> None:
        async with holdfast.open(kept_url, telemetry=[hook], functions=[report]) as rt:
            await finish(rt)

    asyncio.run(live())
    return before, [told(span) for span in exporter.get_finished_spans()]


def segments(spans: Spans, run_id: str) -> Spans:
    """Return the segments of a run."""
    own = [span for span in spans if span["attributes"]["holdfast.run.id"] == run_id]
    return [span for span in own if span["name"] == f"run {KIND}"]


def test_a_trace_is_that_of_a_run_in_every_process(lives: tuple[Spans, Spans]) -> None:
    """Issue 7, traces: the id of a trace is made of the run's id."""
    for spans in lives:
        assert spans
        for span in spans:
            assert span["trace"] == trace_id_of(span["attributes"]["holdfast.run.id"])
    assert len({trace_id_of(run_id) for run_id in (ENDED, ASKING, HALTED)}) == 3


def test_a_segment_is_linked_to_the_one_before_it(lives: tuple[Spans, Spans]) -> None:
    """Issue 7, traces: never one open span over weeks; what belongs together is linked."""
    before, after = lives
    first, second = segments(before, ENDED)
    assert (first["links"], first["parent"]) == ([], None)
    assert first["attributes"]["holdfast.outcome"] == "waiting"
    assert second["links"] == [[first["trace"], first["id"]]]
    assert second["attributes"]["holdfast.outcome"] == "succeeded"
    waited, went_on = segments(before, ASKING)[0], segments(after, ASKING)[0]
    assert went_on["links"] == [(waited["trace"], waited["id"])]
    assert went_on["attributes"]["holdfast.run.recovered"] is False


def test_a_recovery_is_a_segment_linked_to_the_one_that_never_ended(
    lives: tuple[Spans, Spans],
) -> None:
    """Issue 7, traces: recovery is a segment with a link and an attribute."""
    before, after = lives
    assert len(segments(before, HALTED)) == 1, "the one that was killed cannot have ended"
    (recovered,) = segments(after, HALTED)
    assert recovered["attributes"]["holdfast.run.recovered"] is True
    assert recovered["attributes"]["holdfast.run.attempt"] == 3
    assert recovered["links"] == [(trace_id_of(HALTED), span_id_of(HALTED, "2"))]


def test_a_step_is_part_of_its_segment(lives: tuple[Spans, Spans]) -> None:
    """Issue 7, traces: steps are child spans; one that was recorded has none again."""
    _, after = lives
    (recovered,) = segments(after, HALTED)
    steps = [span for span in after if span["name"].startswith("step ")]
    assert [span["attributes"]["holdfast.step.name"] for span in steps] == ["halt", "halt"]
    (own,) = [span for span in steps if span["parent"] == recovered["id"]]
    assert own["attributes"]["holdfast.step.attempt"] == 2
    assert own["attributes"]["holdfast.step.effect"] == "idempotent"


def run_all(folder: Path, hook: Traces, *functions: Any) -> None:
    """Run functions to their ends, whatever those are; cancel who waits."""
    folder.mkdir(exist_ok=True)

    async def run() -> None:
        url = f"sqlite:///{folder / 'store.db'}"
        async with holdfast.open(url, telemetry=[hook], functions=functions) as rt:
            for function in functions:
                labels = {"agent": "clerk", "session": "s-1"}
                handle = await rt.runs.start(function, run_id=function.__name__, labels=labels)
                if function is waits:
                    await asked(rt, handle.id)
                    await rt.runs.cancel(handle.id)
                await handle.ended()

    asyncio.run(run())


async def fails(run: Run) -> None:
    """Fail in a step."""

    def refuse() -> None:
        raise ValueError("card 4111 refused")

    await run.step("refuse", refuse)


async def waits(run: Run) -> None:
    """Wait for a person who never comes."""
    await run.ask("Are you there?")


async def calls(run: Run) -> None:
    """Do something that is traced, too, within a step."""

    def inner() -> None:
        with traces.get_tracer("app", tracer_provider=_app).start_as_current_span("request"):
            traces.get_current_span().set_attribute("gen_ai.usage.input_tokens", 12)

    await run.step("call", inner)


_exporter = InMemorySpanExporter()
_app = TracerProvider(shutdown_on_exit=False)
_app.add_span_processor(SimpleSpanProcessor(_exporter))


def test_only_a_failure_is_an_error_of_a_span(tmp_path: Path) -> None:
    """Issue 7, traces: waiting for a person and being cancelled are no errors."""
    hook, exporter = tracing()
    run_all(tmp_path, hook, fails, waits)
    spans = [told(span) for span in exporter.get_finished_spans()]
    for span in spans:
        failed = span["attributes"]["holdfast.run.id"] == "fails"
        assert span["status"] == ("ERROR" if failed else "UNSET"), span
        assert "4111" not in json.dumps(span), "content of the store is in a span"
    assert {span["attributes"].get("error.type") for span in spans} == {
        None,
        "ValueError",
        "StepFailedError",
    }


def test_what_a_step_calls_is_part_of_its_span(tmp_path: Path) -> None:
    """Issue 7, traces: while a step runs its span is the current one."""
    _exporter.clear()
    run_all(tmp_path, Traces(_app), calls)
    spans = {span["name"]: span for span in map(told, _exporter.get_finished_spans())}
    assert spans["request"]["parent"] == spans["step call"]["id"]
    assert spans["request"]["trace"] == trace_id_of("calls")
    assert traces.get_current_span() is traces.INVALID_SPAN


def test_an_id_that_is_not_ours_is_drawn_as_before(tmp_path: Path) -> None:
    """Issue 7, traces: only our own tracer is given ids."""
    drawn = _app.id_generator
    _exporter.clear()
    run_all(tmp_path, Traces(_app), calls)
    assert _app.id_generator is drawn
    assert traces.get_tracer("app", tracer_provider=_app).id_generator is drawn
    spans = {span["name"]: span["id"] for span in map(told, _exporter.get_finished_spans())}
    ours = {span_id_of("calls", "1"), span_id_of("calls", "1/call#1.1")}
    assert ours == set(spans.values()) - {spans["request"]}


def test_the_words_of_generative_ai_are_said_on_demand(tmp_path: Path) -> None:
    """Issue 7, traces: the conventions in development stand behind a switch."""
    for genai in (None, GenAi()):
        exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        run_all(tmp_path / str(genai is None), Traces(provider, genai), calls)
        spans = {span.name: span for span in exporter.get_finished_spans()}
        said = {
            name: {key: value for key, value in (span.attributes or {}).items() if "gen_ai" in key}
            for name, span in spans.items()
        }
        if genai is None:
            assert not any(said.values())
            continue
        assert said["step call"]["gen_ai.operation.name"] == "execute_tool"
        (run,) = [found for name, found in said.items() if name.startswith("run ")]
        assert run["gen_ai.operation.name"] == "invoke_agent"
        assert (run["gen_ai.agent.name"], run["gen_ai.conversation.id"]) == ("clerk", "s-1")
        scope = spans["step call"].instrumentation_scope
        assert scope is not None and scope.schema_url == "https://opentelemetry.io/schemas/1.41.0"


def test_with_a_foreign_provider_the_trace_is_the_same() -> None:
    """Issue 7, traces: without the SDK nothing fails, and the trace is that of the run."""
    hook = Traces(traces.NoOpTracerProvider())
    span = Span(kind="segment", name="report", trace="r", id="2", links=("1",))
    hook.begin(span)
    hook.end(span, Ended(outcome="waiting"))
    hook.end(span, Ended(outcome="lost"))


def test_nothing_is_logged_about_contexts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Issue 7, traces: a step that is cancelled leaves no context behind."""
    with caplog.at_level(logging.WARNING):
        run_all(tmp_path, tracing()[0], fails, calls)
    assert not [record for record in caplog.records if "context" in record.getMessage()]
