"""
Hunts for planted bugs: each layer of the lab has to find its own within its budget.

A hunt runs its layer on Holdfast with the bug, and returns what the layer found; nothing found
means that the layer proves nothing.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext

from holdfast.core.errors import StoreRefusedError
from holdfast.core.world import World
from holdfast.store.options import Options
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.testing.acts import read_image
from holdfast.testing.faults import planted
from holdfast.testing.images import Breadth, Scratch, cut_at, images
from holdfast.testing.ioerrors import accidents
from holdfast.testing.kills import Forks, Kills
from holdfast.testing.power import NAME, PowerLoss

SEED = 20_264
_FEW = Breadth(prefixes=1, sectors=1, mixtures=2)
_GARBAGE = Breadth(prefixes=0, sectors=0, mixtures=0, garbage=4)


def by_power_loss(plant: str, breadth: Breadth = _FEW) -> list[str]:
    """Cut the power over a few commits."""
    with planted(plant):
        layer = PowerLoss(SEED, "blocks", breadth)
    # What was recorded has the bug; who opens the images has not.
    return layer.survey(enough=1).failures


def by_garbage(plant: str) -> list[str]:
    """Cut the power, and turn the sector in flight to garbage."""
    return by_power_loss(plant, _GARBAGE)


def by_kills(plant: str) -> list[str]:
    """Kill between the answer and the commit."""
    with Scratch() as scratch, Forks() as forks:
        kills = Kills(scratch.lay({}), forks, plant=plant)
        for nth in range(1, 9):
            kills.strike(seed=SEED, point="commit.written", nth=nth)
            if not kills.tally.clean:
                break
        return kills.tally.failures


def by_accidents(plant: str) -> list[str]:
    """Let calls to the disk fail."""
    with planted(plant):
        return accidents(SEED, every=11, enough=1).failures


def by_emptying(plant: str = "") -> list[str]:
    """Empty the main file, then take it away: refused, and not a byte of the rest is changed."""
    recording = PowerLoss(SEED, "blocks", _FEW).recording
    cut = cut_at(recording, len(recording.acts) * 2 // 3, sector_bytes=4096)
    whole = next(image.files for image in images(cut, SEED, _FEW) if image.family == "everything")
    rest = {name: content for name, content in whole.items() if name != NAME}
    failures: list[str] = []
    for left in (rest, rest | {NAME: b""}):
        with Scratch() as scratch, planted(plant) if plant else nullcontext():
            folder = scratch.lay(left)
            failures += _refused(SqliteDriver(folder / NAME, Options(), World()))
            found = read_image(folder)
            failures += [f"{name} was changed" for name in left if found.get(name) != left[name]]
    return failures


def _refused(driver: SqliteDriver) -> list[str]:
    try:
        driver.open()
    except StoreRefusedError:
        return []
    finally:
        driver.close()
    return ["an emptied store was opened"]


HUNTS: Mapping[str, Callable[[str], list[str]]] = {
    "acknowledge-before-commit": by_kills,
    "afresh-on-an-empty-file": by_emptying,
    "failed-commit-called-refused": by_accidents,
    "failed-commit-tried-again": by_accidents,
    "mark-before-commit": by_power_loss,
    "powersafe-overwrite": by_garbage,
    "synchronous-normal": by_power_loss,
}
