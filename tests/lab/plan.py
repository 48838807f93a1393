"""
In which order the jobs of a run are done.

A full run has so many jobs; those that take longest are begun first, so that no core waits for
another at the end. A night first does what has an end, then goes round: the layer that is
farthest behind its share of the time is next, and when its jobs are used up it gets new ones,
made with another seed, until its goal is reached or the night is over.
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from tests.lab.crew import Done, Task
from tests.lab.layers import LAYERS, Wish
from tests.lab.report import FULL, GOALS, LayerRun, Run

SMALLER = ("images", "kills", "damages", "simulations")
# Between the seeds of two rounds: more than the jobs of a round count on from theirs.
_ROUND = 1_000_003


def smaller(wish: Wish) -> list[str]:
    """Return the options that say what is wanted other than the full figures."""
    names = [what for what in SMALLER if getattr(wish, what) != getattr(FULL, what)]
    return [f"--{what} {getattr(wish, what)}" for what in names]


@dataclass(slots=True)
class _Turn:
    """A layer that goes round: its jobs still to do, and the time it had, by its share."""

    tasks: list[Task] = field(default_factory=list[Task])
    rounds: int = 0
    had: float = 0.0
    barren: bool = False


class Plan:
    """The queue of a run; it also counts what the run did."""

    def __init__(self, run: Run, names: Iterable[str], over: float) -> None:
        """
        Make the jobs.

        Args:
            run: what is to be done, and where it is counted.
            names: which layers take part.
            over: when by the monotonic clock no more jobs are begun.
        """
        self._run = run
        self._over = over
        run.layers.update({name: LayerRun() for name in names})
        round_ = [name for name in run.layers if run.wish.nightly and LAYERS[name].share]
        self._turns = {name: _Turn() for name in round_}
        fixed = [name for name in run.layers if name not in self._turns]
        fixed.sort(key=lambda name: LAYERS[name].seconds, reverse=True)
        self._fixed = iter([task for name in fixed for task in self._make(name, run.wish.seed)])
        for name in self._turns:
            self._go_round(name)

    def more(self) -> Task | None:
        """Return the next job, or None if nothing is left or the time is over."""
        if time.monotonic() >= self._over:
            return None
        if task := next(self._fixed, None):
            return task
        open_ = [name for name in self._turns if not self._is_done(name)]
        if not open_:
            return None
        name = min(open_, key=lambda name: self._turns[name].had)
        turn, layer = self._turns[name], LAYERS[name]
        if not turn.tasks:
            self._go_round(name)
        turn.had += layer.seconds / layer.share
        if turn.rounds > 1:
            self._run.layers[name].jobs += 1
        return turn.tasks.pop(0)

    def take(self, done: Done) -> None:
        """Count a job that is over."""
        name = done.task.layer
        self._run.layers[name].add(done)
        if turn := self._turns.get(name):
            layer = LAYERS[name]
            turn.had += (done.seconds - layer.seconds) / layer.share
            turn.barren |= not done.outcome.counts.total()

    def _is_done(self, name: str) -> bool:
        turn = self._turns[name]
        if not turn.tasks and turn.barren:
            return True
        what, goal = GOALS.get(name, ("", math.inf))
        # The first round is done in any case.
        return turn.rounds > 1 and self._run.total.counts[what] >= goal

    def _go_round(self, name: str) -> None:
        turn = self._turns[name]
        turn.tasks += self._make(name, self._run.wish.seed + turn.rounds * _ROUND)
        turn.rounds += 1

    def _make(self, name: str, seed: int) -> Iterator[Task]:
        wish = replace(self._run.wish, seed=seed)
        layer = self._run.layers[name]
        layer.seeds.append(seed)
        words = ["--nightly"] * wish.nightly + [f"--only {name}", f"--seed {seed}", *smaller(wish)]
        # Later rounds are as long as there is time: their jobs count when they are begun.
        first = seed == self._run.wish.seed
        for number, job in enumerate(LAYERS[name].jobs(wish)):
            layer.jobs += first
            again = " ".join([*words, f"--job {number}"])
            yield Task(name, job, again, spread=LAYERS[name].spread or wish.nightly)
