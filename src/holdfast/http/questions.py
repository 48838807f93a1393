"""Questions over HTTP: which there are, who is about to answer, the answer that counts."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.denial import CursorError, PreconditionFailedError, QuestionClaimedError
from holdfast.core.errors import InvalidValueError
from holdfast.core.refusal import (
    AnswerConflictError,
    QuestionNotFoundError,
    RunNotFoundError,
)
from holdfast.http.answers import HEADERS, answer, moment, next_cursor
from holdfast.http.call import Call
from holdfast.http.cursor import after_of, event_id
from holdfast.http.etag import check_match, etag, is_seen
from holdfast.http.operation import Operation, Query
from holdfast.http.runs import Limit, Words
from holdfast.runtime.runs.claim import SECONDS_MAX
from holdfast.runtime.runs.question import QuestionInfo, State


class QuestionOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    A question.

    Attributes:
        id: unique for every time something is asked.
        run_id: who asks.
        state: `open`, `answered`, `expired`, or `closed` because the run ended.
        revision: number of the last change; the ETag.
        prompt: what is asked.
        choices: possible answers; any if there are none.
        default: the answer when the time is over.
        name: by which the run's program calls it.
        asked_at: when it was asked.
        remaining: seconds until its time is over; left out if it has all the time.
        claimed_by, claimed_for: who is about to answer, and for how many seconds that holds.
        answer, by, comment, answered_at: the answer that counts, whose, and when.
        seq: place of the answer in the journal of the run, for whoever just gave it.
        redacted: content was left out because the caller may not see it.
    """

    id: str
    run_id: str
    state: State
    revision: int = 0
    prompt: str = ""
    choices: list[Any] = []
    default: Any = None
    name: str = ""
    asked_at: datetime | None = None
    remaining: float | None = None
    claimed_by: str = ""
    claimed_for: float | None = None
    answer: Any = None
    by: str = ""
    comment: str = ""
    answered_at: datetime | None = None
    seq: int = 0
    redacted: bool = False


class QuestionPage(msgspec.Struct, frozen=True, kw_only=True):
    """
    A page of questions.

    Attributes:
        items: the questions.
        next_cursor: where the next page begins; None at the end.
        stream_cursor: from where the feed tells what happened since.
    """

    items: list[QuestionOut]
    next_cursor: str | None
    stream_cursor: str


class QuestionQuery(Query, frozen=True):
    """
    Which questions of a run are listed.

    Attributes:
        state: only those in this state; `all` for every one.
        order: `id`, or `deadline` for those first whose time is over first, open ones only.
        limit: how many.
        cursor: where to go on.
    """

    state: Literal["open", "answered", "expired", "closed", "all"] = "open"
    order: Literal["id", "deadline"] = "id"
    limit: Limit = 50
    cursor: str | None = None


class AnyQuestionQuery(QuestionQuery, frozen=True):
    """
    Which questions are listed.

    Attributes:
        run: only those of this run.
    """

    run: tuple[str, ...] = ()


class AnswerQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    An answer.

    Attributes:
        value: what is answered; one of the choices, if there are any.
        comment: what is said beside it.
    """

    value: Any
    comment: Words = ""


class ClaimQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    That the caller is about to answer.

    Attributes:
        seconds: for how long others wait for that; 0 gives it back.
    """

    seconds: Annotated[float, msgspec.Meta(ge=0, le=SECONDS_MAX)] = 120.0


def shown(info: QuestionInfo, *, payloads: bool) -> QuestionOut:
    """Return a question as the caller may see it."""
    content: dict[str, Any] = {"redacted": True}
    if payloads:
        content = {
            "prompt": info.prompt,
            "choices": info.choices,
            "default": info.default,
            "answer": info.answer,
            "comment": info.comment,
        }
    return QuestionOut(
        id=info.id,
        run_id=info.run_id,
        state=info.state,
        revision=info.revision,
        name=info.name,
        asked_at=moment(info.asked_at),
        remaining=info.remaining,
        claimed_by=info.claim.by if info.claim else "",
        claimed_for=info.claim.remaining if info.claim else None,
        by=info.by,
        answered_at=moment(info.answered_at),
        seq=info.sequence,
        **content,
    )


def _answered(call: Call, info: QuestionInfo) -> Response:
    return answer(shown(info, payloads=call.sees), 200, {"ETag": etag(info.revision)})


async def list_questions(call: Call) -> QuestionPage:
    """Return questions of all runs."""
    asked = call.query(AnyQuestionQuery)
    if len(asked.run) > 1:
        raise InvalidValueError(what="run", reason="is one run here")
    return await _page(call, asked, asked.run[0] if asked.run else None)


async def run_questions(call: Call) -> QuestionPage:
    """Return the questions of one run."""
    run = await call.rt.runs.get(call.param("run_id"))
    return await _page(call, call.query(QuestionQuery), run.id)


async def _page(call: Call, asked: QuestionQuery, run_id: str | None) -> QuestionPage:
    filters = (asked.state, asked.order, run_id)
    after = None if asked.cursor is None else after_of(asked.cursor, filters)
    head = await call.rt.feed.head()
    questions = call.rt.runs.questions
    if asked.order == "deadline":
        if asked.state != "open":
            raise InvalidValueError(what="order", reason="by deadline are open questions only")
        placed = await questions.due(run_id=run_id, after=after, limit=asked.limit)
    else:
        state: State | None = None if asked.state == "all" else asked.state
        found = await questions.list(run_id=run_id, state=state, after=after, limit=asked.limit)
        placed = [(one.id, one) for one in found]
    return QuestionPage(
        items=[shown(one, payloads=call.sees) for _, one in placed],
        next_cursor=next_cursor(placed, asked.limit, placed[-1][0] if placed else "", filters),
        stream_cursor=event_id(call.rt.lineage, head, feed=True),
    )


async def get_question(call: Call) -> Response:
    """Return a question."""
    info = await call.rt.runs.questions.get(call.param("question_id"))
    if call.request.method != "POST" and info.claim is None and is_seen(call, info.revision):
        return Response(status_code=304, headers={**HEADERS, "ETag": etag(info.revision)})
    return _answered(call, info)


async def answer_question(call: Call) -> Response:
    """Answer a question; of several, the first one counts."""
    asked, id = call.body(AnswerQuestion), call.param("question_id")
    questions = call.rt.runs.questions
    before = await questions.get(id)
    if before.state == "open":
        # Of one that is not, the conflict says more: whose answer counts.
        check_match(call, before.revision)
    try:
        info = await questions.answer(
            id,
            asked.value,
            by=call.who.name,
            key=call.header("idempotency-key") or "",
            comment=asked.comment,
        )
    except AnswerConflictError as conflict:
        if not call.sees:
            conflict.answer = None
        raise
    return _answered(call, info)


async def claim_question(call: Call) -> Response:
    """Say that the caller is about to answer."""
    asked, id = call.body(ClaimQuestion), call.param("question_id")
    info = await call.rt.runs.questions.claim(id, by=call.who.name, seconds=asked.seconds)
    return _answered(call, info)


OPERATIONS: Final = (
    Operation(
        method="GET",
        path="/v1/questions",
        name="question_list",
        stored=True,
        summary="List questions",
        handler=list_questions,
        query=AnyQuestionQuery,
        answer=QuestionPage,
        errors=(CursorError, InvalidValueError),
        tag="questions",
    ),
    Operation(
        method="GET",
        path="/v1/runs/{run_id}/questions",
        name="run_questions",
        stored=True,
        summary="List the questions of a run",
        handler=run_questions,
        query=QuestionQuery,
        answer=QuestionPage,
        errors=(CursorError, InvalidValueError, RunNotFoundError),
        tag="questions",
    ),
    Operation(
        method="GET",
        path="/v1/questions/{question_id}",
        name="question_get",
        stored=True,
        summary="Look at a question",
        handler=get_question,
        answer=QuestionOut,
        errors=(QuestionNotFoundError,),
        also=(304,),
        tag="questions",
    ),
    Operation(
        method="POST",
        path="/v1/questions/{question_id}/answer",
        name="question_answer",
        summary="Answer a question; the first answer counts",
        handler=answer_question,
        again=get_question,
        right=Right.ANSWER,
        body=AnswerQuestion,
        answer=QuestionOut,
        changes=True,
        errors=(
            QuestionNotFoundError,
            AnswerConflictError,
            PreconditionFailedError,
            InvalidValueError,
        ),
        tag="questions",
    ),
    Operation(
        method="POST",
        path="/v1/questions/{question_id}/claim",
        name="question_claim",
        summary="Say that you are about to answer, so that nobody else begins to",
        handler=claim_question,
        again=get_question,
        right=Right.ANSWER,
        body=ClaimQuestion,
        answer=QuestionOut,
        changes=True,
        errors=(QuestionNotFoundError, QuestionClaimedError, AnswerConflictError),
        tag="questions",
    ),
)
