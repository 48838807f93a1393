"""
The layers of the lab as `python -m tests.lab` runs them: jobs for all cores, and what they found.

Those of the kernel are about the store, those of the nouns about what stands on it. A layer gives
jobs; each is a function of its module with plain arguments, so that a worker process can run it,
and returns an `Outcome`. What a machine does not allow is in its `notes`.
"""

from collections.abc import Mapping

from tests.lab.layers.disk import damages, errors, replay_damage, replay_error
from tests.lab.layers.engines import engines
from tests.lab.layers.nouns import nouns
from tests.lab.layers.order import model, replay_seed, schedules, simulation
from tests.lab.layers.outcome import Hunted, Job, Layer, Outcome, Part, Wish
from tests.lab.layers.plants import planted, planted_nouns
from tests.lab.layers.power import calls, filesystems, power, replay_power
from tests.lab.layers.process import kills, races, replay_kill, storms
from tests.lab.layers.runs import runs

__all__ = [
    "LAYERS",
    "Hunted",
    "Job",
    "Layer",
    "Outcome",
    "Part",
    "Wish",
    "replay_damage",
    "replay_error",
    "replay_kill",
    "replay_power",
    "replay_seed",
]

LAYERS: Mapping[str, Layer] = {
    "power": Layer(power, seconds=11, share=30),
    "kills": Layer(kills, seconds=9, share=15),
    "errors": Layer(errors, seconds=4, share=5),
    "damages": Layer(damages, seconds=3, share=5),
    "schedules": Layer(schedules, seconds=8),
    "nouns": Layer(nouns, seconds=12, share=10, part="nouns"),
    "runs": Layer(runs, seconds=12, share=10, part="nouns"),
    "engines": Layer(engines, seconds=12, share=10, part="nouns"),
    "storms": Layer(storms, seconds=25, share=5, spread=True),
    "races": Layer(races, seconds=80, spread=True, part="nouns"),
    "calls": Layer(calls, seconds=6, share=5),
    "filesystems": Layer(filesystems, seconds=10, share=5),
    "model": Layer(model, seconds=5),
    "simulation": Layer(simulation, seconds=5, share=30),
    "planted": Layer(planted, seconds=2),
    "planted-nouns": Layer(planted_nouns, seconds=5, part="nouns"),
}
