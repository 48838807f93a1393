"""
Each example in the crash lab: `python -m examples [NAME]`.

Writes `build/examples.json`, for each example `ok`, `kills` and `detail`, and ends with 1 if the
promise of one does not hold.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from examples.approval import lab as approval
from examples.broker import lab as broker
from examples.gateway import lab as gateway
from examples.graph import lab as graph
from examples.ingest import lab as ingest
from examples.orders import lab as orders
from holdfast.testing.crashlab import crashlab
from holdfast.testing.server import PostgresServer, PostgresUnavailableError

REPORT = Path("build/examples.json")


class Found(NamedTuple):
    """What came of one example: its kills, broken promises in words, what was done in a line."""

    kills: int
    troubles: list[str]
    done: str


def run_orders(seed: int | None, seconds: float) -> Found:
    """Do everything to the shop that a crash can do."""
    report = crashlab(orders.work, orders.invariant, seed=seed, seconds=seconds)
    done = "; ".join(report.line(layer) for layer in ("kills", "power", "errors"))
    troubles = [str(failure) for failure in report.failures]
    return Found(report.kills, troubles, f"seed {report.seed}: {done}")


def run_approval(seed: int | None, seconds: float) -> Found:
    """Kill the approval's workers at every place, on each store."""
    return _on_each_store(lambda url: approval.trial(url, seed))


def run_broker(seed: int | None, seconds: float) -> Found:
    """Kill the broker while its clients keep asking, on each store."""
    return _on_each_store(lambda url: broker.trial(url, seed))


def _on_each_store(trial_on: Callable[[str], approval.Trial | broker.Trial]) -> Found:
    kills, troubles, done = 0, list[str](), list[str]()
    with tempfile.TemporaryDirectory(prefix="example-") as folder:
        trials = [("sqlite", trial_on(f"sqlite:///{folder}/store.db"))]
        try:
            with PostgresServer() as server:
                server.start()
                trials.append(("postgresql", trial_on(server.url)))
        except PostgresUnavailableError as error:
            done.append(f"postgresql cannot be had: {error}")
    for store, trial in trials:
        kills += trial.kills
        troubles += trial.troubles
        done.append(f"{store}: {trial.detail}")
    return Found(kills, troubles, "; ".join(done))


def run_gateway(seed: int | None, seconds: float) -> Found:
    """Kill the gateway while its clients keep talking; it takes the time that it takes."""
    trial = gateway.trial(seed)
    return Found(trial.kills, trial.troubles, f"seed {trial.seed}: {trial.detail}")


def run_ingest(seed: int | None, seconds: float) -> Found:
    """Do everything to the ingest that a crash can do; the wiki has to be the same."""
    report = crashlab(ingest.work, ingest.invariant, seed=seed, seconds=seconds)
    done = "; ".join(report.line(layer) for layer in ("kills", "power", "errors"))
    troubles = [str(failure) for failure in report.failures]
    return Found(report.kills, troubles, f"seed {report.seed}: {done}")


def run_graph(seed: int | None, seconds: float) -> Found:
    """Kill the graph at every node; it takes the time that it takes."""
    trial = graph.trial()
    return Found(trial.kills, trial.troubles, trial.detail)


EXAMPLES: Mapping[str, Callable[[int | None, float], Found]] = {
    "approval": run_approval,
    "broker": run_broker,
    "gateway": run_gateway,
    "graph": run_graph,
    "ingest": run_ingest,
    "orders": run_orders,
}


def main() -> int:
    """Run what was asked for and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("name", nargs="?", choices=sorted(EXAMPLES), help="this one alone")
    parser.add_argument("--seed", type=int, help="decides what is drawn")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each example, about")
    asked = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    for name in [asked.name] if asked.name else EXAMPLES:
        kills, troubles, done = EXAMPLES[name](asked.seed, asked.seconds)
        print("\n".join([*troubles, done] if troubles else [f"{name}: its promise holds", done]))
        ok, detail = not troubles, "\n".join([done, *troubles])
        found[name] = {"ok": ok, "kills": kills, "detail": detail}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=2) + "\n")
    print(f"report in {REPORT}")
    return int(not all(each["ok"] for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
