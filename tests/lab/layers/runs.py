"""The layer of runs and pipelines: their program in the users' crash lab, and at every point."""

import io
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from random import Random
from typing import Final

from holdfast.testing.crashlab import crashlab
from holdfast.testing.server import PostgresServer
from holdfast.testing.trials.report import Report
from tests.lab.layers.hurt import Hurt, of_report
from tests.lab.layers.outcome import Job, Outcome, Wish
from tests.lab.outcomes import invariant
from tests.lab.runs import work

_KILLS_PER_JOB, _KILLS_ON_POSTGRES = 15, 4
_IMAGES_PER_JOB, _ERRORS_PER_JOB = 20, 10
_POINTS_PER_JOB, _DAMAGES_PER_JOB = 20, 5
_IN_A_ROW = 8
# The number of cases is the limit, not the time; a process that hangs is given up after that.
_SECONDS = 1_200.0
# Where a kill of a run hurts; each time one of them is reached is a place to be killed at.
POINTS: Final = (
    "ledger.begun",
    "run.dispatched",
    "run.step_started",
    "run.step_recorded",
    "run.ended",
    "commit.taken",
    "commit.committed",
    "commit.answered",
)
SOMETIMES: Final = (
    "a person said what became of an effect",
    "a resolver said what became of an effect",
    "a run that crashed too often was paused",
    "an event of a run under way was damaged",
)


def runs(wish: Wish) -> Iterator[Job]:
    """Give jobs of kills, power cuts, failing calls and damage, and of kills on PostgreSQL."""
    for number in range(wish.seeds):
        seed = wish.seed + number
        kills = min(_POINTS_PER_JOB, wish.kills)
        yield partial(on_postgres, seed, min(_KILLS_ON_POSTGRES, wish.kills))
        yield partial(strike, seed, kills)
        yield partial(suffer, seed, kills=min(_KILLS_PER_JOB, wish.kills))
        yield partial(suffer, seed + 2, images=min(_IMAGES_PER_JOB, wish.images))
        yield partial(suffer, seed + 3, errors=_ERRORS_PER_JOB)
        yield partial(decay, seed, min(_DAMAGES_PER_JOB, wish.damages))


def suffer(seed: int, kills: int = 0, images: int = 0, errors: int = 0) -> Outcome:
    """Do to the program what a crash can do, on SQLite."""
    return of_report("runs", _run(seed, kills, images, errors))


def on_postgres(seed: int, kills: int) -> Outcome:
    """Kill the program on a server that goes on."""
    with PostgresServer() as server:
        server.start()
        return of_report("runs", _run(seed, kills, 0, 0, server.url))


def strike(seed: int, kills: int) -> Outcome:
    """Kill at each point of runs, in turn, and again while it goes on; some of them in a row."""
    rng, hurt = Random(f"runs/{seed}"), _hurt(seed, "work")
    with hurt:
        places = hurt.places()
        in_a_row = [{"point": "run.dispatched", "nth": 1}] * _IN_A_ROW
        hurt.kill(in_a_row)
        for number in range(kills - 1):
            point = POINTS[number % len(POINTS)]
            strikes = [{"point": point, "nth": rng.randint(1, places[point])}]
            if number % 3 == 0:
                again = rng.choice(POINTS)
                strikes.append({"point": again, "nth": rng.randint(1, 1 + places[again] // 2)})
            hurt.kill(strikes)
    return hurt.outcome()


def decay(seed: int, damages: int) -> Outcome:
    """Damage the journal of one run under way; the others go on."""
    rng = Random(f"decay/{seed}")
    outcome = Outcome()
    # A seed damages one event; each has a program of its own.
    for number in range(damages):
        hurt = _hurt(seed + number, "work_on_damaged")
        with hurt:
            point = rng.choice(("run.dispatched", "run.step_recorded", "commit.answered"))
            hurt.kill([{"point": point, "nth": rng.randint(2, 8)}])
        outcome.add(hurt.outcome())
    return outcome


def _hurt(seed: int, work: str) -> Hurt:
    program = (f"tests.lab.runs:{work}", "tests.lab.outcomes:invariant")
    return Hurt("runs", program, seed, SOMETIMES)


def _run(seed: int, kills: int, images: int, errors: int, store: str = "") -> Report:
    # What it says of its progress is said by whoever leads.
    with redirect_stdout(io.StringIO()):
        return crashlab(
            work,
            invariant,
            seed=seed,
            seconds=_SECONDS,
            kills=kills,
            images=images,
            errors=errors,
            store=store,
        )
