"""
Questions: what a run waits for somebody to say.

A question has an id of its own for every time it is asked. It is a record and an event, written
in one unit before anybody can see it. Of any number of answers the first one counts: each
expects the question as it was read.

Invariants: a question is open, or has one outcome that does not change; the record, the journal
and the run's view change in one unit; the remaining time survives restarts.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

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
from holdfast.core.run import Said
from holdfast.core.unit import AtVersion, DeleteRecord, PutRecord, RecordRow, Write
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
        said = str(views.redaction(prompt))
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
    """

    remaining: float | None = None


def question_key(question: Question) -> Key:
    """Return where a question is found: by its run and number."""
    return (question.run_id, f"{question.n:09d}")


def put_question(execution: "Execution", question: Question) -> tuple[Said, tuple[Write, ...]]:
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


class Questions:
    """The questions in one store."""

    def __init__(self, views: Views) -> None:
        """Take the views of the runs that ask."""
        self._views = views

    async def get(self, id: str) -> QuestionInfo:
        """
        Return a question.

        Raises:
            QuestionNotFoundError: there is none with this id.
        """
        return self._info((await self._read(id))[0])

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
        rows = await self._views.store.read(
            lambda reader: reader.records(KIND, first, prefix_end(begin), limit, state)
        )
        return [self._info(read_question(row)) for row in rows]

    async def answer(self, id: str, value: Any, *, by: str = "", key: str = "") -> QuestionInfo:
        """
        Answer a question; when this returns, the answer is durable and counts.

        Args:
            id: which question.
            value: the answer.
            by: who gives it.
            key: the same answer with the same key is accepted again.

        Raises:
            AnswerConflictError: another answer was first; names whose.
            QuestionNotFoundError: there is no such question.
            InvalidValueError: it is not one of the choices.
        """
        plain = codec.decode(self._views.checked(value, "answer"))
        while True:
            question, row = await self._read(id)
            if question.state != "open":
                return self._again(question, plain, key)
            if question.choices and not any(_same(plain, one) for one in question.choices):
                raise InvalidValueError(what="answer", reason="is not one of the choices")
            try:
                return await self._close(question, row, plain, by, key)
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
            await self._close(question, row, question.default, "", "", timer_row)
        except VersionConflictError:
            return

    async def _close(
        self,
        question: Question,
        row: RecordRow,
        value: Any,
        by: str,
        key: str,
        timer_row: RecordRow | None = None,
    ) -> QuestionInfo:
        expired = timer_row is not None
        state: State = "expired" if expired else "answered"
        after = msgspec.structs.replace(question, state=state, answer=value, by=by, answer_key=key)
        wall = self._views.wall()
        said = Answered(question.n, question.id, msgspec.Raw(codec.encode(value)), wall, by)
        writes: tuple[Write, ...] = (after.put(),)
        if timer_row is not None:
            writes = (*writes, DeleteRecord(TIMER_KIND, timer_row.key))
        elif question.timer is not None:
            writes = (*writes, DeleteRecord(TIMER_KIND, question.timer.key))
        await self._views.put_in(
            question.run_id,
            f"question.{state}",
            said,
            writes,
            (AtVersion(KIND, row.key, row.version),),
        )
        return self._info(after)

    def _again(self, question: Question, value: Any, key: str) -> QuestionInfo:
        """Accept the same answer with the same key once more; refuse any other."""
        same = question.state == "answered" and _same(question.answer, value)
        if key and same and key == question.answer_key:
            return self._info(question)
        raise AnswerConflictError(question_id=question.id, winner=question.by, state=question.state)

    async def _read(self, id: str) -> tuple[Question, RecordRow]:
        key = key_of(id)
        row = await self._views.store.read(lambda reader: reader.record(KIND, key))
        if row is None or row.value is None:
            raise QuestionNotFoundError(question_id=id)
        return read_question(row), row

    def _info(self, question: Question) -> QuestionInfo:
        left = None
        if question.timer is not None and question.state == "open":
            clock = self._views.clock
            left = remaining(question.timer.deadline, clock.store_time(), clock.wall())
        return QuestionInfo(**msgspec.structs.asdict(question), remaining=left)


async def closings(views: Views, run_id: str) -> tuple[tuple[Write, ...], tuple[AtVersion, ...]]:
    """Return what closes the open questions of a run that ends."""
    begin = encode_key((run_id,))
    rows = await views.store.read(
        lambda reader: reader.records(KIND, begin, prefix_end(begin), LISTED_MAX, "open")
    )
    writes: list[Write] = []
    for row in rows:
        question = read_question(row)
        writes.append(msgspec.structs.replace(question, state="closed").put())
        if question.timer is not None:
            writes.append(DeleteRecord(TIMER_KIND, question.timer.key))
    return tuple(writes), tuple(AtVersion(KIND, row.key, row.version) for row in rows)


def _same(one: Any, two: Any) -> bool:
    return type(one) is type(two) and one == two
