"""
Each example in the crash lab: `python -m examples [NAME]`.

Writes `build/examples.json`, for each example `ok`, `kills` and `detail`, and ends with 1 if the
promise of one does not hold.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from examples.orders import lab as orders
from holdfast.testing.crashlab import Report, crashlab

REPORT = Path("build/examples.json")
EXAMPLES: Mapping[str, Callable[[int | None, float], Report]] = {
    "orders": lambda seed, seconds: crashlab(
        orders.work, orders.invariant, seed=seed, seconds=seconds
    ),
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
        report = EXAMPLES[name](asked.seed, asked.seconds)
        done = "; ".join(report.line(layer) for layer in ("kills", "power", "errors"))
        told = [str(failure) for failure in report.failures]
        print("\n".join(told or [f"{name}: its promise holds"]), flush=True)
        detail = "\n".join([f"seed {report.seed}: {done}", *told])
        found[name] = {"ok": report.ok, "kills": report.kills, "detail": detail}
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=2) + "\n")
    print(f"report in {REPORT}")
    return int(not all(each["ok"] for each in found.values()))


if __name__ == "__main__":
    sys.exit(main())
