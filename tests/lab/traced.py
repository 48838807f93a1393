"""
Power loss under a Holdfast store as `strace` sees it: the judge of the crash lab, other eyes.

`survey` runs a workload of the crash lab in a process of its own (`python -m tests.lab.traced`),
on the real files of the machine, with nothing between SQLite and the kernel.
"""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from holdfast.testing.clock import ManualClock
from holdfast.testing.disk.acts import Recording
from holdfast.testing.disk.images import Breadth, Scratch, cuts, images
from holdfast.testing.disk.power import CASES, PowerLoss
from holdfast.testing.disk.strace import record
from holdfast.testing.faults import planted
from holdfast.testing.judge import Tally
from holdfast.testing.workload import perform

_PROGRAM = """
import sys
from contextlib import nullcontext
from pathlib import Path
from holdfast.core.failpoint import Failpoints
from holdfast.store import files
from holdfast.testing.faults import planted
folder, what, bug = sys.argv[1:]
with planted(bug) if bug else nullcontext():
    for number in range(1, 4):
        print("tried", number, flush=True)
        if what == "file":
            files.replace_file(Path(folder, what), b"%d" % number * 3000, Failpoints())
        else:
            files.SystemFiles(Failpoints()).make_folder(Path(folder, f"{what}-{number}"))
        print("acknowledged", number, flush=True)
"""
ROOT = Path(__file__).parent.parent.parent
SEED = 4_711
_BREADTH = Breadth(prefixes=4, sectors=2, mixtures=3, garbage=1)


def survey(
    seed: int, case: str, *, plant: str = "", first: float = 0.0, most: int = 0, enough: int = 0
) -> Tally:
    """
    Record a workload by strace and judge what power cuts leave of it.

    Args:
        seed: decides the workload and the images.
        case: one of the crash lab's.
        plant: a bug of `holdfast.testing.faults` that the workload has.
        first: begin behind this share of the recording.
        most: stop after so many images; 0 for no limit.
        enough: stop after so many failures; 0 for no limit.
    """
    layer = Traced(seed, case, plant)
    return layer.survey(first=layer.behind(first), most=most, enough=enough)


def small_files(folder: Path, what: str, plant: str = "") -> tuple[int, int]:
    """
    Replace a small file three times, or make three folders, and cut the power.

    Returns:
        How many images are bad, and how many there are.
    """
    recording = record(folder, [sys.executable, "-c", _PROGRAM, str(folder), what, plant])
    bad = number = 0
    for cut in cuts(recording):
        acknowledged = sum(note[0] == "acknowledged" for note in cut.notes)  # type: ignore[index]
        tried = sum(note[0] == "tried" for note in cut.notes)  # type: ignore[index]
        for image in images(cut, SEED, Breadth(prefixes=6, sectors=4, mixtures=8)):
            number += 1
            if what == "file":
                allowed = [b"%d" % n * 3000 if n else None for n in range(acknowledged, tried + 1)]
                bad += image.files.get(what) not in allowed
            else:
                made = {f"{what}-{n}/" for n in range(1, acknowledged + 1)}
                bad += not made <= image.files.keys()
    return bad, number


class Traced(PowerLoss):
    """A workload that is recorded from outside."""

    layer = "calls"

    def __init__(self, seed: int, case: str, plant: str = "") -> None:
        self._plant = plant
        super().__init__(seed, case, _BREADTH)

    def behind(self, share: float) -> int:
        """Return how many acts a share of the recording has."""
        return int(share * len(self.recording.acts))

    def _record(self) -> Recording:
        with Scratch() as scratch:
            folder = scratch.lay({})
            _Run(self.seed, self.name).run(folder, before=True)
            command = [sys.executable, "-m", "tests.lab.traced", str(folder), self.name]
            return record(
                folder, [*command, str(self.seed), self._plant], {"PYTHONPATH": str(ROOT)}
            )


class _Run(PowerLoss):
    """The workload itself, on the files of the machine."""

    def _record(self) -> Recording:
        return Recording({}, [])

    def __init__(self, seed: int, case: str) -> None:
        super().__init__(seed, case, _BREADTH)

    def run(self, folder: Path, *, before: bool) -> None:
        """Run what comes before the recording, or what is recorded."""
        clock, skip = ManualClock(), CASES[self.name].skip
        life = "skipped" if before else "recorded"
        connect = self._connect(folder, life, clock=clock)
        if before:
            perform(self._steps[:skip], connect, clock, lambda _: None)
        else:
            perform(self._steps, connect, clock, _say, skip=skip)


def _say(note: Any) -> None:
    sys.stdout.write(" ".join(str(word) for word in note) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    where, what, number, bug = sys.argv[1:]
    with planted(bug) if bug else nullcontext():
        _Run(int(number), what).run(Path(where), before=False)
