"""Layers of real processes: killed one at a time, in storms over several, and racing."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from random import Random

from holdfast.testing.disk.images import Scratch
from holdfast.testing.process.kills import RECOVERY, Forks, Kills
from holdfast.testing.process.race import CLAIMS, RUN_CLAIMS, race
from holdfast.testing.process.storm import Storm, storm
from holdfast.testing.server import PostgresServer
from tests.lab.layers.outcome import Job, Outcome, Wish

_KILLS_PER_JOB = 250
_KILLS_ON_POSTGRES = 30
_STORM_KILLS = 120
_RACES = 1_000
_MOMENTS = ("before", "half", "after")


def kills(wish: Wish) -> Iterator[Job]:
    """
    Give jobs of kills on SQLite, and some on PostgreSQL, which cost ten times as much.

    A twentieth of what is wanted is left to the storms.
    """
    for number in range(-(-wish.kills * 19 // (20 * _KILLS_PER_JOB))):
        seed = wish.seed + number
        yield partial(kill_on_sqlite, seed, min(_KILLS_PER_JOB, wish.kills))
        if number % 10 == 0:
            yield partial(kill_on_postgres, seed, min(_KILLS_ON_POSTGRES, wish.kills))


def kill_on_sqlite(seed: int, most: int) -> Outcome:
    """Kill at points, at calls to the disk, at random instants and in recovery, in turn."""
    rng = Random(f"kills/{seed}")
    with Scratch() as scratch, Forks() as forks:
        killing = Kills(scratch.lay({}), forks)
        reached = {point: n for point, n in killing.count(seed=seed).items() if n}
        calls, instants = 450, 0.15
        while killing.kills < most and killing.tally.images < 2 * most:
            point, nth = rng.choice(sorted(reached)), rng.randint(1, calls)
            killing.strike(seed=seed, point=point, nth=rng.randint(1, reached[point]))
            # A workload that comes to its end is no kill; it shows how much there is of it.
            if not killing.struck(seed=seed, moment=rng.choice(_MOMENTS), nth=nth):
                calls = nth
            after = rng.uniform(0.001, instants)
            if not killing.struck(seed=seed, after=after):
                instants = max(after, 0.01)
            # Behind the mark: what is in the log alone was promised.
            nth, again = rng.randint(1, reached["commit.marked"]), rng.choices(RECOVERY, k=3)
            killing.strike(seed=seed, point="commit.marked", nth=nth, recoveries=again)
        return of_kills(killing)


def kill_on_postgres(seed: int, most: int) -> Outcome:
    """Kill clients of a server that goes on."""
    rng = Random(f"kills/{seed}")
    with Scratch() as scratch, Forks() as forks, PostgresServer() as server:
        server.start()
        killing = Kills(scratch.lay({}), forks)
        url = f"{server.url}&schema="
        reached = {p: n for p, n in killing.count(f"{url}counted", seed=seed).items() if n}
        number, instants = 0, 0.3
        while killing.kills < most and number < 2 * most:
            number += 2
            point = rng.choice(sorted(reached))
            nth = rng.randint(1, reached[point])
            killing.strike(f"{url}k{number}", seed=seed, point=point, nth=nth)
            after = rng.uniform(0.001, instants)
            if not killing.struck(f"{url}k{number + 1}", seed=seed, after=after):
                instants = max(after, 0.02)
        return of_kills(killing)


def of_kills(killing: Kills) -> Outcome:
    """Return the outcome of kills."""
    tally = killing.tally
    return Outcome(Counter(kills=killing.kills), tally.lost, tally.unsound, tally.failures)


def storms(wish: Wish) -> Iterator[Job]:
    """Give jobs of storms over several processes: a twentieth as many kills as the single ones."""
    for number in range(max(1, wish.kills // 2_500)):
        yield partial(rage, wish.seed + number, _STORM_KILLS)
        yield partial(rage, wish.seed + number, _STORM_KILLS // 5, servers=6)


def rage(seed: int, kills: int, *, servers: int = 0) -> Outcome:
    """Raise a storm over an SQLite file, or over PostgreSQL if servers are to be killed."""
    with Scratch() as scratch:
        store = "" if servers else f"sqlite:///{scratch.lay({}) / 'a.db'}"
        found = storm(Storm(store=store, seed=seed, kills=kills, servers=servers))
    counts = Counter(kills=found.kills + found.servers)
    return Outcome(counts, found.lost, found.unsound, found.failures)


def races(wish: Wish) -> Iterator[Job]:
    """Give jobs in which 32 processes are after the same things; by day as many as one at night."""
    few = _RACES if wish.nightly else _RACES // 10
    many = _RACES if wish.nightly else _RACES - 2 * few
    for number in range(wish.seeds):
        seed = wish.seed + number
        yield partial(run_race, seed, few, [*CLAIMS, *RUN_CLAIMS], on_postgres=True)
        yield partial(run_race, seed, many, [*CLAIMS])
        yield partial(run_race, seed, few, [*RUN_CLAIMS])


def run_race(seed: int, rounds: int, kinds: Sequence[str], *, on_postgres: bool = False) -> Outcome:
    """Let 32 processes race for so many things."""
    with Scratch() as scratch, PostgresServer() as server:
        if on_postgres:
            server.start()
        url = server.url if on_postgres else f"sqlite:///{scratch.lay({}) / 'a.db'}"
        found = race(url, rounds=rounds, seed=seed, kinds=kinds)
    return Outcome(Counter(rounds=found.rounds), 0, len(found.failures), found.failures[:5])


def replay_kill(where: Mapping[str, object], *, on_postgres: bool) -> Outcome:
    """Kill once more at the same place."""
    with Scratch() as scratch, Forks() as forks, PostgresServer() as server:
        if on_postgres:
            server.start()
        killing = Kills(scratch.lay({}), forks)
        killing.strike(server.url if on_postgres else "", **where)
        return of_kills(killing)
