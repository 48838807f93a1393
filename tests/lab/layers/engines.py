"""The layer of engines: many rule engines in one program, crashed at a random operation each."""

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Final

from tests.lab.engines import CASES
from tests.lab.layers.hurt import Hurt
from tests.lab.layers.outcome import Job, Outcome, Wish

_STRIKES_PER_JOB: Final = 4
_JOBS: Final = 16
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


def strike(seed: int, kills: int) -> Outcome:
    """Kill a program at points in turn, every other time again while it comes back."""
    rng = Random(f"engines/{seed}")
    program = ("tests.lab.engines:work", "tests.lab.engines:invariant")
    hurt = Hurt("engines", *program, seed, SOMETIMES)
    with hurt:
        places = hurt.places()
        for number in range(kills):
            point = POINTS[(seed + number) % len(POINTS)]
            strikes = [{"point": point, "nth": rng.randint(1, max(1, places.get(point, 1)))}]
            if number % 2:
                again = rng.choice(_AGAIN)
                strikes.append({"point": again, "nth": rng.randint(1, CASES)})
            hurt.kill(strikes, CASES)
    return hurt.outcome()
