"""Sides of a comparison as seen from the bench: processes that are started, asked, killed."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec

from bench.measure import Rate
from bench.peer import environment, python_of_peer
from bench.place import Place

OURS = "ours"
FORMS = {"dbos": "threads", "dbos_async": "async", "dbos_wal": "wal"}


class Home(msgspec.Struct, frozen=True):
    """
    Where a side keeps its runs; several processes of it may follow each other there.

    Attributes:
        side: `ours`, or the name of a peer with its form.
        url: address of its store.
        schema: of the tables; empty for the usual one.
    """

    side: str
    url: str
    schema: str = ""


def home(place: Place, store: str, side: str) -> Home:
    """Return a new, empty store for a side."""
    if side == OURS:
        return Home(side, place.url(store))
    name = f"peer_{uuid4().hex[:8]}"
    if store == "sqlite":
        return Home(side, f"sqlite:///{(place.folder / name).absolute()}.db")
    return Home(side, place.server_url(), name)


class Side:
    """A process that does what it is asked for."""

    def __init__(self, at: Home, log: Path, mark: int = -1) -> None:
        """
        Start it and wait until it is ready.

        Args:
            at: its store.
            log: file for what it says to people.
            mark: step up to which a replay is timed.

        Raises:
            PeerMissingError: it needs a peer that is not there.
        """
        given: dict[str, Any] = {"url": at.url, "mark": mark}
        if at.side == OURS:
            command = [sys.executable, "-m", "bench.side_ours"]
        else:
            given |= {"schema": at.schema, "form": FORMS[at.side]}
            command = [str(python_of_peer()), "-m", "bench.side_dbos"]
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [*command, json.dumps(given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment(),
            cwd=log.parent,
        )
        self._answer()

    def ask(self, job: str, **given: Any) -> dict[str, Any]:
        """Let it do something and return what it says."""
        if self._process.stdin is None:
            raise RuntimeError("it has no standard input")
        self._process.stdin.write(json.dumps({"job": job} | given) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def rate(self, runs: int, steps: int) -> Rate:
        """Let it do runs of so many steps and return how fast it did."""
        said = self.ask("steps", runs=runs, steps=steps)
        count = runs * steps
        if said["count"] != count:
            raise RuntimeError(f"{said['count']} of {count} steps were done")
        return Rate(count, count / said["seconds"], said["cpu"] / count * 1e6)

    def kill(self) -> None:
        """Kill it: SIGKILL."""
        self._process.kill()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            self._process.wait()
            said = Path(self._log.name).read_text(errors="replace")[-2_000:]
            raise RuntimeError(f"a side ended with {self._process.returncode}: {said}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> "Side":
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it; a store has to bear that, and nobody waits for a farewell."""
        self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
