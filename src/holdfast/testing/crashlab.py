"""
The crash lab for applications: kills, power cuts and disk errors, and a promise that has to hold.

    from holdfast.testing.crashlab import Lab, crashlab

    async def work(lab: Lab) -> None:
        async with lab.open() as rt:
            done = len(await rt.history("orders").read())
            for number in range(done, 20):
                await rt.history("orders").append("ordered", number)
                lab.acknowledged(number)

    async def invariant(rt: Runtime, acknowledged: list[int]) -> None:
        orders = [event.data for event in await rt.history("orders").read()]
        assert orders[: len(acknowledged)] == acknowledged

    def test_no_order_is_lost() -> None:
        crashlab(work, invariant).check()

`work` opens the store and works; started again on what is left, it goes on. `invariant` gets the
opened store and everything acknowledged before the accident; it raises, or returns False, where
a promise is broken. Both may be plain functions; an invariant with a parameter `lab` gets that
too. They run in child processes, so they must be importable.

At a prompt: `python -m holdfast.testing.crashlab module:work module:invariant`; a failure prints
such a line with the words that repeat it alone.
"""

import argparse
import json
import secrets
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, cycle
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from holdfast.core.clock import SystemClock
from holdfast.testing.disk.acts import Noted, Recording
from holdfast.testing.disk.disk import CHANGES, Call, Fault, Moment
from holdfast.testing.disk.images import CrashImage, Scratch
from holdfast.testing.disk.ioerrors import Accident, every_accident
from holdfast.testing.process.kills import Forks
from holdfast.testing.trials.cases import Application, Cases, Trouble
from holdfast.testing.trials.reference import reference_to
from holdfast.testing.trials.report import Failure, Report
from holdfast.testing.trials.trial import Lab

__all__ = ["Lab", "Report", "crashlab"]

Strikes = Sequence[Mapping[str, Any]]

_ENOUGH: Final = 3
_IMAGES_PER_CUT: Final = 8
_STRIKE_AGAIN_EVERY: Final = 3
_STRIKES_AGAIN_MAX: Final = 3
_EARLY: Final = ("boot.", "commit.", "presence.", "rescue.")
# A kill strikes one thread; how far the others have come by then differs from time to time.
_TRIES_OF_A_KILL: Final = 20
_TRIES_WHEN_FOUND: Final = 3
# Parts of the time, for the layers that are wanted; what one leaves the next may use.
_PARTS: Final = {"kills": 8, "power": 7, "errors": 5}


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """How much is wanted: seconds for everything, and cases of each layer at most."""

    seconds: float = 60.0
    kills: int = 150
    images: int = 500
    errors: int = 150

    def share(self, layer: str) -> float:
        """Return by when a layer has to be done, as a share of the time."""
        wanted = {"kills": self.kills, "power": self.images, "errors": self.errors}
        parts = {name: _PARTS[name] * bool(wanted[name]) for name in wanted}
        names = list(wanted)
        until = sum(parts[name] for name in names[: names.index(layer) + 1])
        return until / max(1, sum(parts.values()))


def crashlab(
    work: Callable[[Lab], object],
    invariant: Callable[..., object],
    *,
    seed: int | None = None,
    seconds: float = 60.0,
    kills: int = 150,
    images: int = 500,
    errors: int = 150,
    store: str = "",
) -> Report:
    """
    Do everything to an application that a crash can do, and see whether its promise holds.

    Args:
        work: gets a `Lab`, opens the store and works, or goes on.
        invariant: gets the runtime and what was acknowledged.
        seed: decides what is drawn; drawn and printed itself if None.
        seconds: how long this may take, about; a process that takes a quarter of it hangs.
        kills: processes to kill at most.
        images: what power cuts may leave, at most.
        errors: runs with a failing call to the disk, at most.
        store: address of a PostgreSQL database, without a schema; SQLite files if empty.

    Returns:
        What was done and what went wrong; `check()` raises if anything did.

    Raises:
        NotImportableError: a child process cannot import one of the functions.
    """
    wish = Wish(seconds=seconds, kills=kills, images=images, errors=errors)
    drawn = secrets.randbelow(2**31) if seed is None else seed
    application = _application(reference_to(work), reference_to(invariant), drawn, seconds, store)
    return _run(application, wish)


def _application(work: str, invariant: str, seed: int, seconds: float, store: str) -> Application:
    limit = min(max(seconds / 4, 1.0), 30.0)
    return Application(work=work, invariant=invariant, seed=seed, limit=limit, server=store)


def _run(application: Application, wish: Wish) -> Report:
    with Scratch() as homes, Forks(sys.path) as forks:
        return _Campaign(application, Cases(application, forks, homes), wish).run()


class _Campaign:
    """A run of all layers: it chooses the cases and keeps the report."""

    def __init__(self, application: Application, cases: Cases, wish: Wish) -> None:
        self._application = application
        self._cases = cases
        self._wish = wish
        self._clock = SystemClock()
        self._began = self._clock.monotonic()
        self.report = Report(
            application=(application.work, application.invariant),
            seed=application.seed,
            store="postgresql" if application.server else "sqlite",
        )

    def run(self) -> Report:
        report, seed = self.report, self._application.seed
        _say(f"crash lab of {self._application.work} on {report.store}, seed {seed}")
        trouble, plain = self._cases.rehearse()
        self._blame("rehearsal", "nothing was done to it", [], trouble)
        if report.ok and report.store == "sqlite":
            self._on_sqlite(plain.points, plain.seconds)
        elif report.ok:
            self._wish = Wish(
                seconds=self._wish.seconds, kills=self._wish.kills, images=0, errors=0
            )
            self._kill(plain.points, 0, plain.seconds)
            report.remarks.append("power and errors: not done, they are SQLite's; kills are not")
        report.seconds = self._clock.monotonic() - self._began
        report.sometimes = dict(sorted(self._cases.sometimes.items()))
        return report

    def _on_sqlite(self, points: Mapping[str, int], seconds: float) -> None:
        trouble, result, recording = self._cases.record()
        self._blame("rehearsal", "recorded on a disk that remembers", [], trouble)
        if trouble is None:
            changes = sum(result.calls.get(call, 0) for call in CHANGES)
            self._kill(points, changes, seconds)
            self._cut(recording)
            self._fail(result.calls)

    def _kill(self, points: Mapping[str, int], changes: int, seconds: float) -> None:
        report = self.report
        rng = Random(f"kills/{report.seed}")
        for number, first in enumerate(_strikes(rng, points, changes, seconds)):
            if number >= self._wish.kills or self._is_over("kills"):
                break
            again = number % _STRIKE_AGAIN_EVERY == _STRIKE_AGAIN_EVERY - 1
            often = rng.randint(1, _STRIKES_AGAIN_MAX) if again else 0
            strikes = [first, *(_early(rng, points, changes) for _ in range(often))]
            before = self._cases.killed
            trouble = self._cases.kill(strikes)
            killed = self._cases.killed - before
            report.kills += killed
            report.kills_again += max(0, killed - 1)
            report.count("kills", _kind_of(first))
            self._blame("kills", _place_of(strikes), _words_of(strikes), trouble)
            if trouble is not None:
                self._try_again(strikes)
        self._finish("kills")

    def _try_again(self, strikes: Strikes) -> None:
        """Say of the last failure whether it comes again; those that do are told first."""
        tries = (self._cases.kill(strikes) for _ in range(_TRIES_WHEN_FOUND))
        failures = self.report.failures
        failures[-1].again = any(found is not None for found in tries)
        failures.sort(key=lambda failure: not failure.again)

    def _cut(self, recording: Recording) -> None:
        report = self.report
        known: dict[tuple[bytes, int], Trouble | None] = {}
        for at in _moments(recording, Random(f"power/{report.seed}")):
            if report.images >= self._wish.images or self._is_over("power"):
                break
            report.cuts += 1
            cut, found = self._cases.images_of(recording, at)
            for image in _some(found, Random(f"{report.seed}/{at}")):
                if report.images >= self._wish.images or self._is_over("power"):
                    break
                report.images += 1
                report.count("power", image.family)
                # What an image is worth depends on what was promised before, on nothing else.
                key = (image.digest, len(cut.notes))
                if key not in known:
                    go_on = image.digest[0] % 4 == 0
                    report.continued += go_on
                    known[key] = self._cases.cut(cut, image, go_on=go_on)
                place = f"power cut behind act {at}, of which {image.family!r} arrived"
                words = ["--power", str(at), "--family", image.family]
                self._blame("power", place, words, known[key])
        self._finish("power")

    def _fail(self, calls: Mapping[Call, int]) -> None:
        report = self.report
        accidents = list(every_accident(calls))
        Random(f"errors/{report.seed}").shuffle(accidents)
        for accident in accidents:
            if report.errors >= self._wish.errors or self._is_over("errors"):
                break
            report.errors += 1
            report.count("errors", _failing(accident, short=True))
            trouble = self._cases.fail(accident)
            self._blame("errors", _failing(accident), _words_of_failing(accident), trouble)
        report.raised = self._cases.raised
        self._finish("errors")

    def _is_over(self, layer: str) -> bool:
        """Tell whether a layer has had its time, or has failed often enough."""
        return self._is_late(layer) or self.report.failed(layer) >= _ENOUGH

    def _is_late(self, layer: str) -> bool:
        spent = self._clock.monotonic() - self._began
        return spent > self._wish.seconds * self._wish.share(layer)

    def _blame(self, layer: str, place: str, words: Sequence[str], found: Trouble | None) -> None:
        if found is None:
            return
        it = self._application
        command = ["python", "-m", "holdfast.testing.crashlab", it.work, it.invariant]
        command += ["--seed", str(it.seed), *words, *(["--store", it.server] if it.server else [])]
        failure = Failure(
            layer=layer,
            place=place,
            what=found.what,
            trace=found.trace,
            replay=shlex.join(command),
        )
        self.report.failures.append(failure)
        _say(f"FAILED after {place}: {found.what}")

    def _finish(self, layer: str) -> None:
        if self.report.failed(layer) >= _ENOUGH:
            self.report.remarks.append(f"{layer}: stopped after {_ENOUGH} failures")
        elif self._is_late(layer) and layer in self.report.reached:
            self.report.remarks.append(f"{layer}: stopped, the seconds for it were over")
        _say(self.report.line(layer))


def _strikes(
    rng: Random, points: Mapping[str, int], changes: int, seconds: float
) -> Iterator[Mapping[str, Any]]:
    """Give places to be killed at: each point once, then all of them, calls and instants."""
    places = [(point, nth) for point in sorted(points) for nth in range(1, points[point] + 1)]
    rng.shuffle(places)
    first = dict(places)
    moments = cycle(Moment)
    rest = (place for place in places if first[place[0]] != place[1])
    for point in sorted(first):
        yield {"point": point, "nth": first[point]}
    while True:
        if place := next(rest, None):
            yield {"point": place[0], "nth": place[1]}
        if changes:
            yield {"moment": str(next(moments)), "nth": rng.randint(1, changes)}
        yield {"after": round(rng.uniform(0, 1.2 * seconds), 4)}


def _early(rng: Random, points: Mapping[str, int], changes: int) -> Mapping[str, Any]:
    """Return a place that is reached while starting again."""
    early = [point for point in sorted(points) if point.startswith(_EARLY)]
    if early and (not changes or rng.random() < 0.5):
        return {"point": rng.choice(early), "nth": 1}
    if changes:
        nth = rng.randint(1, min(changes, 40))
        return {"moment": str(rng.choice(list(Moment))), "nth": nth}
    return {"after": round(rng.uniform(0, 0.02), 4)}


def _moments(recording: Recording, rng: Random) -> Iterator[int]:
    """Give all cuts once; every other one is right behind an acknowledgement while there are."""
    acts = recording.acts
    behind = [at + 1 for at, act in enumerate(acts) if isinstance(act, Noted)]
    others = sorted(set(range(len(acts) + 1)) - set(behind))
    for moments in (behind, others):
        rng.shuffle(moments)
    paired = min(len(behind), len(others))
    pairs = zip(behind, others, strict=False)
    return chain(chain.from_iterable(pairs), behind[paired:], others[paired:])


def _some(found: list[CrashImage], rng: Random) -> Iterable[CrashImage]:
    """Return some images of a cut: always the one in which nothing arrived."""
    return [*found[:1], *rng.sample(found[1:], min(len(found) - 1, _IMAGES_PER_CUT - 1))]


def _kind_of(strike: Mapping[str, Any]) -> str:
    if "moment" in strike:
        return f"a call to the disk, {strike['moment']}"
    return str(strike.get("point", "a random instant"))


def _place_of(strikes: Strikes) -> str:
    return ", then ".join(
        f"killed {strike['after']} s after its start"
        if "after" in strike
        else f"killed at {_kind_of(strike)}, number {strike['nth']}"
        for strike in strikes
    )


def _words_of(strikes: Strikes) -> list[str]:
    return list(chain.from_iterable(("--kill", json.dumps(strike)) for strike in strikes))


def _failing(accident: Accident, *, short: bool = False) -> str:
    kind = "read" if accident.reads else "change"
    number = "" if short else f" {accident.number} of the disk"
    return f"{kind}{number} failed with {accident.fault}" + (
        " from then on" if accident.lasting else ""
    )


def _words_of_failing(accident: Accident) -> list[str]:
    words = ["--error", str(accident.number), "--fault", str(accident.fault)]
    return words + ["--reads"] * accident.reads + ["--lasting"] * accident.lasting


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m holdfast.testing.crashlab",
        description="Kill an application, cut its power, fail its disk; see if its promise holds.",
    )
    wish = Wish()
    parser.add_argument("work", help="module:function or file.py:function")
    parser.add_argument("invariant", help="module:function or file.py:function")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--seconds", type=float, default=wish.seconds)
    parser.add_argument("--kills", type=int, default=wish.kills, help="at most")
    parser.add_argument("--images", type=int, default=wish.images, help="of power cuts, at most")
    parser.add_argument("--errors", type=int, default=wish.errors, help="failing calls, at most")
    parser.add_argument("--store", default="", help="a PostgreSQL database instead of SQLite")
    parser.add_argument("--json", type=Path, help="where the report for programs goes")
    parser.add_argument("--kill", type=json.loads, action="append", help="a kill to repeat")
    parser.add_argument("--power", type=int, help="a power cut to repeat")
    parser.add_argument("--family", default="", help="of a power cut to repeat")
    parser.add_argument("--error", type=int, help="a failing call to repeat")
    parser.add_argument("--fault", type=Fault, default=Fault.EIO)
    parser.add_argument("--reads", action="store_true")
    parser.add_argument("--lasting", action="store_true")
    return parser.parse_args()


def _repeat(asked: argparse.Namespace, cases: Cases) -> Iterator[Trouble | None]:
    """Do the one case that was named again; a kill is tried several times."""
    if asked.kill:
        for _ in range(_TRIES_OF_A_KILL):
            yield cases.kill(asked.kill)
    elif asked.error is not None:
        yield cases.fail(Accident(asked.error, asked.fault, asked.reads, asked.lasting))
    else:
        trouble, _, recording = cases.record()
        yield trouble
        cut, found = cases.images_of(recording, asked.power)
        for image in found:
            if asked.family in ("", image.family):
                yield cases.cut(cut, image, go_on=True)


def main() -> int:
    """Run what was asked for and return the exit code."""
    asked = _parse()
    application = _application(asked.work, asked.invariant, asked.seed, asked.seconds, asked.store)
    if asked.kill or asked.power is not None or asked.error is not None:
        with Scratch() as homes, Forks(sys.path) as forks:
            found = next(filter(None, _repeat(asked, Cases(application, forks, homes))), None)
        _say(f"{found.trace}{found.what}" if found else "as promised")
        return int(found is not None)
    wish = Wish(seconds=asked.seconds, kills=asked.kills, images=asked.images, errors=asked.errors)
    report = _run(application, wish)
    if asked.json:
        asked.json.write_text(report.json() + "\n")
    _say(report.text())
    return int(not report.ok)


if __name__ == "__main__":
    sys.exit(main())
