"""What a layer of the lab is asked for, and what it found."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Hunted:
    """
    What came of the hunt for one planted bug.

    Attributes:
        by: the layer that has to find it.
        found: whether it did.
        seconds: how long that took.
    """

    by: str
    found: bool
    seconds: float = 0.0


@dataclass(slots=True)
class Outcome:
    """
    What a job did.

    Attributes:
        counts: how much of what, by the keys of the report.
        lost: cases in which something acknowledged was gone.
        unnoticed: other cases that are not as promised.
        failures: the first of both in words, each with the command that repeats it.
        planted: bugs that were hunted, and what came of it.
        reached: how often each state that has to occur sometimes was seen, with those that were
            not; one that nobody ever sees is a failure.
        notes: what could not be done on this machine, and why.
    """

    counts: Counter[str] = field(default_factory=Counter[str])
    lost: int = 0
    unnoticed: int = 0
    failures: list[str] = field(default_factory=list[str])
    planted: dict[str, Hunted] = field(default_factory=dict[str, Hunted])
    reached: Counter[str] = field(default_factory=Counter[str])
    notes: list[str] = field(default_factory=list[str])

    def add(self, other: "Outcome") -> None:
        """Put another outcome to this one."""
        self.counts.update(other.counts)
        self.lost += other.lost
        self.unnoticed += other.unnoticed
        self.failures += other.failures
        self.planted |= other.planted
        # Other than `+=`, this keeps what was seen zero times.
        self.reached.update(other.reached)
        self.notes += [note for note in other.notes if note not in self.notes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """
    How much is wanted.

    Attributes:
        seed: decides everything.
        images: crash images to judge.
        kills: processes to kill.
        damages: damages to do to what is stored.
        seeds: workloads of which every call to the disk fails.
        simulations: seeds of several processes on one store in virtual time.
        nightly: whether also what takes longest is wanted, as orders of three instances.
    """

    seed: int
    images: int = 50_000
    kills: int = 5_000
    damages: int = 20_000
    seeds: int = 1
    simulations: int = 20_000
    nightly: bool = False


Job = Callable[[], Outcome]
Part = Literal["kernel", "nouns"]
"""What the store itself promises; and what stands on it: sessions, ledger, runs, engines."""


@dataclass(frozen=True, slots=True)
class Layer:
    """
    A layer of the lab.

    Attributes:
        jobs: gives what there is to do, in parts for all cores.
        seconds: what one job takes, roughly; the longest are begun first.
        share: parts of a night that it gets if its figures are not reached before; 0 if it is
            done when its jobs are, because other seeds would show nothing new.
        spread: what it is about is processes that run at once, on every core; by night all are.
        part: of which part of the lab it is.
    """

    jobs: Callable[[Wish], Iterator[Job]]
    seconds: float
    share: int = 0
    spread: bool = False
    part: Part = "kernel"
