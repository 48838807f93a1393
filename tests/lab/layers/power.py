"""Layers that cut the power: over recorded calls, over what strace sees, on real file systems."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from random import Random

from holdfast.testing.filesystem import Cuts, unavailable
from holdfast.testing.filesystem import cut_power as cut_filesystem
from holdfast.testing.judge import Tally
from holdfast.testing.power import CASES, PowerLoss
from holdfast.testing.strace import StraceUnavailableError
from tests.lab import traced
from tests.lab.layers.outcome import Job, Outcome, Wish

_IMAGES_PER_JOB = 2_500
_TRACED_IMAGES = 1_000


def power(wish: Wish) -> Iterator[Job]:
    """Give jobs of power cuts: each kind of workload in turn, with other seeds."""
    names = sorted(CASES)
    for number in range(-(-wish.images // _IMAGES_PER_JOB)):
        case = names[number % len(names)]
        yield partial(cut_power, wish.seed + number, case, min(_IMAGES_PER_JOB, wish.images))


def cut_power(seed: int, case: str, most: int) -> Outcome:
    """Cut the power over one workload, from a moment that the seed decides."""
    layer = PowerLoss(seed, case)
    return of_power(layer.survey(first=layer.begin(), nested=0.002, most=most))


def of_power(tally: Tally) -> Outcome:
    """Return the outcome of a survey of images."""
    counts = Counter(images=tally.images, cuts=tally.cuts)
    return Outcome(counts, tally.lost, tally.unsound, tally.failures)


def calls(wish: Wish) -> Iterator[Job]:
    """Give jobs of power cuts over what strace sees; a twenty-fifth of the images."""
    for number in range(max(1, wish.images // (25 * _TRACED_IMAGES))):
        case = ("blocks", "sectors")[number % 2]
        yield partial(cut_traced, wish.seed + number, case, _TRACED_IMAGES)


def cut_traced(seed: int, case: str, most: int) -> Outcome:
    """Cut the power over one workload that was recorded from outside."""
    try:
        return of_power(traced.survey(seed, case, first=Random(seed).uniform(0, 0.8), most=most))
    except StraceUnavailableError as error:
        return Outcome(notes=[f"calls: nothing was done: {error}"])


def filesystems(wish: Wish) -> Iterator[Job]:
    """Give jobs of power cuts on real file systems, where the machine allows them."""
    for number in range(wish.seeds):
        for kind in ("ext4", "xfs"):
            yield partial(shut_down, kind, wish.seed + number)


def shut_down(kind: str, seed: int) -> Outcome:
    """Cut the power of one kind of file system again and again."""
    if reason := unavailable(kind):
        return Outcome(notes=[f"filesystems: nothing was done on {kind}: {reason}"])
    found = cut_filesystem(Cuts(kind=kind, cycles=25, seed=seed))
    counts = Counter(images=found.cycles, cuts=found.cycles)
    return Outcome(counts, found.lost, found.unsound, found.failures)


def replay_power(seed: int, case: str, cut: int, family: str) -> Outcome:
    """Judge one family of images of one cut again, and all cuts while they are recovered."""
    return of_power(PowerLoss(seed, case).survey(only_cut=cut, family=family, nested=1.0))
