"""
Cases of the crash lab: something is done to an application, then its promises are checked.

Each case has a store of its own and processes of its own. After the accident the invariant has
to hold with what was acknowledged; the application has to be able to go on to its end; and the
invariant has to hold then. Called by `holdfast.testing.crashlab`, which chooses the cases.
"""

import secrets
import signal
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from holdfast.core.errors import InvalidValueError
from holdfast.testing.disk.acts import Recording
from holdfast.testing.disk.images import Breadth, CrashImage, Cut, Scratch, cut_at, images
from holdfast.testing.disk.ioerrors import Accident
from holdfast.testing.process.kills import Forks
from holdfast.testing.trials.reference import NotImportableError
from holdfast.testing.trials.trial import CHECK, SOMETIMES, WORK, Life, Result, frame, recorded

__all__ = ["Application", "Cases", "Trouble"]

_BREADTH: Final = Breadth(prefixes=3, sectors=2, mixtures=3, garbage=1)
_STORE: Final = "store.db"
_RAISED: Final = {
    (WORK, 1): "work fails",
    (CHECK, 1): "the invariant does not hold on what was left",
    (WORK, 2): "work cannot go on from what was left",
    (CHECK, 2): "the invariant does not hold after work",
    (CHECK, 3): "the invariant does not hold after work has gone on",
}


class Application(msgspec.Struct, frozen=True, kw_only=True):
    """
    What is tested.

    Attributes:
        work: reference to the function that works.
        invariant: reference to the function that says what has to hold.
        seed: of all cases.
        limit: seconds after which a process counts as hanging.
        server: address of a PostgreSQL database; empty for SQLite files.
        plant: a bug that is planted in every process, if any.
    """

    work: str
    invariant: str
    seed: int
    limit: float
    server: str = ""
    plant: str = ""


class Trouble(NamedTuple):
    """What went wrong in a case, in one line, and the traceback."""

    what: str
    trace: str


class _Case(NamedTuple):
    url: str
    home: Path
    folder: Path


class Cases:
    """
    The cases of one application, one after the other.

    Attributes:
        killed: processes killed so far.
        raised: runs of work so far that raised because the disk failed.
        sometimes: how often the application said that it reached a rare state.
    """

    def __init__(self, application: Application, forks: Forks, homes: Scratch) -> None:
        """
        Have the warm process import the application.

        Raises:
            NotImportableError: it cannot.
            InvalidValueError: the address names a schema; each case has its own.
        """
        if "schema=" in application.server:
            reason = f"{application.server!r} names a schema; each case is given one of its own"
            raise InvalidValueError(what="store", reason=reason)
        self.killed = 0
        self.raised = 0
        self.sometimes: Counter[str] = Counter()
        self._application = application
        self._forks = forks
        self._homes = homes
        self._import()

    def rehearse(self) -> tuple[Trouble | None, Result]:
        """Run the application with nothing done to it, and count what it reaches."""
        with self._fresh() as case:
            ended, result = self._live(case, watched="points")
            if trouble := self._trouble(ended, result):
                return trouble, result
            ended, checked = self._live(case, number=2, doing=(CHECK,))
        checked.stage = (CHECK, 2)
        return self._trouble(ended, checked), result

    def record(self) -> tuple[Trouble | None, Result, Recording]:
        """Run the application on a disk that remembers."""
        with self._fresh() as case:
            ended, result = self._live(case, number=1, watched="disk")
            trouble = self._trouble(ended, result)
            return trouble, result, Recording({}, []) if trouble else recorded(case.home)

    def kill(self, strikes: Sequence[Mapping[str, Any]]) -> Trouble | None:
        """Kill a process, and those that start again after it, then see."""
        with self._fresh() as case:
            for number, strike in enumerate(strikes, 1):
                ended, result = self._live(case, number=number, kill=dict(strike))
                self.killed += ended == signal.SIGKILL
                result.stage = (WORK, min(number, 2))
                if ended != signal.SIGKILL and (trouble := self._trouble(ended, result)):
                    return trouble
            return self._aftermath(case)

    def fail(self, accident: Accident) -> Trouble | None:
        """Let a call to the disk fail; what work makes of it is its own affair, then see."""
        with self._fresh() as case:
            ended, result = self._live(case, number=1, accident=accident)
            self.raised += bool(result.error)
            if not result.error and (trouble := self._trouble(ended, result)):
                return trouble
            return self._aftermath(case)

    def images_of(self, recording: Recording, at: int) -> tuple[Cut, list[CrashImage]]:
        """Return what a power cut may leave behind so many acts; sectors are 512 B or 4 KiB."""
        cut = cut_at(recording, at, sector_bytes=(512, 4096)[at % 2])
        return cut, list(images(cut, self._application.seed, _BREADTH))

    def cut(self, cut: Cut, image: CrashImage, *, go_on: bool) -> Trouble | None:
        """See what an image is worth that a power cut left."""
        with self._fresh() as fresh, Scratch() as scratch:
            folder = scratch.lay(image.files)
            case = fresh._replace(folder=folder, url=_sqlite(folder))
            notes = (frame(note) for note in cut.notes if isinstance(note, bytes))
            (case.home / "notes").write_bytes(b"".join(notes))
            return self._aftermath(case, go_on=go_on)

    def _aftermath(self, case: _Case, *, go_on: bool = True) -> Trouble | None:
        doing = (CHECK, WORK, CHECK) if go_on else (CHECK,)
        return self._trouble(*self._live(case, number=9, doing=doing))

    def _trouble(self, ended: int, result: Result) -> Trouble | None:
        if result.ended:
            return None
        stage = _RAISED.get(result.stage, "it does not begin")
        if result.error:
            return Trouble(f"{stage}: {result.error}", result.trace)
        if ended == signal.SIGALRM:
            return Trouble(f"{stage}: it hangs, no end after {self._application.limit:g} s", "")
        return Trouble(f"{stage}: the process ended by itself ({ended})", "")

    def _live(self, case: _Case, **what: Any) -> tuple[int, Result]:
        """Run one process of a case and return how it ended and what it said."""
        it = self._application
        life = Life(
            work=it.work,
            invariant=it.invariant,
            url=case.url,
            folder=str(case.folder),
            home=str(case.home),
            seed=it.seed,
            limit=it.limit,
            plant=it.plant,
            **what,
        )
        (case.home / "result").unlink(missing_ok=True)
        after = (life.kill or {}).get("after")
        argument = msgspec.to_builtins(life)
        ended = self._forks.run("holdfast.testing.trials.trial:live", argument, after=after)
        said = case.home / "result"
        if not said.exists():
            return ended, Result()
        return ended, msgspec.json.decode(said.read_bytes(), type=Result)

    def _import(self) -> None:
        said = self._homes.lay({}) / "result"
        references = [self._application.work, self._application.invariant]
        argument = {"references": references, "result": str(said)}
        self._forks.prepare("holdfast.testing.trials.trial:imported", argument)
        if said.exists():
            raise NotImportableError(
                f"another process cannot import {' and '.join(references)}: {said.read_text()}"
            )

    @contextmanager
    def _fresh(self) -> Generator[_Case]:
        """Lend a place with an empty store."""
        home = self._homes.lay({})
        folder = home / "folder"
        folder.mkdir()
        server = self._application.server
        if not server:
            yield _Case(_sqlite(folder), home, folder)
            self._count_sometimes(home)
            return
        schema = f"crashlab_{secrets.token_hex(8)}"
        try:
            url = f"{server}{'&' if '?' in server else '?'}schema={schema}"
            yield _Case(url, home, folder)
            self._count_sometimes(home)
        finally:
            _drop(server, schema)

    def _count_sometimes(self, home: Path) -> None:
        said = home / SOMETIMES
        if said.exists():
            self.sometimes.update(said.read_text().splitlines())


def _sqlite(folder: Path) -> str:
    return f"sqlite:///{quote(str(folder / _STORE))}"


def _drop(server: str, schema: str) -> None:
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
