"""Layers about the order of things: schedules of SQL, the models, the simulation."""

import logging
from collections import Counter
from collections.abc import Iterator
from functools import partial

from holdfast.testing.orders.model import Searched, search
from holdfast.testing.orders.protocol import Bounds
from holdfast.testing.orders.schedules import SCENARIOS, explore
from holdfast.testing.orders.takeover import Limits, search_takeover
from holdfast.testing.simulation.simulation import campaign, simulate
from tests.lab.layers.outcome import Job, Outcome, Wish
from tests.lab.mistakes import SOMETIMES

# Few, so that all cores are done at about the same time.
_SIMULATIONS_PER_JOB = 100


def schedules(wish: Wish) -> Iterator[Job]:
    """Give jobs that walk every order of the SQL of two instances; nightly also of three."""
    for name, scenario in SCENARIOS.items():
        if wish.nightly or len(scenario.programs) == 2:
            yield partial(walk, name, refusals=False)
        if wish.nightly and name in {"append", "record", "counter", "fence"}:
            yield partial(walk, name, refusals=True)


def walk(name: str, *, refusals: bool) -> Outcome:
    """Walk every order of one scenario."""
    walked = explore(name, refusals=refusals)
    counts = Counter(schedules=walked.schedules)
    return Outcome(counts, unnoticed=walked.violations, failures=walked.failures)


def model(wish: Wish) -> Iterator[Job]:
    """Give jobs that search the protocol of leases; nightly with more faults."""
    yield partial(search_all, Bounds())
    if wish.nightly:
        yield partial(search_all, Bounds(grants=4))
        yield partial(search_all, Bounds(workers=2, grants=4, openings=2))
    yield partial(search_takeovers, Limits())
    if wish.nightly:
        yield partial(search_takeovers, Limits(begins=3))


def search_all(bounds: Bounds) -> Outcome:
    """Visit every state of the leases within bounds."""
    return of_search(search(bounds=bounds))


def search_takeovers(limits: Limits) -> Outcome:
    """Visit every state of work that is taken over, within limits."""
    return of_search(search_takeover(limits=limits))


def of_search(searched: Searched) -> Outcome:
    """Return the outcome of a search."""
    failures = [str(searched)] if searched.broken else []
    return Outcome(Counter(states=searched.states), unnoticed=len(failures), failures=failures)


def simulation(wish: Wish) -> Iterator[Job]:
    """Give jobs of seeds, one behind the other from the seed of the run."""
    for first in range(0, wish.simulations, _SIMULATIONS_PER_JOB):
        last = min(first + _SIMULATIONS_PER_JOB, wish.simulations)
        yield partial(simulate_all, range(wish.seed + first, wish.seed + last))


def simulate_all(seeds: range) -> Outcome:
    """Run seeds of the simulation, and count what has to be reached, also what was not."""
    # What a process logs about its death is wanted when a seed is replayed, not 20,000 times.
    logging.disable(logging.CRITICAL)
    try:
        run = campaign(seeds)
    finally:
        logging.disable(logging.NOTSET)
    failures = [
        f"{broken}; replay: python -m tests.lab --only simulation --simulate {seed}"
        for seed, broken in run.broken.items()
    ]
    reached = Counter({state: run.reached[state] for state in SOMETIMES})
    return Outcome(Counter(seeds=run.seeds), len(failures), 0, failures, reached=reached)


def replay_seed(seed: int) -> Outcome:
    """Run one seed of the simulation again, with its history."""
    history = simulate(seed)
    failures = [*history.lines, history.broken] if history.broken else []
    return Outcome(Counter(seeds=1), int(bool(failures)), 0, failures)
