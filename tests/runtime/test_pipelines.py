"""Pipelines on every store: what is bound to a key, what goes on, what is refused."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import holdfast
from holdfast import AtVersion, Machine, Retry, Runtime, Transition, Unit
from holdfast.core.context import Context
from holdfast.core.errors import DamagedError, InvalidValueError, LimitError
from holdfast.core.pipeline import HEAD, joined, run_id_of
from holdfast.core.refusal import (
    PipelineNotFoundError,
    PipelinePausedError,
    RunFailedError,
)
from holdfast.core.unit import PutRecord

QUICK = Retry(attempts=2, backoff=0.001)


def run(url: str, work: Callable[[Runtime], Awaitable[None]]) -> None:
    """Open a store, work, close it, and see that nothing is damaged."""

    async def whole() -> None:
        async with holdfast.open(url) as rt:
            await work(rt)
            assert await rt.verify() == []

    asyncio.run(whole())


def counting(visits: list[str]) -> Machine:
    """Return a machine of two states that counts words and says what it does."""
    machine = Machine("count", initial="read", final={"done"})

    @machine.on("read", to="sum", retry=QUICK)
    async def read(step: Any, ctx: Context) -> None:
        visits.append("read")
        ctx["words"] = ctx.input.split()

    @machine.on("sum", to=[Transition("done", when=lambda ctx: ctx["n"] >= 0)], retry=QUICK)
    def add(step: Any, ctx: Context) -> None:
        visits.append("sum")
        ctx["n"] = len(ctx["words"])

    return machine


def test_a_finished_content_is_not_worked_on_again_and_new_content_is_a_new_version(
    store_url: str,
) -> None:
    """R9, R2."""

    async def work(rt: Runtime) -> None:
        visits: list[str] = []
        pipeline = rt.pipeline(counting(visits), ("bank", "source"))
        with pytest.raises(PipelineNotFoundError):
            await pipeline.newest()
        assert await pipeline.run("a b") == {"words": ["a", "b"], "n": 2}
        assert await pipeline.run("a b") == {"words": ["a", "b"], "n": 2}
        assert visits == ["read", "sum"]
        assert (await pipeline.run("a b c"))["n"] == 3
        assert (await pipeline.run("a b"))["n"] == 2
        assert [one.version for one in await pipeline.versions()] == [1, 2, 3]
        assert [one.version for one in await pipeline.versions(after=1, limit=1)] == [2]
        assert visits == ["read", "sum"] * 3
        checkpoint = await pipeline.checkpoint(1)
        assert (checkpoint.done, checkpoint.next, checkpoint.status) == ("sum", "done", "succeeded")
        log = await pipeline.log(2)
        assert [(one.state, one.attempt, one.next) for one in log] == [
            ("read", 1, "sum"),
            ("sum", 1, "done"),
        ]
        assert all((one.seconds or 0) >= 0 and not one.error for one in log)
        with pytest.raises(PipelineNotFoundError, match="version 9"):
            await pipeline.log(9)

    run(store_url, work)


def test_after_a_failure_it_rests_and_goes_on_where_it_was(store_url: str) -> None:
    """R5, R2. The error stays in the log, and only that state is executed again."""

    async def work(rt: Runtime) -> None:
        visits: list[str] = []
        broken = True
        machine = Machine("fragile", initial="first", final={"done"})

        @machine.on("first", to="second")
        def first(step: Any, ctx: Context) -> None:
            visits.append("first")
            ctx["list"] = [1]

        @machine.on("second", to="done", retry=QUICK)
        def second(step: Any, ctx: Context) -> None:
            visits.append("second")
            ctx["list"].append(2)
            if broken:
                raise ConnectionError("no network")

        pipeline = rt.pipeline(machine, "k")
        with pytest.raises(PipelinePausedError):
            await pipeline.run("x")
        checkpoint = await pipeline.checkpoint()
        assert (checkpoint.done, checkpoint.next, checkpoint.attempt) == ("first", "second", 2)
        assert checkpoint.status == "paused"
        broken = False
        assert await pipeline.run("x") == {"list": [1, 2]}
        assert visits == ["first", "second", "second", "second"]
        log = await pipeline.log()
        assert [one.error for one in log] == ["", *["ConnectionError: no network"] * 2, ""]
        assert [one.attempt for one in log] == [1, 1, 2, 3]
        assert [one.version for one in await pipeline.versions()] == [1]

    run(store_url, work)


def test_a_state_that_failed_for_good_may_lead_on(store_url: str) -> None:
    """R5."""

    async def work(rt: Runtime) -> None:
        machine = Machine("route", initial="try", final={"done"})

        @machine.on("try", to="done", failed="repair", retry=QUICK)
        def attempt(step: Any, ctx: Context) -> None:
            ctx["never"] = "seen"
            raise ConnectionError("always")

        @machine.on("repair", to="done")
        def repair(step: Any, ctx: Context) -> None:
            ctx["repaired"] = True

        pipeline = rt.pipeline(machine, "k")
        assert await pipeline.run() == {"repaired": True}
        states = [(one.state, bool(one.error)) for one in await pipeline.log()]
        assert states == [("try", True), ("try", True), ("try/failed", False), ("repair", False)]

    run(store_url, work)


def forked(on_failure: Any, troubles: set[str], ended: list[str], rt: Runtime) -> Machine:
    """Return a machine with three branches; one fails as long as `troubles` names it."""
    machine = Machine("fork", initial="fork", final={"done"})
    machine.parallel("fork", ["a", "b", "c"], join="after", on_failure=on_failure)
    for name in ("a", "b", "c"):

        async def branch(step: Any, ctx: Context, name: str = name) -> None:
            if name in troubles:
                raise ConnectionError(name)
            if name == "c" and troubles and on_failure == "cancel":
                await asyncio.Event().wait()
            for number in range(5 if name == "c" else 0):
                await rt.blobs.put(bytes([number]))  # Longer than it takes the other one to fail.
            ended.append(name)
            ctx[name] = step.name

        machine.on(name, to="after", retry=Retry(attempts=1))(branch)
    machine.on("after", to="done")(lambda step, ctx: None)
    return machine


@pytest.mark.parametrize("policy", ["await", "cancel"])
def test_after_a_failed_branch_only_unfinished_ones_run_again(store_url: str, policy: str) -> None:
    """R6. The others are cancelled or end first, as declared; what ended is not done again."""

    async def work(rt: Runtime) -> None:
        troubles, ended = {"b"}, list[str]()
        pipeline = rt.pipeline(forked(policy, troubles, ended, rt), "k")
        with pytest.raises(PipelinePausedError):
            await pipeline.run()
        assert ended == (["a", "c"] if policy == "await" else ["a"])
        branches = (await pipeline.checkpoint()).branches
        assert branches["fork/a"] == {"done": "a", "next": "after"}
        assert ("fork/c" in branches) is (policy == "await")
        troubles.clear()
        found = await pipeline.run()
        assert found == {"a": "fork/a/a", "b": "fork/b/b", "c": "fork/c/c"}
        assert sorted(ended) == ["a", "b", "c"]

    run(store_url, work)


def test_branches_that_contradict_each_other_rest_until_the_machine_says_how(
    store_url: str,
) -> None:
    """R6. Merging is deterministic: a contradiction is named, or a function decides."""

    def machine(**options: Any) -> Machine:
        made = Machine("merge", initial="fork", final={"done"})
        made.parallel("fork", ["x", "y"], join="after", **options)
        for name in ("x", "y"):
            made.on(name, to="after")(lambda step, ctx: ctx.update(seen=step.name))
        made.on("after", to="done")(lambda step, ctx: None)
        return made

    def merge(ctx: Context, branches: dict[str, dict[str, Any]]) -> None:
        ctx["seen"] = [fields["seen"] for fields in branches.values()]

    async def work(rt: Runtime) -> None:
        contradicting = rt.pipeline(machine(), "k")
        with pytest.raises(PipelinePausedError):
            await contradicting.run()
        assert "both changed 'seen'" in (await contradicting.log())[-1].error
        found = await rt.pipeline(machine(merge=merge), "k").run()
        assert found == {"seen": ["fork/x/x", "fork/y/y"]}

    run(store_url, work)


def test_a_loop_that_does_not_end_fails_at_its_budget(store_url: str) -> None:
    """A3. The step budget is counted from the journal."""

    async def work(rt: Runtime) -> None:
        machine = Machine("loop", initial="a", final={"done"}, budget=5)
        machine.on("a", to={"again": "a", "enough": "done"})(lambda step, ctx: "again")
        pipeline = rt.pipeline(machine, "k")
        with pytest.raises(RunFailedError):
            await pipeline.run()
        assert "made 5 transitions" in (await pipeline.checkpoint()).reason
        assert len(await pipeline.log()) == 5

    run(store_url, work)


def test_what_cannot_be_stored_exactly_is_refused_where_it_is_made(store_url: str) -> None:
    """R8. The state fails, names the field, and nothing of it is kept."""

    async def work(rt: Runtime) -> None:
        machine = Machine("exact", initial="a", final={"done"})
        machine.on("a", to="done", retry=Retry(attempts=1))(lambda step, ctx: ctx.update(t={1, 2}))
        pipeline = rt.pipeline(machine, "k")
        with pytest.raises(PipelinePausedError):
            await pipeline.run()
        assert "ctx.t: set cannot be stored exactly" in (await pipeline.log())[0].error
        with pytest.raises(holdfast.CodecError):
            await pipeline.start({"when": object()})

    run(store_url, work)


def test_a_record_of_another_key_or_of_nonsense_is_a_typed_error(store_url: str) -> None:
    """R3, R7. What is found is compared with what was asked for."""

    async def work(rt: Runtime) -> None:
        machine = counting([])
        await rt.pipeline(machine, ("a", "b")).run("x")
        record = await rt.blobs.put(b"")
        assert record
        row = await rt.pipeline(machine, ("a", "b")).newest()
        moved = PutRecord(HEAD, ("count", "c"), msgspec.msgpack.encode(row))
        await rt._store.commit(Unit((moved,), (AtVersion(HEAD, ("count", "c"), 0),)))
        with pytest.raises(DamagedError, match="holds another key"):
            await rt.pipeline(machine, "c").newest()
        await rt._store.commit(Unit((PutRecord(HEAD, ("count", "d"), b"\x91\x01"),)))
        with pytest.raises(holdfast.CodecError):
            await rt.pipeline(machine, "d").run("x")
        assert (await rt.pipeline(machine, ("a", "b")).run("x"))["n"] == 1

    run(store_url, work)


AWKWARD = [
    ("a", "b"),
    ("a/b",),
    ("a_b",),
    ("a\\/b",),
    ("a\\", "b"),
    ("a", "", "b"),
    ("a", "b", ""),
    ("", "a", "b"),
    ("",),
    ("", ""),
    ("..",),
    ("..", ".."),
    ("../..",),
    (".",),
    ("A", "b"),
    ("\u00e9",),
    ("e\u0301",),
    ("\u212b",),
    ("\u00c5",),
    ("ß",),
    ("SS",),
    ("nul\0",),
    ("nul", "\0"),
    ("con",),
    ("CON",),
    ("x" * 10_000,),
    ("x" * 9_999, "x"),
    ("*?:<>|\n\r\t",),
]
parts = st.text(st.sampled_from("aA/\\.\0é\u0301_ ") | st.characters(exclude_categories=["Cs"]))
few = st.text(st.sampled_from("a/\\_"), max_size=2)
keys = st.lists(few, min_size=1, max_size=3).map(tuple) | st.lists(parts, min_size=1).map(tuple)


@settings(max_examples=2_000)
@given(keys, keys, st.integers(1, 99), st.integers(1, 99))
def test_no_two_keys_share_a_run(
    one: tuple[str, ...], two: tuple[str, ...], first: int, second: int
) -> None:
    """R3. Separators, dots, Unicode forms and cases included."""
    assert (joined(one) == joined(two)) is (one == two)
    same = (one, first) == (two, second)
    assert (run_id_of("m", first, one) == run_id_of("m", second, two)) is same


def test_awkward_keys_stay_apart_and_are_found_as_they_are(store_url: str, tmp_path: Any) -> None:
    """R3, X6. Each key has its own content, and nothing is written outside."""
    before = sorted(path.name for path in tmp_path.parent.iterdir())

    async def work(rt: Runtime) -> None:
        machine = counting([])
        for number, key in enumerate(AWKWARD):
            await rt.pipeline(machine, key).start(f"{number} " * (number + 1))
        for number, key in enumerate(AWKWARD):
            pipeline = rt.pipeline(machine, key)
            assert (await pipeline.run(f"{number} " * (number + 1)))["n"] == number + 1
            assert (await pipeline.newest()).key == key
            assert len(await pipeline.versions()) == 1
        listed = await rt.pipelines.list("count", limit=100)
        assert {one.key for one in listed} == set(AWKWARD)
        assert {one.key for one in await rt.pipelines.list("count", prefix=("a",))} == {
            key for key in AWKWARD if key[0] == "a"
        }
        with pytest.raises(InvalidValueError):
            rt.pipeline(machine, ())
        with pytest.raises(InvalidValueError):
            rt.pipeline(machine, "\ud800")
        with pytest.raises(LimitError):
            rt.pipeline(machine, "x" * 70_000)

    run(store_url, work)
    assert sorted(path.name for path in tmp_path.parent.iterdir()) == before
