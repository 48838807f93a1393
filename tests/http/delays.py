"""Commits that take a while, each another one: so that they become visible out of order."""

import random
import time

from holdfast.core.failpoint import Failpoints


def delayed(seconds: float) -> Failpoints:
    """Return failpoints that hold each transaction up before its COMMIT, for a drawn time."""
    failpoints = Failpoints()
    chance = random.Random()
    failpoints.arm("commit.written", lambda: time.sleep(chance.uniform(0, seconds)))
    return failpoints
