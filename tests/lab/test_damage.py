"""
Damage after damage to stores of other shapes and ages; a slice of `python -m tests.lab`.

What one row, column or file comes to is in `tests/store`; here everything is hit at random, with
a log behind it and at rest, and judged by what is read afterwards.
"""

import sys

import pytest

from holdfast.testing.disk.decay import Decay
from holdfast.testing.disk.power import CASES

pytestmark = pytest.mark.lab

SEED = 20_265


@pytest.mark.parametrize("case", sorted(CASES))
def test_no_damage_is_served_as_truth_or_takes_anything_in_silence(case: str) -> None:
    """F10, F11, F12, F13, X3. Refused, named, or without effect; and no false alarm."""
    layer = Decay(SEED, case)
    tally = layer.survey(150)
    sys.stdout.write(f"\nseed {SEED} {case}: {dict(layer.seen)}\n")
    assert tally.clean, "\n".join(tally.failures)
    # "Sometimes": each way to end was seen.
    assert {"whole", "cloned", "named", "refused: store_refused"} <= set(layer.seen)
