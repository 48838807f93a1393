"""
Runs that are measured, in a process of its own that kills itself; see `live_and_die`.

It starts three runs: one comes to its end, one waits for an answer, and one kills the
process with SIGKILL within its second step. Before that it leaves in FOLDER what it would have
told Prometheus (`metrics`) and the spans that had ended (`spans`, a line of JSON each).
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import holdfast
from holdfast import Run, Runtime
from holdfast.adapters.opentelemetry import Traces
from holdfast.adapters.prometheus import Metrics, exposition
from holdfast.core.refusal import AnswerConflictError

ENDED, ASKING, HALTED = "ended-7f3a", "asking-7f3a", "halted-7f3a"
RUN_IDS = (ENDED, ASKING, HALTED)
KIND = "tests.adapters.measured.report"
_PROGRAM = """
import asyncio, pathlib, sys
from tests.adapters.measured import main
asyncio.run(main(sys.argv[1], pathlib.Path(sys.argv[2])))
"""


async def plan(topic: str) -> str:
    """Do something."""
    return topic.upper()


async def halt(run_id: str, folder: str) -> str:
    """Die, the first time one of the runs comes here in a process that is to die."""
    if run_id == HALTED and not (Path(folder) / "halted").exists():
        (Path(folder) / "halted").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "went on"


async def report(run: Run, run_id: str, folder: str) -> str:
    """Take two steps, and ask in between."""
    await run.step(f"plan-{len(run_id) + 1000}", plan, run_id)
    if await run.ask("Go on?", choices=["yes", "no"]) == "no":
        raise ValueError("not wanted")
    return await run.step("halt", halt, run_id, folder, effect="idempotent")


def tracing() -> tuple[Traces, InMemorySpanExporter]:
    """Return a hook, and where its spans go."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Traces(provider), exporter


def told(span: ReadableSpan) -> dict[str, Any]:
    """Return what a test wants to know of a span."""
    context = span.get_span_context()
    assert context is not None
    return {
        "name": span.name,
        "trace": context.trace_id,
        "id": context.span_id,
        "parent": span.parent.span_id if span.parent else None,
        "links": [(link.context.trace_id, link.context.span_id) for link in span.links],
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
    }


async def asked(rt: Runtime, run_id: str) -> str:
    """Wait until a run asks, and return the id of the question."""
    while True:
        if questions := await rt.runs.questions.list(run_id=run_id):
            return questions[0].id
        await asyncio.sleep(0.01)


async def main(url: str, folder: Path) -> None:
    """Open, start, and die."""
    metrics, (traces, exporter) = Metrics(), tracing()
    async with holdfast.open(url, telemetry=[metrics, traces], functions=[report]) as rt:
        for run_id in RUN_IDS:
            await rt.runs.start(report, run_id, str(folder), run_id=run_id)
        await rt.runs.answer(await asked(rt, ENDED), "yes")
        await rt.runs.handle(ENDED).result()
        question = await asked(rt, HALTED)
        await asked(rt, ASKING)
        (folder / "metrics").write_bytes(await exposition(rt))
        lines = [json.dumps(told(span)) for span in exporter.get_finished_spans()]
        (folder / "spans").write_text("\n".join(lines))
        await rt.runs.answer(question, "yes")
        await rt.runs.handle(HALTED).result()


async def finish(rt: Runtime) -> None:
    """Let the runs that are left come to their ends."""
    await rt.runs.handle(HALTED).result()
    question = await asked(rt, ASKING)
    await rt.runs.answer(question, "yes", by="ann")
    with suppress(AnswerConflictError):
        await rt.runs.answer(question, "no", by="bob")
    await rt.runs.handle(ASKING).result()


def live_and_die(url: str, folder: Path) -> None:
    """Let a process do its runs, up to the SIGKILL in the middle of one."""
    program = [sys.executable, "-c", _PROGRAM, url, str(folder)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
