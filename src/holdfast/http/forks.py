"""
Forks over HTTP: what a fork would do, and the fork.

The plan is that of the library; what it says of each step is what then happens.
"""

from typing import Any, Final, Literal

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.errors import InvalidValueError
from holdfast.core.refusal import RunExistsError
from holdfast.http.address import quoted
from holdfast.http.answers import answer
from holdfast.http.call import Call
from holdfast.http.etag import etag
from holdfast.http.operation import Operation
from holdfast.http.runs import ONE, RunId, RunOut, Words, shown


class ForkRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    How a run is forked.

    Attributes:
        at: sequence in its journal up to which it is taken over, or a step such as `post#1` that
            is the first one not taken over; everything that succeeded if not given.
        patch: results by step that replace those of the origin.
        new_id: id of the new run; drawn if not given.
        dry_run: change nothing; answer what becomes of each step of the origin.
        reason: why; kept in the audit.
    """

    at: int | str | None = None
    patch: dict[str, Any] = {}
    new_id: RunId | None = None
    dry_run: bool = False
    reason: Words = ""


class PlannedStep(msgspec.Struct, frozen=True):
    """
    What becomes of a step of the origin.

    Attributes:
        step: name and number.
        effect: `safe`, `idempotent` or `once`.
        fate: `reused`, `replaced`, `repeated`, or `blocked`: somebody says what becomes of it.
    """

    step: str
    effect: str
    fate: Literal["reused", "replaced", "repeated", "blocked"]


class ForkPlanOut(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a fork would do.

    Attributes:
        origin: run it is made from.
        at: sequence in its journal up to which it is taken over.
        steps: what becomes of each step of the origin.
    """

    origin: str
    at: int
    steps: list[PlannedStep]


class ForkOut(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """
    What a fork came to.

    Attributes:
        run: the new run.
        plan: what a fork would do; of a dry run.
    """

    run: RunOut | None = None
    plan: ForkPlanOut | None = None


async def fork_run(call: Call) -> Response:
    """Start a new run that takes over what a run did, or say what that would be."""
    asked, id = call.body(ForkRun), call.param("run_id")
    if asked.dry_run:
        plan = await call.rt.runs.fork(id, at=asked.at, patch=asked.patch, dry_run=True)
        steps = [PlannedStep(one.step, one.effect.value, one.fate) for one in plan.steps]
        return answer(ForkOut(plan=ForkPlanOut(origin=plan.origin, at=plan.sequence, steps=steps)))
    made = await call.rt.runs.fork(id, at=asked.at, patch=asked.patch, new_id=asked.new_id)
    return await _forked(call, made.id, 201)


async def forked_before(call: Call) -> Response:
    """Answer for a fork whose answer was lost."""
    id = call.body(ForkRun).new_id
    if id is None:
        return answer(ForkOut(), 200)
    return await _forked(call, id, 200)


async def _forked(call: Call, id: str, status: int) -> Response:
    info = await call.rt.runs.get(id)
    headers = {"Location": f"{call.root}/v1/runs/{quoted(id)}", "ETag": etag(info.revision)}
    return answer(ForkOut(run=shown(info, payloads=call.sees)), status, headers)


OPERATIONS: Final = (
    Operation(
        method="POST",
        path="/v1/runs/{run_id}/fork",
        name="run_fork",
        begins=True,
        summary="Fork a run, or say what a fork would do",
        handler=fork_run,
        again=forked_before,
        right=Right.OPERATE,
        body=ForkRun,
        answer=ForkOut,
        status=201,
        also=(200,),
        changes=True,
        errors=(*ONE, RunExistsError, InvalidValueError),
        tag="runs",
    ),
)
