"""Runs that cannot be written, read or ended for a moment: none of them stays as it is for ever."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import holdfast
from holdfast import Run
from holdfast.core.errors import (
    OutcomeUnknownError,
    PoisonedError,
    StoreBusyError,
    StoreUnavailableError,
)
from holdfast.core.run import Status
from holdfast.core.unit import CloseStream, Unit
from holdfast.core.world import World
from holdfast.runtime.runs import conduct, ending
from holdfast.runtime.runs.view import Views
from holdfast.store.port import CommitFailed
from tests.runtime.test_runs_beside import Gate, says


class _WordlessError(Exception):
    def __str__(self) -> str:
        raise KeyError("words")


async def raises_odd_words(run: Run) -> None:
    raise FileNotFoundError("a\udcff.txt")


async def raises_no_words(run: Run) -> None:
    raise _WordlessError


async def asks(run: Run) -> Any:
    return await run.ask("Well?")


def fail() -> None:
    raise CommitFailed("test")


@pytest.mark.parametrize(
    ("function", "said"), [(raises_odd_words, r"a\udcff.txt"), (raises_no_words, "")]
)
def test_a_run_that_fails_with_words_that_cannot_be_stored_ends(
    store_url: str, function: Callable[[Run], Any], said: str
) -> None:
    """A7. Such as the name of a file that is no text."""

    async def work() -> None:
        async with holdfast.open(store_url, functions=[function]) as rt:
            run = await rt.runs.start(function, run_id="r")
            async with asyncio.timeout(20):
                info = await run.ended()
            assert info.status is Status.FAILED
            assert info.error is not None and info.error.message == said

    asyncio.run(work())


@pytest.mark.parametrize(
    ("module", "name"), [(ending, "closings"), (conduct, "read_journal")], ids=["end", "journal"]
)
def test_a_run_whose_store_cannot_be_read_for_a_moment_goes_on_after_it(
    store_url: str, module: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A1, A13. A connection that is lost at just this read is no fault of the run."""
    reading, failed = getattr(module, name), list[object]()

    async def once(*args: Any) -> Any:
        if not failed:
            failed.append(args)
            raise StoreUnavailableError(reason="connection lost")
        return await reading(*args)

    async def work() -> None:
        async with holdfast.open(store_url, functions=[asks]) as rt:
            run = await rt.runs.start(asks, run_id="r")
            await says(run, "run.waiting")
            rt._executor.drop("r")  # So it is begun anew, as in another process.
            monkeypatch.setattr(module, name, once)
            await rt.runs.answer("r?1", "yes")
            async with asyncio.timeout(20):
                assert await run.result() == "yes"

    asyncio.run(work())
    assert failed


def test_a_cancelled_run_whose_end_could_not_be_written_is_ended_later(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A11. It cannot be queued any more, so it is ended when the store can write again."""
    commit, failed = Views.commit, list[Unit]()

    def once(views: Views, unit: Unit) -> Any:
        if not failed and any(isinstance(one, CloseStream) for one in unit.writes):
            failed.append(unit)
            raise StoreBusyError(waited=0.0)
        return commit(views, unit)

    async def work() -> None:
        gate = Gate()
        async with holdfast.open(store_url, functions=[gate.beside]) as rt:
            run = await rt.runs.start(gate.beside, run_id="r")
            await says(run, "step.started")
            monkeypatch.setattr(Views, "commit", once)
            await rt.runs.cancel("r")
            async with asyncio.timeout(20):
                assert (await run.ended()).status is Status.CANCELLED

    asyncio.run(work())
    assert failed


@pytest.mark.parametrize("asked", ["before", "after"])
def test_who_waits_for_a_run_in_a_step_hears_that_the_store_stopped(
    store_url: str, asked: str
) -> None:
    """X2. At once, and not when the step is over."""
    world = World()

    async def work() -> None:
        gate = Gate()
        async with holdfast.open(store_url, functions=[gate.beside], world=world) as rt:
            run = await rt.runs.start(gate.beside, run_id="r")
            await says(run, "step.started")
            result = asyncio.create_task(run.result()) if asked == "before" else None
            await rt.streams()
            world.failpoints.arm("commit.written", fail)
            with pytest.raises(OutcomeUnknownError):
                await rt.history("s").append("t")
            with pytest.raises(PoisonedError):
                async with asyncio.timeout(20):
                    await (result or run.result())

    asyncio.run(work())
