"""
Damage after damage to one store: each is noticed, or changes nothing that is read.

    layer = Decay(seed, "sectors")
    layer.survey(500)
    assert layer.tally.clean, layer.tally.failures

A workload is recorded. At some of its moments the files are taken as a kill would leave them, with
a log behind, and at its end as a clean close leaves them; the files of an earlier moment are the
older copy. Each time one of these images is damaged, opened with the real driver and judged:

- refused with an error of Holdfast's, the files as they were and a copy of them kept; or
- what is read is right, and what cannot be read says so: no wrong value is ever served, and
  nothing is missing unless `verify` names something; or
- not damaged at all: it opens with everything, and `verify` is silent.

What no store can notice is kept out by rule. One damage hits one file, because the mark and the
log lost together look like an earlier moment; and a file is never half of one time and half of
another, because a page of yesterday fits its own digest.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.errors import HoldfastError, StoreRefusedError
from holdfast.core.key import Key
from holdfast.core.unit import Committed, GrantLease, PutRecord, Unit
from holdfast.core.world import World
from holdfast.store import rows
from holdfast.store.options import Options
from holdfast.store.reader import PAGE_ROWS, Reader
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.testing.clock import ManualClock
from holdfast.testing.disk.acts import Noted, Recording, read_image
from holdfast.testing.disk.damage import IN_PLACE, WHOLE_FILE, Damage, Image, Kind, draw
from holdfast.testing.disk.images import Scratch, cut_at
from holdfast.testing.disk.power import CASES, NAME, PowerLoss
from holdfast.testing.disk.sums import remembered_sums
from holdfast.testing.judge import Tally, content
from holdfast.testing.workload import states_of, steps_of

__all__ = ["Decay", "Harm"]

Thing = tuple[str, Any]

_LOG: Final = f"{NAME}-wal"
_SIDE: Final = f"{NAME}-holdfast/"
_MARK: Final = f"{_SIDE}mark"
_BALLAST: Final = f"{_SIDE}ballast"
_TARGETS: Final = (NAME, NAME, NAME, _LOG, _LOG, _LOG, _MARK, "blob")
_MOMENTS: Final = 6
_PATIENCE: Final = 25  # Harms of one pair of images, before another is taken.
_END: Final = bytes([255]) * 8


class Harm(msgspec.Struct, frozen=True):
    """
    One thing that is done to a store.

    Attributes:
        damage: what; None for nothing at all.
        moment: of the workload, counted in acknowledged batches; 0 for its clean end.
        older: the moment of the older copy.
        clone: not damaged but copied whole; both copies are used.
    """

    damage: Damage | None
    moment: int
    older: int
    clone: bool = False


class _Wrong(Exception):  # noqa: N818 a verdict, not an error of its own
    def __init__(self, what: str, *, lost: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.lost = lost


class Decay:
    """
    A recorded workload, harmed again and again.

    Attributes:
        tally: what was found; its images are the harms done.
        seen: how each ended, counted.
    """

    def __init__(self, seed: int, case: str) -> None:
        """
        Record the workload of a seed.

        Args:
            seed: decides the workload and what is drawn.
            case: one of `holdfast.testing.disk.power.CASES`.
        """
        self.seed = seed
        self.name = case
        self.tally = Tally()
        self.seen: Counter[str] = Counter()
        kind = CASES[case]
        self._recording = PowerLoss(seed, case).recording
        steps = steps_of(seed, kind.steps, small=kind.small, split=kind.skip)
        self._states = states_of(steps)
        self._promised = list(_promised(self._recording))
        self._options = Options(readers=1, outcome_retention=kind.retention)
        self._rng = Random(f"decay/{seed}")
        self._images: dict[int, dict[str, bytes]] = {}
        self._truths: dict[int, dict[Thing, object]] = {}

    def survey(self, harms: int, *, enough: int = 0) -> Tally:
        """
        Try so many.

        Args:
            harms: how many.
            enough: stop after so many failures; 0 for no limit.
        """
        with Scratch() as scratch, remembered_sums():
            moment = older = 0
            for number in range(harms):
                if number % _PATIENCE == 0:
                    older, moment = self._pair()
                self._attempt(self._draw(number, moment, older), scratch)
                if enough and len(self.tally.failures) >= enough:
                    break
        return self.tally

    def suffer(self, harm: Harm) -> Tally:
        """Do one of them."""
        with Scratch() as scratch:
            self._attempt(harm, scratch)
        return self.tally

    # What is done.

    def _pair(self) -> tuple[int, int]:
        """Choose the moment of the older copy and a later one; often the clean end."""
        last = min(len(self._promised), _MOMENTS)
        older = self._rng.randrange(1, last)
        later = self._rng.randrange(older + 1, last + 1)
        return older, self._rng.choice((later, later, 0))

    def _draw(self, number: int, moment: int, older: int) -> Harm:
        if number % _PATIENCE == 0:
            return Harm(None, moment, older)
        if number % _PATIENCE == 1:
            return Harm(None, moment, older, clone=True)
        image = self._image(moment)
        if number % _PATIENCE == 2:
            return Harm(Damage(Kind.RESTORE, NAME), moment, older)
        target = self._rng.choice(_TARGETS)
        if target == "blob":
            return Harm(self._hit_blob(image, moment), moment, older)
        if not image.get(target):
            target = NAME
        kinds = (*IN_PLACE, *IN_PLACE, *WHOLE_FILE)
        return Harm(draw(self._rng, image, kinds, [target]), moment, older)

    def _hit_blob(self, image: Image, moment: int) -> Damage:
        """Draw a damage of the row of a blob, wherever it is; else of the main file."""
        blobs = [name for what, name in self._truth(moment) if what == "blob"]
        files = [(name, blob) for blob in blobs for name in (NAME, _LOG)]
        places = [(name, at) for name, blob in files for at in _found(image, name, blob)]
        damage = draw(self._rng, image, IN_PLACE, [NAME])
        if not places:
            return damage
        name, at = self._rng.choice(places)
        # The digest by which it is asked for comes first, the bytes behind it.
        at = min(at + self._rng.randrange(200), len(image[name]) - 1)
        return msgspec.structs.replace(damage, name=name, offset=at)

    def _image(self, moment: int) -> dict[str, bytes]:
        if moment not in self._images:
            acts = self._recording.acts
            end = self._promised[moment - 1][0] if moment else len(acts)
            cut = cut_at(self._recording, end)
            image = dict(cut.build(tuple(slot.last for slot in cut.slots()), {}))
            # Its size matters only on a full disk.
            self._images[moment] = image | {_BALLAST: b"ballast"} if _BALLAST in image else image
        return self._images[moment]

    def _truth(self, moment: int) -> dict[Thing, object]:
        """Return what an undamaged copy holds, thing by thing; the content is the workload's."""
        if moment not in self._truths:
            with Scratch() as scratch:
                driver = self._driver(scratch.lay(self._image(moment)))
                driver.open()
                with driver.reading() as reader:
                    found = dict(_things(reader))
                driver.close()
            self._truths[moment] = found
        return self._truths[moment]

    def _driver(self, folder: Path) -> SqliteDriver:
        clock = ManualClock(float(CASES[self.name].steps))
        return SqliteDriver(folder / NAME, self._options, World(clock=clock))

    # What is judged.

    def _attempt(self, harm: Harm, scratch: Scratch) -> None:
        self.tally.images += 1
        image = self._image(harm.moment)
        if harm.damage is not None:
            image = harm.damage.applied(image, self._image(harm.older))
        try:
            if harm.clone:
                self._clone(image, scratch, harm.moment)
            else:
                self._judge(harm, image, scratch)
        except _Wrong as wrong:
            self.tally.blame(f"{wrong.what}; {self._replay(harm)}", lost=wrong.lost)
        except Exception as error:
            what = f"{type(error).__name__}: {error}, which is not Holdfast's"
            self.tally.blame(f"{what}; {self._replay(harm)}", lost=False)

    def _judge(self, harm: Harm, image: Image, scratch: Scratch) -> None:
        folder = scratch.lay(image)
        driver = self._driver(folder)
        try:
            driver.open()
        except HoldfastError as refusal:
            if harm.damage is None:
                raise _Wrong(f"an undamaged store was refused: {refusal}") from refusal
            _check_untouched(refusal, image, folder)
            self.seen[f"refused: {refusal.code}"] += 1
            return
        try:
            self._judge_open(harm, driver)
        finally:
            driver.close()

    def _judge_open(self, harm: Harm, driver: SqliteDriver) -> None:
        whole = self._holds_all(driver, harm.moment)
        thorough = not whole or harm.damage is None or self.tally.images % _PATIENCE == 0
        findings = _findings(driver) if thorough else []
        if harm.damage is None and (findings or not whole):
            raise _Wrong(f"an undamaged store has findings: {findings}")
        if whole:
            self.seen["whole"] += 1
            return
        missing = self._compare(driver, harm.moment)
        if missing and not findings:
            raise _Wrong(f"{missing[0]} is gone and nothing says so", lost=True)
        self.seen["named" if findings else "said when read"] += 1
        self._write(driver)

    def _holds_all(self, driver: SqliteDriver, moment: int) -> bool:
        acknowledged = self._promised[(moment or len(self._promised)) - 1][1]
        try:
            return content(driver) == self._states[acknowledged]
        except HoldfastError:
            return False

    def _compare(self, driver: SqliteDriver, moment: int) -> list[Thing]:
        """Read every thing by its name; return what is gone without an error."""
        truth, missing = self._truth(moment), list[Thing]()
        with driver.reading() as reader:
            for thing, right in truth.items():
                try:
                    found = _read(reader, thing)
                except HoldfastError:
                    continue
                if found == right:
                    continue
                if not _is_part(found, right):
                    raise _Wrong(f"{thing} is served, and wrong")
                missing.append(thing)
            listed = _listed(reader)
        for thing in listed:
            if thing not in truth:
                raise _Wrong(f"{thing} is listed, and never was")
        return missing

    def _write(self, driver: SqliteDriver) -> None:
        """Commit on top of the damage: refused, or there afterwards."""
        unit = Unit((PutRecord("after", ("damage",), codec.encode(1)),), (), bytes(16))
        try:
            (answer,) = driver.commit([unit]).units
            if isinstance(answer, Committed):
                with driver.reading() as reader:
                    found = reader.record("after", ("damage",))
                # Put between damaged cells it may not be found again; then verify has to say so.
                if found is None and not any(driver.verify()):
                    raise _Wrong("what was committed on top is gone", lost=True)
        except HoldfastError:
            self.seen["not written on top"] += 1

    def _clone(self, image: Image, scratch: Scratch, moment: int) -> None:
        """Use two copies at once: both hold everything, and share no token."""
        tokens: list[object] = []
        with Scratch() as other:
            drivers = [self._driver(place.lay(image)) for place in (scratch, other)]
            for driver in drivers:
                incarnation = driver.open().incarnation
                if not self._holds_all(driver, moment):
                    raise _Wrong("a copy does not hold everything", lost=True)
                unit = Unit((GrantLease("of a copy", 60.0, "both"),), (), bytes(16))
                (answer,) = driver.commit([unit]).units
                if not isinstance(answer, Committed):
                    raise _Wrong(f"a copy grants nothing: {answer}")
                tokens += [incarnation, answer.leases[0].incarnation]
            for driver in drivers:
                driver.close()
        if len(set(tokens)) != 2:
            raise _Wrong("two copies share a token")
        self.seen["cloned"] += 1

    def _replay(self, harm: Harm) -> str:
        shown = msgspec.json.encode(harm).decode()
        return (
            f"replay: python -m tests.lab --only damages --case {self.name} --seed {self.seed} "
            f"--damage '{shown}'"
        )


def _promised(recording: Recording) -> Iterator[tuple[int, int]]:
    """Give the end of each acknowledged batch in the recording, and the units so far."""
    for number, act in enumerate(recording.acts, 1):
        match act:
            case Noted(("acknowledged", int(units))):
                yield number, units
            case _:
                pass


def _findings(driver: SqliteDriver) -> list[str]:
    """Return what `verify` finds, in words; if it cannot go on, that too."""
    found: list[str] = []
    try:
        found += map(str, driver.verify())
    except HoldfastError as error:
        found.append(str(error))
    return found


def _check_untouched(refusal: HoldfastError, image: Image, folder: Path) -> None:
    """Check what a refusal left; SQLite may find damage after the log was brought home."""
    if not isinstance(refusal, StoreRefusedError):
        return
    left = read_image(folder)
    kept = [name for name in left if "/kept/" in name and not name.endswith("/")]
    for name in (NAME, _LOG, _MARK):
        copies = [left[copy] for copy in kept if copy.endswith("/" + name.rpartition("/")[2])]
        # SQLite makes an empty log where there is none.
        if image.get(name) and copies != [image[name]]:
            raise _Wrong(f"refused, and no copy of {name} was kept: {refusal}")
        if left.get(name, b"") != image.get(name, b""):
            raise _Wrong(f"refused, and {name} was changed: {refusal}")


def _found(image: Image, name: str, part: bytes) -> Iterator[int]:
    """Give where in a file some bytes are."""
    whole = image.get(name, b"")
    at = whole.find(part)
    while at >= 0:
        yield at
        at = whole.find(part, at + 1)


def _things(reader: Reader) -> Iterator[tuple[Thing, object]]:
    """Give everything that is there, by name."""
    names: list[Thing] = []
    for listed in reader.heads(b"", _END, PAGE_ROWS):
        names.append(("stream", listed.head.name))
    for row in reader.fetch("scan_records", after=b"", limit=PAGE_ROWS):
        record = rows.read_record(row[1:])
        names.append(("record", (record.kind, record.key)))
    for row in reader.fetch("scan_leases", after=b"", limit=PAGE_ROWS):
        names.append(("lease", rows.read_lease(row[1:]).key))
    for row in reader.fetch("scan_blobs", after=b"", limit=PAGE_ROWS):
        names.append(("blob", rows.read_blob(row).content))
    for row in reader.fetch("scan_snapshots", after=b"", after_sequence=0, limit=PAGE_ROWS):
        names.append(("snapshots", rows.read_snapshot(row[1:]).name))
    for thing in names:
        yield thing, _read(reader, thing)


def _listed(reader: Reader) -> set[Thing]:
    """Return what listings show; what they cannot show says so."""
    found: set[Thing] = set()
    try:
        heads = reader.heads(b"", _END, PAGE_ROWS)
        found |= {("stream", listed.head.name) for listed in heads if listed.intact}
        for kind in ("session", "never"):
            records = reader.records(kind, b"", _END, PAGE_ROWS, None)
            found |= {("record", (record.kind, record.key)) for record in records}
    except HoldfastError:
        pass
    return found


def _read(reader: Reader, thing: Thing) -> object:
    """Return what is served of a thing, or None."""
    what, name = thing
    return _READS[what](reader, name)


def _read_stream(reader: Reader, name: str) -> object:
    head = reader.head(name)
    if head is None:
        return None
    after, events = head.first_sequence - 1, list[object]()
    while after < head.last_sequence:
        _, page = reader.events(name, after, PAGE_ROWS)
        events += [(row.sequence, row.type, row.payload, row.meta) for row in page]
        after += len(page)
    return head.first_sequence, head.last_sequence, head.closed, tuple(events)


def _read_record(reader: Reader, name: tuple[str, Key]) -> object:
    found = reader.record(*name)
    return found and (found.version, found.tag, found.value)


def _read_lease(reader: Reader, key: str) -> object:
    found = reader.lease(key)
    return found and (found.generation, found.holder, bool(found.incarnation))


def _read_blob(reader: Reader, content: bytes) -> object:
    found = reader.blob(content)
    return found and (found.size, found.encoding, found.stored)


def _read_snapshots(reader: Reader, name: str) -> object:
    found = [one for one in reader.snapshots(name, PAGE_ROWS) if one.intact]
    return frozenset((one.stream, one.sequence, one.stored) for one in found)


_READS: Final[Mapping[str, Callable[[Reader, Any], object]]] = {
    "stream": _read_stream,
    "record": _read_record,
    "lease": _read_lease,
    "blob": _read_blob,
    "snapshots": _read_snapshots,
}


def _is_part(found: object, right: object) -> bool:
    """Return whether only something is missing."""
    if isinstance(found, frozenset) and isinstance(right, frozenset):
        return found < right
    return found is None
