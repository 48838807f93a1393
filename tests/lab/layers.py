"""
The layers of the lab as `python -m tests.lab` runs them: jobs for all cores, and what they found.

A layer gives jobs; each is a function of this module with plain arguments, so that a worker
process can run it, and returns an `Outcome`. A layer that is not there yet reports nothing.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random

from holdfast.testing.filesystem import Cuts, unavailable
from holdfast.testing.filesystem import cut_power as cut_filesystem
from holdfast.testing.images import Scratch
from holdfast.testing.ioerrors import Accident, Accidents, accidents
from holdfast.testing.judge import Tally
from holdfast.testing.kills import Forks, Kill, Kills
from holdfast.testing.model import search
from holdfast.testing.power import CASES, PowerLoss
from holdfast.testing.protocol import BROKEN, Bounds
from holdfast.testing.schedules import SCENARIOS, explore
from holdfast.testing.server import PostgresServer
from holdfast.testing.simulation import campaign, simulate
from holdfast.testing.storm import Storm, storm
from holdfast.testing.strace import StraceUnavailableError
from tests.lab import traced
from tests.lab.mistakes import MISTAKES, SEEDS_TO_FIND
from tests.lab.planted import HUNTS

_IMAGES_PER_JOB = 2_500
_KILLS_PER_JOB = 250
_SIMULATIONS_PER_JOB = 500
_STORM_KILLS = 250
_TRACED_IMAGES = 1_000
_MOMENTS = ("before", "half", "after")


@dataclass(slots=True)
class Outcome:
    """
    What a job did.

    Attributes:
        counts: how much of what, by the keys of the report.
        lost: cases in which something acknowledged was gone.
        unnoticed: other cases that are not as promised.
        failures: the first of both in words, each with the command that repeats it.
        planted: bugs that were hunted, and whether they were found.
    """

    counts: Counter[str] = field(default_factory=Counter[str])
    lost: int = 0
    unnoticed: int = 0
    failures: list[str] = field(default_factory=list[str])
    planted: dict[str, bool] = field(default_factory=dict[str, bool])

    def add(self, other: "Outcome") -> None:
        """Put another outcome to this one."""
        self.counts += other.counts
        self.lost += other.lost
        self.unnoticed += other.unnoticed
        self.failures += other.failures
        self.planted |= other.planted


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """
    How much is wanted.

    Attributes:
        seed: decides everything.
        images: crash images to judge.
        kills: processes to kill.
        seeds: workloads of which every call to the disk fails.
        simulations: seeds of several processes on one store in virtual time.
    """

    seed: int
    images: int = 50_000
    kills: int = 5_000
    seeds: int = 1
    simulations: int = 20_000


Job = Callable[[], Outcome]


def power(wish: Wish) -> Iterator[Job]:
    """Give jobs of power cuts: each kind of workload in turn, with other seeds."""
    names = sorted(CASES)
    for number in range(-(-wish.images // _IMAGES_PER_JOB)):
        case = names[number % len(names)]
        yield partial(cut_power, wish.seed + number, case, min(_IMAGES_PER_JOB, wish.images))


def cut_power(seed: int, case: str, most: int) -> Outcome:
    """Cut the power over one workload, from a moment that the seed decides."""
    layer = PowerLoss(seed, case)
    return of_power(layer.survey(first=layer.begin(), nested=0.002, most=most))


def of_power(tally: Tally) -> Outcome:
    """Return the outcome of a survey of images."""
    counts = Counter(images=tally.images, cuts=tally.cuts)
    return Outcome(counts, tally.lost, tally.unsound, tally.failures)


def kills(wish: Wish) -> Iterator[Job]:
    """Give jobs of kills: nine of ten on SQLite, the others on PostgreSQL."""
    for number in range(-(-wish.kills // _KILLS_PER_JOB)):
        job = kill_on_postgres if number % 10 == 9 else kill_on_sqlite
        yield partial(job, wish.seed + number, min(_KILLS_PER_JOB, wish.kills))


def kill_on_sqlite(seed: int, most: int) -> Outcome:
    """Kill at points, at calls to the disk and at random instants, in turn."""
    rng = Random(f"kills/{seed}")
    with Scratch() as scratch, Forks() as forks:
        killing = Kills(scratch.lay({}), forks)
        reached = {point: n for point, n in killing.count(seed=seed).items() if n}
        while killing.kills < most and killing.tally.images < 2 * most:
            point = rng.choice(sorted(reached))
            killing.strike(seed=seed, point=point, nth=rng.randint(1, reached[point]))
            killing.strike(seed=seed, moment=rng.choice(_MOMENTS), nth=rng.randint(1, 450))
            killing.strike(seed=seed, after=rng.uniform(0.001, 0.15))
        return of_kills(killing)


def kill_on_postgres(seed: int, most: int) -> Outcome:
    """Kill clients of a server that goes on."""
    rng = Random(f"kills/{seed}")
    with Scratch() as scratch, Forks() as forks, PostgresServer() as server:
        server.start()
        killing = Kills(scratch.lay({}), forks)
        url = f"{server.url}&schema="
        reached = {p: n for p, n in killing.count(f"{url}counted", seed=seed).items() if n}
        number = 0
        while killing.kills < most and number < 2 * most:
            number += 2
            point = rng.choice(sorted(reached))
            nth = rng.randint(1, reached[point])
            killing.strike(f"{url}k{number}", seed=seed, point=point, nth=nth)
            killing.strike(f"{url}k{number + 1}", seed=seed, after=rng.uniform(0.001, 0.3))
        return of_kills(killing)


def of_kills(killing: Kills) -> Outcome:
    """Return the outcome of kills."""
    tally = killing.tally
    return Outcome(Counter(kills=killing.kills), tally.lost, tally.unsound, tally.failures)


def errors(wish: Wish) -> Iterator[Job]:
    """Give jobs of failing calls: every call of each workload, in eight parts."""
    for number in range(wish.seeds):
        for part in range(8):
            yield partial(fail_calls, wish.seed + number, part)


def fail_calls(seed: int, part: int) -> Outcome:
    """Let each eighth call to the disk fail, in each way."""
    return of_errors(accidents(seed, every=8, first=part))


def of_errors(tally: Tally) -> Outcome:
    """Return the outcome of failing calls; the power cuts behind them count as images."""
    counts = Counter(calls=tally.images, images=tally.nested)
    return Outcome(counts, tally.lost, tally.unsound, tally.failures)


def planted(_: Wish) -> Iterator[Job]:
    """Give jobs that hunt planted bugs."""
    for plant in sorted(HUNTS):
        yield partial(hunt, plant)
    for mistake in sorted(MISTAKES):
        yield partial(hunt_mistake, mistake)
    for number in range(len(BROKEN)):
        yield partial(hunt_protocol, number)


def hunt(plant: str) -> Outcome:
    """Hunt one planted bug."""
    return of_hunt(plant, found=bool(HUNTS[plant](plant)))


def hunt_mistake(mistake: str) -> Outcome:
    """Hunt a mistake in how processes use the store."""
    run = campaign(range(1, SEEDS_TO_FIND), MISTAKES[mistake], enough=1)
    return of_hunt(mistake, found=bool(run.broken))


def hunt_protocol(number: int) -> Outcome:
    """Hunt a mistake in the protocol of leases."""
    found = search(BROKEN[number], Bounds(workers=2)).broken
    return of_hunt(BROKEN[number].name, found=bool(found))


def of_hunt(plant: str, *, found: bool) -> Outcome:
    """Return the outcome of a hunt."""
    missed = [] if found else [f"planted bug {plant} was not found"]
    return Outcome(failures=missed, planted={plant: found})


def schedules(wish: Wish) -> Iterator[Job]:
    """Give jobs that walk every order of the SQL of two instances; nightly also of three."""
    nightly = wish.seeds > 1
    for name, scenario in SCENARIOS.items():
        if nightly or len(scenario.programs) == 2:
            yield partial(walk, name, refusals=False)
        if nightly and name in {"append", "record", "counter", "fence"}:
            yield partial(walk, name, refusals=True)


def walk(name: str, *, refusals: bool) -> Outcome:
    """Walk every order of one scenario."""
    walked = explore(name, refusals=refusals)
    counts = Counter(schedules=walked.schedules)
    return Outcome(counts, unnoticed=walked.violations, failures=walked.failures)


def storms(wish: Wish) -> Iterator[Job]:
    """Give jobs of storms over several processes: a tenth as many kills as the single ones."""
    for number in range(max(1, wish.kills // (10 * _STORM_KILLS))):
        yield partial(rage, wish.seed + number, _STORM_KILLS)
        yield partial(rage, wish.seed + number, _STORM_KILLS // 5, servers=6)


def rage(seed: int, kills: int, *, servers: int = 0) -> Outcome:
    """Raise a storm over an SQLite file, or over PostgreSQL if servers are to be killed."""
    with Scratch() as scratch:
        store = "" if servers else f"sqlite:///{scratch.lay({}) / 'a.db'}"
        found = storm(Storm(store=store, seed=seed, kills=kills, servers=servers))
    counts = Counter(kills=found.kills + found.servers)
    return Outcome(counts, found.lost, found.unsound, found.failures)


def calls(wish: Wish) -> Iterator[Job]:
    """Give jobs of power cuts over what strace sees; a twenty-fifth of the images."""
    for number in range(max(1, wish.images // (25 * _TRACED_IMAGES))):
        case = ("blocks", "sectors")[number % 2]
        yield partial(cut_traced, wish.seed + number, case, _TRACED_IMAGES)


def cut_traced(seed: int, case: str, most: int) -> Outcome:
    """Cut the power over one workload that was recorded from outside."""
    try:
        return of_power(traced.survey(seed, case, first=Random(seed).uniform(0, 0.8), most=most))
    except StraceUnavailableError as error:
        print(f"calls: nothing was done: {error}", flush=True)
        return Outcome()


def filesystems(wish: Wish) -> Iterator[Job]:
    """Give jobs of power cuts on real file systems, where the machine allows them."""
    for number in range(wish.seeds):
        for kind in ("ext4", "xfs"):
            yield partial(shut_down, kind, wish.seed + number)


def shut_down(kind: str, seed: int) -> Outcome:
    """Cut the power of one kind of file system again and again."""
    if reason := unavailable(kind):
        print(f"filesystems: nothing was done on {kind}: {reason}", flush=True)
        return Outcome()
    found = cut_filesystem(Cuts(kind=kind, cycles=25, seed=seed))
    counts = Counter(images=found.cycles, cuts=found.cycles)
    return Outcome(counts, found.lost, found.unsound, found.failures)


def model(wish: Wish) -> Iterator[Job]:
    """Give jobs that search the protocol of leases; nightly with more faults."""
    yield partial(search_all, Bounds())
    if wish.seeds > 1:
        yield partial(search_all, Bounds(grants=4))
        yield partial(search_all, Bounds(workers=2, grants=4, openings=2))


def search_all(bounds: Bounds) -> Outcome:
    """Visit every state within bounds."""
    searched = search(bounds=bounds)
    failures = [str(searched)] if searched.broken else []
    return Outcome(Counter(states=searched.states), unnoticed=len(failures), failures=failures)


def simulation(wish: Wish) -> Iterator[Job]:
    """Give jobs of seeds, one behind the other from the seed of the run."""
    for first in range(0, wish.simulations, _SIMULATIONS_PER_JOB):
        last = min(first + _SIMULATIONS_PER_JOB, wish.simulations)
        yield partial(simulate_all, range(wish.seed + first, wish.seed + last))


def simulate_all(seeds: range) -> Outcome:
    """Run seeds of the simulation."""
    run = campaign(seeds)
    failures = [
        f"{broken}; again: --only simulation --simulate {seed}"
        for seed, broken in run.broken.items()
    ]
    return Outcome(Counter(seeds=run.seeds), len(failures), 0, failures)


def replay_seed(seed: int) -> Outcome:
    """Run one seed of the simulation again, with its history."""
    history = simulate(seed)
    failures = [*history.lines, history.broken] if history.broken else []
    return Outcome(Counter(seeds=1), int(bool(failures)), 0, failures)


LAYERS: Mapping[str, Callable[[Wish], Iterator[Job]]] = {
    "power": power,
    "kills": kills,
    "errors": errors,
    "schedules": schedules,
    "storms": storms,
    "calls": calls,
    "filesystems": filesystems,
    "model": model,
    "simulation": simulation,
    "planted": planted,
}


def replay_power(seed: int, case: str, cut: int, family: str) -> Outcome:
    """Judge one family of images of one cut again, and all cuts while they are recovered."""
    return of_power(PowerLoss(seed, case).survey(only_cut=cut, family=family, nested=1.0))


def replay_kill(where: Mapping[str, object], *, on_postgres: bool) -> Outcome:
    """Kill once more at the same place."""
    with Scratch() as scratch, Forks() as forks, PostgresServer() as server:
        if on_postgres:
            server.start()
        killing = Kills(scratch.lay({}), forks)
        killing.strike(server.url if on_postgres else "", **where)
        return of_kills(killing)


def replay_error(seed: int, accident: Accident) -> Outcome:
    """Let the same call fail in the same way."""
    layer = Accidents(seed)
    layer.suffer(accident, power_cut=True)
    return of_errors(layer.tally)


__all__ = [
    "LAYERS",
    "Kill",
    "Outcome",
    "Wish",
    "replay_error",
    "replay_kill",
    "replay_power",
    "replay_seed",
]
