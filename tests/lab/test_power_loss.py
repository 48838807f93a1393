"""
Cut the power over a real Holdfast store at every moment, and open what may be left.

`holdfast.testing.disk.power` records workloads on both sector sizes, with garbage in the sector in
flight, with cuts during recovery, and judges every image by opening it with the real guard and
driver. This is a slice; `make lab` does more of the same with other seeds.
"""

import sys

import pytest

from holdfast.testing.disk import power as power_module
from holdfast.testing.disk.images import Breadth
from holdfast.testing.disk.power import CASES, PowerLoss
from holdfast.testing.faults import planted
from tests.lab.layers import Wish
from tests.lab.layers.power import calls, power

pytestmark = pytest.mark.lab

SEED = 20_265
# A slice of each; the lab judges 50,000.
IMAGES = 600


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
    assert tally.images >= IMAGES
    assert tally.nested >= IMAGES * 0.02


def test_a_full_run_has_many_workloads_and_both_sector_sizes() -> None:
    """Ten workloads or more, cut at 512 bytes and at 4 KiB, by both recorders."""
    wish = Wish(seed=1)
    jobs = [job.args for job in power(wish)]  # type: ignore[attr-defined]
    traced = [job.args for job in calls(wish)]  # type: ignore[attr-defined]
    for workloads, least in ((jobs, 10), (traced, 2)):
        assert len({(seed, case) for seed, case, _ in workloads}) >= least
        assert {CASES[case].sector_bytes for _, case, _ in workloads} == {512, 4096}
    assert sum(most for *_, most in jobs) >= 50_000


@pytest.mark.parametrize("plant", ["mark-before-commit", "synchronous-normal"])
def test_images_that_are_recovered_to_the_same_are_judged_alike(
    plant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L7. Judging one store once gives the verdict of judging each image by itself."""
    verdicts: list[tuple[int, int]] = []
    for judged_alone in (False, True):
        with planted(plant):
            layer = PowerLoss(SEED, "blocks", Breadth(prefixes=1, sectors=1, mixtures=2))
        if judged_alone:
            monkeypatch.setattr(power_module, "_left", lambda *_: object())
        tally = layer.survey(first=layer.begin(), most=300)
        verdicts.append((tally.lost, tally.unsound))
    assert verdicts[0] == verdicts[1] != (0, 0)
