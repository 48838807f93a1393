"""Claims about outcomes: who lost an answer can ask what became of the unit, for a while."""

import asyncio

from holdfast.core.errors import OutcomeForgottenError, SequenceConflictError
from holdfast.core.event import Event
from holdfast.core.unit import Append, AtSequence, Unit
from holdfast.runtime.outcome import Outcome
from holdfast.runtime.runtime import Runtime
from holdfast.testing.contract.claim import Opener, asynchronous, equal, refused

__all__ = ["OutcomeContract"]

TRIES_MAX = 3_000


class OutcomeContract:
    """What can be asked about units."""

    @asynchronous
    async def test_a_unit_is_committed_or_absent(self, open_store: Opener) -> None:
        """F17. Also a refused one and one that was never submitted, alone or in a batch."""
        async with open_store() as rt:
            ids = [rt.unit_id() for _ in range(9)]
            units = [_unit(unit_id, expected=n // 2) for n, unit_id in enumerate(ids[:8])]
            answers = await asyncio.gather(*map(rt.commit, units), return_exceptions=True)
            refusals = [isinstance(answer, SequenceConflictError) for answer in answers]
            equal(refusals, [False, True] * 4, "refusals")
            found = [await rt.outcome(unit_id) for unit_id in ids]
            equal(found, [Outcome.COMMITTED, Outcome.ABSENT] * 4 + [Outcome.ABSENT], "outcomes")
            equal(await rt.outcome(ids[0].hex()), Outcome.COMMITTED, "asked in hexadecimal")

    @asynchronous
    async def test_the_next_opening_gives_the_same_answers(self, open_store: Opener) -> None:
        """F8, F17. The question is asked where it matters: after everything was opened anew."""
        open_store.need_keeping()
        async with open_store() as rt:
            committed, refused_id, never = (rt.unit_id() for _ in range(3))
            await rt.commit(_unit(committed, expected=0))
            with refused(SequenceConflictError):
                await rt.commit(_unit(refused_id, expected=0))
        async with open_store() as rt:
            ids = (committed, refused_id, never)
            found = [await rt.outcome(unit_id) for unit_id in ids]
            equal(found, [Outcome.COMMITTED, Outcome.ABSENT, Outcome.ABSENT], "outcomes")

    @asynchronous
    async def test_an_outcome_that_is_not_kept_is_called_forgotten(
        self, open_store: Opener
    ) -> None:
        """F17. Never "absent" about a unit of which nobody can know any more."""
        async with open_store(outcome_retention=0.0) as rt:
            oldest = newest = rt.unit_id()
            await rt.commit(_unit(oldest, expected=0))
            equal(await rt.outcome(oldest), Outcome.COMMITTED, "while it is kept")
            for sequence in range(1, TRIES_MAX):
                newest = rt.unit_id()
                await rt.commit(_unit(newest, expected=sequence))
                if sequence % 64 == 0 and await _is_forgotten(rt, oldest):
                    break
            with refused(OutcomeForgottenError) as refusal:
                await rt.outcome(oldest)
            equal(refusal.error.unit_id, oldest.hex(), "error")
            equal(await rt.outcome(newest), Outcome.COMMITTED, "the newest")
            equal(await rt.outcome(rt.unit_id()), Outcome.ABSENT, "one never submitted")


async def _is_forgotten(rt: Runtime, unit_id: bytes) -> bool:
    try:
        await rt.outcome(unit_id)
    except OutcomeForgottenError:
        return True
    return False


def _unit(unit_id: bytes, *, expected: int) -> Unit:
    return Unit((Append("s", (Event.of("t"),)),), (AtSequence("s", expected),), unit_id)
