"""
The broker example, as a test: killed in commits, in the boot and in its restore, on both stores.

What clients were told is compared with an uninterrupted run; see `examples.broker.judge`.
"""

import os
import secrets

from examples.broker.lab import trial

SEED = int(os.environ.get("HOLDFAST_SEED") or secrets.randbelow(2**32))


def test_a_broker_that_is_killed_decides_as_if_it_had_not_been(kept_url: str) -> None:
    """
    N2, N6, N7, N12, N14.

    Equal decisions, traces and digests; 503 with progress while it comes back; each answered
    request is applied and audited once; one that fails leaves nothing; exposure is the audit's.
    """
    found = trial(kept_url, SEED, kills=7)
    assert found.troubles == [], found.detail
    assert found.kills == 7, found.detail
    assert found.counts["rebased"] >= 1, found.detail
    assert found.counts["failed"] >= 1, found.detail
    assert found.counts["mixture"] + found.counts["over-the-line"] >= 1, found.detail
