"""
Power loss under a Holdfast store: every image a cut may leave is opened and judged.

A workload runs on a recorded disk. Each image of each cut is then opened by the real driver
with the real guard, and has to be sound:

- it opens; no image that the model allows is refused, so the mark is never ahead and the scan
  of the log never raises a false alarm;
- it is the store that was opened before, under a higher epoch, and holds exactly the content
  after unit n, where n is acknowledged or is the batch that was under way;
- `verify` finds nothing; one more commit works; a second opening sees the same and that
  commit; the same image laid again is recovered to the same.

What an image is worth does not depend on the cut, only what was promised before it does, so
equal images are opened once. Ids and the clock are given, so an opening and a close leave files
that depend on the image alone. Images of which they leave the same are one store from there on:
the same main file, byte for byte, and a mark that says the same. The rest is asked once of them,
and of every sixteenth image all the same.
"""

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar, Literal, NamedTuple

import apsw
import msgspec

from holdfast.core.errors import HoldfastError
from holdfast.core.failpoint import Failpoints
from holdfast.core.ids import Ids
from holdfast.core.world import World
from holdfast.store.files import SystemFiles
from holdfast.store.options import Options
from holdfast.store.port import Driver
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.store.sqlite.mark import Mark
from holdfast.testing.clock import ManualClock
from holdfast.testing.disk.acts import Recording, read_image
from holdfast.testing.disk.disk import Disk, RecordingFiles
from holdfast.testing.disk.images import (
    Breadth,
    CrashImage,
    Cut,
    Image,
    Scratch,
    cut_at,
    cuts,
    images,
)
from holdfast.testing.disk.sums import remembered_sums
from holdfast.testing.judge import Found, Tally, examine, promised, recover
from holdfast.testing.workload import perform, states_of, steps_of

__all__ = [
    "BREADTH",
    "CASES",
    "NAME",
    "NESTED_BREADTH",
    "Case",
    "Evidence",
    "LeanFiles",
    "PowerLoss",
    "connector",
    "cuts_during_recovery",
    "wrong_with",
]

NAME = "a.db"
BREADTH = Breadth(prefixes=2, sectors=2, mixtures=3, garbage=2)
_AGAIN = 16
_NOT_READ = ("-holdfast/gate", "-holdfast/life", "-holdfast/ballast")
NESTED_BREADTH = Breadth(prefixes=2, sectors=1, mixtures=2, garbage=1)
_NESTED_CUTS = 6
_KEPT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """
    A kind of workload and disk.

    Attributes:
        steps: how many steps are run.
        skip: how many of them were run before the recording, on an empty folder if 0.
        small: many small steps instead of few large ones.
        sector_bytes: what the disk writes as a whole.
        page_bytes: page size of the database.
        checkpoint_pages: length of the log after which it is written home.
        strict: sync the mark with each commit.
        retention: seconds for which outcomes are kept.
    """

    steps: int
    skip: int = 0
    small: bool = False
    sector_bytes: int = 512
    page_bytes: int = 4096
    checkpoint_pages: int = 12
    strict: bool = False
    retention: float = 3600.0


CASES: Mapping[str, Case] = {
    "new": Case(steps=3, sector_bytes=4096),
    "sectors": Case(steps=26, skip=4, page_bytes=1024, checkpoint_pages=20),
    "blocks": Case(steps=26, skip=4, sector_bytes=4096),
    "strict": Case(steps=16, skip=4, sector_bytes=4096, strict=True),
    "trimmed": Case(steps=262, skip=250, small=True, page_bytes=1024, retention=60.0),
}


class LeanFiles(RecordingFiles):
    """Recorded small files with a tiny ballast: its size matters only on a full disk."""

    def replace(self, path: Path, data: bytes) -> None:
        """Put new content in the place of the old."""
        super().replace(path, data[:64] if path.name == "ballast" else data)


class _LeanSystemFiles(SystemFiles):
    """The same on the files of the machine."""

    def replace(self, path: Path, data: bytes) -> None:
        """Put new content in the place of the old."""
        super().replace(path, data[:64] if path.name == "ballast" else data)


class Evidence(msgspec.Struct, frozen=True):
    """
    An image that was not as promised, and what had been promised of it.

    Attributes:
        what: what was wrong with it.
        replay: the command that makes it anew.
        seed: decides the ids of those who open it.
        case: kind of workload and disk.
        files: the image.
        expected: `sound`, `refused` by the guard, or `named` as damage by whoever looks.
        allowed: contents it may hold, as digests, if it has to be sound.
        store_id: the store it was known to be, hexadecimal; empty if none was open yet.
        epoch: number of the last opening that was known.
        again: whether the power is cut again at every moment of its recovery.
    """

    what: str
    replay: str
    seed: int
    case: Case
    files: dict[str, bytes]
    expected: Literal["sound", "refused", "named"] = "sound"
    allowed: tuple[bytes, ...] = ()
    store_id: str = ""
    epoch: int = 0
    again: bool = False


def connector(
    case: Case,
    seed: int,
    folder: Path,
    life: str,
    disk: Disk | None = None,
    clock: ManualClock | None = None,
) -> Callable[[], SqliteDriver]:
    """
    Return what makes a driver on a folder.

    Args:
        case: decides the options.
        seed: with `life` it decides the ids.
        folder: where the store is.
        life: which of several openings this is.
        disk: records what is done, if given.
        clock: the clock; one that stands behind the last step if not given.
    """
    world = World(
        clock=clock or ManualClock(float(case.steps)),
        ids=Ids(Random(f"{life}/{seed}").randbytes),
        vfs=disk.vfs if disk else "",
        files=LeanFiles(disk) if disk else _LeanSystemFiles(Failpoints()),
    )
    options = Options(
        checkpoint_pages=case.checkpoint_pages,
        strict=case.strict,
        outcome_retention=case.retention,
        readers=1,
    )
    return lambda: SqliteDriver(folder / NAME, options, world)


def cuts_during_recovery(case: Case, seed: int, image: Image, scratch: Scratch) -> list[Cut]:
    """Return the cuts while an image is opened; none if it cannot be opened."""
    folder = scratch.lay(image)
    with Disk(folder) as disk:
        driver = connector(case, seed, folder, "nested", disk)()
        try:
            driver.open()
            disk.note("recovered")
        except HoldfastError:
            return []
        finally:
            driver.close()
    found: list[Cut] = []
    for cut in cuts(disk.recording, sector_bytes=case.sector_bytes):
        found.append(cut)
        if "recovered" in cut.notes:
            break
    return found


class _Places(NamedTuple):
    first: Scratch
    second: Scratch


class PowerLoss:
    """
    One workload, recorded, and the judgement of what power cuts leave of it.

    Attributes:
        layer: the layer of the lab that repeats a failure.
        kept: the images of the first failures.
    """

    layer: ClassVar[str] = "power"

    def __init__(self, seed: int, case: str, breadth: Breadth = BREADTH) -> None:
        """
        Run the workload of a seed.

        Args:
            seed: decides the workload and the images.
            case: one of `CASES`.
            breadth: how many images of the large families per cut.
        """
        self.seed = seed
        self.name = case
        self.tally = Tally()
        self.kept: list[Evidence] = []
        self._case = kind = CASES[case]
        self._breadth = breadth
        self._steps = steps_of(seed, kind.steps, small=kind.small, split=kind.skip)
        self._states = states_of(self._steps)
        self._known: dict[bytes, Found] = {}
        self._recovered: dict[object, Found] = {}
        self._rng = Random(f"nested/{seed}")
        self.recording = self._record()

    def begin(self) -> int:
        """Return behind how many acts a slice of the cuts begins; the seed decides."""
        room = len(self.recording.acts) - 150
        # How a store is made is short, and every cut of it is worth a look.
        return Random(self.seed).randrange(room) if self._case.skip and room > 0 else 0

    def survey(
        self,
        *,
        only_cut: int | None = None,
        first: int = 0,
        family: str = "",
        nested: float = 0.0,
        most: int = 0,
        enough: int = 0,
    ) -> Tally:
        """
        Judge the images.

        Args:
            only_cut: judge this cut alone.
            first: begin with the cut behind so many acts; those before it come last.
            family: judge this family of images alone.
            nested: share of the images in whose recovery the power is cut again.
            most: stop after so many images; 0 for no limit.
            enough: stop after so many failures; 0 for no limit.
        """
        tally = self.tally
        with Scratch() as scratch, Scratch() as inner, remembered_sums():
            places = _Places(scratch, inner)
            for cut in self._cuts(only_cut, first):
                tally.cuts += 1
                for image in images(cut, self.seed, self._breadth):
                    if family and image.family != family:
                        continue
                    self._judge(cut, image, scratch, image.family)
                    # One at least, however few images there are.
                    if nested and (not tally.nested or self._rng.random() < nested):
                        self._cut_again(cut, image, nested, places)
                    failures = tally.lost + tally.unsound
                    if (most and tally.images >= most) or (enough and failures >= enough):
                        return tally
        return tally

    def _cuts(self, only: int | None, first: int) -> Iterator[Cut]:
        sector_bytes = self._case.sector_bytes
        if only is not None:
            yield cut_at(self.recording, only, sector_bytes=sector_bytes)
            return
        for late in (True, False):
            for cut in cuts(self.recording, sector_bytes=sector_bytes):
                if (cut.at >= first) is late:
                    yield cut

    def _judge(
        self, cut: Cut, image: CrashImage, scratch: Scratch, family: str, within: str = ""
    ) -> None:
        self.tally.images += 1
        found = self._known.get(image.digest)
        if found is None:
            found = self._known[image.digest] = self._open(image, scratch)
        acknowledged, tried, store_id, epoch = promised(cut.notes)
        allowed = (self._states[acknowledged], self._states[tried])
        what = wrong_with(found, allowed, store_id, epoch)
        if not what:
            return
        lost = not found.wrong and found.content in self._states[:acknowledged]
        if lost:
            what = "acknowledged units are gone"
        replay = (
            f"python -m tests.lab --only {self.layer} --case {self.name} --seed {self.seed} "
            f"--cut {cut.at} --family {shlex.quote(family)}"
        )
        where = f"seed {self.seed} cut {cut.at} family {family!r}{within}"
        self.tally.blame(f"{where}: {what}; replay: {replay}", lost=lost)
        if len(self.kept) < _KEPT:
            files = dict(image.files)
            evidence = Evidence(what, replay, self.seed, self._case, files, allowed=allowed)
            self.kept.append(msgspec.structs.replace(evidence, store_id=store_id, epoch=epoch))

    def _open(self, image: CrashImage, scratch: Scratch) -> Found:
        self.tally.opened += 1
        folder = scratch.lay(image.files)
        opened = recover(self._connect(folder, "judge"))
        if opened.wrong:
            return opened
        left = _left(folder, bytes.fromhex(opened.store_id))
        known = self._recovered.get(left)
        thorough = self.tally.opened % _AGAIN == 0
        if known is not None and not thorough:
            return known
        connect = self._connect(scratch.lay(image.files), "judge")
        found = self._recovered[left] = examine(connect, thorough=thorough)
        if known is not None and found != known:
            return Found(wrong="a copy of the image is recovered to something else")
        return found

    def _cut_again(self, cut: Cut, image: CrashImage, nested: float, places: _Places) -> None:
        """Cut the power while this image is being recovered, and judge what that leaves."""
        found = cuts_during_recovery(self._case, self.seed, image.files, places.first)
        if nested < 1:
            found = self._rng.sample(found, min(_NESTED_CUTS, len(found)))
        for second in found:
            for again in images(second, self.seed, NESTED_BREADTH):
                self.tally.nested += 1
                within = f", cut again at {second.at} {again.family!r}"
                self._judge(cut, again, places.second, image.family, within)

    def _connect(
        self, folder: Path, life: str, disk: Disk | None = None, *, clock: ManualClock | None = None
    ) -> Callable[[], Driver]:
        return connector(self._case, self.seed, folder, life, disk, clock)

    def _record(self) -> Recording:
        case, clock = self._case, ManualClock()
        with Scratch() as scratch:
            folder = scratch.lay({})
            if case.page_bytes != 4096:
                _make_pages(folder / NAME, case.page_bytes)
            if case.skip:
                connect = self._connect(folder, "skipped", clock=clock)
                perform(self._steps[: case.skip], connect, clock, _ignore)
            with Disk(folder) as disk:
                connect = self._connect(folder, "recorded", disk, clock=clock)
                perform(self._steps, connect, clock, disk.note, skip=case.skip)
        return disk.recording


def _make_pages(path: Path, page_bytes: int) -> None:
    """Make an empty database of a page size, for a store to be made in."""
    db = apsw.Connection(str(path))
    db.pragma("page_size", page_bytes)
    db.execute("VACUUM")
    db.close()


def wrong_with(found: Found, allowed: Collection[bytes], store_id: str, epoch: int) -> str:
    """Return what is wrong with what was found, or an empty text."""
    if found.wrong:
        return found.wrong
    if store_id and (found.store_id != store_id or found.epoch <= epoch):
        return f"another store, or epoch {found.epoch} after {epoch}"
    return "" if found.content in allowed else "no state of the workload"


def _left(folder: Path, store_id: bytes) -> object:
    """Return what an opening and a close have left of a store, as far as the next one reads it."""
    mark = Mark(folder / f"{NAME}-holdfast" / "mark", SystemFiles(Failpoints()), sync=False)
    files = {
        name: b"" if name.endswith(_NOT_READ) else content
        for name, content in read_image(folder).items()
        if not name.endswith("-holdfast/mark")
    }
    # By their contents, not by a digest: there are few different ones, and comparing is quicker.
    return tuple(sorted(files.items())), mark.read(store_id)


def _ignore(_: object) -> None:
    return
