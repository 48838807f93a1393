"""Commits that take a while, each another one, or at which the process is killed."""

import os
import random
import signal
import time
from pathlib import Path

from holdfast.core.failpoint import Failpoints


def delayed(seconds: float) -> Failpoints:
    """Return failpoints that hold each transaction up before its COMMIT, for a drawn time."""
    failpoints = Failpoints()
    chance = random.Random()
    failpoints.arm("commit.written", lambda: time.sleep(chance.uniform(0, seconds)))
    return failpoints


def armed(trigger: str, point: str, nth: int) -> Failpoints:
    """Return failpoints that kill the process at the n-th commit after a file came to be there."""
    failpoints = Failpoints()
    left = nth

    def pass_by() -> None:
        nonlocal left
        left -= Path(trigger).exists()
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.arm(point, pass_by)
    return failpoints
