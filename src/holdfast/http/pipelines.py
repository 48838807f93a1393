"""
Pipelines over HTTP: the paths of the Attractor HTTP mode, on the same runs as `/v1`.

A graph is posted as a DOT file, or within JSON. What answers under `/pipelines` is the run that
goes through it; events, questions and cancelling are those of `/v1/runs`, in the same words.
"""

from typing import Annotated, Any, Final

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.denial import FunctionNotFoundError
from holdfast.core.errors import DecodeError, HoldfastError
from holdfast.core.graph import Diagnostic
from holdfast.core.refusal import (
    AnswerConflictError,
    InvalidMachineError,
    QuestionNotFoundError,
    RunExistsError,
    RunNotFoundError,
    RunStateError,
)
from holdfast.core.run import Status
from holdfast.http.answers import answer
from holdfast.http.call import Call
from holdfast.http.control import CancelRun, ResumeRun, cancel_run, resume_run
from holdfast.http.events import FORMS, EventPage, EventQuery, run_events
from holdfast.http.operation import Operation
from holdfast.http.picture import GraphOut, picture
from holdfast.http.runs import RunId, RunOut, get_run, shown
from holdfast.runtime.pipelines.graphs import FUNCTION, GraphCheckpoint
from holdfast.runtime.runs.question import QuestionInfo

DOT: Final = "text/vnd.graphviz"
_PATH: Final = "/pipelines/{run_id}"


class GraphStart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    A graph to be started.

    Attributes:
        dot_source: a digraph in the Attractor dialect of DOT.
        id: of the pipeline; drawn if not given.
        context: fields at the start.
        labels: words by which it is found.
    """

    dot_source: Annotated[str, msgspec.Meta(min_length=1)]
    id: RunId | None = None
    context: dict[str, Any] = {}
    labels: dict[str, str] = {}


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Something to be said of a graph.

    Attributes:
        rule, severity, message: what.
        node: where.
    """

    rule: str
    severity: str
    message: str
    node: str = ""


class PipelineOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    A pipeline.

    Attributes:
        id: of it, and of its run.
        status: of that run.
        graph: name of the graph.
        completed_nodes: what was done, in order.
        current_node: what comes next, or is under way.
        diagnostics: what is to be said of the graph.
        run: as `/v1/runs` shows it.
    """

    id: str
    status: Status
    graph: str
    completed_nodes: list[str] = []
    current_node: str = ""
    diagnostics: list[Finding] = []
    run: RunOut | None = None


class PipelineCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """
    Where a pipeline is.

    Attributes:
        id, status: of it.
        done, next: the node that was done last, the one that comes next.
        branches: the same for each branch under way.
        completed_nodes: what was done, in order.
        context: the fields now.
    """

    id: str
    status: Status
    done: str | None
    next: str
    branches: dict[str, Any]
    completed_nodes: list[str]
    context: dict[str, Any]


class ContextOut(msgspec.Struct, frozen=True):
    """
    The context of a pipeline.

    Attributes:
        context: its fields.
    """

    context: dict[str, Any]


class OptionOut(msgspec.Struct, frozen=True):
    """
    A possible answer.

    Attributes:
        key: a letter for it.
        label: the answer.
    """

    key: str
    label: Any


class PipelineQuestion(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    A question of a pipeline.

    Attributes:
        id: unique for every time something is asked.
        text: what is asked.
        type: `multiple_choice` or `freeform`.
        options: possible answers.
        default: the answer when time is over.
        timeout_seconds: seconds that are left.
        state, answer, by: what became of it.
    """

    id: str
    text: str
    type: str
    options: list[OptionOut] = []
    default: Any = None
    timeout_seconds: float | None = None
    state: str = "open"
    answer: Any = None
    by: str = ""


class QuestionList(msgspec.Struct, frozen=True):
    """
    The open questions of a pipeline.

    Attributes:
        questions: in the order in which they were asked.
    """

    questions: list[PipelineQuestion]


class GivenAnswer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    An answer.

    Attributes:
        value: one of the options, by label or key, or free text.
    """

    value: Any


async def start_pipeline(call: Call) -> Response:
    """Start a graph that is posted as a DOT file, or in JSON; answered when it is durable."""
    asked = call.body(GraphStart)
    run = await call.rt.graphs.start(
        asked.dot_source, fields=asked.context, run_id=asked.id, labels=asked.labels
    )
    _, found = call.rt.graphs.check(asked.dot_source)
    info = await call.rt.runs.get(run.id)
    body = PipelineOut(
        id=run.id,
        status=info.status,
        graph=info.labels.get("graph", ""),
        diagnostics=[_finding(one) for one in found],
    )
    return answer(body, 201, {"Location": f"{call.root}/pipelines/{run.id}"})


def _finding(one: Diagnostic) -> Finding:
    return Finding(one.rule, one.severity, one.message, one.node or "")


async def get_pipeline(call: Call) -> PipelineOut:
    """Return where a pipeline is."""
    run = await _pipeline(call)
    where = await call.rt.graphs.checkpoint(run.id)
    return PipelineOut(
        id=run.id,
        status=run.status,
        graph=run.labels.get("graph", ""),
        completed_nodes=where.completed,
        current_node=where.next,
        run=run,
    )


async def _pipeline(call: Call) -> RunOut:
    info = await call.rt.runs.get(call.param("run_id"))
    if info.function != FUNCTION:
        raise RunNotFoundError(run_id=info.id)
    return shown(info, payloads=call.sees)


async def pipeline_events(call: Call) -> Response | EventPage:
    """Return the events of a pipeline: a page, server-sent events, or lines of JSON."""
    await _pipeline(call)
    return await run_events(call)


async def pipeline_checkpoint(call: Call) -> PipelineCheckpoint:
    """Return what is done, what comes next, and the context now."""
    info = await _pipeline(call)
    where: GraphCheckpoint = await call.rt.graphs.checkpoint(info.id)
    context = await call.rt.graphs.context(info.id) if call.sees else {}
    return PipelineCheckpoint(
        id=info.id,
        status=where.status,
        done=where.done,
        next=where.next,
        branches=where.branches,
        completed_nodes=where.completed,
        context=context,
    )


async def pipeline_context(call: Call) -> ContextOut:
    """Return the fields of its context now."""
    info = await _pipeline(call)
    return ContextOut(await call.rt.graphs.context(info.id))


async def pipeline_graph(call: Call) -> Response | GraphOut:
    """Return the graph: as JSON with the state of every node, or the DOT file as it was posted."""
    info = await _pipeline(call)
    text = await call.rt.graphs.text(info.id)
    if DOT in (call.header("accept") or ""):
        return Response(text, headers={"Cache-Control": "no-store"}, media_type=DOT)
    graph, _ = call.rt.graphs.check(text)
    return picture(graph, await call.rt.graphs.checkpoint(info.id), text)


async def pipeline_questions(call: Call) -> QuestionList:
    """Return the open questions of a pipeline."""
    info = await _pipeline(call)
    found = await call.rt.runs.questions.list(run_id=info.id)
    return QuestionList([_question(one, sees=call.sees) for one in found])


async def answer_pipeline(call: Call) -> PipelineQuestion:
    """Answer a question; the first answer counts, and whoever comes later is told whose it was."""
    await _pipeline(call)
    question = await call.rt.runs.questions.get(call.param("question_id"))
    if question.run_id != call.param("run_id"):
        raise QuestionNotFoundError(question_id=question.id)
    said = call.body(GivenAnswer).value
    by_key = {one.key: one.label for one in _options(question)}
    value = by_key.get(str(said), said) if said not in question.choices else said
    found = await call.rt.runs.answer(
        question.id, value, by=call.who.name, key=call.header("idempotency-key") or ""
    )
    return _question(found, sees=call.sees)


async def look_at_question(call: Call) -> PipelineQuestion:
    """Return a question as it is now."""
    await _pipeline(call)
    question = await call.rt.runs.questions.get(call.param("question_id"))
    return _question(question, sees=call.sees)


def _question(one: QuestionInfo, *, sees: bool) -> PipelineQuestion:
    return PipelineQuestion(
        id=one.id,
        text=one.prompt if sees else "",
        type="multiple_choice" if one.choices else "freeform",
        options=_options(one) if sees else [],
        default=one.default if sees else None,
        timeout_seconds=one.remaining,
        state=one.state,
        answer=one.answer if sees else None,
        by=one.by,
    )


def _options(one: QuestionInfo) -> list[OptionOut]:
    """Return the choices, each with the first letter of it that is still free."""
    found: dict[str, Any] = {}
    for number, choice in enumerate(one.choices, 1):
        letters = [letter.upper() for letter in str(choice) if letter.isalnum()]
        key = next((letter for letter in letters if letter not in found), str(number))
        found[key] = choice
    return [OptionOut(key, label) for key, label in found.items()]


async def resume_pipeline(call: Call) -> Response:
    """Let a pipeline go on that rests."""
    await _pipeline(call)
    return await resume_run(call)


async def cancel_pipeline(call: Call) -> Response:
    """Ask a pipeline to end."""
    await _pipeline(call)
    return await cancel_run(call)


_ONE: Final[tuple[type[HoldfastError], ...]] = (RunNotFoundError,)


def _operation(method: str, path: str, name: str, summary: str, **more: Any) -> Operation:
    errors = (*_ONE, *more.pop("errors", ()))
    more.setdefault("stored", method == "GET")
    return Operation(
        method=method,
        path=path,
        name=name,
        summary=summary,
        errors=errors,
        tag="pipelines",
        **more,
    )


def _change(path: str, name: str, summary: str, **more: Any) -> Operation:
    return _operation("POST", path, name, summary, changes=True, **more)


OPERATIONS: Final = (
    _change(
        "/pipelines",
        "pipeline_start",
        "Start a graph",
        handler=start_pipeline,
        begins=True,
        right=Right.OPERATE,
        body=GraphStart,
        # Not text/plain, which any form of any page can send.
        text=((DOT,), "dot_source"),
        answer=PipelineOut,
        status=201,
        errors=(RunExistsError, InvalidMachineError, DecodeError, FunctionNotFoundError),
    ),
    _operation(
        "GET",
        _PATH,
        "pipeline_get",
        "Look at a pipeline",
        handler=get_pipeline,
        answer=PipelineOut,
    ),
    _operation(
        "GET",
        f"{_PATH}/events",
        "pipeline_events",
        "Read or follow the events of a pipeline",
        handler=pipeline_events,
        query=EventQuery,
        answer=EventPage,
        media_types=FORMS,
    ),
    _operation(
        "GET",
        f"{_PATH}/checkpoint",
        "pipeline_checkpoint",
        "What is done, and what comes next",
        handler=pipeline_checkpoint,
        answer=PipelineCheckpoint,
    ),
    _operation(
        "GET",
        f"{_PATH}/context",
        "pipeline_context",
        "The fields of a pipeline",
        handler=pipeline_context,
        right=Right.PAYLOADS,
        answer=ContextOut,
    ),
    _operation(
        "GET",
        f"{_PATH}/graph",
        "pipeline_graph",
        "The graph, with where the pipeline is",
        handler=pipeline_graph,
        right=Right.PAYLOADS,
        answer=GraphOut,
        media_types=("application/json", DOT),
    ),
    _operation(
        "GET",
        f"{_PATH}/questions",
        "pipeline_questions",
        "Open questions of a pipeline",
        handler=pipeline_questions,
        answer=QuestionList,
    ),
    _change(
        f"{_PATH}/questions/{{question_id}}/answer",
        "pipeline_answer",
        "Answer a question of a pipeline",
        handler=answer_pipeline,
        again=look_at_question,
        right=Right.ANSWER,
        body=GivenAnswer,
        answer=PipelineQuestion,
        errors=(QuestionNotFoundError, AnswerConflictError),
    ),
    _change(
        f"{_PATH}/cancel",
        "pipeline_cancel",
        "Ask a pipeline to end",
        handler=cancel_pipeline,
        again=get_run,
        right=Right.OPERATE,
        body=CancelRun,
        answer=RunOut,
        status=202,
        also=(200,),
        errors=(RunStateError,),
    ),
    _change(
        f"{_PATH}/resume",
        "pipeline_resume",
        "Let a pipeline go on that rests",
        handler=resume_pipeline,
        again=get_run,
        right=Right.OPERATE,
        body=ResumeRun,
        answer=RunOut,
        status=202,
        errors=(RunStateError,),
    ),
)
