"""Runs: what their steps give, what is kept of it, and what is found and removed."""

from datetime import UTC, datetime
from typing import Annotated, Any

import pytest

import holdfast
from holdfast import Retry, Run, Runtime, Status
from holdfast.core import codec
from holdfast.core.errors import EncodeError, InvalidValueError
from holdfast.core.refusal import (
    ChildFailedError,
    RunFailedError,
    StepFailedError,
)
from holdfast.core.unit import PutRecord, Unit
from tests.runtime.test_runs import Calls, execute, journal, until


def test_an_error_is_kept_and_the_same_in_every_replay(store_url: str) -> None:
    """A2, C1. A step that failed for good is not tried again; a caught failure replays alike."""
    calls = Calls()

    async def careful(run: Run) -> str:
        try:
            await run.step("boom", calls.boom)
        except StepFailedError as error:
            said = f"{error.step} {error.type} {error.attempts}"
        await run.sleep(0.001)
        return said

    async def work(rt: Runtime) -> None:
        assert await (await rt.runs.start(careful)).result() == "boom#1 ValueError 1"
        run = await rt.runs.start(calls.fails)
        with pytest.raises(RunFailedError) as failed:
            await run.result()
        assert failed.value.type == "StepFailedError"
        assert "secret" not in str(failed.value)

    execute(store_url, calls, work)


def test_functions_of_one_code_are_stored_as_each_is_annotated(store_url: str) -> None:
    """C4, R8. What makes functions may annotate each of them otherwise."""

    def giving(value: Any, kind: Any) -> Any:
        def given() -> Any:
            return value

        given.__annotations__["return"] = kind
        return given

    async def gives(run: Run) -> str:
        moment = await run.step("moment", giving(datetime(2026, 1, 2, tzinfo=UTC), datetime))
        count = await run.step("count", giving(3, int))
        odd = await run.step("odd", giving((1, 2), Annotated[tuple[int, ...], ["not hashed"]]))
        await run.sleep(0.001)
        return f"{moment.year} {count} {odd}"

    async def work(rt: Runtime) -> None:
        assert await (await rt.runs.start(gives)).result() == "2026 3 (1, 2)"

    execute(store_url, Calls(), work)


def test_a_value_that_cannot_be_stored_is_refused(store_url: str) -> None:
    """C4, R8. Arguments at the start; results fail the step, and are never half kept."""

    async def gives(run: Run) -> Any:
        return await run.step("set", lambda: {1, 2})

    async def work(rt: Runtime) -> None:
        with pytest.raises(EncodeError):
            await rt.runs.start(gives, object())
        run = await rt.runs.start(gives)
        assert (await run.ended()).status is Status.FAILED
        assert "step.failed" in await journal(rt, run.id)

    execute(store_url, Calls(), work)


def test_a_step_is_tried_as_often_as_it_may(store_url: str) -> None:
    """A3. Attempts are counted and kept; at the end it fails, or rests until somebody says more."""
    tries: list[int] = []

    async def stubborn(run: Run, often: int, on_exhausted: Any) -> int:
        def attempt() -> int:
            tries.append(run.current.attempt)
            if len(tries) < often:
                raise ConnectionError
            return len(tries)

        retry = Retry(attempts=3, backoff=0.001, on_exhausted=on_exhausted)
        return await run.step("try", attempt, retry=retry)

    async def work(rt: Runtime) -> None:
        assert await (await rt.runs.start(stubborn, 3, "fail")).result() == 3
        assert tries == [1, 2, 3]
        tries.clear()
        with pytest.raises(RunFailedError):
            await (await rt.runs.start(stubborn, 9, "fail")).result()
        assert tries == [1, 2, 3]
        tries.clear()
        run = await rt.runs.start(stubborn, 5, "pause")
        await until(rt, run.id, "run.paused")
        await rt.runs.retry(run.id)
        assert await run.result() == 5
        assert tries == [1, 2, 3, 4, 5]

    execute(store_url, Calls(), work)


def test_children_signals_and_large_values_come_through(store_url: str) -> None:
    """A1. A child's failure is an error of its own; a cancelled parent ends its children."""
    calls = Calls()
    large = "x" * 200_000

    async def child(run: Run, text: str) -> str:
        return text + str(await run.signal("end"))

    async def parent(run: Run, text: str) -> Any:
        try:
            await run.child(calls.fails)
        except ChildFailedError as error:
            await run.emit("child_failed", error.type)
        return await run.child(child, text)

    async def work(rt: Runtime) -> None:
        rt.runs.register(child)
        run = await rt.runs.start(parent, large, run_id="p")
        await until(rt, "p", "child.started", 2)
        await rt.runs.signal("p/2", "end", "!")
        assert await run.result() == large + "!"
        assert "user.child_failed" in await journal(rt, "p")
        other = await rt.runs.start(parent, large, run_id="o")
        await until(rt, "o/2", "run.waiting")
        await rt.runs.cancel("o")
        assert (await rt.runs.ended("o/2")).status is Status.CANCELLED
        assert (await other.ended()).status is Status.CANCELLED

    execute(store_url, calls, work)


def test_artifacts_are_listed_whole_and_read_by_id(store_url: str) -> None:
    """A14. Size, digest and media type; nothing is listed that was not committed with its bytes."""

    async def leaves(run: Run) -> list[str]:
        text = await run.attach("a.txt", b"hello", media_type="text/plain")
        return [text, await run.attach("../b", b"\0" * 70_000)]

    async def work(rt: Runtime) -> None:
        ids = await (await rt.runs.start(leaves, run_id="r")).result()
        listed = await rt.runs.artifacts.list("r")
        assert [one.id for one in listed] == ids
        assert [(one.name, one.size, one.media_type) for one in listed] == [
            ("a.txt", 5, "text/plain"),
            ("../b", 70_000, "application/octet-stream"),
        ]
        assert await rt.runs.artifacts.read(ids[1]) == b"\0" * 70_000
        for wrong in ("r!3", "r", "", "r!x", "../b"):
            with pytest.raises(holdfast.NotFoundError):
                await rt.runs.artifacts.read(wrong)

    execute(store_url, Calls(), work)


def test_a_view_that_is_not_its_journal_is_found(store_url: str) -> None:
    """X3, R7. Each run that is shown as something else, and no other one."""
    calls = Calls()

    async def work(rt: Runtime) -> None:
        for id in ("a", "b"):
            await rt.runs.ended((await rt.runs.start(calls.fails, run_id=id)).id)
        assert await rt.verify() == []
        other = await rt.runs.start(calls.asks, run_id="c")
        await until(rt, "c", "run.waiting")
        row = await rt.records.get("holdfast.run", other.id)
        shown = PutRecord("holdfast.run", ("b",), codec.encode(row.value), "waiting")
        await rt._store.commit(Unit((shown,)))
        assert [(one.what, one.name) for one in await rt.verify()] == [("run", "b")]

    execute(store_url, calls, work)


def test_what_ended_long_ago_is_removed(store_url: str) -> None:
    """X9. Journal, questions and artifacts go in one unit; what is under way stays."""
    calls = Calls()

    async def work(rt: Runtime) -> None:
        run = await rt.runs.start(calls.report, "x", run_id="old")
        await until(rt, "old", "run.waiting")
        await rt.runs.start(calls.asks, run_id="open")
        await until(rt, "open", "run.waiting")
        assert await rt.runs.retain(0.0) == 0
        await rt.runs.answer("old?1", "no")
        await run.result()
        assert await rt.runs.retain(3600.0) == 0
        assert await rt.runs.retain(0.0) == 1
        assert [info.id for info in await rt.runs.list()] == ["open"]
        assert [one.run_id for one in await rt.runs.questions.list(state=None)] == ["open"]
        info = await rt.runs.history("old").info()
        assert info.first_sequence == info.last_sequence + 1

    execute(store_url, calls, work)


def test_secrets_are_not_stored(store_url: str) -> None:
    """X12. In arguments, results, prompts and what is emitted."""

    async def careless(run: Run, login: dict[str, str]) -> Any:
        found = await run.step("login", lambda: {"token": "hush", "user": "ann"})
        await run.emit("seen", {"token": "hush"})
        return found

    async def work(rt: Runtime) -> None:
        run = await rt.runs.start(careless, {"password": "hush", "user": "ann"})
        assert (await run.result())["user"] == "ann"
        events = await rt.runs.history(run.id).read()
        stored = [*events, *await rt.records.list("holdfast.run")]
        assert b"hush" not in b"".join(repr(one).encode() for one in stored)

    execute(store_url, Calls(), work, redact=["token", "password"])


def test_runs_are_listed_by_what_they_are(store_url: str) -> None:
    """A15. By status, function, labels and text of the inputs, page by page."""
    calls = Calls()

    async def work(rt: Runtime) -> None:
        for number in range(7):
            labels = {"team": "red" if number % 2 else "blue"}
            await rt.runs.start(calls.report, f"topic {number}", run_id=f"r{number}", labels=labels)
            await until(rt, f"r{number}", "run.waiting")
        await rt.runs.ended((await rt.runs.start(calls.fails, run_id="f")).id)
        listed = rt.runs.list

        async def ids(**filters: Any) -> list[str]:
            return [info.id for info in await listed(**filters)]

        assert await ids(status="failed") == ["f"]
        assert await ids(labels={"team": "red"}) == ["r1", "r3", "r5"]
        assert await ids(function=calls.report, text="TOPIC 4") == ["r4"]
        assert await ids(limit=3) == ["f", "r0", "r1"]
        assert await ids(limit=3, after="r1") == ["r2", "r3", "r4"]
        assert await ids(labels={"team": "red"}, limit=2) == ["r1", "r3"]

    execute(store_url, calls, work)


def test_a_wrong_name_is_refused_before_anything_happens(store_url: str) -> None:
    """X6. Names are short words; two functions of one name are a mistake."""

    async def other(run: Run) -> None:
        return None

    async def work(rt: Runtime) -> None:
        rt.runs.register(other, name="x")
        with pytest.raises(InvalidValueError):
            rt.runs.register(Calls().asks, name="x")
        with pytest.raises(InvalidValueError):
            rt.runs.register(other, name="")

    execute(store_url, Calls(), work)
