"""The layers that test the tests: planted bugs, each hunted by the layer that has to find it."""

import time
from collections.abc import Callable, Iterator
from functools import partial

from holdfast.testing.orders.model import search
from holdfast.testing.orders.protocol import BROKEN, Bounds
from holdfast.testing.orders.takeover import BROKEN_TAKEOVERS, search_takeover
from holdfast.testing.simulation.simulation import campaign
from tests.lab.hunted import by_engines
from tests.lab.layers.outcome import Hunted, Job, Outcome, Wish
from tests.lab.mistakes import MISTAKES, SEEDS_TO_FIND
from tests.lab.planted import HUNTS, by_nouns, by_runs

_NOUNS = (by_nouns, by_runs, by_engines)


def planted_nouns(_: Wish) -> Iterator[Job]:
    """Give jobs that hunt bugs planted in sessions, ledger, runs and engines."""
    for plant in sorted(name for name, hunter in HUNTS.items() if hunter in _NOUNS):
        yield partial(hunt, plant)


def planted(_: Wish) -> Iterator[Job]:
    """Give jobs that hunt bugs planted in the store and in how processes use it."""
    for plant in sorted(name for name, hunter in HUNTS.items() if hunter not in _NOUNS):
        yield partial(hunt, plant)
    for mistake in sorted(MISTAKES):
        yield partial(hunt_mistake, mistake)
    for number in range(len(BROKEN)):
        yield partial(hunt_protocol, number)
    for number in range(len(BROKEN_TAKEOVERS)):
        yield partial(hunt_takeover, number)


def hunt(plant: str) -> Outcome:
    """Hunt one planted bug."""
    hunter = HUNTS[plant]
    return of_hunt(plant, hunter.__name__.removeprefix("by_"), lambda: bool(hunter(plant)))


def hunt_mistake(mistake: str) -> Outcome:
    """Hunt a mistake in how processes use the store."""
    seeds = range(1, SEEDS_TO_FIND)
    run = partial(campaign, seeds, MISTAKES[mistake], enough=1)
    return of_hunt(mistake, "simulation", lambda: bool(run().broken))


def hunt_protocol(number: int) -> Outcome:
    """Hunt a mistake in the protocol of leases."""
    run = partial(search, BROKEN[number], Bounds(workers=2))
    return of_hunt(BROKEN[number].name, "model", lambda: bool(run().broken))


def hunt_takeover(number: int) -> Outcome:
    """Hunt a mistake in how work in flight is taken over."""
    run = partial(search_takeover, BROKEN_TAKEOVERS[number])
    return of_hunt(BROKEN_TAKEOVERS[number].name, "model", lambda: bool(run().broken))


def of_hunt(plant: str, by: str, run: Callable[[], bool]) -> Outcome:
    """Hunt, and return the outcome."""
    started = time.monotonic()
    found = run()
    missed = [] if found else [f"planted bug {plant} was not found"]
    return Outcome(failures=missed, planted={plant: Hunted(by, found, time.monotonic() - started)})
