"""Changing a run over HTTP: cancel, pause, resume, retry, signal, resolve a step, remove."""

from typing import Any, Final, Literal

import msgspec
from starlette.responses import Response

from holdfast.core.access import Right
from holdfast.core.denial import PreconditionFailedError, PreconditionRequiredError
from holdfast.core.errors import HoldfastError, VersionConflictError
from holdfast.core.refusal import RunNotFoundError, RunStateError
from holdfast.core.run import Status, Verdict
from holdfast.http.answers import HEADERS, answer
from holdfast.http.call import Call
from holdfast.http.cursor import event_id
from holdfast.http.etag import check_match
from holdfast.http.operation import Handler, Operation
from holdfast.http.runs import ONE, RunOut, Words, answered, get_run

_CHANGED: Final[tuple[type[HoldfastError], ...]] = (*ONE, RunStateError, PreconditionFailedError)


class CancelRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    How a run is cancelled.

    Attributes:
        mode: `now` interrupts the step under way, `after_step` lets it end.
        reason: why.
    """

    mode: Literal["now", "after_step"] = "now"
    reason: Words = ""


class PauseRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Why a run is to rest.

    Attributes:
        reason: in words.
    """

    reason: Words = ""


class ResumeRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    How a run is to go on.

    Attributes:
        force: accept the version of its function that is registered here.
        reason: why; kept in the audit.
    """

    force: bool = False
    reason: Words = ""


class RetryRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    Why a run is tried again.

    Attributes:
        reason: kept in the audit.
    """

    reason: Words = ""


class SignalRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What is sent to a run.

    Attributes:
        value: any plain value.
    """

    value: Any = None


class SignalOut(msgspec.Struct, frozen=True):
    """
    That a signal is durable.

    Attributes:
        run_id: whose journal has it.
        seq: its place in that journal; 0 if that is not known any more.
        id: of that event, behind which to follow what comes of it.
    """

    run_id: str
    seq: int
    id: str


class ResolveStep(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What became of a step that may have happened before a crash.

    Attributes:
        verdict: `done` takes `value` as its result, `failed` lets it fail, `again` runs it again.
        value: its result.
        reason: why.
    """

    verdict: Literal["done", "failed", "again"]
    value: Any = None
    reason: Words = ""


async def _checked(call: Call) -> str:
    """Return the id of the run that is meant, if it is as the caller has seen it."""
    info = await call.rt.runs.get(call.param("run_id"))
    check_match(call, info.revision)
    return info.id


async def cancel_run(call: Call) -> Response:
    """Ask a run to end."""
    asked, id = call.body(CancelRun), await _checked(call)
    before = await call.rt.runs.get(id)
    if before.status is Status.CANCELLED:
        return answered(call, before, 200)
    await call.rt.runs.cancel(id, mode=asked.mode, reason=asked.reason, by=call.who.name)
    repeated = before.status is Status.CANCELLING
    return answered(call, await call.rt.runs.get(id), 200 if repeated else 202)


async def pause_run(call: Call) -> Response:
    """Let a run rest."""
    asked, id = call.body(PauseRun), await _checked(call)
    await call.rt.runs.pause(id, reason=asked.reason, by=call.who.name)
    return answered(call, await call.rt.runs.get(id), 202)


async def resume_run(call: Call) -> Response:
    """Let a run go on that rests, diverged, or waits for code."""
    asked, id = call.body(ResumeRun), await _checked(call)
    await call.rt.runs.resume(id, force=asked.force, by=call.who.name)
    return answered(call, await call.rt.runs.get(id), 202)


async def retry_run(call: Call) -> Response:
    """Try again; a run that failed is forked, and the answer is the new one."""
    id = await _checked(call)
    handle = await call.rt.runs.retry(id, by=call.who.name)
    forked = handle.id != id
    info = await call.rt.runs.get(handle.id)
    return answered(call, info, 201 if forked else 202, created=forked)


async def signal_run(call: Call) -> Response:
    """Send something to a run."""
    asked, id, name = call.body(SignalRun), call.param("run_id"), call.param("name")
    seq = await call.rt.runs.signal(id, name, asked.value, by=call.who.name)
    return answer(SignalOut(id, seq, event_id(call.rt.lineage, seq, feed=False)), 202)


async def signalled(call: Call) -> Response:
    """Answer for a signal whose answer was lost: the key says that it arrived."""
    id = (await call.rt.runs.get(call.param("run_id"))).id
    return answer(SignalOut(id, 0, event_id(call.rt.lineage, 0, feed=False)), 202)


async def resolve_step(call: Call) -> Response:
    """Say what became of a step that may have happened."""
    asked, id = call.body(ResolveStep), await _checked(call)
    verdict = Verdict(asked.verdict, asked.value, asked.reason)
    await call.rt.runs.resolve(id, call.param("step"), verdict, by=call.who.name)
    return answered(call, await call.rt.runs.get(id), 202)


async def remove_run(call: Call) -> Response:
    """Remove a run that ended, as the caller has seen it."""
    info = await call.rt.runs.get(call.param("run_id"))
    named = check_match(call, info.revision, needed=True)
    try:
        await call.rt.runs.retention.remove(info.id, info.revision if named else None)
    except VersionConflictError as conflict:
        raise PreconditionFailedError(
            expected=str(conflict.expected), actual=str(conflict.actual)
        ) from None
    return await removed(call)


async def removed(_: Call) -> Response:
    """Answer that it is gone."""
    return Response(status_code=204, headers=HEADERS)


def _change(name: str, summary: str, handler: Handler, body: type[msgspec.Struct]) -> Operation:
    return Operation(
        method="POST",
        path=f"/v1/runs/{{run_id}}/{name}",
        name=f"run_{name}",
        summary=summary,
        handler=handler,
        again=get_run,
        right=Right.OPERATE,
        body=body,
        answer=RunOut,
        status=202,
        also=(200, 201),
        changes=True,
        errors=_CHANGED,
        tag="runs",
    )


OPERATIONS: Final = (
    _change("cancel", "Ask a run to end", cancel_run, CancelRun),
    _change("pause", "Let a run rest", pause_run, PauseRun),
    _change("resume", "Let a run go on", resume_run, ResumeRun),
    _change("retry", "Try a run again", retry_run, RetryRun),
    Operation(
        method="POST",
        path="/v1/runs/{run_id}/signals/{name}",
        name="run_signal",
        summary="Send something to a run",
        handler=signal_run,
        again=signalled,
        right=Right.OPERATE,
        body=SignalRun,
        answer=SignalOut,
        status=202,
        changes=True,
        errors=(RunNotFoundError, RunStateError),
        tag="runs",
    ),
    Operation(
        method="POST",
        path="/v1/runs/{run_id}/steps/{step}/resolve",
        name="step_resolve",
        summary="Say what became of a step that may have happened",
        handler=resolve_step,
        again=get_run,
        right=Right.OPERATE,
        body=ResolveStep,
        answer=RunOut,
        status=202,
        changes=True,
        errors=_CHANGED,
        tag="runs",
    ),
    Operation(
        method="DELETE",
        path="/v1/runs/{run_id}",
        name="run_remove",
        summary="Remove a run that ended, with all that belongs to it",
        handler=remove_run,
        again=removed,
        right=Right.ADMIN,
        status=204,
        changes=True,
        errors=(*_CHANGED, PreconditionRequiredError),
        tag="runs",
    ),
)
