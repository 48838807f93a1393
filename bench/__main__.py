"""Run the rows: `python -m bench [--only row,row] [--seconds S] [--store sqlite|postgresql]`."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from bench.api import api
from bench.append import LOADS, append
from bench.engines import engine, engine_buffered, engine_replay, engine_snapshot, verdicts
from bench.follow import follow, read
from bench.loop import stall
from bench.measure import Result
from bench.peer import PeerMissingError
from bench.place import STORES, Place, Plan, place
from bench.report import gains, show, write
from bench.runs import LOADS as RUN_LOADS
from bench.runs import inflight, recovery, replay, steps
from bench.size import growth, import_time, memory
from bench.state import boot, edit, flush
from bench.stream import stream

Row = Callable[[Place, str], Awaitable[list[Result]]]

ROWS: dict[str, Row] = {
    **{load.name: partial(append, load=load) for load in LOADS},
    "follow": follow,
    "stream": stream,
    "api": api,
    "read": read,
    "stall": stall,
    "flush": flush,
    "edit": edit,
    "boot": boot,
    **{load.name: partial(steps, load=load) for load in RUN_LOADS},
    "replay": replay,
    "recovery": recovery,
    "inflight": inflight,
    "engine": engine,
    "engine_buffered": engine_buffered,
    "engine_snapshot": engine_snapshot,
    "engine_replay": engine_replay,
    "growth": growth,
    "memory": memory,
    "import": import_time,
}


def measure(
    folder: Path,
    rows: list[str],
    stores: tuple[str, ...],
    plan: Plan,
    missing: list[str] | None = None,
) -> list[Result]:
    """
    Measure rows on stores, in a folder below `folder` that is removed afterwards.

    Args:
        folder: on a real disk.
        rows: their names.
        stores: on which stores.
        plan: how long and how often.
        missing: takes in what was not measured, since a peer is not there.

    Raises:
        PeerMissingError: a peer is not there, and `missing` is not given.
    """
    results: list[Result] = []
    with place(folder, stores, plan) as here:
        for name in rows:
            for store in ("-",) if name == "import" else stores:
                print(f"   {name} {store}", file=sys.stderr, flush=True)
                try:
                    results += asyncio.run(_row(ROWS[name], here, store))
                except PeerMissingError as error:
                    if missing is None:
                        raise
                    missing.append(f"{name} {store}: {error}")
    return [*results, *gains(results)]


async def _row(row: Row, here: Place, store: str) -> list[Result]:
    return await row(here, store)


def _rows(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in ROWS]:
        raise argparse.ArgumentTypeError(f"no such row: {unknown[0]}; there are {', '.join(ROWS)}")
    return names


def main() -> None:
    """Measure, print, and leave the report."""
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("--only", type=_rows, default=list(ROWS), help="rows, separated by commas")
    parser.add_argument("--seconds", type=float, default=Plan().seconds, help="of one slice")
    parser.add_argument("--rounds", type=int, default=Plan().rounds, help="slices of each thing")
    parser.add_argument("--events", type=int, default=Plan().events, help="in the long stream")
    parser.add_argument("--store", choices=STORES, action="append", help="default: both")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="on a real disk")
    parser.add_argument("--report", type=Path, default=Path("build/bench.json"))
    given = parser.parse_args()
    plan = Plan(seconds=given.seconds, rounds=given.rounds, events=given.events)
    missing: list[str] = []
    results = measure(given.folder, given.only, tuple(given.store or STORES), plan, missing)
    write(given.report, results)
    show(results)
    for verdict in verdicts(results):
        print(verdict)
    if missing:
        sys.exit("\n".join(f"NOT MEASURED  {what}" for what in missing))


if __name__ == "__main__":
    main()
