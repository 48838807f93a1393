"""
One run from its dispatch to its end: read the journal, call the function, record how it ended.

    journal read -> function known? -> version the same? -> crashed too often? -> call it
                        |                    |                    |
                     waiting              waiting               paused

Invariant: however the call ends (a result, an error, a cancellation, a pause, a divergence, the
runtime going away), the run is brought to one status, in one unit; a run that could not even be
begun stays one that can be resumed, and says why.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final

import msgspec

from holdfast.core.errors import DamagedError, HoldfastError, StoreError, VersionConflictError
from holdfast.core.journal import Diverged, Failed, Failure, Pausing, Queued, Succeeded, Waiting
from holdfast.core.run import CRASHES_MAX, Said, Status
from holdfast.runtime.runs.ending import Ending, ending_of
from holdfast.runtime.runs.execution import Execution
from holdfast.runtime.runs.function import Function, failure_of, placed
from holdfast.runtime.runs.journal import read_journal
from holdfast.runtime.runs.run import Run
from holdfast.runtime.runs.view import NO_CODE, VERSION_MISMATCH, Views
from holdfast.runtime.service import breathe

_RAWS: Final = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


async def conduct(views: Views, execution: Execution) -> Ending | None:
    """
    Execute a run.

    Returns:
        What was written when it ended; None if it was let go.

    Raises:
        CancelledError: it goes on elsewhere or later.
    """
    execution.root = asyncio.current_task()
    ending = await _outcome(views, execution)
    return None if ending is None else await _finish(views, execution, ending)


async def _outcome(views: Views, execution: Execution) -> Said | None:
    """Call the function; return how the run ends, or None if it was let go."""
    try:
        function = await _prepare(views, execution)
        if function is None:
            return None
        args = await _args(execution, function)
    except asyncio.CancelledError:
        return await _stopped(execution)
    except HoldfastError as error:
        if isinstance(error, DamagedError):
            await views.damages.note(error)
        elif isinstance(error, StoreError):
            raise  # Not the run's fault: it goes on when the store does.
        reason = f"cannot be resumed: {error.code}"
        paused = await execution.release("run.paused", Pausing(execution.now(), reason))
        return None if paused else ("run.cancelled", Pausing(execution.now()))
    try:
        value = views.redaction(await function.fn(Run(execution), *args))
        if left := execution.journal.left:
            execution.diverged = (left, "the end")
            return await _stopped(execution)
        inline, blob, writes = placed(execution.run_id, function.result.encode(value))
        execution.result_writes = writes
        return ("run.succeeded", Succeeded(execution.now(), msgspec.Raw(inline), blob))
    except asyncio.CancelledError:
        return await _stopped(execution)
    except Exception as error:
        return ("run.failed", Failed(execution.now(), failure_of(error, views.redaction)))


async def _prepare(views: Views, execution: Execution) -> Function | None:
    """Read the journal; return the function, or None if the run cannot go on here."""
    journal = execution.journal = await read_journal(views.store, execution.run_id)
    view = execution.view
    if view.status is Status.CANCELLING:
        execution.held = True
        raise asyncio.CancelledError
    function = views.functions.find(view.function)
    wait = ""
    if function is None:
        wait = f"{NO_CODE}:{view.function}"
    elif function.version != view.version:
        wait = f"{VERSION_MISMATCH}:{view.version}->{function.version}"
    if wait:
        await execution.release("run.waiting", Waiting([wait], execution.now()))
        return None
    if journal.in_vain > CRASHES_MAX:
        reason = f"crash_loop: {CRASHES_MAX} attempts came to nothing"
        await execution.release("run.paused", Pausing(execution.now(), reason))
        return None
    return function


async def _args(execution: Execution, function: Function) -> list[Any]:
    started = execution.journal.started
    if started is None:
        return []
    raws = started.args
    if started.blob:
        raws = _RAWS(await execution.views.blobs.get(started.blob.hex()))
    return function.decode_args(raws)


async def _stopped(execution: Execution) -> Said | None:
    """Say what becomes of a run whose function was stopped."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        # A task that cancelled itself meets that at its next wait; before Python 3.13 taking
        # it back does not help, so it is met here.
        with suppress(asyncio.CancelledError):
            await breathe()
    while task is not None and task.cancelling():
        task.uncancel()
    if execution.discarded:
        return None
    now, view = execution.now(), execution.view
    if execution.diverged is not None:
        left = await execution.release("run.diverged", Diverged(now, *execution.diverged))
    elif execution.gave_up:
        reason = f"{execution.gave_up} was tried often enough"
        left = await execution.release("run.paused", Pausing(now, reason))
    elif view.status is not Status.CANCELLING and view.pausing:
        left = await execution.release("run.paused", Pausing(now, view.why, view.by))
    elif view.status is not Status.CANCELLING and execution.draining:
        left = await execution.release("run.queued", Queued(now, "drained"))
    elif view.status is not Status.CANCELLING:
        return ("run.failed", Failed(now, Failure("CancelledError", "cancelled itself")))
    else:
        left = False
    return None if left else ("run.cancelled", Pausing(now))


async def let_go(views: Views, execution: Execution) -> Ending | None:
    """Let go of a run that was stranded, or end it if it is to be cancelled since."""
    execution.discarded = False
    try:
        if await execution.let_go():
            return None
        return await _finish(views, execution, ("run.cancelled", Pausing(execution.now())))
    finally:
        execution.discarded = True


async def _finish(views: Views, execution: Execution, ending: Said) -> Ending:
    """End the run in one unit with all that depends on it."""
    while True:
        if execution.view.status is Status.CANCELLING and ending[0] != "run.cancelled":
            ending = ("run.cancelled", Pausing(execution.now()))
        share = await ending_of(
            views, execution.run_id, execution.view, ending, asked=execution.journal.has_asked
        )
        writes = share.writes
        if ending[0] == "run.succeeded":
            writes = (*writes, *execution.result_writes)
        try:
            if await execution.finish(ending, writes, share.expects):
                return share
        except VersionConflictError:
            continue
