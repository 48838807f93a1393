"""
The crash lab at a prompt: `python -m tests.lab [--nightly] [--only LAYER] [--seed N]`.

Runs the layers on all cores, prints a line for each and writes `build/lab.json`. Ends with 1 if
anything acknowledged was lost, anything wrong went unnoticed, or a planted bug was not found.
With the words of a failure (`--cut`, `--kill`, `--number`, `--simulate`) it repeats that one case.
"""

import argparse
import json
import os
import secrets
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from holdfast.testing.disk import Fault
from holdfast.testing.ioerrors import Accident
from tests.lab.layers import (
    LAYERS,
    Outcome,
    Wish,
    replay_error,
    replay_kill,
    replay_power,
    replay_seed,
)

COUNTED = ("images", "cuts", "calls", "kills", "states", "seeds", "schedules", "damages")
REPORT = Path("build/lab.json")


def main() -> int:
    """Run what was asked for and return the exit code."""
    asked = parse()
    print(f"seed {asked.seed}", flush=True)
    again = replay(asked)
    if again is not None:
        print("\n".join(again.failures) or "as promised")
        return int(bool(again.failures))
    total = Outcome()
    for name in [asked.only] if asked.only else LAYERS:
        total.add(run(name, wish_of(asked)))
    report(total, asked.seed)
    return int(
        bool(total.lost or total.unnoticed or not all(one.found for one in total.planted.values()))
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--nightly", action="store_true", help="twenty times as much")
    parser.add_argument("--only", choices=sorted(LAYERS), help="this layer alone")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--images", type=int, help="crash images to judge")
    parser.add_argument("--kills", type=int, help="processes to kill")
    parser.add_argument("--simulations", type=int, help="seeds of the simulation")
    parser.add_argument("--simulate", type=int, help="a seed of the simulation to repeat")
    parser.add_argument("--case", default="blocks", help="of a power cut to repeat")
    parser.add_argument("--cut", type=int, help="of a power cut to repeat")
    parser.add_argument("--family", default="", help="of a power cut to repeat")
    parser.add_argument("--kill", type=json.loads, help="a kill to repeat")
    parser.add_argument("--store", default="sqlite", choices=["sqlite", "postgresql"])
    parser.add_argument("--number", type=int, help="of a failing call to repeat")
    parser.add_argument("--fault", type=Fault, default=Fault.EIO)
    parser.add_argument("--reads", action="store_true")
    parser.add_argument("--lasting", action="store_true")
    return parser.parse_args()


def replay(asked: argparse.Namespace) -> Outcome | None:
    """Repeat one case, if one was named."""
    if asked.simulate is not None:
        return replay_seed(asked.simulate)
    if asked.cut is not None:
        return replay_power(asked.seed, asked.case, asked.cut, asked.family)
    if asked.kill is not None:
        return replay_kill(asked.kill, on_postgres=asked.store == "postgresql")
    if asked.number is not None:
        accident = Accident(asked.number, asked.fault, asked.reads, asked.lasting)
        return replay_error(asked.seed, accident)
    return None


def wish_of(asked: argparse.Namespace) -> Wish:
    """Return how much is wanted."""
    times = 20 if asked.nightly else 1
    return Wish(
        seed=asked.seed,
        images=asked.images or 50_000 * times,
        kills=asked.kills or 5_000 * times,
        seeds=times,
        simulations=asked.simulations or 20_000 * times,
    )


def run(name: str, wish: Wish) -> Outcome:
    """Run one layer on all cores."""
    started = time.monotonic()
    total = Outcome()
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as workers:
        running = [workers.submit(job) for job in LAYERS[name].jobs(wish)]
        for done in as_completed(running):
            total.add(done.result())
    counts = ", ".join(f"{total.counts[what]} {what}" for what in COUNTED if total.counts[what])
    if total.planted:
        found = sum(one.found for one in total.planted.values())
        counts = f"{found} of {len(total.planted)} planted bugs found"
    took = time.monotonic() - started
    print(f"{name}: {counts}; lost {total.lost}, unnoticed {total.unnoticed} ({took:.0f} s)")
    for failure in total.failures[:20]:
        print(f"  {failure}")
    sys.stdout.flush()
    return total


def report(total: Outcome, seed: int) -> None:
    """Write the report for programs."""
    found = {"found": sum(one.found for one in total.planted.values()), "total": len(total.planted)}
    content = {what: total.counts[what] for what in COUNTED}
    content |= {"lost": total.lost, "unnoticed": total.unnoticed, "planted": found, "seed": seed}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(content, indent=2) + "\n")
    print(f"report in {REPORT}")


if __name__ == "__main__":
    sys.exit(main())
