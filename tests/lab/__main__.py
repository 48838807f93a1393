"""
The crash lab at a prompt: `python -m tests.lab [--nightly] [--part P | --only LAYER] [--seed N]`.

Runs the layers on all cores, says how far it is, and ends with one report: here, in
`build/lab.json` and in `build/lab.html` (`lab-nouns` for that part). Ends with 1 if anything
acknowledged was lost, anything wrong went unnoticed, a job broke, a planted bug was not found, a
rare state was never reached or a figure was missed. With the words of a failure (`--cut`,
`--kill`, `--number`, `--damage`, `--simulate`, `--job`) it repeats that one case.
"""

import argparse
import json
import math
import os
import secrets
import signal
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from holdfast.testing.disk.disk import Fault
from holdfast.testing.disk.ioerrors import Accident
from tests.lab.crew import COMMAND, Done, work_off
from tests.lab.layers import (
    LAYERS,
    Outcome,
    Part,
    Wish,
    replay_damage,
    replay_error,
    replay_kill,
    replay_power,
    replay_seed,
)
from tests.lab.page import page_of
from tests.lab.plan import SMALLER, Plan, smaller
from tests.lab.report import Run, contents, text_of

BUILD = Path("build")
MINUTES = 60.0
_LIMIT, _LIMIT_AT_NIGHT = 300.0, 1_500.0
# Seconds between two lines of progress: often while one waits, then rarely.
_PROGRESS_FIRST = 10.0
_PROGRESS_LATER = 60.0


def main() -> int:
    """Run what was asked for and return the exit code."""
    asked = parse()
    print(f"seed {asked.seed}", flush=True)
    again = replay(asked)
    if again is not None:
        print("\n".join(again.failures) or "as promised")
        return int(bool(again.failures))
    run = Run(wish_of(asked), datetime.now(UTC), command_of(asked))
    BUILD.mkdir(exist_ok=True)
    lead(run, asked)
    content = contents(run, layers_of("kernel"))
    data, page = (BUILD / f"{name_of(asked)}.{end}" for end in ("json", "html"))
    data.write_text(json.dumps(content, indent=2) + "\n")
    page.write_text(page_of(content))
    print(f"\n{text_of(content)}\nreport in {data} and {page}")
    return int(not content["ok"])


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("--nightly", action="store_true", help="new seeds until the time is over")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="how long a night is")
    parser.add_argument("--part", choices=get_args(Part), help="the store, or what stands on it")
    parser.add_argument("--only", choices=sorted(LAYERS), help="this layer alone")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--limit", type=float, help="seconds after which a job is cut off")
    for what in SMALLER:
        parser.add_argument(f"--{what}", type=int, help="how many, if not the full figure")
    parser.add_argument("--job", type=int, help="of one layer, to repeat")
    parser.add_argument("--simulate", type=int, help="a seed of the simulation to repeat")
    parser.add_argument("--case", default="blocks", help="of a power cut to repeat")
    parser.add_argument("--cut", type=int, help="of a power cut to repeat")
    parser.add_argument("--family", default="", help="of a power cut to repeat")
    parser.add_argument("--kill", type=json.loads, help="a kill to repeat")
    parser.add_argument("--store", default="sqlite", choices=["sqlite", "postgresql"])
    parser.add_argument("--damage", help="of a store to repeat")
    parser.add_argument("--number", type=int, help="of a failing call to repeat")
    parser.add_argument("--fault", type=Fault, default=Fault.EIO)
    parser.add_argument("--reads", action="store_true")
    parser.add_argument("--lasting", action="store_true")
    return parser.parse_args()


def replay(asked: argparse.Namespace) -> Outcome | None:
    """Repeat one case, if one was named."""
    if asked.job is not None:
        return list(LAYERS[asked.only].jobs(wish_of(asked)))[asked.job]()
    if asked.simulate is not None:
        return replay_seed(asked.simulate)
    if asked.cut is not None:
        layer = asked.only or "power"
        return replay_power(layer, asked.seed, asked.case, asked.cut, asked.family)
    if asked.kill is not None:
        return replay_kill(asked.kill, on_postgres=asked.store == "postgresql")
    if asked.damage is not None:
        return replay_damage(asked.seed, asked.case, asked.damage)
    if asked.number is not None:
        accident = Accident(asked.number, asked.fault, asked.reads, asked.lasting)
        return replay_error(asked.seed, asked.case, accident)
    return None


def wish_of(asked: argparse.Namespace) -> Wish:
    """Return how much is wanted; of a night, how much in each of its rounds."""
    given = {what: getattr(asked, what) for what in SMALLER if getattr(asked, what) is not None}
    return Wish(seed=asked.seed, nightly=asked.nightly, **given)


def command_of(asked: argparse.Namespace) -> str:
    """Return what repeats a run."""
    night = ["--nightly", f"--minutes {asked.minutes:g}"] if asked.nightly else []
    some = [f"--{what} {getattr(asked, what)}" for what in ("part", "only") if getattr(asked, what)]
    words = [*night, *some, f"--seed {asked.seed}", *smaller(wish_of(asked))]
    return f"{COMMAND} {' '.join(words)}"


def layers_of(part: Part | None) -> list[str]:
    """Return the names of the layers of a part, or of all parts."""
    return [name for name, layer in LAYERS.items() if part in (None, layer.part)]


def name_of(asked: argparse.Namespace) -> str:
    """Return how the files of a report are called, so that those of two parts lie side by side."""
    return "lab-nouns" if asked.part == "nouns" else "lab"


def lead(run: Run, asked: argparse.Namespace) -> None:
    """Have all jobs done, say how far it is, and count what they found."""
    began = time.monotonic()
    over = began + asked.minutes * 60 if asked.nightly else math.inf
    plan = Plan(run, [asked.only] if asked.only else layers_of(asked.part), over)
    limit = asked.limit or (_LIMIT_AT_NIGHT if asked.nightly else _LIMIT)
    said = began
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        crew = work_off(
            plan.more, workers=asked.workers, limit=limit, log=BUILD / f"{name_of(asked)}.log"
        )
        with closing(crew) as working:
            for done in working:
                if done:
                    plan.take(done)
                    show(done)
                now = time.monotonic()
                if now - said >= (_PROGRESS_FIRST if now - began < 60.0 else _PROGRESS_LATER):
                    said = now
                    print(progress(run, said - began), flush=True)
    except KeyboardInterrupt:
        run.ended = "interrupted"
    finally:
        signal.signal(signal.SIGTERM, before)
    run.took = time.monotonic() - began


def show(done: Done) -> None:
    """Say what is wrong as soon as it is known."""
    for failure in [*done.outcome.failures, *([done.broken] if done.broken else [])]:
        print(f"FAILED {done.task.layer}: {done.task.named(failure)}", flush=True)


def progress(run: Run, seconds: float) -> str:
    """Return how far a run is: jobs done, layers under way, and what went wrong so far."""
    layers = run.layers
    open_ = [name for name, layer in layers.items() if 0 < layer.done < layer.jobs]
    parts = [f"{name} {layers[name].done}/{layers[name].jobs}" for name in open_]
    failures = sum(len(layer.outcome.failures) for layer in layers.values())
    done, jobs = (sum(getattr(one, what) for one in layers.values()) for what in ("done", "jobs"))
    under_way = f"; under way: {', '.join(parts)}" if parts else ""
    return f"{seconds:5.0f} s  {done} of {jobs} jobs done, failures {failures}{under_way}"


if __name__ == "__main__":
    sys.exit(main())
