"""
Questions: what a run waits for somebody to say.

A question has an id of its own for every time it is asked. It is a record and an event, written
in one unit before anybody can see it. Of any number of answers the first one counts: each
expects the question as it was read.

Invariants: a question is open, or has one outcome that does not change; the record, the journal
and the run's view change in one unit; the remaining time survives restarts.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec

from holdfast.core import codec
from holdfast.core.deadline import remaining
from holdfast.core.errors import InvalidValueError, LimitError, VersionConflictError
from holdfast.core.journal import Answered, Asked
from holdfast.core.key import Key, encode_key, prefix_end
from holdfast.core.refusal import (
    AnswerConflictError,
    QuestionNotFoundError,
    RunNotFoundError,
    RunStateError,
)
from holdfast.core.run import Said as Event
from holdfast.core.unit import AtVersion, DeleteRecord, PutRecord, RecordRow, Write
from holdfast.runtime.runs.claim import KIND as CLAIM_KIND
from holdfast.runtime.runs.claim import Claims, Held
from holdfast.runtime.runs.view import TIMER_KIND, Timer, Views

if TYPE_CHECKING:
    from holdfast.runtime.runs.execution import Execution

KIND: Final = "holdfast.question"
State = Literal["open", "answered", "expired", "closed"]
LISTED_MAX: Final = 10_000


class Question(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    A question.

    Attributes:
        id: unique for every time something is asked.
        run_id: who asks.
        n: which of its questions.
        prompt: what is asked.
        choices: possible answers; any if there are none.
        default: the answer when the time is over.
        asked_at: when it was asked.
        name, nth: by which a replay of the run finds it.
        state: open, answered, expired, or closed because the run ended.
        answer: the answer that counts.
        by: whose it is.
        comment: what was said beside it.
        answered_at: wall time of that moment.
        answer_key: key with which it was given; the same answer with it is accepted again.
        timer: when the time is over.
    """

    id: str
    run_id: str
    n: int
    prompt: str
    asked_at: float
    choices: list[Any] = []
    default: Any = None
    state: State = "open"
    answer: Any = None
    by: str = ""
    answer_key: str = ""
    timer: Timer | None = None
    name: str = ""
    nth: int = 0
    comment: str = ""
    answered_at: float = 0.0

    @staticmethod
    def of(
        execution: "Execution",
        key: tuple[str, int],
        prompt: str,
        choices: Sequence[Any],
        default: Any,
        timeout: float | None,
    ) -> "Question":
        """
        Return a question that is about to be asked, the next one of its run.

        Raises:
            EncodeError: choices or default cannot be stored exactly.
            InvalidValueError: the default is not one of the choices.
        """
        views = execution.views
        n = execution.journal.questions + 1
        id = f"{execution.run_id}?{n}"
        plain: list[Any] = codec.decode(views.checked(list(choices), "choices"))
        answer = codec.decode(views.checked(default, "default"))
        if timeout is not None and plain and answer is not None and answer not in plain:
            raise InvalidValueError(what="default", reason="is not one of the choices")
        timer = None
        if timeout is not None:
            timer = views.timer(execution.run_id, f"question:{id}", timeout)
        said = views.redaction.text(prompt)
        question = Question(id, execution.run_id, n, said, execution.now(), plain, answer)
        name, nth = key if key != ("", n) else ("", 0)
        return msgspec.structs.replace(question, timer=timer, name=name, nth=nth)

    def put(self) -> PutRecord:
        """Return the write of this question."""
        return PutRecord(KIND, question_key(self), msgspec.msgpack.encode(self), self.state)


class QuestionInfo(Question, frozen=True, kw_only=True, omit_defaults=True):
    """
    A question as it is now.

    Attributes:
        remaining: seconds until its time is over; None if it has all the time.
        revision: number of the last change of it.
        sequence: place of the answer in the journal of the run, for whoever just gave it.
        claim: who is about to answer it.
    """

    remaining: float | None = None
    revision: int = 0
    sequence: int = 0
    claim: Held | None = None


def question_key(question: Question) -> Key:
    """Return where a question is found: by its run and number."""
    return (question.run_id, f"{question.n:09d}")


def put_question(execution: "Execution", question: Question) -> tuple[Event, tuple[Write, ...]]:
    """Return what belongs to the unit that asks a question."""
    timeout = 0.0 if question.timer is None else question.timer.deadline.left
    said = Asked(
        question.n,
        question.id,
        question.prompt,
        question.asked_at,
        question.choices,
        timeout,
        question.name,
        question.nth,
    )
    timer = () if question.timer is None else (question.timer.put(),)
    return ("question.asked", said), (question.put(), *timer)


def read_question(row: RecordRow) -> Question:
    """
    Return a stored question.

    Raises:
        DecodeError: it was written by something else.
    """
    return codec.decode_as(row.value or b"", Question, "question")


def key_of(id: str) -> Key:
    """
    Return where a question is found by its id.

    Raises:
        QuestionNotFoundError: it is not the id of any.
    """
    run_id, mark, n = id.rpartition("?")
    if not mark or not n.isascii() or not n.isdigit() or len(n) > 9:
        raise QuestionNotFoundError(question_id=id)
    return (run_id, f"{int(n):09d}")


class Said(NamedTuple):
    """
    An answer that somebody gives.

    Attributes:
        value: the answer.
        by: who gives it.
        key: the same answer with the same key is accepted again.
        comment: what is said beside it.
    """

    value: Any
    by: str = ""
    key: str = ""
    comment: str = ""


class Questions:
    """The questions in one store."""

    def __init__(self, views: Views) -> None:
        """Take the views of the runs that ask."""
        self._views = views
        self._claims = Claims(views)

    async def get(self, id: str) -> QuestionInfo:
        """
        Return a question.

        Raises:
            QuestionNotFoundError: there is none with this id.
        """
        question, row = await self._read(id)
        return (await self._infos([(question, row)]))[0]

    async def list(
        self,
        *,
        run_id: str | None = None,
        state: State | None = "open",
        after: str | None = None,
        limit: int = 100,
    ) -> list[QuestionInfo]:
        """
        Return questions, by run and number.

        Args:
            run_id: only those of this run.
            state: only those in this state; None for all.
            after: id behind which to go on.
            limit: how many at most.
        """
        if not 1 <= limit <= LISTED_MAX:
            raise LimitError(what="limit", size=limit, limit=LISTED_MAX)
        begin = b"" if run_id is None else encode_key((run_id,))
        first = begin if after is None else max(begin, encode_key(key_of(after)) + b"\0")
        rows = await self._views.damages.records(KIND, first, prefix_end(begin), limit, state)
        return list(await self._infos([(read_question(row), row) for row in rows]))

    async def due(
        self, *, run_id: str | None = None, after: str | None = None, limit: int = 100
    ) -> Sequence[tuple[str, QuestionInfo]]:
        """
        Return open questions, those first whose time is over first, each with its place.

        Args:
            run_id: only those of this run.
            after: place behind which to go on.
            limit: how many at most; at most `LISTED_MAX` open ones are looked at.
        """
        found = await self.list(run_id=run_id, limit=LISTED_MAX)
        placed = sorted((_place(one), one.id) for one in found)
        rest = [id for place, id in placed if after is None or f"{place} {id}" > after]
        by_id = {one.id: one for one in found}
        return [(f"{_place(by_id[id])} {id}", by_id[id]) for id in rest[:limit]]

    async def claim(self, id: str, *, by: str, seconds: float = 120.0) -> QuestionInfo:
        """
        Say that somebody is about to answer; others see it, and are not given a claim meanwhile.

        Args:
            id: which question.
            by: who.
            seconds: for how long; 0 gives it back.

        Raises:
            QuestionClaimedError: somebody else is about to.
            AnswerConflictError: it is not open any more.
            QuestionNotFoundError: there is no such question.
        """
        while True:
            question, row = await self._read(id)
            if question.state != "open":
                raise _conflict(question)
            try:
                held = await self._claims.take(id, row, by, seconds)
            except VersionConflictError:
                continue
            return self._info(question, row.version, held)

    async def answer(
        self, id: str, value: Any, *, by: str = "", key: str = "", comment: str = ""
    ) -> QuestionInfo:
        """
        Answer a question; when this returns, the answer is durable and counts.

        Args:
            id: which question.
            value: the answer.
            by: who gives it.
            key: the same answer with the same key is accepted again.
            comment: what is said beside it.

        Raises:
            AnswerConflictError: another answer was first; names whose.
            QuestionNotFoundError: there is no such question.
            InvalidValueError: it is not one of the choices.
        """
        plain = codec.decode(self._views.checked(value, "answer"))
        text = self._views.redaction.text
        said = Said(plain, text(by), text(key), text(comment))
        while True:
            question, row = await self._read(id)
            if question.state != "open":
                return self._again(question, row, said)
            if question.choices and not any(_same(plain, one) for one in question.choices):
                raise InvalidValueError(what="answer", reason="is not one of the choices")
            try:
                return await self._close(question, row, said)
            except VersionConflictError:
                continue
            except (RunStateError, RunNotFoundError):
                # The run ended since; with it the question has an outcome, which is told.
                if (await self._read(id))[0].state == "open":
                    raise

    async def expire(self, timer_row: RecordRow, timer: Timer) -> None:
        """Answer a question with its default, because its time is over."""
        id = timer.wait.removeprefix("question:")
        try:
            question, row = await self._read(id)
        except QuestionNotFoundError:
            await self._views.forget(timer_row)
            return
        if question.state != "open":
            await self._views.forget(timer_row)
            return
        try:
            await self._close(question, row, Said(question.default), timer_row)
        except VersionConflictError:
            return

    async def _close(
        self,
        question: Question,
        row: RecordRow,
        said: "Said",
        timer_row: RecordRow | None = None,
    ) -> QuestionInfo:
        expired = timer_row is not None
        state: State = "expired" if expired else "answered"
        wall = self._views.wall()
        after = msgspec.structs.replace(
            question,
            state=state,
            answer=said.value,
            by=said.by,
            answer_key=said.key,
            comment=said.comment,
            answered_at=wall,
        )
        raw = msgspec.Raw(codec.encode(said.value))
        answered = Answered(question.n, question.id, raw, wall, said.by, said.comment)
        writes: tuple[Write, ...] = (after.put(),)
        if timer_row is not None:
            writes = (*writes, DeleteRecord(TIMER_KIND, timer_row.key))
        elif question.timer is not None:
            writes = (*writes, DeleteRecord(TIMER_KIND, question.timer.key))
        sequence = await self._views.put_in(
            question.run_id,
            f"question.{state}",
            answered,
            writes,
            (AtVersion(KIND, row.key, row.version),),
        )
        seconds = max(0.0, wall - question.asked_at)
        self._views.telemetry.tell(f"question.{state}", {}, {"seconds": seconds})
        return self._info(after, row.version + 1, sequence=sequence)

    def _again(self, question: Question, row: RecordRow, said: "Said") -> QuestionInfo:
        """Accept the same answer with the same key once more; refuse any other."""
        same = question.state == "answered" and _same(question.answer, said.value)
        if said.key and same and said.key == question.answer_key:
            return self._info(question, row.version)
        self._views.telemetry.tell("question.conflict")
        raise _conflict(question)

    async def _read(self, id: str) -> tuple[Question, RecordRow]:
        key = key_of(id)
        row = await self._views.store.read(lambda reader: reader.record(KIND, key))
        if row is None or row.value is None:
            raise QuestionNotFoundError(question_id=id)
        return read_question(row), row

    async def _infos(self, found: Sequence[tuple[Question, RecordRow]]) -> Sequence[QuestionInfo]:
        """Return questions as they are now, the open ones with who is about to answer them."""
        keys = [row.key for question, row in found if question.state == "open"]
        rows: Sequence[RecordRow | None] = ()
        if keys:
            rows = await self._views.damages.around(
                lambda lists: lists.records_at(CLAIM_KIND, keys)
            )
        claims = {key: self._claims.held(row) for key, row in zip(keys, rows, strict=True)}
        return [self._info(question, row.version, claims.get(row.key)) for question, row in found]

    def _info(
        self, question: Question, revision: int, claim: Held | None = None, sequence: int = 0
    ) -> QuestionInfo:
        left = None
        if question.timer is not None and question.state == "open":
            clock = self._views.clock
            left = remaining(question.timer.deadline, clock.store_time(), clock.wall())
        return QuestionInfo(
            **msgspec.structs.asdict(question),
            remaining=left,
            revision=revision,
            sequence=sequence,
            claim=claim,
        )


async def closings(views: Views, run_id: str) -> tuple[tuple[Write, ...], tuple[AtVersion, ...]]:
    """Return what closes the open questions of a run that ends."""
    begin = encode_key((run_id,))
    rows = await views.damages.records(KIND, begin, prefix_end(begin), LISTED_MAX, "open")
    writes: list[Write] = []
    for row in rows:
        question = read_question(row)
        writes.append(msgspec.structs.replace(question, state="closed").put())
        if question.timer is not None:
            writes.append(DeleteRecord(TIMER_KIND, question.timer.key))
    return tuple(writes), tuple(AtVersion(KIND, row.key, row.version) for row in rows)


def _place(question: QuestionInfo) -> str:
    """Return a text by which questions stand in the order in which their times are over."""
    if question.timer is None:
        return f"~{question.asked_at:020.6f}"
    return f"{question.timer.deadline.ends_at:020.6f}"


def _conflict(question: Question) -> AnswerConflictError:
    return AnswerConflictError(
        question_id=question.id,
        winner=question.by,
        state=question.state,
        answered_at=question.answered_at,
        answer=question.answer if question.state == "answered" else None,
    )


def _same(one: Any, two: Any) -> bool:
    return type(one) is type(two) and one == two
