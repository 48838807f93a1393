"""
The approval example, as a test: its worker killed at places and at moments, on both stores.

What the service outside did is read from its own journal; see `examples.approval.lab`.
"""

import os
import secrets

from examples.approval.lab import trial

SEED = int(os.environ.get("HOLDFAST_SEED") or secrets.randbelow(2**32))


def test_an_approval_that_is_killed_does_each_thing_once(kept_url: str) -> None:
    """A1, A2, A10, A14, C2. Same end as undisturbed; keys arrive again and are applied once."""
    found = trial(kept_url, SEED, kills=2)
    assert found.troubles == [], found.detail
    assert found.kills >= 6, found.detail
    assert found.counts["arrived 2x"] + found.counts["arrived 3x"] >= 1, found.detail
    assert found.counts["resolved by resolver"] >= 1, found.detail
    assert found.counts["resolved by ann"] >= 1, found.detail
