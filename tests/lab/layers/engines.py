"""
The layer of engines: many rule engines in one program, crashed at a random operation each, and a
few in another, to which is done what else a crash can do: power, failing calls, damage.
"""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from random import Random
from typing import Final

from holdfast.testing.crashlab import crashlab
from tests.lab.engines import CASES
from tests.lab.layers.hurt import Hurt, of_report
from tests.lab.layers.outcome import Job, Outcome, Wish
from tests.lab.piles import SOMETIMES as SOMETIMES_DAMAGED
from tests.lab.piles import invariant, work

_STRIKES_PER_JOB: Final = 4
_JOBS: Final = 10
_IMAGES_PER_JOB, _ERRORS_PER_JOB, _DAMAGES_PER_JOB = 60, 35, 10
# At which commits a program is killed before something of it is damaged.
_DAMAGED_AT: Final = (8, 26)
# The number of cases is the limit, not the time; a process that hangs is given up after that.
_SECONDS: Final = 1_200.0
# Where a kill of an engine hurts: between its own work, the journal, the answer, the snapshot.
POINTS: Final = (
    "engine.performed",
    "engine.captured",
    "engine.rebased",
    "commit.taken",
    "commit.committed",
    "commit.answered",
)
_AGAIN: Final = ("engine.restored", "engine.performed", "boot.entered")
SOMETIMES: Final = (
    "a memory went on from a snapshot",
    "a memory had no snapshot, its journal went on",
)


def engines(wish: Wish) -> Iterator[Job]:
    """Give jobs: programs of cases, killed at each point and while they start again."""
    for number in range(_JOBS * wish.seeds):
        yield partial(strike, wish.seed + number, min(_STRIKES_PER_JOB, wish.kills))

    for number in range(wish.seeds):
        seed = wish.seed + 2 * number
        for part in range(2):
            yield partial(suffer, seed + part, images=min(_IMAGES_PER_JOB, wish.images))
            yield partial(suffer, seed + part, errors=_ERRORS_PER_JOB)
            yield partial(decay, seed + part, min(_DAMAGES_PER_JOB, wish.damages))


def suffer(seed: int, images: int = 0, errors: int = 0) -> Outcome:
    """Cut the power under a program of engines, or let calls to its disk fail."""
    # What it says of its progress is said by whoever leads.
    with redirect_stdout(io.StringIO()):
        report = crashlab(
            work, invariant, seed=seed, seconds=_SECONDS, kills=0, images=images, errors=errors
        )
    return of_report("engines", report)


def decay(seed: int, damages: int) -> Outcome:
    """Damage a snapshot, or an event behind it, of one memory; the others go on."""
    rng = Random(f"decay of engines/{seed}")
    program = ("tests.lab.piles:work_on_damaged", "tests.lab.piles:invariant")
    hurt = Hurt("engines", *program, seed, SOMETIMES_DAMAGED)
    with hurt:
        for _ in range(damages):
            hurt.kill([{"point": "commit.answered", "nth": rng.randint(*_DAMAGED_AT)}])
    return hurt.outcome()


def strike(seed: int, kills: int) -> Outcome:
    """Kill a program at points in turn, every other time again while it comes back."""
    rng = Random(f"engines/{seed}")
    program = ("tests.lab.engines:work", "tests.lab.engines:invariant")
    hurt = Hurt("engines", *program, seed, SOMETIMES)
    with hurt:
        hurt.prepare("tests.lab.engines:prepare")
        places = hurt.places()
        for number in range(kills):
            point = POINTS[(seed + number) % len(POINTS)]
            strikes = [{"point": point, "nth": rng.randint(1, max(1, places.get(point, 1)))}]
            if number % 2:
                again = rng.choice(_AGAIN)
                strikes.append({"point": again, "nth": rng.randint(1, CASES)})
            hurt.kill(strikes, CASES)
    return hurt.outcome()
