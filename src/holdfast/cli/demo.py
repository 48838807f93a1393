"""
The demo that kills itself: real files, a real worker, SIGKILL at random moments, and a table
that says what was promised and what is there.
"""

import asyncio
import os
import random
import shutil
import signal
import statistics
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import Final
from urllib.parse import quote as quote_url
from urllib.parse import unquote

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

import holdfast
from holdfast.cli.audit import Verdict, audit
from holdfast.cli.ingest import Order
from holdfast.cli.inspection import store_name
from holdfast.cli.lives import Tale, WorkerFailedError, live, plan_kills
from holdfast.cli.output import notes, printable, say
from holdfast.cli.sources import FILES_MAX, Sources, collect, standard_library
from holdfast.core.clock import SystemClock
from holdfast.core.errors import InvalidValueError
from holdfast.core.exits import Exit
from holdfast.runtime.transfer import write_file

KILLS: Final = 24
_SQLITE: Final = "sqlite:///"
_NAMED_MAX: Final = 3
_PROBE_SECONDS: Final = 0.2
_LABELS_MAX: Final = 10_000


class Wish(msgspec.Struct, frozen=True):
    """
    What somebody asked the demo for.

    Attributes:
        folder: text files to ingest; None for the standard library.
        store: URL, or "" for a temporary SQLite store.
        kills: how often to kill.
        seed: draws the moments; None for a new one.
        files: how many files at most.
        report: where the JSON report goes; "" for nowhere.
        plant: bug to plant, or "".
    """

    folder: Path | None
    store: str
    kills: int
    seed: int | None
    files: int | None
    report: str
    plant: str


def run_demo(wish: Wish) -> Exit:
    """
    Run the demo and print its table.

    Raises:
        InvalidValueError: there is nothing to ingest, or the store keeps nothing.
        StoreError: the store cannot be opened.
    """
    if wish.store.endswith(":memory:"):
        raise InvalidValueError(what="store", reason="a store in memory does not survive a kill")
    clock = SystemClock()
    began = clock.monotonic()
    seed = random.SystemRandom().randrange(2**32) if wish.seed is None else wish.seed
    sources = _sources(wish)
    with _terminable(), _store(wish.store) as store:
        order = Order(
            store, sources.root, asyncio.run(_free_label(store)), sources.packages, wish.plant
        )
        say(f"{sources.files} files of {sources.root}, {wish.kills} kills, seed {seed}")
        say(f"store: {store_name(store)}")
        with _Show(sources.files, wish.kills) as show:
            try:
                plan = plan_kills(seed, wish.kills, sources.files)
                tale = live(order, plan, clock, show.tell)
            except WorkerFailedError as failure:
                say(f"The worker stopped by itself: {failure}")
                return Exit.UNCHECKED
        say("Looking for everything that was acknowledged …")
        verdict = asyncio.run(audit(store, order.label, sources, tale))
        report = _report(verdict, tale, sources, seed) | {
            "store": store_name(store),
            "label": order.label,
            "planted": wish.plant,
            "seconds": round(clock.monotonic() - began, 1),
            "fsync_per_s": _fsync_per_s(store, clock),
        }
    if wish.report:
        write_file(Path(wish.report), msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    _print(report, verdict, store, order)
    return Exit.UNEXPECTED if verdict.broken else Exit.DONE


def _sources(wish: Wish) -> Sources:
    folder = wish.folder or standard_library()
    limit = FILES_MAX if wish.files is None else wish.files
    sources = collect(folder, limit, ".py" if wish.folder is None else "")
    for reason, paths in sorted(sources.skipped.items()):
        named = ", ".join(paths[:_NAMED_MAX]) + (", …" if len(paths) > _NAMED_MAX else "")
        say(f"skipped {len(paths)}: {reason}: {named}")
    if not sources.files:
        raise InvalidValueError(what="folder", reason=f"no text files in {sources.root}")
    return sources


@contextmanager
def _store(url: str) -> Generator[str]:
    """Hand out the store's URL; a temporary one goes with Ctrl-C and stays otherwise."""
    if url:
        yield url
        return
    folder = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    try:
        yield f"{_SQLITE}{quote_url(str(folder / 'demo.db'))}"
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        raise


@contextmanager
def _terminable() -> Generator[None]:
    """Treat SIGTERM as Ctrl-C, so that the worker is ended and the store removed."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def _free_label(store: str) -> str:
    """Make the store if need be, and return how the names of this run's streams begin."""
    async with holdfast.open(store) as rt:
        label = "package"
        for number in range(2, _LABELS_MAX):
            if not await rt.streams(f"{label}/", limit=1):
                break
            label = f"package@{number}"
    return label


class _Show:
    """The progress bar; without a terminal, a line per kill."""

    def __init__(self, files: int, kills: int) -> None:
        self._console = notes()
        self._kills = kills
        self._said = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("files acknowledged"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("no kill yet", total=files)

    def __enter__(self) -> "_Show":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def tell(self, tale: Tale) -> None:
        """Show how far it is."""
        kills = f"kill -9: {tale.kills} of {self._kills}"
        self._bar.update(self._task, completed=len(tale.acknowledged), description=kills)
        if tale.kills > self._said and not self._console.is_terminal:
            self._said = tale.kills
            say(f"{kills}, {len(tale.acknowledged)} files acknowledged")


def _report(verdict: Verdict, tale: Tale, sources: Sources, seed: int) -> dict[str, object]:
    ready = [round(seconds * 1000) for seconds in tale.ready]
    return {
        "acknowledged": verdict.acknowledged,
        "found": verdict.found,
        "lost": verdict.lost,
        "repeated": verdict.repeated,
        "kills": tale.kills,
        "ready_ms_p50": round(statistics.median(ready)),
        "ready_ms_max": max(ready),
        "restarts": tale.starts - 1,
        "unanswered": verdict.unanswered,
        "buffered_behind": max(tale.behind),
        "files": sources.files,
        "packages": len(sources.packages),
        "changed": verdict.changed,
        "skipped": sum(map(len, sources.skipped.values())),
        "checksum": verdict.checksum,
        "findings": verdict.findings,
        "broken": verdict.broken,
        "folder": printable(sources.root),
        "seed": seed,
    }


def _print(report: dict[str, object], verdict: Verdict, store: str, order: Order) -> None:
    table = Table(title="What survived", show_header=False, title_justify="left")
    table.add_column()
    table.add_column(justify="right", style="bold")
    table.add_column()

    def row(name: str, value: object, remark: str = "", *, good: bool | None = None) -> None:
        style = "" if good is None else "green" if good else "bold red"
        table.add_row(name, Text(str(value), style=style), Text(remark, style="dim"))

    row("acknowledged", verdict.acknowledged, "told by the worker after the await")
    row("found again", verdict.found, "the same event at the same sequence")
    row("lost", verdict.lost, "acknowledged and not there", good=not verdict.lost)
    row("done twice", verdict.repeated, "recorded or acknowledged again", good=not verdict.repeated)
    row("kills (SIGKILL)", report["kills"])
    row("restarts", report["restarts"])
    row(
        "start to ready",
        f"{report['ready_ms_p50']} ms",
        f"median; longest {report['ready_ms_max']} ms",
    )
    row("kept unanswered", verdict.unanswered, "recorded, killed before the answer")
    row("buffered behind", report["buffered_behind"], "files at most; equal at the end")
    row("damage", verdict.findings, "found by verify", good=not verdict.findings)
    row("checksum", verdict.checksum[:16], _checksum_remark(verdict))
    console = Console(highlight=False)
    console.print(table)
    for promise in verdict.broken:
        console.print(Text(f"BROKEN: {printable(promise)}", style="bold red"), soft_wrap=True)
    if not verdict.broken:
        console.print(Text("Every promise was kept.", style="bold green"))
    first = f"{order.label}/{order.packages[0].name}"
    shown = quote(store_name(store))
    console.print("Look for yourself:")
    for words in (f"streams --store {shown}", f"events {quote(first)} --store {shown}"):
        console.print(Text(f"  holdfast {words}"), soft_wrap=True)
    console.print(Text(f"  holdfast verify {shown}"), soft_wrap=True)


def _checksum_remark(verdict: Verdict) -> str:
    if verdict.changed:
        return f"{verdict.changed} files were changed by somebody meanwhile"
    return "the same as of the files" if verdict.whole else "differs from the files"


def _fsync_per_s(store: str, clock: SystemClock) -> int | None:
    """Return how many small syncs a second the store's disk manages; None if it is not ours."""
    if not store.startswith(_SQLITE):
        return None
    folder = Path(unquote(store.removeprefix(_SQLITE))).expanduser().absolute().parent
    with tempfile.TemporaryFile(dir=folder) as file:
        began = clock.monotonic()
        count = 0
        while clock.monotonic() < began + _PROBE_SECONDS:
            file.write(bytes(4096))
            file.flush()
            os.fdatasync(file.fileno())
            count += 1
        return round(count / (clock.monotonic() - began))
