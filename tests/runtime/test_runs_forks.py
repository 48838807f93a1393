"""Forks of runs, effects that are done once, and owners that die of what they run."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import Retry, Run, Runtime, Status, Step, Verdict
from holdfast.core.errors import InvalidValueError
from holdfast.core.refusal import AnswerConflictError, RunFailedError, RunStateError
from tests.runtime.test_runs import journal, until

MADE: list[str] = []


async def note(what: str) -> str:
    """Note that it was done."""
    MADE.append(what)
    return what


async def writes(run: Run, text: str) -> str:
    """Use a safe step, one that is done once, an artifact and a question."""
    draft = await run.step("draft", note, f"draft of {text}")
    posted = await run.step("post", note, f"posted {draft}", effect="once")
    await run.attach("a", posted.encode())
    answer = await run.ask("Good?")
    return await run.step("file", note, f"{posted}: {answer}", effect="idempotent")


async def dies(run: Run, name: str, effect: Any) -> str:
    """Kill the process from within a step, as often as there is a file that says so."""

    def die() -> str:
        MADE.append(name)
        fuse = Path(name)
        if fuse.exists():
            left = int(fuse.read_text()) - 1
            fuse.write_text(str(left))
            if left >= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return f"attempt {run.current.attempt}"

    if effect == "twice":
        return await run.step("die", die, effect="idempotent", retry=Retry(attempts=2))
    retry = Retry(attempts=5, backoff=0.001) if effect == "retry" else None
    return await run.step("die", die, effect="safe" if retry else effect, retry=retry)


async def knows(run: Run, name: str) -> str:
    """Die in an effect, be told by a resolver what became of it, rest, and go on."""

    def told(_: Step) -> Verdict:
        return Verdict("done", "told")

    def die() -> str:
        os.kill(os.getpid(), signal.SIGKILL)
        return name

    said = await run.step("die", die, effect="once", resolver=told)
    await run.sleep(0.001)
    return said


FUNCTIONS = [writes, dies]


def execute(url: str, work: Any) -> Any:
    """Open a store and do something."""

    async def run() -> Any:
        MADE.clear()
        async with holdfast.open(url, functions=FUNCTIONS) as rt:
            return await work(rt)

    return asyncio.run(run())


async def finished(rt: Runtime) -> None:
    """Bring the origin to its end."""
    run = await rt.runs.start(writes, "x", run_id="o")
    await until(rt, "o", "run.waiting")
    await rt.runs.answer("o?1", "yes")
    await run.result()


def test_two_equal_forks_are_equal_and_the_origin_stays(store_url: str) -> None:
    """C3. Journals, results and artifacts; ids and times aside."""

    async def work(rt: Runtime) -> None:
        await finished(rt)
        before = await rt.runs.history("o").read()
        MADE.clear()
        sides: list[Any] = []
        for id in ("f1", "f2"):
            fork = await rt.runs.fork("o", at="file#1", patch={"post#1": "patched"}, new_id=id)
            result = await fork.result()
            names = ("at", "began", "seed", "id", "runtime")
            events = [
                (e.type, {k: v for k, v in e.data.items() if k not in names})
                for e in await rt.runs.history(id).read()
            ]
            left = [(a.name, a.digest) for a in await rt.runs.artifacts.list(id)]
            sides.append((result, events, left))
        assert sides[0] == sides[1]
        assert sides[0][0] == "patched: yes"
        assert MADE == ["patched: yes"] * 2, "what is taken over was done again"
        assert await rt.runs.history("o").read() == before
        assert await rt.runs.handle("o").forks() == ["f1", "f2"]
        assert (await rt.runs.get("f1")).origin == "o"
        assert await rt.verify() == []

    execute(store_url, work)


def test_a_plan_says_what_a_fork_would_do(store_url: str) -> None:
    """C2, C3. Reused, replaced, repeated or blocked; and the fork does just that."""

    async def work(rt: Runtime) -> None:
        await finished(rt)
        count = len(await rt.runs.list())

        async def fates(**where: Any) -> list[str]:
            return [one.fate for one in (await rt.runs.fork("o", dry_run=True, **where)).steps]

        assert await fates() == ["reused", "reused", "reused"]
        assert await fates(at="draft#1") == ["repeated", "blocked", "repeated"]
        assert await fates(at="post#1", patch={"draft#1": "x"}) == [
            "replaced",
            "blocked",
            "repeated",
        ]
        assert len(await rt.runs.list()) == count
        for wrong in ({"at": "none#1"}, {"at": 999}, {"at": 0}, {"patch": {"none#1": 1}}):
            with pytest.raises(InvalidValueError):
                await fates(**wrong)
        MADE.clear()
        fork = await rt.runs.fork("o", at="draft#1", new_id="f")
        await until(rt, "f", "run.waiting")
        assert (await fork.view()).waits == ["uncertain_effect:post#1"]
        assert MADE == ["draft of x"]
        await rt.runs.resolve("f", "post#1", Verdict("done", "told"), by="ann")
        await until(rt, "f", "question.asked")
        await rt.runs.answer("f?1", "no")
        assert await fork.result() == "told: no"

    execute(store_url, work)


def test_a_run_that_failed_is_tried_again_as_a_new_one(store_url: str) -> None:
    """A3, A7. What succeeded is taken over, the failed run stays as it was; both know the other."""
    fail = [True]

    async def shaky(run: Run) -> str:
        first = await run.step("first", note, "first")

        def second() -> str:
            if fail[0]:
                raise ConnectionError
            return "second"

        return first + await run.step("second", second)

    async def work(rt: Runtime) -> None:
        run = await rt.runs.start(shaky, run_id="r")
        with pytest.raises(RunFailedError):
            await run.result()
        before = await rt.runs.history("r").read()
        fail[0] = False
        again = await rt.runs.retry("r")
        assert await again.result() == "firstsecond"
        assert MADE == ["first"]
        assert await rt.runs.history("r").read() == before
        assert (await run.forks(), (await again.view()).origin) == ([again.id], "r")

    execute(store_url, work)


def die(url: str, run_id: str, fuse: Path, effect: str) -> int:
    """Execute a run in a process of its own; return how that ended."""
    program = [
        sys.executable,
        "-m",
        "tests.runtime.test_runs_forks",
        url,
        run_id,
        str(fuse),
        effect,
    ]
    return subprocess.run(program, check=False, timeout=60).returncode


async def _main(url: str, run_id: str, fuse: str, effect: str) -> None:
    async with holdfast.open(url) as rt:
        rt.runs.register(dies, name="dies")
        rt.runs.register(knows, name="knows")
        run = rt.runs.handle(run_id)
        if effect == "resolved":
            await rt.runs.start(knows, fuse, run_id=run_id)
        elif effect == "again":
            await rt.runs.resolve(run_id, "die#1", Verdict("again"), by="ann")
            await run.ended()
        elif not [info for info in await rt.runs.list() if info.id == run_id]:
            await rt.runs.start(dies, fuse, effect, run_id=run_id)
        async for event in run.follow():
            if event.type in ("run.waiting", "run.paused"):
                return


@pytest.mark.parametrize(
    ("kind", "expected"), [("done", "told"), ("again", "attempt 2"), ("failed", RunFailedError)]
)
def test_an_effect_that_may_have_happened_is_not_done_again(
    kept_url: str, tmp_path: Path, kind: Any, expected: Any
) -> None:
    """A2, C2. It is shown as uncertain; a person says what became of it, and that counts."""
    fuse = tmp_path / "fuse"
    fuse.write_text("1")
    assert die(kept_url, "r", fuse, "once") == -signal.SIGKILL
    assert die(kept_url, "r", fuse, "once") == 0

    async def judge(rt: Runtime) -> None:
        rt.runs.register(dies, name="dies")
        assert (await rt.runs.get("r")).waits == ["uncertain_effect:die#1"]
        with pytest.raises(RunStateError):
            await rt.runs.resolve("r", "other#1", Verdict("again"))
        assert MADE == []
        await rt.runs.resolve("r", "die#1", Verdict(kind, "told", "no"), by="ann")
        if expected is RunFailedError:
            with pytest.raises(RunFailedError):
                await rt.runs.result("r")
        else:
            assert await rt.runs.result("r") == expected

    execute(kept_url, judge)


def test_a_verdict_is_about_one_attempt(kept_url: str, tmp_path: Path) -> None:
    """A2, C2. Sent again and interrupted again, it is as uncertain as it was before."""
    fuse = tmp_path / "fuse"
    fuse.write_text("2")
    assert die(kept_url, "r", fuse, "once") == -signal.SIGKILL
    assert die(kept_url, "r", fuse, "once") == 0
    assert die(kept_url, "r", fuse, "again") == -signal.SIGKILL

    async def judge(rt: Runtime) -> None:
        rt.runs.register(dies, name="dies")
        await until(rt, "r", "run.waiting", 2)
        assert (await rt.runs.get("r")).waits == ["uncertain_effect:die#1"]
        assert MADE == []

    execute(kept_url, judge)


def test_a_run_goes_on_behind_what_its_resolver_said(kept_url: str, tmp_path: Path) -> None:
    """C1, C2. Said, rested and taken up again by one process: what was said is not new then."""
    assert die(kept_url, "r", tmp_path / "fuse", "resolved") == -signal.SIGKILL

    async def judge(rt: Runtime) -> None:
        rt.runs.register(knows, name="knows")
        async for event in rt.runs.history("r").follow():
            assert event.type != "run.diverged"
        assert await rt.runs.result("r") == "told"

    execute(kept_url, judge)


def test_what_was_said_of_a_blocked_step_is_kept(kept_url: str) -> None:
    """A10, C2, C3. A fork whose repeated effect somebody resolved does not ask again."""

    async def fork(rt: Runtime) -> None:
        await finished(rt)
        await rt.runs.fork("o", at="draft#1", new_id="f")
        await until(rt, "f", "run.waiting")
        await rt.runs.resolve("f", "post#1", Verdict("done", "told"), by="ann")
        await until(rt, "f", "run.waiting", 2)

    async def end(rt: Runtime) -> None:
        await rt.runs.answer("f?1", "no")
        asked: list[str] = []
        async for event in rt.runs.history("f").follow():
            assert event.type != "run.diverged", event.data
            asked += event.data.get("waits", [])
            assert asked.count("uncertain_effect:post#1") <= 1
        assert await rt.runs.result("f") == "told: no"

    execute(kept_url, fork)
    execute(kept_url, end)


@pytest.mark.parametrize("effect", ["safe", "idempotent", "retry"])
def test_an_attempt_that_was_interrupted_is_counted(
    kept_url: str, tmp_path: Path, effect: str
) -> None:
    """A2, A3. What may run again does, and its attempt number says so."""
    fuse = tmp_path / "fuse"
    fuse.write_text("2" if effect == "idempotent" else "1")
    while die(kept_url, "r", fuse, effect) != 0:
        assert int(fuse.read_text()) >= 0

    async def judge(rt: Runtime) -> None:
        # The first attempt of a safe step does not wait for its mark, so it may be unknown.
        expected = {"attempt 3"} if effect == "idempotent" else {"attempt 1", "attempt 2"}
        assert await rt.runs.result("r") in expected

    execute(kept_url, judge)


def test_attempts_that_a_crash_took_are_spent(kept_url: str, tmp_path: Path) -> None:
    """A3. Killed as often as it may be tried, it fails and is not begun once more."""
    fuse = tmp_path / "fuse"
    fuse.write_text("9")
    died = [die(kept_url, "r", fuse, "twice") for _ in range(3)]
    assert died == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert fuse.read_text() == "7"

    async def judge(rt: Runtime) -> None:
        info = await rt.runs.get("r")
        assert info.status is Status.FAILED
        [failed] = [e for e in await rt.runs.history("r").read() if e.type == "step.failed"]
        assert (failed.data["attempt"], failed.data["error"]["type"]) == (2, "Interrupted")

    execute(kept_url, judge)


def test_a_run_that_kills_its_runtimes_rests_and_others_go_on(
    kept_url: str, tmp_path: Path
) -> None:
    """A3, H8. Three crashes that came to nothing: paused, with the reason; resumed, it goes on."""
    fuse = tmp_path / "fuse"
    fuse.write_text("3")
    died = 0
    while die(kept_url, "r", fuse, "safe") == -signal.SIGKILL:
        died += 1
    assert died == 3

    async def judge(rt: Runtime) -> None:
        rt.runs.register(dies, name="dies")
        info = await rt.runs.get("r")
        assert (info.status, info.why.partition(":")[0]) == (Status.PAUSED, "crash_loop")
        other = await rt.runs.start(writes, "x")
        await until(rt, other.id, "run.waiting")
        await rt.runs.resume("r")
        assert (await rt.runs.ended("r")).status is Status.SUCCEEDED
        assert (await journal(rt, "r"))[-1] == "run.succeeded"

    execute(kept_url, judge)


@pytest.mark.parametrize("racers", [2, 32])
def test_of_many_answers_one_counts(kept_url: str, racers: int) -> None:
    """A10, C5. In several runtimes at once: one winner, everybody else is told who it was."""

    async def ask(run: Run) -> Any:
        return [await run.ask("Who?") for _ in range(6)]

    async def race() -> None:
        opening = [holdfast.open(kept_url) for _ in range(2)]
        async with holdfast.open(kept_url) as rt, opening[0] as two, opening[1] as three:
            run = await rt.runs.start(ask, run_id="r")
            winners: list[Any] = []
            for n in range(1, 7):
                await until(rt, "r", "question.asked", n)
                runtimes = [(rt, two, three)[number % 3] for number in range(racers)]
                answers = await asyncio.gather(
                    *(
                        one.runs.answer(f"r?{n}", number, by=str(number))
                        for number, one in enumerate(runtimes)
                    ),
                    return_exceptions=True,
                )
                won = [one for one in answers if not isinstance(one, BaseException)]
                lost = [one for one in answers if isinstance(one, BaseException)]
                assert len(won) == 1
                assert all(isinstance(one, AnswerConflictError) for one in lost), lost
                assert {getattr(one, "winner", "") for one in lost} == {won[0].by}
                winners.append(won[0].answer)
            assert await run.result() == winners
            types = await journal(rt, "r")
            assert types.count("question.answered") == 6

    asyncio.run(race())


def test_a_run_is_executed_by_one_of_several_runtimes(kept_url: str) -> None:
    """A9, C5. Twenty runs, three runtimes: every step once, whoever takes the run."""

    async def work(run: Run, name: str) -> str:
        first = await run.step("one", note, f"{name} one")
        await run.sleep(0.01)
        return first + await run.step("two", note, f"{name} two")

    async def race() -> None:
        MADE.clear()
        opening = [holdfast.open(kept_url, functions=[work]) for _ in range(3)]
        async with opening[0] as rt, opening[1], opening[2]:
            names = [f"r{number}" for number in range(20)]
            runs = [await rt.runs.start(work, name, run_id=name) for name in names]
            await asyncio.gather(*(run.result() for run in runs))
            assert sorted(MADE) == sorted(f"{n} {k}" for n in names for k in ("one", "two"))
            assert await rt.verify() == []

    asyncio.run(race())


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
