"""Layers that break the disk: an error at every call, and damage to what is stored."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

from holdfast.testing.ioerrors import Accident, Accidents, accidents
from holdfast.testing.judge import Tally
from tests.lab.layers.outcome import Job, Outcome, Wish


def errors(wish: Wish) -> Iterator[Job]:
    """Give jobs of failing calls: every call of each workload, in eight parts."""
    for number in range(wish.seeds):
        for part in range(8):
            yield partial(fail_calls, wish.seed + number, part)


def fail_calls(seed: int, part: int) -> Outcome:
    """Let each eighth call to the disk fail, in each way."""
    return of_errors(accidents(seed, every=8, first=part))


def of_errors(tally: Tally) -> Outcome:
    """Return the outcome of failing calls; the power cuts behind them count as images."""
    counts = Counter(calls=tally.images, images=tally.nested)
    return Outcome(counts, tally.lost, tally.unsound, tally.failures)


def replay_error(seed: int, accident: Accident) -> Outcome:
    """Let the same call fail in the same way."""
    layer = Accidents(seed)
    layer.suffer(accident, power_cut=True)
    return of_errors(layer.tally)
