"""
The layer of engines: many rule engines in one program, crashed at a random operation each, and a
few in another, to which is done what else a crash can do: power, failing calls, damage.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from functools import partial
from random import Random
from typing import Any, Final

from holdfast.testing.crashlab import crashlab
from tests.lab.engines import CASES
from tests.lab.layers.hurt import Hurt, of_report, warm
from tests.lab.layers.outcome import Job, Outcome, Wish
from tests.lab.piles import SOMETIMES as SOMETIMES_DAMAGED
from tests.lab.piles import invariant, work

_JOBS, _JOBS_AT_NIGHT = 4, 32
_PROGRAMS_PER_JOB: Final = 2
# A program is killed so many times in a row, and begins anew so often.
_STRIKES_IN_A_ROW, _ROWS = 4, 2
_IMAGES_PER_JOB, _ERRORS_PER_JOB, _DAMAGES_PER_JOB = 60, 35, 10
# At which commits a program is killed before something of it is damaged.
_DAMAGED_AT: Final = (8, 26)
# The number of cases is the limit, not the time; a process that hangs is given up after that.
_SECONDS: Final = 1_200.0
# Where a kill of an engine hurts: between its own work, the journal, the answer, the snapshot;
# and about how often a program that nobody kills gets there.
POINTS: Final = {
    "engine.performed": 100,
    "engine.captured": 22,
    "engine.rebased": 22,
    "commit.taken": 65,
    "commit.committed": 65,
    "commit.answered": 65,
}
# The same for one that starts again, before it goes on.
_AGAIN: Final = {"engine.restored": CASES}
SOMETIMES: Final = (
    "a memory went on from a snapshot",
    "a memory had no snapshot, its journal went on",
)


def engines(wish: Wish) -> Iterator[Job]:
    """Give jobs: programs of cases, killed at each point and while they start again."""
    kills = min(_STRIKES_IN_A_ROW, wish.kills)
    jobs = _JOBS_AT_NIGHT if wish.nightly else _JOBS
    for number in range(jobs * wish.seeds):
        yield partial(strike, wish.seed + number * _PROGRAMS_PER_JOB, _PROGRAMS_PER_JOB, kills)

    for number in range(wish.seeds):
        seed = wish.seed + 2 * number
        for part in range(2):
            images = min(_IMAGES_PER_JOB, wish.images)
            yield partial(suffer, seed + part, images, _ERRORS_PER_JOB)
            yield partial(decay, seed + part, min(_DAMAGES_PER_JOB, wish.damages))


def suffer(seed: int, images: int, errors: int) -> Outcome:
    """F2-F5, F7, F8. Cut the power under a program of engines, and let calls to its disk fail."""
    # What it says of its progress is said by whoever leads.
    with redirect_stdout(io.StringIO()):
        report = crashlab(
            work, invariant, seed=seed, seconds=_SECONDS, kills=0, images=images, errors=errors
        )
    return of_report("engines", report)


def decay(seed: int, damages: int) -> Outcome:
    """F10. Damage a snapshot, or an event behind it, of one memory; the others go on."""
    rng = Random(f"decay of engines/{seed}")
    program = ("tests.lab.piles:work_on_damaged", "tests.lab.piles:invariant")
    hurt = Hurt("engines", program, seed, SOMETIMES_DAMAGED)
    with hurt:
        for _ in range(damages):
            hurt.kill([{"point": "commit.answered", "nth": rng.randint(*_DAMAGED_AT)}])
    return hurt.outcome()


def strike(seed: int, programs: int, kills: int) -> Outcome:
    """N2, N7, F1. Kill programs of cases, each some times in a row, and then anew."""
    found = Outcome()
    program = ("tests.lab.engines:work", "tests.lab.engines:invariant")
    with warm() as forks:
        for number in range(seed, seed + programs):
            rng = Random(f"engines/{number}")
            with Hurt("engines", program, number, SOMETIMES, forks) as hurt:
                hurt.prepare("tests.lab.engines:prepare")
                for _ in range(_ROWS):
                    hurt.kill(_row(rng, kills), CASES)
                found.add(hurt.outcome())
    return found


def _row(rng: Random, kills: int) -> list[Mapping[str, Any]]:
    """Draw where a program is killed, then where whoever starts again after that is killed."""
    strikes: list[Mapping[str, Any]] = []
    left = 1.0
    for number in range(kills):
        point = rng.choice([*POINTS, *_AGAIN] if number else [*POINTS])
        if point in _AGAIN:
            nth = rng.randint(1, _AGAIN[point])
        else:
            # What was done before a kill need not be done again.
            share = rng.random() * left
            left -= share
            nth = 1 + int(share * POINTS[point])
        strikes.append({"point": point, "nth": nth})
    return strikes
