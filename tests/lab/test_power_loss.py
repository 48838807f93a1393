"""
Cut the power over a real Holdfast store at every moment, and open what may be left.

`holdfast.testing.power` records workloads on both sector sizes, with garbage in the sector in
flight, with cuts during recovery, and judges every image by opening it with the real guard and
driver. This is a slice; `make lab` does more of the same with other seeds.
"""

import sys

import pytest

from holdfast.testing.power import CASES, PowerLoss

pytestmark = pytest.mark.lab

SEED = 20_265
IMAGES = 2_100


@pytest.mark.parametrize("case", sorted(CASES))
def test_no_power_cut_takes_what_was_acknowledged(case: str) -> None:
    """F3, F4, F5, X1, X2, C1, C6. No image is refused either: the log's scan, the mark."""
    layer = PowerLoss(SEED, case)
    tally = layer.survey(first=layer.begin(), nested=0.002, most=IMAGES)
    sys.stdout.write(
        f"\nseed {SEED} {case}: {tally.cuts} cuts, {tally.images} images, {tally.opened} opened, "
        f"{tally.nested} of cuts during recovery\n"
    )
    assert tally.clean, "\n".join(tally.failures)
    assert tally.images >= min(IMAGES, 2_000)
