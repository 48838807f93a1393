"""What the crash lab did to an application, and what it found."""

import platform
import textwrap
from importlib.metadata import version
from typing import Final

import apsw
import msgspec

__all__ = ["LAYERS", "Failure", "Report"]

LAYERS: Final = ("kills", "power", "errors")


def _versions() -> dict[str, str]:
    return {
        "Holdfast": version("holdfast"),
        "Python": platform.python_version(),
        "SQLite": apsw.sqlite_lib_version(),
    }


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 96, initial_indent="  ", subsequent_indent="  ")


class Failure(msgspec.Struct, kw_only=True):
    """
    A case in which the application did not keep its promise.

    Attributes:
        layer: `rehearsal` (nothing was done to it), `kills`, `power` or `errors`.
        place: what was done to it, in words.
        what: what went wrong then, in one line.
        trace: traceback of what was raised, if something was.
        replay: command that repeats this case alone.
        again: it came again when it was tried at once; a kill among several threads may not.
    """

    layer: str
    place: str
    what: str
    trace: str
    replay: str
    again: bool = True

    def __str__(self) -> str:
        """Return it in three lines."""
        rare = "" if self.again else " (rare: it did not come again when it was tried)"
        return f"{self.layer}: {self.place}\n  {self.what}{rare}\n  replay: {self.replay}"


class Report(msgspec.Struct, kw_only=True):
    """
    The result of a run.

    Attributes:
        application: references to work and invariant.
        seed: decides everything that was drawn.
        store: `sqlite` or `postgresql`.
        kills: processes killed.
        kills_again: those among them that were starting again after a kill.
        cuts: moments at which the power was cut.
        images: contents a disk could have then, each judged.
        continued: images on which the application went on to its end.
        errors: runs in which a call to the disk failed.
        raised: those among them in which work raised.
        reached: for each layer, where it struck and how often.
        sometimes: how often the application said that it reached a rare state.
        failures: what went wrong.
        remarks: what was not done, and why.
        seconds: how long all of it took.
        versions: of what took part.
    """

    application: tuple[str, str]
    seed: int
    store: str = "sqlite"
    kills: int = 0
    kills_again: int = 0
    cuts: int = 0
    images: int = 0
    continued: int = 0
    errors: int = 0
    raised: int = 0
    reached: dict[str, dict[str, int]] = {}
    sometimes: dict[str, int] = {}
    failures: list[Failure] = []
    remarks: list[str] = []
    seconds: float = 0.0
    versions: dict[str, str] = msgspec.field(default_factory=_versions)

    @property
    def ok(self) -> bool:
        """Whether the invariant held in every case, and work could always go on."""
        return not self.failures

    def count(self, layer: str, place: str) -> None:
        """Count that a layer struck at a place."""
        places = self.reached.setdefault(layer, {})
        places[place] = places.get(place, 0) + 1

    def failed(self, layer: str) -> int:
        """Return how many failures a layer has had."""
        return sum(failure.layer == layer for failure in self.failures)

    def line(self, layer: str) -> str:
        """Return what was done in one layer, in one line."""
        if not self.reached.get(layer):
            return f"{layer}: nothing was done"
        failed = self.failed(layer)
        done = {
            "kills": f"{self.kills} processes killed, {self.kills_again} of them starting again",
            "power": f"{self.images} images of {self.cuts} power cuts, {self.continued} worked on",
            "errors": f"{self.errors} runs with a failing call, work raised in {self.raised}",
        }[layer]
        return f"{layer}: {done}; {f'{failed} FAILED' if failed else 'all as promised'}"

    def text(self) -> str:
        """Return the report for people."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        lines = [f"crash lab of {self.application[0]} on {self.store}, seed {self.seed}"]
        for layer in LAYERS:
            places = self.reached.get(layer, {})
            shown = ", ".join(f"{place} {places[place]}" for place in sorted(places))
            lines += [self.line(layer), *_wrapped(shown)]
        lines += [f"sometimes: {what}, {times} times" for what, times in self.sometimes.items()]
        lines += [*self.remarks, *(str(failure) for failure in self.failures)]
        return "\n".join([*lines, f"{self.seconds:.0f} s; {versions}"])

    def json(self) -> str:
        """Return the report for programs."""
        content = msgspec.to_builtins(self) | {"ok": self.ok}
        return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()

    def check(self) -> None:
        """
        Fail if anything went wrong; the last line of a test.

        Raises:
            AssertionError: with the report, its failures, and how to repeat them.
        """
        if not self.ok:
            raise AssertionError(self.text())
