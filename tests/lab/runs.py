"""
A program of runs for the crash lab: every kind of step, children, questions, and a pipeline.

By the seed it starts some runs and a pipeline, plays the person who answers, sends signals,
resolves uncertain effects, lets a run rest and go on, and cancels two of them. It lives twice:
the first life ends in good order while runs are under way. Killed anywhere and started again it
goes on until all of them ended.

`work_on_damaged` is the same, but before it goes on it damages an event of a run that did not
end; from then on nobody touches that run, and the others have to go on.

What it tries and what was answered it notes, and every step notes that it is really executed;
`tests.lab.outcomes` says what a store has to hold by these notes and by the plans of the seed.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

import apsw

from holdfast import Machine, Retry, Run, Runtime, Transition, Verdict
from holdfast.core.context import Context
from holdfast.core.refusal import (
    AnswerConflictError,
    RunExistsError,
    RunStateError,
    StepFailedError,
)
from holdfast.core.run import Status
from holdfast.runtime.runs.handle import RunInfo
from holdfast.runtime.runs.journal import stream_of
from holdfast.runtime.runs.step import Step, current_step
from holdfast.testing.trials.trial import Lab
from tests.lab.scripts import (
    CUT_SHORT,
    DOOMED_ATTEMPTS,
    KEY,
    NARROW,
    TEXT,
    Plan,
    Way,
    content_of,
    expected,
    plans_of,
    value_of,
    way_of,
)

_INSIST: Final = Retry(attempts=100, backoff=0.001, longest=0.005)
_GIVE_UP: Final = Retry(attempts=DOOMED_ATTEMPTS, backoff=0.001)
# What a person does before the first life ends; it also ends when nothing else goes on.
_FIRST_LIFE: Final = 3
_IDLE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.01
# Without anything seen; less than when the lab calls a process hanging, so that it can say why.
_PATIENCE_SECONDS: Final = 8.0
_LISTED: Final = 10_000
REST: Final = "rest"
_BEGAN, _DAMAGED = "began", "damaged"


async def work(lab: Lab) -> None:
    """Live until all ended."""
    while not await Program(lab).live():
        pass


async def work_on_damaged(lab: Lab) -> None:
    """Live; who is called again damages a run first, and lives without it."""
    began, damaged = lab.folder / _BEGAN, lab.folder / _DAMAGED
    if began.exists() and not damaged.exists():
        damaged.write_text(await _damage(lab))
    began.touch()
    run_id = damaged.read_text() if damaged.exists() else ""
    while not await Program(lab, without=run_id).live():
        pass


async def _damage(lab: Lab) -> str:
    """Change a byte of one event of a run under way; return which run."""
    rng = Random(f"damage/{lab.seed}")
    async with lab.open() as rt:
        under_way = [
            info.id for info in await rt.runs.list() if not info.is_terminal and not info.parent
        ]
        if not under_way:
            return ""
        run_id = rng.choice(under_way)
        events = await rt.runs.history(run_id).read(limit=_LISTED)
    sequence = rng.randint(1, len(events))
    lab.acknowledged(["damaged", run_id, sequence])
    with closing(apsw.Connection(str(lab.folder / Path(lab.url).name))) as store:
        store.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        ((position, payload),) = store.execute(
            "SELECT event.position, event.payload FROM event JOIN stream USING (origin) "
            "WHERE stream.name = ? AND event.sequence = ?",
            (stream_of(run_id).encode(), sequence),
        )
        at = rng.randrange(len(payload))
        changed = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        store.execute("UPDATE event SET payload = ? WHERE position = ?", (changed, position))
    lab.sometimes("an event of a run under way was damaged")
    return run_id


class Program:
    """One life; without one of its runs, if that is damaged."""

    def __init__(self, lab: Lab, without: str = "") -> None:
        self._lab = lab
        self._rt: Runtime
        plans = plans_of(lab.seed)
        self._plans = {plan.run_id: plan for plan in plans if plan.run_id != without}
        self._without = without
        self._way = way_of(lab.seed)
        self._piped = ""
        self._done = 0
        self._is_first = False
        self._uncut = {*CUT_SHORT} - {without}
        self._freed = asyncio.Event()
        self._moved = 0.0

    async def live(self) -> bool:
        """Open the store and go on with everything; return whether all ended."""
        async with self._lab.open(functions=[self.play, self.errand]) as rt:
            self._rt = rt
            self._is_first = not await rt.history("lives").read()
            await self._start_all()
            ids = [id for id in (*self._plans, self._piped) if id != self._without]
            followers = [asyncio.ensure_future(self._follow(run_id)) for run_id in ids]
            ends = asyncio.gather(*(rt.runs.ended(run_id) for run_id in ids))
            try:
                self._moved, idle = self._lab.world.clock.monotonic(), 0.0
                while not await self._is_over(ends) and not self._is_late(idle):
                    await self._look_after()
                    idle = self._lab.world.clock.monotonic() - self._moved
                    if idle > _PATIENCE_SECONDS:
                        raise AssertionError(f"it does not end: {await self._stuck()}")
                    await asyncio.sleep(max(_LOOK_SECONDS, idle / 10))
                if all_ended := await self._is_over(ends):
                    self._note_ends(await ends)
                await rt.history("lives").append("ended")
            finally:
                for task in (ends, *followers):
                    task.cancel()
                await asyncio.gather(ends, *followers, return_exceptions=True)
        return all_ended

    def _is_late(self, idle: float) -> bool:
        enough = self._done >= _FIRST_LIFE or idle > _IDLE_SECONDS
        return self._is_first and not self._uncut and enough

    async def _is_over(self, ends: "asyncio.Future[Any]") -> bool:
        """Tell whether all ended, and the children of those that were cancelled."""
        if not ends.done():
            return False
        await ends  # It raises if the store failed.
        runs = await self._rt.runs.list()
        ours = [info for info in runs if self._without not in (info.id, info.parent or None)]
        return all(info.is_terminal for info in ours)

    async def _stuck(self) -> list[str]:
        """Return what is not over, and why."""
        stuck: list[str] = []
        for info in await self._rt.runs.list():
            if not info.is_terminal:
                is_whole = info.id != self._without
                history = self._rt.runs.history(info.id)
                events = await history.read(limit=_LISTED) if is_whole else []
                said = [event.type for event in events][-6:]
                reason = info.waits or info.why
                stuck.append(f"{info.id} {info.status} {reason} {info.expected!r} {said}")
        return stuck

    def _note_ends(self, ends: Sequence[RunInfo]) -> None:
        for info in ends:
            self._lab.acknowledged(["ended", info.id, info.status.value])
        self._lab.acknowledged(["all ended"])

    async def _follow(self, run_id: str) -> None:
        """Note what is seen of a journal."""
        async for event in self._rt.runs.history(run_id).follow():
            self._lab.acknowledged(["seen", run_id, event.sequence, event.type])
            self._moved = self._lab.world.clock.monotonic()

    # What is started, and the person who looks after it.

    async def _start_all(self) -> None:
        await self._rt.runs.queues.limit(NARROW, concurrency=1)
        for plan in self._plans.values():
            with suppress(RunExistsError):
                await self._rt.runs.start(
                    self.play, plan.actions, run_id=plan.run_id, queue=plan.queue
                )
            self._lab.acknowledged(["started", plan.run_id])
        pipeline = self._rt.pipeline(self.machine(), KEY)
        self._piped = (await pipeline.start(TEXT)).run_id
        self._lab.acknowledged(["piped", self._piped])

    async def _look_after(self) -> None:
        """Do what a person has to do now."""
        for question in await self._rt.runs.questions.list():
            if question.run_id == self._without:
                continue
            plan = self._plans.get(question.run_id)
            answer = self._way.answer if plan is None else plan.answers.get(question.n)
            if answer is not None:
                await self._answer(question.id, answer)
        for info in await self._rt.runs.list():
            plan = self._plans.get(info.id)
            if info.is_terminal or info.id == self._without:
                continue
            if info.status is Status.PAUSED:
                await self._resume(info)
            for wait in info.waits:
                await self._resolve(info.id, wait)
            if plan is not None:
                await self._tend(plan, info)

    async def _tend(self, plan: Plan, info: RunInfo) -> None:
        events = await self._rt.runs.history(plan.run_id).read(limit=10_000)
        started = [event.data["name"] for event in events if event.type == "step.started"]
        if "post" in started:
            self._uncut.discard(plan.run_id)
        sent = [event.data for event in events if event.type == "signal.received"]
        for name, values in expected(plan).signals.items():
            for value in values[sum(one["name"] == name for one in sent) :]:
                await self._send(plan.run_id, name, value)
        rested = any(event.type in ("run.pausing", "run.paused") for event in events)
        if plan.rests and not rested and info.attempt:
            with suppress(RunStateError):
                await self._rt.runs.pause(plan.run_id, reason=REST)
                self._did(["rested", plan.run_id])
        waits_for_good = info.reason in ("question", "child")
        if (plan.cancel == "running" and info.attempt) or (plan.cancel and waits_for_good):
            await self._cancel(plan)

    async def _answer(self, question_id: str, value: str) -> None:
        self._lab.acknowledged(["answer", question_id, value])
        with suppress(AnswerConflictError):
            await self._rt.runs.answer(question_id, value, by="ann", key="k")
            self._did(["answered", question_id, value])

    async def _send(self, run_id: str, name: str, value: str) -> None:
        with suppress(RunStateError):
            await self._rt.runs.signal(run_id, name, value)
            self._did(["sent", run_id, name, value])

    async def _resume(self, info: RunInfo) -> None:
        with suppress(RunStateError):
            await self._rt.runs.resume(info.id, by="ann")
            self._did(["resumed", info.id])
            if info.why.startswith("crash_loop"):
                self._lab.sometimes("a run that crashed too often was paused")

    async def _resolve(self, run_id: str, wait: str) -> None:
        kind, _, step = wait.partition(":")
        if kind == "uncertain_effect":
            with suppress(RunStateError):
                verdict = Verdict("done", value_of(run_id, step))
                await self._rt.runs.resolve(run_id, step, verdict, by="ann")
                self._lab.sometimes("a person said what became of an effect")

    async def _cancel(self, plan: Plan) -> None:
        with suppress(RunStateError):
            mode = "now" if plan.mode == "now" else "after_step"
            info = await self._rt.runs.cancel(plan.run_id, mode=mode, reason="enough", by="ann")
            self._did(["cancelled", plan.run_id, info.is_terminal])
            if plan.cancel == "running":
                self._freed.set()

    def _did(self, note: list[Any]) -> None:
        self._lab.acknowledged(note)
        self._done += 1

    # What runs.

    async def play(self, run: Run, actions: list[list[Any]]) -> list[Any]:
        """Do one action after the other."""
        return [await self._act(run, kind, words) for kind, *words in actions]

    async def errand(self, run: Run, number: int, waits: bool) -> int:
        """Be a child, perhaps one that never ends by itself."""
        if waits:
            await run.signal("never")
        return await run.step("square", self._square, number)

    async def _square(self, number: int) -> int:
        self._note_effect(current_step.get())
        return number**2

    def _act(self, run: Run, kind: str, words: Sequence[Any]) -> Awaitable[Any]:
        acts: dict[str, Any] = {
            "step": self._step,
            "once": self._once,
            "held": self._held,
            "pair": self._pair,
            "ask": self._ask,
            "late": partial(self._ask, timeout=0.01),
            "sleep": lambda run: run.sleep(0.005),
            "signal": lambda run, name: run.signal(name),
            "child": lambda run, *words: run.child(self.errand, *words),
            "attach": self._attach,
            "emit": lambda run: run.emit("halfway", {"of": run.id}),
            "doomed": self._doomed,
        }
        return acts[kind](run, *words)  # type: ignore[no-any-return]

    async def _step(self, run: Run, name: str, effect: Any = "safe", fails: int = 0) -> str:
        work = partial(self._do, fails)
        value = await run.step(name, work, effect=effect, retry=_INSIST if fails else None)
        self._lab.acknowledged(["returned", run.id, value])
        return value

    async def _once(self, run: Run, name: str, verdict: str) -> str:
        resolver = partial(self._find_out, verdict)
        work = self._cut_short if run.id in CUT_SHORT else partial(self._do, 0)
        value = await run.step(name, work, effect="once", resolver=resolver)
        self._lab.acknowledged(["returned", run.id, value])
        return value

    async def _held(self, run: Run, name: str) -> str:
        value = await run.step(name, self._wait_for_the_cancellation)
        self._lab.acknowledged(["returned", run.id, value])
        return value

    async def _pair(self, run: Run, left: str, right: str) -> list[str]:
        return list(await asyncio.gather(self._step(run, left), self._step(run, right)))

    async def _ask(self, run: Run, prompt: str, timeout: float | None = None) -> list[str]:
        default = None if timeout is None else "no"
        answer = await run.ask(prompt, choices=["yes", "no"], default=default, timeout=timeout)
        return [answer, await self._step(run, f"on {answer}", "idempotent")]

    async def _attach(self, run: Run, name: str) -> int:
        id = await run.attach(name, content_of(run.id, name))
        self._lab.acknowledged(["attached", run.id, id])
        return int(id.rpartition("!")[2])

    async def _doomed(self, run: Run, name: str) -> str:
        try:
            await run.step(name, self._break, effect="idempotent", retry=_GIVE_UP)
        except StepFailedError:
            return "gave up"
        raise AssertionError("a step that cannot succeed has a result")

    async def _do(self, fails: int) -> str:
        step = current_step.get()
        self._note_effect(step)
        await asyncio.sleep(0)
        if step.attempt <= fails:
            raise ConnectionError("not yet")
        return value_of(step.run_id, f"{step.name}#{step.n}")

    async def _wait_for_the_cancellation(self) -> str:
        value = await self._do(0)
        await self._freed.wait()
        return value

    async def _cut_short(self) -> str:
        """Be under way when the first life ends, so that nobody knows what became of it."""
        value = await self._do(0)
        self._uncut.discard(current_step.get().run_id)
        if self._is_first and current_step.get().attempt == 1:
            await asyncio.Event().wait()
        return value

    async def _break(self) -> None:
        self._note_effect(current_step.get())
        raise ConnectionError("never")

    def _find_out(self, verdict: str, step: Step) -> Verdict | None:
        """Say what became of an effect, as a look outside would."""
        name = f"{step.name}#{step.n}"
        if verdict == "person":
            return None
        self._lab.sometimes("a resolver said what became of an effect")
        if verdict == "again":
            self._lab.acknowledged(["again", step.run_id, name])
            return Verdict("again")
        return Verdict("done", value_of(step.run_id, name))

    def _note_effect(self, step: Step) -> None:
        name = f"{step.name}#{step.n}"
        self._lab.acknowledged(["effect", step.run_id, name, step.attempt])

    # The pipeline.

    def machine(self) -> Machine:
        """Return a machine with a loop, a guard, a question, and branches, nested once."""
        machine = Machine("walked", initial="read", final={"done"})
        machine.derive("words")(lambda ctx: ctx.input.split())

        def on(state: str, to: Any) -> None:
            machine.on(state, to=to, retry=_INSIST)(partial(self._visit, self._way))

        on("read", "fork")
        machine.parallel("fork", ["left", "right"], join="check")
        on("left", "left2")
        on("left2", "check")
        machine.parallel("right", ["up", "down"], join="right2")
        on("up", "right2")
        on("down", "right2")
        on("right2", "check")
        again = Transition("again", when=lambda ctx: ctx["rounds"] < self._way.rounds)
        on("check", [again, Transition("review")])
        on("again", "check")
        machine.ask("review", "Publish?", to={"yes": "write", "no": "drop"}, into="answer")
        on("write", "done")
        on("drop", "done")
        return machine

    async def _visit(self, way: Way, step: Any, ctx: Context) -> None:
        self._lab.acknowledged(["effect", step.run_id, f"{step.name}#{step.n}", step.attempt])
        await asyncio.sleep(0)
        state = step.name.rpartition("/")[2]
        ctx[f"list.{state}"] = [*ctx.get(f"list.{state}", []), len(ctx["words"])]
        if state == "check":
            ctx["rounds"] = ctx.get("rounds", 0) + 1
