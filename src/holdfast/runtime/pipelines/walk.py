"""
A run that goes through a machine: every transition is a step of the run.

Before a transition: the fields. In it: the handler, on a copy of the fields, and the decision
which state comes next. What the step records is that decision and what was changed, so a replay
applies it and asks nobody. A transition that failed or was killed has changed nothing.

The branches of a parallel state are walked side by side, each with a copy of the fields and
steps of its own, named by their way: `prepare/left/extract`. The join is the parallel state's
own step. Where a branch fails for good and the others are to end first, its last attempt is held
until they have.

Invariants: the same journal gives the same fields and the same way; a state that was recorded is
not executed again; the view says what is done and what comes next.
"""

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.context import Changes, Context, merged
from holdfast.core.machine import Branches, Machine, State
from holdfast.core.refusal import BudgetExceededError, StepFailedError
from holdfast.core.run import Retry
from holdfast.runtime.runs.run import Run
from holdfast.runtime.service import together

ATTEMPTS: Final = 3
_PASSED: Final = ("effect", "resolver")


class Told(msgspec.Struct, frozen=True):
    """
    What a transition recorded.

    Attributes:
        next: the state that comes next.
        outcome: what the handler returned.
        set, drop: what it changed.
        notes: what it told people.
    """

    next: str
    outcome: str | None = None
    set: dict[str, Any] = {}
    drop: list[str] = []
    notes: list[str] = []


@dataclass
class Fork:
    """
    Branches under way.

    Attributes:
        branches: how many there are.
        outer: the fork and the branch of it in which this one is.
        settled: branches that ended or cannot go on.
    """

    branches: Branches
    outer: "tuple[Fork, str] | None" = None
    settled: set[str] = field(default_factory=set[str])
    all_settled: asyncio.Event = field(default_factory=asyncio.Event)

    def settle(self, branch: str) -> None:
        """Note that a branch ended, or cannot go on."""
        self.settled.add(branch)
        if len(self.settled) == len(self.branches.names):
            self.all_settled.set()

    async def hold(self, branch: str) -> None:
        """Return when the other branches ended, if they are to end before this one fails."""
        if self.branches.on_failure == "await":
            self.settle(branch)
            await self.all_settled.wait()
            if self.outer is not None:
                await self.outer[0].hold(self.outer[1])


@dataclass(frozen=True)
class Place:
    """
    Where a walk is, for the names of its steps.

    Attributes:
        path: how the names of its steps begin.
        fork, branch: in which branch of what.
    """

    path: str = ""
    fork: Fork | None = None
    branch: str = ""

    async def hold(self) -> None:
        """Return when this place may fail."""
        if self.fork is not None:
            await self.fork.hold(self.branch)


class Walk:
    """One run going through one machine."""

    def __init__(self, machine: Machine, run: Run) -> None:
        """Take the table and the run whose steps the transitions are."""
        self._machine = machine
        self._run = run
        self._taken = 0
        self._marks: dict[str, dict[str, Any]] = {}

    async def go(self, state: str, ctx: Context, until: frozenset[str], place: Place) -> str:
        """
        Go on from a state until one of those at which the way ends; returns that one.

        Raises:
            StepFailedError: a state failed for good and nothing leads on from there.
            BudgetExceededError: it took too many transitions.
        """
        while state not in until:
            state = await self._leave(self._machine.states[state], ctx, place)
        return state

    async def _leave(self, row: State, ctx: Context, place: Place) -> str:
        self._taken += 1
        if self._taken > self._machine.budget:
            raise BudgetExceededError(machine=self._machine.name, budget=self._machine.budget)
        name = place.path + row.name
        if row.branches is not None:
            copies = await self._fork(row.branches, ctx, name, place)
            work: Callable[[], Any] = partial(self._join, row, ctx, copies)
        else:
            answer = None if row.question is None else await self._ask(row, ctx, place)
            work = partial(self._visit, row, ctx, answer, place)
        try:
            told = await self._step(row, name, place, work)
        except StepFailedError:
            if row.failed is None:
                raise
            failed = Told(row.failed, "failed")
            told = await self._step(State(row.name), f"{name}/failed", place, lambda: failed)
        ctx.apply(Changes(told.set, told.drop))
        self._mark(row.name, place, told)
        return told.next

    async def _step(self, row: State, name: str, place: Place, work: Callable[[], Any]) -> Told:
        options = dict(row.options or {})
        passed = {key: options[key] for key in _PASSED if key in options}
        told = await self._run.step(
            name,
            partial(_plain, work),
            retry=self._retry(row),
            mark=lambda told: self._mark(row.name, place, codec.convert(told, Told)),
            **passed,
        )
        return codec.convert(told, Told)

    def _retry(self, row: State) -> Retry | None:
        """Return how often a state is tried; one that may not be tried again just fails."""
        options = row.options or {}
        retry = options.get("retry")
        if retry is None:
            attempts = int(options.get("attempts", ATTEMPTS))
            if self._machine.on_failure == "fail" and (attempts == 1 or row.handler is None):
                return None
            retry = Retry(attempts=attempts, backoff=1.0 if row.handler else 0.0)
        pauses = row.failed is None and self._machine.on_failure == "pause"
        return msgspec.structs.replace(retry, on_exhausted="pause" if pauses else "fail")

    async def _ask(self, row: State, ctx: Context, place: Place) -> Any:
        question = row.question
        assert_text = question.text if question else ""
        text = assert_text(ctx.copy()) if callable(assert_text) else assert_text
        return await self._run.ask(
            text,
            choices=list(question.choices) if question else [],
            default=question.default if question else None,
            timeout=question.timeout if question else None,
            name=place.path and place.path + row.name,
        )

    async def _visit(self, row: State, ctx: Context, answer: Any, place: Place) -> Told:
        trial = ctx.copy()
        if row.question is not None and row.question.into is not None:
            trial[row.question.into] = answer
        try:
            async with asyncio.timeout((row.options or {}).get("timeout")):
                outcome = answer if row.handler is None else await self._handle(row, trial)
            return self._told(row, outcome, ctx, trial)
        except Exception:
            retry = self._retry(row)
            if retry is None or self._run.current.attempt >= retry.attempts:
                await place.hold()
            raise

    async def _handle(self, row: State, trial: Context) -> Any:
        found = row.handler(self._run.current, trial) if row.handler else None
        return await found if inspect.isawaitable(found) else found

    def _told(self, row: State, outcome: Any, ctx: Context, trial: Context) -> Told:
        following = self._machine.next(row.name, outcome, trial)
        changes = trial.changed_since(ctx.encoded())
        return Told(following, outcome, changes.set, changes.drop, trial.notes)

    async def _fork(
        self, fork: Branches, ctx: Context, name: str, place: Place
    ) -> dict[str, Context]:
        """Walk the branches; return the fields of each."""
        outer = None if place.fork is None else (place.fork, place.branch)
        under_way = Fork(fork, outer)
        copies = {branch: ctx.copy() for branch in fork.names}
        errors: dict[str, Exception] = {}

        async def walk(branch: str) -> None:
            inside = Place(f"{name}/{branch}/", under_way, branch)
            try:
                await self.go(branch, copies[branch], frozenset({fork.join}), inside)
            except Exception as error:
                errors[branch] = error
                if fork.on_failure == "cancel":
                    raise
            under_way.settle(branch)

        try:
            await together(*[partial(walk, branch) for branch in fork.names])
        except* Exception:
            pass  # Told by `errors`, in the order in which the branches were declared.
        for branch in fork.names:
            if branch in errors:
                raise errors[branch]
        return copies

    def _join(self, row: State, ctx: Context, copies: dict[str, Context]) -> Told:
        before, trial = ctx.encoded(), ctx.copy()
        merge = row.branches.merge if row.branches else None
        if merge is not None:
            merge(trial, {branch: dict(copy.copy()) for branch, copy in copies.items()})
        else:
            parts = [(branch, copy.changed_since(before)) for branch, copy in copies.items()]
            trial.apply(merged(parts))
        return self._told(row, None, ctx, trial)

    def _mark(self, state: str, place: Place, told: Told) -> dict[str, Any]:
        """Return what the view shows: what is done and what comes next, on every way."""
        inside = f"{place.path}{state}/"
        for way in [way for way in self._marks if way.startswith(inside)]:
            del self._marks[way]
        self._marks[place.path] = {"done": state, "next": told.next}
        mark = self._marks.get("", {"done": None, "next": self._machine.initial})
        branches = {way[:-1]: dict(one) for way, one in self._marks.items() if way}
        return {**mark, "branches": branches} if branches else dict(mark)


async def _plain(work: Callable[[], Any]) -> Any:
    """Return what a transition tells as plain values."""
    found = work()
    return msgspec.to_builtins(
        await found if inspect.isawaitable(found) else found, builtin_types=(bytes,)
    )
