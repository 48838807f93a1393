"""
Every call to the disk fails once, or from then on, and the store must not lie about it.

A workload runs through the store on a disk on which one call fails: a read, write, sync,
truncation, removal or renaming; with an I/O error, a full disk or half a write. Then:

- a caller knows what became of its unit: it is there, it is not, or nobody can tell yet;
- after a failed sync of the log the store stops; what it can still read is right;
- opened again on a sound disk it holds exactly what was acknowledged, and of what nobody could
  tell exactly what `outcome` says was committed;
- a power cut right after the failure leaves what was acknowledged, with or without that.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec

from holdfast.core.errors import (
    CodecError,
    ConflictError,
    FenceError,
    HoldfastError,
    NotFoundError,
    OutcomeUnknownError,
    StoreError,
)
from holdfast.core.failpoint import Failpoints
from holdfast.core.ids import Ids
from holdfast.core.unit import Committed, Unit
from holdfast.core.world import World
from holdfast.store.options import Options
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.store.store import Store
from holdfast.testing.clock import ManualClock
from holdfast.testing.disk.acts import SyncFailed, read_image
from holdfast.testing.disk.disk import CHANGES, Call, Disk, Fault
from holdfast.testing.disk.images import Breadth, Scratch, cut_at, images
from holdfast.testing.disk.power import NAME
from holdfast.testing.judge import Found, Tally, content, examine
from holdfast.testing.workload import Mirror, Step, perform, steps_of

__all__ = ["Accident", "Accidents", "accidents", "every_accident"]

_OPTIONS = Options(checkpoint_pages=8, readers=1)
_BREADTH = Breadth(prefixes=1, sectors=1, mixtures=1)
_POWER_CUT_EVERY = 11
_THOROUGH_EVERY = 4


@dataclass(frozen=True, slots=True)
class Accident:
    """
    One way in which the disk fails.

    Attributes:
        number: which call of its kinds fails, from 1.
        fault: how.
        reads: reads fail, not changes.
        lasting: all later ones of these kinds fail too.
    """

    number: int
    fault: Fault
    reads: bool = False
    lasting: bool = False

    @property
    def kind(self) -> str:
        """In words, whatever the call."""
        calls = "reads" if self.reads else "changes"
        return f"{self.fault} on {calls}, {'for ever' if self.lasting else 'once'}"


@dataclass(slots=True)
class _Story:
    """What a workload was told about its units."""

    mirror: Mirror = field(default_factory=Mirror)
    unknown: list[tuple[Unit, float]] = field(default_factory=list[tuple[Unit, float]])
    wrong: str = ""


class Accidents:
    """
    A workload, run once for each accident.

    Attributes:
        tally: what was found; its images are the accidents.
        calls: how many calls of each kind an undisturbed workload makes.
        kinds: how many accidents of each kind there were.
    """

    def __init__(self, seed: int, steps: int = 3, *, recovery: bool = False) -> None:
        """
        Run the workload undisturbed, to count its calls.

        Args:
            seed: decides the workload.
            steps: how many it has.
            recovery: it begins with what a kill left of the first two steps, the last of them
                in the log alone; so its opening is a recovery.
        """
        self.seed = seed
        self.tally = Tally()
        self.kinds: Counter[str] = Counter()
        self._recovery = recovery
        self._steps = [
            msgspec.structs.replace(step, reopen=False) for step in steps_of(seed, steps)
        ]
        self._left: dict[str, bytes] = {}
        self._before: list[Step] = []
        if recovery:
            self._before, self._steps = self._steps[:2], self._steps[2:]
            self._left = self._leave()
        with Scratch() as scratch:
            folder = scratch.lay(self._left)
            with Disk(folder) as disk:
                story = asyncio.run(self._live(folder, disk))
            story.mirror.close()
            self.calls = dict(disk.calls)
        if story.wrong or story.unknown:
            raise ValueError(f"the undisturbed workload failed: {story.wrong}")

    def all(self) -> Iterator[Accident]:
        """Give every accident: each call, each fault that it can meet, once and lasting."""
        return every_accident(self.calls)

    def survey(self, *, every: int = 1, first: int = 0, enough: int = 0) -> Tally:
        """Run each so-manieth accident; stop after `enough` failures, if that is not 0."""
        for number, accident in enumerate(self.all()):
            if number % every == first % every:
                self.suffer(accident)
            if enough and len(self.tally.failures) >= enough:
                break
        return self.tally

    def suffer(self, accident: Accident, *, power_cut: bool = False) -> None:
        """
        Run the workload with one accident, and judge what it was told and what is left.

        Args:
            accident: what fails.
            power_cut: cut the power behind it in any case, not only now and then.
        """
        self.tally.images += 1
        self.kinds[accident.kind] += 1
        power_cut = power_cut or self.tally.images % _POWER_CUT_EVERY == 0
        with Scratch() as scratch:
            folder = scratch.lay(self._left)
            with Disk(folder) as disk:
                kinds = frozenset({Call.READ}) if accident.reads else CHANGES
                disk.fail(accident.number, accident.fault, on=kinds, lasting=accident.lasting)
                story = asyncio.run(self._live(folder, disk))
            acknowledged = story.mirror.content()
            wrong = story.wrong
            if power_cut and not wrong:
                wrong = self._power_cut(disk, story, acknowledged)
            lost, wrong = (False, wrong) if wrong else self._judge(folder, story)
            story.mirror.close()
        if wrong:
            self.tally.blame(f"{wrong}; {self._replay(accident)}", lost=lost)

    def _leave(self) -> dict[str, bytes]:
        """Do the first steps and return the files as a kill behind the last of them leaves them."""
        clock, left = ManualClock(), dict[str, bytes]()
        with Scratch() as scratch:
            folder = scratch.lay({})

            def note(_: object) -> None:
                left.clear()
                left.update(read_image(folder))

            ids = Ids(Random(f"left/{self.seed}").randbytes)
            world = World(clock=clock, ids=ids)
            perform(self._before, lambda: SqliteDriver(folder / NAME, _OPTIONS, world), clock, note)
        return left

    async def _live(self, folder: Path, disk: Disk) -> _Story:
        story, clock, failpoints = _Story(), ManualClock(), Failpoints()
        for step in self._before:
            for unit in step.units:
                story.mirror.take(unit, step.at)
        ids = Ids(Random(f"accident/{self.seed}").randbytes)
        world = World(clock=clock, ids=ids, failpoints=failpoints, vfs=disk.vfs, files=disk.files)
        store = Store(SqliteDriver(folder / NAME, _OPTIONS, world), _OPTIONS, world)
        failures = _Failures(disk)
        failpoints.arm("commit.taken", failures.begin)
        failpoints.arm("commit.answered", failures.end)
        try:
            await store.open()
        except StoreError:
            return story  # Refused with a reason; the next opening has to find it sound.
        except Exception as error:
            story.wrong = f"open raised what is not Holdfast's: {error!r}"
            return story
        for step in self._steps:
            clock.set(step.at)
            await _take(store, step, story)
            if failures.within and store.poisoned is None:
                story.wrong = "a sync of the log failed in a commit, and the store went on"
        await store.close()
        return story

    def _judge(self, folder: Path, story: _Story) -> tuple[bool, str]:
        """Open on a sound disk; return whether something is lost, and what is wrong."""
        acknowledged = story.mirror.content()
        driver = SqliteDriver(folder / NAME, _OPTIONS, World(clock=ManualClock(99.0)))
        try:
            driver.open()
            for unit, at in story.unknown:
                if driver.outcome(unit.id) == "committed":
                    story.mirror.take(unit, at)
            found = content(driver)
        except HoldfastError as error:
            return False, f"{type(error).__name__}: {error}"
        finally:
            driver.close()
        if found != story.mirror.content():
            return found != acknowledged, "the content is not what the callers were told"
        return False, self._sound(folder).wrong

    def _sound(self, folder: Path) -> Found:
        world = World(clock=ManualClock(99.0))
        thorough = self.tally.images % _THOROUGH_EVERY == 0
        return examine(lambda: SqliteDriver(folder / NAME, _OPTIONS, world), thorough=thorough)

    def _power_cut(self, disk: Disk, story: _Story, acknowledged: bytes) -> str:
        """Cut the power after the failure, and return what is wrong with what it leaves."""
        allowed = {acknowledged, story.mirror.content_with(story.unknown)}
        cut = cut_at(disk.recording, len(disk.recording.acts))
        with Scratch() as scratch:
            for image in images(cut, self.seed, _BREADTH):
                self.tally.nested += 1
                found = self._sound(scratch.lay(image.files))
                if found.wrong or found.content not in allowed:
                    return f"after a power cut, {image.family!r}: {found.wrong or 'other content'}"
        return ""

    def _replay(self, accident: Accident) -> str:
        words = [f"--number {accident.number}", f"--fault {accident.fault}"]
        words += ["--reads"] * accident.reads + ["--lasting"] * accident.lasting
        words += ["--case recovery"] * self._recovery
        return f"replay: python -m tests.lab --only errors --seed {self.seed} {' '.join(words)}"


def every_accident(calls: Mapping[Call, int]) -> Iterator[Accident]:
    """Give every accident that so many calls of each kind can meet."""
    changes = sum(calls.get(call, 0) for call in CHANGES)
    for lasting in (False, True):
        for number in range(1, changes + 1):
            for fault in Fault:
                yield Accident(number, fault, lasting=lasting)
        for number in range(1, calls.get(Call.READ, 0) + 1):
            yield Accident(number, Fault.EIO, reads=True, lasting=lasting)


class _Failures:
    """Whether a sync of the log failed between the taking of a batch and its answers."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._before = 0
        self.within = False

    def begin(self) -> None:
        self._before = self._count()

    def end(self) -> None:
        self.within |= self._count() > self._before

    def _count(self) -> int:
        acts = self._disk.recording.acts
        return sum(isinstance(act, SyncFailed) and act.name.endswith("-wal") for act in acts)


async def _take(store: Store, step: Step, story: _Story) -> None:
    """Submit the units of a step; note what is said of each, and compare what can be read."""
    units = [msgspec.structs.replace(unit, id=store.unit_id()) for unit in step.units]
    answers = await asyncio.gather(*map(store.commit, units), return_exceptions=True)
    for unit, answer in zip(units, answers, strict=True):
        match answer:
            case Committed() | ConflictError() | FenceError() | NotFoundError() | CodecError():
                story.mirror.take(unit, step.at)
            case OutcomeUnknownError():
                story.unknown.append((unit, step.at))
            case StoreError():
                pass  # Nothing of it was written; that shows in the content.
            case other:
                story.wrong = f"an answer that is not Holdfast's: {other!r}"
    if not story.unknown:
        try:
            found = await store.blocking(lambda: content(store.driver))
        except StoreError:
            return  # It says that it cannot be read.
        if found != story.mirror.content():
            story.wrong = "what can be read is not what was acknowledged"


def accidents(
    seed: int, *, every: int = 1, first: int = 0, enough: int = 0, recovery: bool = False
) -> Tally:
    """
    Run the accidents of a seed.

    Args:
        seed: decides the workload.
        every: only each so-manieth accident.
        first: which of them comes first.
        enough: stop after so many failures; 0 for no limit.
        recovery: begin with what a kill left.
    """
    layer = Accidents(seed, recovery=recovery)
    return layer.survey(every=every, first=first, enough=enough)
