"""The layer of the nouns: a program of sessions, identities and ledger in the users' crash lab."""

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial

from holdfast.testing.crashlab import crashlab
from holdfast.testing.server import PostgresServer
from holdfast.testing.trials.report import Report
from tests.lab.layers.outcome import Job, Outcome, Wish
from tests.lab.nouns import work
from tests.lab.promises import invariant

_KILLS_PER_JOB, _KILLS_ON_POSTGRES = 30, 5
_IMAGES_PER_JOB, _ERRORS_PER_JOB = 40, 15
# The number of cases is the limit, not the time; a process that hangs is given up after 30 s.
_SECONDS = 1_200.0
# Where a kill of the nouns hurts; each has to be struck.
POINTS = (
    "ledger.begun",
    "ledger.settled",
    "presence.entered",
    "rescue.ended",
    "rescue.entry",
    "rescue.taken",
)


def nouns(wish: Wish) -> Iterator[Job]:
    """Give jobs of kills, power cuts and failing calls, and of kills on PostgreSQL."""
    for number in range(wish.seeds):
        seed = wish.seed + number
        yield partial(on_postgres, seed, min(_KILLS_ON_POSTGRES, wish.kills))
        yield partial(suffer, seed, kills=min(_KILLS_PER_JOB, wish.kills))
        yield partial(suffer, seed, images=min(_IMAGES_PER_JOB, wish.images))
        yield partial(suffer, seed, errors=_ERRORS_PER_JOB)


def suffer(seed: int, kills: int = 0, images: int = 0, errors: int = 0) -> Outcome:
    """Do to the program what a crash can do, on SQLite."""
    return of_report(_run(seed, kills, images, errors))


def on_postgres(seed: int, kills: int) -> Outcome:
    """Kill the program on a server that goes on."""
    with PostgresServer() as server:
        server.start()
        return of_report(_run(seed, kills, 0, 0, server.url))


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


def of_report(report: Report) -> Outcome:
    """Return the outcome of a run; a promise that does not hold counts as lost."""
    cases = report.kills + report.images + report.errors
    failures = [
        f"{one.place}: {one.what}"
        # The server of a job is gone with it; there the job is the replay.
        + (f"; replay: {one.replay}" if report.store == "sqlite" else "")
        for one in report.failures
    ]
    lost = sum("the invariant does not hold" in one.what for one in report.failures)
    struck = report.reached.get("kills", {})
    reached: Counter[str] = Counter()
    if struck:
        reached.update({f"nouns: killed at {point}": struck.get(point, 0) for point in POINTS})
        reached[f"nouns: killed while starting again on {report.store}"] = report.kills_again
    if report.images:
        reached["nouns: went on after a power cut"] = report.continued
    if report.errors:
        reached["nouns: raised because a call failed"] = report.raised
    return Outcome(Counter(nouns=cases), lost, len(failures) - lost, failures, reached=reached)
