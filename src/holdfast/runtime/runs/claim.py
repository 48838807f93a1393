"""
Claims: who is about to answer a question, so that two people do not type at once.

A claim is a courtesy with an end, a record beside the question: it keeps nobody from answering,
and the first answer counts whoever has the claim.

Invariant: while a claim holds, nobody else is given one.
"""

from typing import Final

import msgspec

from holdfast.core import codec
from holdfast.core.deadline import Deadline, ending_in, remaining
from holdfast.core.denial import QuestionClaimedError
from holdfast.core.errors import InvalidValueError, VersionConflictError
from holdfast.core.key import Key
from holdfast.core.unit import AtVersion, DeleteRecord, PutRecord, RecordRow, Unit
from holdfast.runtime.runs.view import Views

KIND: Final = "holdfast.question.claim"
SECONDS_MAX: Final = 3_600.0


class Claim(msgspec.Struct, frozen=True):
    """
    That somebody is about to answer.

    Attributes:
        by: who.
        deadline: until when others wait for that.
    """

    by: str
    deadline: Deadline


class Held(msgspec.Struct, frozen=True):
    """
    A claim that holds now.

    Attributes:
        by: whose.
        remaining: seconds until its end.
    """

    by: str
    remaining: float


class Claims:
    """The claims in one store."""

    def __init__(self, views: Views) -> None:
        """Take the views of the runs that ask."""
        self._views = views

    async def take(self, id: str, question: RecordRow, by: str, seconds: float) -> Held | None:
        """
        Claim an open question, or prolong one's claim; 0 seconds give it back.

        Args:
            id: of the question, for errors.
            question: as it was read; it has to be so still.
            by: who is about to answer.
            seconds: for how long.

        Raises:
            QuestionClaimedError: somebody else has it.
            InvalidValueError: nobody claims it, or for too long.
        """
        if not by or not 0 <= seconds <= SECONDS_MAX:
            reason = f"needs a name, and at most {SECONDS_MAX:g} s"
            raise InvalidValueError(what="claim", reason=reason)
        by = self._views.redaction.text(by)
        expects = AtVersion(question.kind, question.key, question.version)
        while True:
            row = await self._views.store.read(lambda reader: reader.record(KIND, question.key))
            held = self.held(row)
            if held is not None and held.by != by:
                raise QuestionClaimedError(question_id=id, by=held.by, remaining=held.remaining)
            if not seconds and held is None:
                return None
            version = 0 if row is None or row.value is None else row.version
            try:
                await self._views.store.commit(
                    Unit(
                        (self._write(question.key, by, seconds),),
                        (expects, AtVersion(KIND, question.key, version)),
                    )
                )
            except VersionConflictError as conflict:
                if conflict.kind != KIND:
                    raise
                continue
            return Held(by, seconds) if seconds else None

    def _write(self, key: Key, by: str, seconds: float) -> PutRecord | DeleteRecord:
        if not seconds:
            return DeleteRecord(KIND, key)
        clock = self._views.clock
        claim = Claim(by, ending_in(seconds, clock.store_time(), clock.wall()))
        return PutRecord(KIND, key, msgspec.msgpack.encode(claim))

    def held(self, row: RecordRow | None) -> Held | None:
        """Return the claim of a record, if it holds still."""
        if row is None or row.value is None:
            return None
        claim = codec.decode_as(row.value, Claim, "claim")
        clock = self._views.clock
        left = remaining(claim.deadline, clock.store_time(), clock.wall())
        return Held(claim.by, left) if left > 0 else None
