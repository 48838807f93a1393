"""Layers that break the disk: an error at every call, and damage to what is stored."""

from collections import Counter
from collections.abc import Iterator
from functools import partial

import msgspec

from holdfast.testing.disk.decay import Decay, Harm
from holdfast.testing.disk.ioerrors import Accident, Accidents
from holdfast.testing.disk.power import CASES
from tests.lab.layers.outcome import Job, Outcome, Wish

_DAMAGES_PER_JOB = 500
_PARTS = 8


def errors(wish: Wish) -> Iterator[Job]:
    """Give jobs of failing calls: every call of each workload, from nothing and of a recovery."""
    for number in range(wish.seeds):
        for part in range(_PARTS):
            yield partial(fail_calls, wish.seed + number, part, recovery=False)
            yield partial(fail_calls, wish.seed + number, part, recovery=True)


def fail_calls(seed: int, part: int, *, recovery: bool) -> Outcome:
    """Let each call of a part fail, in each way."""
    layer = Accidents(seed, recovery=recovery)
    layer.survey(every=_PARTS, first=part)
    return of_errors(layer)


def of_errors(layer: Accidents) -> Outcome:
    """Return the outcome of failing calls; the power cuts behind them count as images."""
    tally = layer.tally
    counts = Counter(calls=tally.images, images=tally.nested)
    kinds = Counter({f"error {kind}": count for kind, count in layer.kinds.items()})
    return Outcome(counts, tally.lost, tally.unsound, tally.failures, reached=kinds)


def replay_error(seed: int, case: str, accident: Accident) -> Outcome:
    """Let the same call fail in the same way."""
    layer = Accidents(seed, recovery=case == "recovery")
    layer.suffer(accident, power_cut=True)
    return of_errors(layer)


def damages(wish: Wish) -> Iterator[Job]:
    """Give jobs of damage: each kind of workload in turn, with other seeds."""
    names = sorted(CASES)
    for number in range(-(-wish.damages // _DAMAGES_PER_JOB)):
        case = names[number % len(names)]
        yield partial(decay, wish.seed + number, case, min(_DAMAGES_PER_JOB, wish.damages))


def decay(seed: int, case: str, most: int) -> Outcome:
    """Damage one workload's store again and again."""
    layer = Decay(seed, case)
    layer.survey(most)
    return of_damages(layer)


def of_damages(layer: Decay) -> Outcome:
    """Return the outcome of damages; how they ended shows that all of that occurs."""
    tally = layer.tally
    seen = Counter({f"damage {what}": count for what, count in layer.seen.items()})
    return Outcome(
        Counter(damages=tally.images), tally.lost, tally.unsound, tally.failures, reached=seen
    )


def replay_damage(seed: int, case: str, harm: str) -> Outcome:
    """Do the same damage to the same store."""
    layer = Decay(seed, case)
    layer.suffer(msgspec.json.decode(harm, type=Harm))
    return of_damages(layer)
