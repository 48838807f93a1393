"""A program of the lab, hurt at chosen places; every case counts, every failure says its replay."""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.testing.disk.images import Scratch
from holdfast.testing.process.kills import Forks
from holdfast.testing.trials.cases import Application, Cases
from holdfast.testing.trials.report import Report
from tests.lab.layers.outcome import Outcome
from tests.lab.traced import ROOT

_HANGS = 30.0
Strike = Mapping[str, Any]


def warm() -> Forks:
    """Return a warm process that finds the programs of the lab."""
    return Forks([str(ROOT)])


class Hurt:
    """
    One program of a seed.

    Attributes:
        found: what came of it so far.
    """

    def __init__(
        self,
        what: str,
        program: tuple[str, str],
        seed: int,
        states: Sequence[str] = (),
        forks: Forks | None = None,
    ) -> None:
        """
        Take the program.

        Args:
            what: as which its cases are counted.
            program: references to its function, and to what has to hold.
            seed: decides what it does.
            states: rare ones that have to be reached sometimes.
            forks: whoever starts its processes, and others' as well; its own one if None.
        """
        self._what = what
        self._states = states
        work, invariant = program
        self._program = Application(work=work, invariant=invariant, seed=seed, limit=_HANGS)
        self._found = Outcome()
        self._struck: Counter[str] = Counter()
        self._homes = Scratch()
        self._owns_forks = forks is None
        self._forks = forks or warm()

    def __enter__(self) -> "Hurt":
        homes = self._homes.__enter__()
        self._cases = Cases(self._program, self._forks, homes)
        return self

    def __exit__(self, *how: Any) -> None:
        if self._owns_forks:
            self._forks.close()
        self._homes.__exit__(*how)

    def prepare(self, function: str) -> None:
        """Have the process that forks all others call a function of the program with its seed."""
        self._forks.prepare(function, {"seed": self._program.seed})

    def places(self) -> Mapping[str, int]:
        """Return how often each point is reached by a program that nobody hurts."""
        trouble, found = self._cases.rehearse()
        assert trouble is None, trouble
        return found.points

    def kill(self, strikes: Sequence[Strike], each: int = 1) -> None:
        """Kill there, and where it goes on after that; a process killed is so many cases."""
        before = self._cases.killed
        trouble = self._cases.kill(strikes)
        self._found.counts[self._what] += (self._cases.killed - before) * each
        self._struck[strikes[0]["point"]] += 1
        if trouble is not None:
            it = self._program
            words = ["python", "-m", "holdfast.testing.crashlab", it.work, it.invariant]
            words += ["--seed", str(it.seed)]
            for one in strikes:
                words += ["--kill", json.dumps(one)]
            place = " then ".join(f"{one['point']} number {one['nth']}" for one in strikes)
            said = f"killed at {place}: {trouble.what}; replay: {shlex.join(words)}"
            self._found.failures.append(said)
            lost = "the invariant does not hold" in trouble.what
            self._found.lost += lost
            self._found.unnoticed += not lost

    def outcome(self) -> Outcome:
        """Return what was found."""
        found, what = self._found, self._what
        found.reached.update({f"{what}: {state}": 0 for state in self._states})
        for seen, prefix in ((self._cases.sometimes, ""), (self._struck, "killed at ")):
            found.reached.update({f"{what}: {prefix}{name}": n for name, n in seen.items()})
        return found


def of_report(what: str, report: Report) -> Outcome:
    """Return the outcome of a run of the users' lab; a promise not held counts as lost."""
    cases = report.kills + report.images + report.errors
    failures = [
        f"{one.place}: {one.what}"
        # The server of a job is gone with it; there the job is the replay.
        + (f"; replay: {one.replay}" if report.store == "sqlite" else "")
        for one in report.failures
    ]
    lost = sum("the invariant does not hold" in one.what for one in report.failures)
    reached = Counter({f"{what}: {state}": times for state, times in report.sometimes.items()})
    if report.kills:
        reached[f"{what}: killed while starting again on {report.store}"] = report.kills_again
    if report.images:
        reached[f"{what}: went on after a power cut"] = report.continued
    if report.errors:
        reached[f"{what}: raised because a call failed"] = report.raised
    return Outcome(Counter({what: cases}), lost, len(failures) - lost, failures, reached=reached)
