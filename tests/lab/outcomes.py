"""
What a store has to hold after the program of `tests.lab.runs`, by its notes and its plans.

At every moment: journals without a gap, in which what was seen of them is where it was; steps in
the order of an uninterrupted run, with its values; nothing executed again that was recorded or
returned before; questions asked and answered once; signals in order; nothing after the end. Once
all ended: status, steps, way and result are those of a run that nobody disturbed.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from holdfast import RecordedEvent, Runtime, Status
from holdfast.core import codec
from holdfast.core.errors import DamagedError
from holdfast.core.run import CRASHES_MAX, TERMINAL
from holdfast.runtime.runs.handle import RunInfo
from holdfast.runtime.runs.journal import stream_of
from holdfast.testing.trials.trial import Lab
from tests.lab.runs import KEY, NARROW, REST
from tests.lab.scripts import (
    DOOMED_ATTEMPTS,
    HELD,
    Expected,
    Plan,
    expected,
    plans_of,
    value_of,
    way_of,
)

# A step may have begun before an owner heard that its run is to end; so many run side by side.
_SIDE_BY_SIDE: Final = 2
_LISTED: Final = 10_000
_GOES_ON: Final = (
    "step.succeeded",
    "step.failed",
    "question.asked",
    "timer.set",
    "child.started",
    "signal.taken",
)
_RESTS: Final = ("run.waiting", "run.queued", "run.paused", "run.resumed")


class Effect(NamedTuple):
    """That a step was really executed."""

    step: str
    attempt: int


class Told:
    """What follows from the notes of all lives, in order."""

    def __init__(self, notes: Iterable[Sequence[Any]]) -> None:
        self.seen: dict[tuple[str, int], str] = {}
        self.started: set[str] = set()
        self.piped = ""
        self.answers: dict[str, str] = {}
        self.sent: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self.effects: defaultdict[str, list[Effect]] = defaultdict(list)
        self.over: defaultdict[str, set[str]] = defaultdict(set)
        self.again: Counter[tuple[str, str]] = Counter()
        self.attached: set[tuple[str, str]] = set()
        self.resumed: Counter[str] = Counter()
        self.ends: dict[str, str] = {}
        self.all_ended = False
        self.damaged = ("", 0)
        self._left: dict[str, int] = {}
        for op, *rest in notes:
            getattr(self, f"_note_{op.replace(' ', '_')}")(*rest)

    def _note_started(self, run_id: str) -> None:
        self.started.add(run_id)

    def _note_piped(self, run_id: str) -> None:
        assert self.piped in ("", run_id), f"the pipeline was {self.piped}, then {run_id}"
        self.piped = run_id
        self.started.add(run_id)

    def _note_seen(self, run_id: str, sequence: int, type: str) -> None:
        known = self.seen.setdefault((run_id, sequence), type)
        assert known == type, f"event {sequence} of {run_id} was {known}, then {type}"

    def _note_effect(self, run_id: str, step: str, attempt: int) -> None:
        assert step not in self.over[run_id], f"{step} of {run_id} was over, and was executed"
        if run_id in self._left:
            self._left[run_id] -= 1
            assert self._left[run_id] >= 0, f"{step} of {run_id} was executed after its end"
        self.effects[run_id].append(Effect(step, attempt))

    def _note_returned(self, run_id: str, value: str) -> None:
        step, _, of = value.partition(" of ")
        assert of == run_id, f"{run_id} got {value!r}"
        self.over[run_id].add(step)

    def _note_recorded(self, run_id: str, *steps: str) -> None:
        self.over[run_id].update(steps)

    def _note_again(self, run_id: str, step: str) -> None:
        self.again[run_id, step] += 1

    def _note_attached(self, run_id: str, id: str) -> None:
        self.attached.add((run_id, id))

    def _note_answer(self, question_id: str, value: str) -> None: ...

    def _note_rested(self, run_id: str) -> None: ...

    def _note_resumed(self, run_id: str) -> None:
        self.resumed[run_id] += 1

    def _note_answered(self, question_id: str, value: str) -> None:
        self.answers[question_id] = value

    def _note_sent(self, run_id: str, name: str, value: str) -> None:
        self.sent[run_id, name].append(value)

    def _note_cancelled(self, run_id: str, is_over: bool) -> None:
        self._left[run_id] = 0 if is_over else min(self._left.get(run_id, 99), _SIDE_BY_SIDE)

    def _note_ended(self, run_id: str, status: str) -> None:
        known = self.ends.setdefault(run_id, status)
        assert known == status, f"{run_id} was {known}, then {status}"

    def _note_damaged(self, run_id: str, sequence: int) -> None:
        self.damaged = (run_id, sequence)
        self._left[run_id] = 0

    def _note_all_ended(self) -> None:
        self.all_ended = True


async def invariant(rt: Runtime, acknowledged: list[Any], lab: Lab) -> None:
    """Hold a store that was opened again against the notes and the plans of the program."""
    told = Told(acknowledged)
    judges = [Judge(rt, told, plan.run_id, expected(plan), plan) for plan in plans_of(lab.seed)]
    if told.piped:
        judges.append(Judge(rt, told, told.piped, _expected_way(lab.seed)))
    known = {judge.run_id for judge in judges}
    for info in await rt.runs.list(limit=_LISTED):
        ours = {info.id, info.parent} & known or info.function.endswith("walked")
        assert ours, f"nobody started {info.id}"
    for judge in judges:
        if judge.run_id == told.damaged[0]:
            await _damaged(rt, told, judge.plan)
        elif recorded := await judge.judge():
            lab.acknowledged(["recorded", judge.run_id, *recorded])
    running = [i.id for i in await rt.runs.list(status=Status.RUNNING) if i.queue == NARROW]
    assert len(running) <= 1, f"{running} are executed, and their queue lets one"
    if told.all_ended and told.piped != told.damaged[0]:
        await _pipeline(rt, lab)
    stream = stream_of(told.damaged[0])
    rest = [found for found in await rt.verify() if found.name not in (stream, told.damaged[0])]
    assert not rest, f"verify: {rest}"


async def _damaged(rt: Runtime, told: Told, plan: Plan | None) -> None:
    """A6, A13. It is named with its place, its beginning can be read, and it does not go on."""
    run_id, sequence = told.damaged
    named = [(found.name, found.sequence) for found in await rt.verify()]
    assert (stream_of(run_id), sequence) in named, f"{sequence} of {run_id} is damaged: {named}"
    history, read = rt.runs.history(run_id), 0
    try:
        async for event in history.follow():
            read = event.sequence
    except DamagedError as error:
        assert error.sequence == sequence, f"event {sequence} is damaged, it says {error}"
    assert read == sequence - 1, f"event {sequence} is damaged, {read} can be read"
    info = await rt.runs.get(run_id)
    if told.all_ended:
        # Who was let rest before, or waits, has not met the damage yet.
        met = "damaged" in info.why or info.why == REST
        rests = info.status is Status.WAITING or (info.status is Status.PAUSED and met)
        cancelled = info.status is Status.CANCELLED and plan is not None and plan.cancel
        assert rests or cancelled, f"{run_id} is damaged, and is {info.status}: {info.why}"


def _expected_way(seed: int) -> Expected:
    way = way_of(seed)
    return Expected("succeeded", [], way.steps, {}, {}, 0)


async def _pipeline(rt: Runtime, lab: Lab) -> None:
    """R1, R2. The fields and the place of the pipeline at its end."""
    versions = await rt.pipelines.list("walked", prefix=KEY)
    assert [version.version for version in versions] == [1]
    info = await rt.runs.get(versions[0].run_id)
    fields = codec.decode(bytes(info.result))
    way = way_of(lab.seed)
    assert fields == way.fields, f"the fields are {fields}, not {way.fields}"
    assert info.mark == {"done": way.last, "next": "done"}, f"it says {info.mark}"


class Judge:
    """One run, held against its plan; of the pipeline, `plan` is None."""

    def __init__(
        self, rt: Runtime, told: Told, run_id: str, expected: Expected, plan: Plan | None = None
    ) -> None:
        self.run_id = run_id
        self._rt = rt
        self._told = told
        self._expected = expected
        self.plan = plan
        self._events: list[RecordedEvent] = []

    async def judge(self) -> list[str]:
        """Return what is recorded of its steps."""
        self._events = await self._rt.runs.history(self.run_id).read(limit=_LISTED)
        if not self._events:
            assert self.run_id not in self._told.started, f"{self.run_id} was started and is gone"
            return []
        info = await self._rt.runs.get(self.run_id)
        self._journal()
        recorded = self._steps(whole=self._told.all_ended and info.status is Status.SUCCEEDED)
        self._effects()
        await self._arrived(info.status)
        await self._artifacts()
        await self._children(info.status)
        self._end(info)
        return recorded

    def _of(self, *types: str) -> list[Any]:
        return [event.data for event in self._events if event.type in types]

    def _journal(self) -> None:
        """A3, A4, A7. Dense, what was seen is there, nothing behind the end, no crash loop."""
        types = _whole(self.run_id, self._events)
        for (run_id, sequence), type in self._told.seen.items():
            if run_id == self.run_id:
                there = types[sequence - 1] if sequence <= len(types) else "nothing"
                assert there == type, f"{type} of {run_id} was seen at {sequence}, it is {there}"
        in_vain = 0
        for type in types:
            in_vain = 0 if type in _RESTS else in_vain + (type == "run.dispatched")
            began = type.startswith(("step.", "question.asked", "timer.set", "child.started"))
            assert not began or in_vain <= CRASHES_MAX, f"{self.run_id} goes on after {in_vain}"
            in_vain = 0 if type in _GOES_ON else in_vain

    def _steps(self, *, whole: bool) -> list[str]:
        """A1, A2, C1, R1, R6. As in an uninterrupted run: which, in which order, with what."""
        recorded: list[str] = []
        for said in self._of("step.succeeded", "step.resolved"):
            step = f"{said['name']}#{said['n']}"
            if said.get("verdict", "done") == "done" and not step.endswith("/failed#1"):
                recorded.append(step)
                if self.plan is not None:
                    found, wanted = said["result"], value_of(self.run_id, step)
                    assert found == wanted, f"{step} came to {found!r}, not {wanted!r}"
        left = [set(group) for group in self._expected.steps]
        for step in recorded:
            assert left and step in left[0], f"{step} of {self.run_id} is out of order: {recorded}"
            left[0].remove(step)
            left = left if left[0] else left[1:]
        assert not (whole and left), f"{self.run_id} ended without {left}"
        returned = self._told.over[self.run_id]
        gone = returned - set(recorded)
        assert not gone, f"{sorted(gone)} of {self.run_id} were returned and are not recorded"
        return recorded

    def _effects(self) -> None:
        """A2, A3, C2, H12. Never too often, and every attempt by its own number."""
        done: defaultdict[str, list[int]] = defaultdict(list)
        for step, attempt in self._told.effects[self.run_id]:
            done[step].append(attempt)
        held = [at for at, group in enumerate(self._expected.steps) if HELD in group]
        behind = {step for at in held for group in self._expected.steps[at + 1 :] for step in group}
        went_on = behind & set(done)
        assert not went_on, f"{self.run_id} was cancelled before {sorted(went_on)}"
        for step, attempts in done.items():
            name = step.partition("#")[0]
            if name == "post":
                most = 1 + self._told.again[self.run_id, step]
                assert len(attempts) <= most, f"{step} of {self.run_id} was done {attempts}"
            if name == "break":
                most = DOOMED_ATTEMPTS * (1 + len(self._of("run.resumed")))
                assert len(attempts) <= most, f"{step} of {self.run_id} was tried {attempts}"
                assert attempts == sorted(set(attempts)), f"{step} was tried as {attempts}"

    async def _arrived(self, status: Status) -> None:
        """A10, A11. Questions are asked and answered once, signals arrive in order."""
        asked = [said["id"] for said in self._of("question.asked")]
        answered = [said["id"] for said in self._of("question.answered", "question.expired")]
        for ids in (asked, answered):
            assert len(ids) == len(set(ids)), f"{self.run_id} asked or heard twice: {ids}"
        given = {said["id"]: said["value"] for said in self._of("question.answered")}
        for question in await self._rt.runs.questions.list(run_id=self.run_id, state=None):
            promised = self._told.answers.get(question.id)
            if promised is not None:
                there = (question.state, question.answer, given.get(question.id))
                assert there == ("answered", promised, promised), f"{question.id} is {there}"
            open_ = question.state == "open"
            assert not (open_ and status in TERMINAL), f"{question.id} is open after the end"
        received = self._of("signal.received")
        for name, values in self._expected.signals.items():
            there = [said["value"] for said in received if said["name"] == name]
            assert there == values[: len(there)], f"{self.run_id} got {there}"
            sent = self._told.sent[self.run_id, name]
            assert set(sent) <= set(there), f"{self.run_id} was sent {sent}, got {there}"

    async def _artifacts(self) -> None:
        """A14. What is listed can be read, and is what was attached."""
        listed = {one.name: one for one in await self._rt.runs.artifacts.list(self.run_id)}
        there = {(self.run_id, one.id) for one in listed.values()}
        attached = {one for one in self._told.attached if one[0] == self.run_id}
        assert attached <= there, f"{attached} were attached, {there} are listed"
        for name, artifact in listed.items():
            content = await self._rt.runs.artifacts.read(artifact.id)
            assert content == self._expected.kept[name], f"{artifact.id} holds {content!r}"
        emitted = len(self._of("user.halfway"))
        assert emitted <= self._expected.emitted, f"{self.run_id} emitted {emitted}"

    async def _children(self, status: Status) -> None:
        """A11. The end of a child and what its parent knows of it are one thing."""
        ended = {said["id"]: said["status"] for said in self._of("child.ended")}
        for said in self._of("child.started"):
            child = await self._rt.runs.get(said["id"])
            _whole(child.id, await self._rt.runs.history(child.id).read(limit=_LISTED))
            if self._events[-1].type != "run.cancelled":
                known = child.status.value if child.is_terminal else None
                assert ended.get(child.id) == known, f"{child.id} is {child.status}, {ended}"
            elif self._told.all_ended:
                assert child.is_terminal, f"{child.id} is {child.status}, its parent cancelled"

    def _end(self, info: RunInfo) -> None:
        """A1, A7. What was said of the end holds, and it is the one that was to be."""
        status, said = info.status, self._told.ends.get(self.run_id)
        assert said in (None, status.value), f"{self.run_id} was {said}, is {status}"
        wanted = self._expected.status
        if status in TERMINAL or self._told.all_ended:
            assert status == wanted, f"{self.run_id} is {status}, not {wanted}: {info.error}"
        if status is Status.SUCCEEDED and self.plan is not None:
            found = codec.decode(bytes(info.result))
            assert found == self._expected.result, f"{found} is not {self._expected.result}"


def _whole(run_id: str, events: Sequence[RecordedEvent]) -> list[str]:
    """Return the types of a journal without a gap, with nothing behind its end."""
    numbers = [event.sequence for event in events]
    assert numbers == list(range(1, len(numbers) + 1)), f"{run_id} has {numbers}"
    types = [event.type for event in events]
    ends = [at for at, type in enumerate(types, 1) if type in _ENDS]
    assert ends in ([], [len(types)]), f"{run_id} ended at {ends} of {len(types)}"
    return types


_ENDS: Final = ("run.succeeded", "run.failed", "run.cancelled")
