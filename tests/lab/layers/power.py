"""Layers that cut the power: over recorded calls, over what strace sees, on real file systems."""

import os
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from holdfast.testing.disk.evidence import keep
from holdfast.testing.disk.power import CASES, PowerLoss
from holdfast.testing.disk.strace import StraceUnavailableError
from holdfast.testing.process.filesystem import Cuts, unavailable
from holdfast.testing.process.filesystem import cut_power as cut_filesystem
from tests.lab import traced
from tests.lab.layers.outcome import Job, Outcome, Wish

_IMAGES_PER_JOB = 2_500
_TRACED_IMAGES = 1_000
FAILED = Path("build/failed")
CORPUS = Path("tests/lab/corpus")


def power(wish: Wish) -> Iterator[Job]:
    """Give jobs of power cuts: each kind of workload in turn, with other seeds."""
    names = sorted(CASES)
    for number in range(-(-wish.images // _IMAGES_PER_JOB)):
        case = names[number % len(names)]
        yield partial(cut_power, wish.seed + number, case, min(_IMAGES_PER_JOB, wish.images))


def cut_power(seed: int, case: str, most: int) -> Outcome:
    """Cut the power over one workload, from a moment that the seed decides."""
    layer = PowerLoss(seed, case)
    layer.survey(first=layer.begin(), nested=0.002, most=most)
    return of_power(layer)


def of_power(layer: PowerLoss) -> Outcome:
    """Return the outcome of a survey of images; those of failures are kept in files."""
    tally = layer.tally
    failures = [
        f"{failure}; the image is in {keep(evidence, FAILED)}, and in {CORPUS} it is judged always"
        for failure, evidence in zip(tally.failures, layer.kept, strict=True)
    ]
    counts = Counter(images=tally.images, cuts=tally.cuts)
    seen = Counter(
        {
            f"{layer.layer}: sectors of {CASES[layer.name].sector_bytes} bytes": tally.images,
            f"{layer.layer}: workload {layer.name!r}": tally.images,
        }
    )
    if layer.layer == "power":
        seen["power: cut during recovery"] = tally.nested
    return Outcome(counts, tally.lost, tally.unsound, failures, reached=seen)


def calls(wish: Wish) -> Iterator[Job]:
    """Give jobs of power cuts over what strace sees; a twenty-fifth of the images."""
    for number in range(max(1, wish.images // (25 * _TRACED_IMAGES))):
        case = ("blocks", "sectors")[number % 2]
        yield partial(cut_traced, wish.seed + number, case, _TRACED_IMAGES)


def cut_traced(seed: int, case: str, most: int) -> Outcome:
    """Cut the power over one workload that was recorded from outside."""
    try:
        layer = traced.Traced(seed, case)
    except StraceUnavailableError as error:
        reason = f"calls: nothing was done: {error}"
        return Outcome(failures=[reason]) if os.environ.get("CI") else Outcome(notes=[reason])
    layer.survey(first=layer.behind(Random(seed).uniform(0, 0.8)), most=most)
    return of_power(layer)


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


def replay_power(layer: str, seed: int, case: str, cut: int, family: str) -> Outcome:
    """Judge one family of images of one cut again, and all cuts while they are recovered."""
    loss = traced.Traced(seed, case) if layer == "calls" else PowerLoss(seed, case)
    loss.survey(only_cut=cut, family=family, nested=0.0 if layer == "calls" else 1.0)
    return of_power(loss)
