"""
The approval under fire: its worker is killed again and again, and the service's journal counts.

Each case is a run of its own on one store. A worker is killed with SIGKILL at the places its
case names, or at a moment, and started again; a person answers, confirms, and resolves what is
uncertain, some of it while the worker is down. In the end everything has to be as in a run that
nobody disturbed, and each key was applied once by the service, however often it arrived.
"""

import asyncio
import json
import secrets
import signal
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, Final, NamedTuple

import holdfast
from examples.approval.service import Arrival, arrivals
from examples.approval.worker import STEPS
from holdfast import RecordedEvent, Runtime, Verdict

ROOT: Final = Path(__file__).parents[2]
HUNTED: Final = 4
"""How often a worker is killed at a moment."""
MOMENTS: Final = (0.2, 1.2)
LIMIT: Final = 60.0
UNCERTAIN: Final = f"uncertain_effect:{STEPS[2]}"


class Death(NamedTuple):
    """How a worker dies: at a place for the n-th time, or without a place after some seconds."""

    place: str = ""
    nth: int = 0
    seconds: float = 0.0


WORST: Final = (
    [Death("call.sent", 1), Death("call.answered", 1), Death("call.answered", 2)],
    [Death("call.begun", 2), Death("call.sent", 1), Death("run.step_recorded", 2)],
)
"""Lived in every trial: both effects hang in the air, once done and once not."""


class Story(NamedTuple):
    """
    What came of a case.

    Attributes:
        end: status, result, steps in order, way, artifact; equal for every case.
        died: places at which the worker died; "" for a moment.
        arrived: how often each key arrived at the service.
        troubles: broken promises, in words.
        counts: of answers while the worker was down, and of how uncertain effects were resolved.
        reached: how often the last worker came to each place.
    """

    end: dict[str, Any]
    died: list[str]
    arrived: Counter[str]
    troubles: list[str]
    counts: Counter[str]
    reached: Counter[str]


class Trial(NamedTuple):
    """
    What came of all cases.

    Attributes:
        kills: how many there were.
        troubles: broken promises, in words.
        counts: how often what was done; `arrived 2x` is how many keys arrived twice.
        detail: what was done, in a line.
    """

    kills: int
    troubles: list[str]
    counts: Counter[str]
    detail: str


class Service:
    """The service outside, running; use it with `with`."""

    def __init__(self, journal: Path) -> None:
        """Start it."""
        program = [sys.executable, "-m", "examples.approval.service", str(journal)]
        self._process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.journal = journal
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> "Service":
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


class Case:
    """One run, its worker over all its lives, and the person it asks."""

    def __init__(
        self,
        rt: Runtime,
        url: str,
        service: Service,
        run_id: str,
        deaths: list[Death],
        chance: Callable[[], bool],
    ) -> None:
        """Take where it happens, how the worker dies, and whether a person waits for that."""
        self._rt = rt
        self._url = url
        self._service = service
        self._id = run_id
        self._deaths = deaths
        self._chance = chance
        self._gate = asyncio.Lock()
        self._process: Process | None = None
        self._confirmed = False
        self.died: list[str] = []
        self.counts: Counter[str] = Counter()

    async def live(self) -> Story:
        """Have the run executed to its end, and tell the story."""
        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as both:
            both.create_task(self._be_asked())
            worker = both.create_task(self._lives())
        events = await self._rt.runs.history(self._id).read(limit=10_000)
        arrived = arrivals(self._service.journal, self._id)
        for event in events:
            if event.type == "step.resolved":
                self.counts[f"resolved by {event.data['by']}"] += 1
        return Story(
            await self._end(events),
            self.died,
            Counter(one.key for one in arrived if one.did != "asked"),
            list(self._troubles(events, arrived)),
            self.counts,
            worker.result(),
        )

    # The worker.

    async def _lives(self) -> Counter[str]:
        """Start the worker as often as it dies; return where the last one came."""
        while True:
            death = self._deaths.pop(0) if self._deaths else Death()
            async with self._gate:
                process = self._process = await self._start(death)
            said, _ = await asyncio.gather(process.communicate(), self._kill_after(process, death))
            if process.returncode == -signal.SIGKILL:
                self.died.append(death.place)
            elif process.returncode == 0:
                return Counter(json.loads(said[0]))
            else:
                raise RuntimeError(said[1].decode())

    async def _start(self, death: Death) -> Process:
        program = ["-m", "examples.approval.worker", self._url, str(self._service.port), self._id]
        program += [death.place, str(death.nth)] if death.place else []
        return await asyncio.create_subprocess_exec(
            sys.executable, *program, cwd=ROOT, stdout=PIPE, stderr=PIPE
        )

    async def _kill_after(self, process: Process, death: Death) -> None:
        if death.seconds:
            try:
                await asyncio.wait_for(process.wait(), death.seconds)
            except TimeoutError:
                process.kill()

    # The person.

    async def _be_asked(self) -> None:
        """Do what the run waits for, until it ended."""
        async for event in self._rt.runs.history(self._id).follow():
            if event.type == "question.asked":
                await self._do("answered", self._answer(event.data["id"]))
            elif event.type == "run.waiting" and UNCERTAIN in event.data["waits"]:
                await self._do("decided", self._resolve())
            elif event.type == "run.paused":
                await self._do("resumed", self._rt.runs.resume(self._id, by="ann"))
            elif _announced(event) and not self._confirmed:
                self._confirmed = True
                await self._do("confirmed", self._rt.runs.signal(self._id, "confirmed", "seen"))

    async def _do(self, what: str, action: Any) -> None:
        """Do something, perhaps while the worker is down."""
        if not self._chance():
            await action
            return
        async with self._gate:
            assert self._process is not None
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            self.counts[f"{what} while it was down"] += 1
            await action

    async def _answer(self, question: str) -> None:
        await self._rt.runs.answer(question, "yes", by="ann", key="yes")
        await self._rt.runs.answer(question, "yes", by="ann", key="yes")  # Clicked twice.

    async def _resolve(self) -> None:
        """Look up what the service knows of the letter, and say so."""
        sent = [one for one in self._letters() if one.did == "applied"]
        verdict = Verdict("done", sent[0].answer) if sent else Verdict("again")
        await self._rt.runs.resolve(self._id, STEPS[2], verdict, by="ann")

    def _letters(self) -> list[Arrival]:
        return [one for one in arrivals(self._service.journal, self._id) if one.what == "letters"]

    # The judge.

    async def _end(self, events: list[RecordedEvent]) -> dict[str, Any]:
        info = await self._rt.runs.get(self._id)
        artifacts = [
            (one.name, one.media_type, await self._rt.runs.artifacts.read(one.id))
            for one in await self._rt.runs.artifacts.list(self._id)
        ]
        return {
            "status": info.status,
            "result": await self._rt.runs.result(self._id),
            "steps": [f"{e.data['name']}#{e.data['n']}" for e in events if _is_over(e)],
            "way": [e.type for e in events if e.type in WAY],
            "artifacts": artifacts,
        }

    def _troubles(self, events: list[RecordedEvent], arrived: list[Arrival]) -> Any:
        applied = Counter((one.what, one.key) for one in arrived if one.did == "applied")
        if sorted(what for what, _ in applied) != ["letters", "publications"]:
            yield f"{self._id}: other effects than one of each kind: {dict(applied)}"
        if set(applied.values()) != {1}:
            yield f"{self._id}: a key was applied more than once: {dict(applied)}"
        tokens = [one.token for one in arrived if one.did not in ("refused", "asked")]
        # Whoever asks a second time is another owner.
        if tokens != sorted(tokens) or len({(one.key, one.token) for one in arrived}) < len(
            arrived
        ):
            yield f"{self._id}: tokens that do not grow: {tokens}"
        if [e.sequence for e in events] != list(range(1, len(events) + 1)):
            yield f"{self._id}: a journal with gaps"


WAY: Final = (
    "artifact.attached",
    "question.asked",
    "question.answered",
    "signal.received",
    "signal.taken",
    "run.succeeded",
)


def _is_over(event: RecordedEvent) -> bool:
    resolved = event.type == "step.resolved" and event.data["verdict"] == "done"
    return event.type == "step.succeeded" or resolved


def _announced(event: RecordedEvent) -> bool:
    return _is_over(event) and f"{event.data['name']}#{event.data['n']}" == STEPS[2]


async def approve(url: str, folder: Path, random: Random, kills: int, seconds: float) -> Trial:
    """Have runs approved on one store, killed at so many places and until the time is over."""
    until = monotonic() + seconds
    with Service(folder / "journal") as service:
        async with holdfast.open(url) as rt:

            async def live(deaths: Iterable[Death], chance: Callable[[], bool] = bool) -> Story:
                name = f"approval {random.randrange(16**8):08x}"
                return await Case(rt, url, service, name, list(deaths), chance).live()

            def heads() -> bool:
                return random.random() < 0.5

            quiet = await live([])
            stories = [await live(deaths) for deaths in WORST]
            drawn = _cases(quiet.reached, random, kills)
            while drawn or monotonic() < until:
                drawn = drawn or _cases(quiet.reached, random, kills)
                stories.append(await live(drawn.pop(), heads))
            hunted = [Death(seconds=random.uniform(*MOMENTS)) for _ in range(HUNTED)]
            stories.append(await live(hunted, heads))
            damaged = [str(finding) for finding in await rt.verify()]
    return _judged(quiet, stories, damaged)


def _cases(reached: Counter[str], random: Random, kills: int) -> list[list[Death]]:
    """Draw so many places, each for a first worker, which comes everywhere, and a second one."""
    places = random.sample(sorted(reached), min(kills, len(reached)))
    return [
        [Death(place, random.randint(1, reached[place])), Death(random.choice(places), 1)]
        for place in places
    ]


def _judged(quiet: Story, stories: list[Story], damaged: list[str]) -> Trial:
    troubles = [*quiet.troubles, *damaged]
    counts: Counter[str] = Counter()
    for story in stories:
        troubles += story.troubles
        counts += story.counts + Counter(f"arrived {n}x" for n in story.arrived.values())
        for what, expected in quiet.end.items():
            if story.end[what] != expected:
                troubles.append(f"{what} is not as undisturbed: {story.end[what]!r:.500}")
    died = [place for story in stories for place in story.died]
    done = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
    where = f"{len({*died} - {''})} of {len(quiet.reached)} places"
    detail = f"{len(died)} kills at {where} in {len(stories)} runs: {done}"
    return Trial(len(died), troubles, counts, detail)


def trial(url: str, seed: int | None = None, *, kills: int = 100, seconds: float = 0.0) -> Trial:
    """
    Kill the workers on a store.

    Args:
        url: of the store.
        seed: decides where; drawn if not given, and printed.
        kills: how many places are drawn in a round; there are less than a hundred.
        seconds: begin another round as long as there is time.
    """
    drawn = secrets.randbelow(2**32) if seed is None else seed
    print(f"approval: seed {drawn}", flush=True)
    with tempfile.TemporaryDirectory(prefix="approval-") as folder:
        return asyncio.run(approve(url, Path(folder), Random(drawn), kills, seconds))
