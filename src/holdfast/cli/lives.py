"""
The lives of the demo's worker: start it, listen, kill it with SIGKILL, start it again.

When each life ends is drawn from a seed before the first begins: most after so many
acknowledgements and a few milliseconds more, some while the worker is still starting. The
same seed draws the same plan; how far the worker got by then is up to the machine.

Invariant: no worker outlives `live`, however it ends; only whole lines count as said.
"""

import os
import random
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import IO, Final

import msgspec

from holdfast.cli.ingest import TRY_AGAIN, Acknowledged, Order, Ready, Tried, Word
from holdfast.core.clock import Clock

STARTS_WITHOUT_KILL_MAX: Final = 5
_DELAY_MAX: Final = 0.01
_START_MAX: Final = 0.4
_EARLY_SHARE: Final = 0.2
_WORK_SHARE: Final = 0.9
_CHUNK_BYTES: Final = 64 * 1024
_SILENCE_MAX: Final = 60.0


class Kill(msgspec.Struct, frozen=True):
    """
    When to kill a life.

    Attributes:
        after: files acknowledged in all lives; None: while it starts.
        delay: seconds to wait then.
    """

    after: int | None
    delay: float


class Tale(msgspec.Struct):
    """
    What was seen of all lives.

    Attributes:
        acknowledged: every answer a worker passed on, in the order heard.
        tried: files a worker began to record.
        starts: how often a worker was started.
        kills: how often one was killed.
        ready: seconds from start to ready of each life that got there.
        behind: files by which the buffered totals were behind at each start.
    """

    acknowledged: list[Acknowledged] = []
    tried: set[str] = set()
    starts: int = 0
    kills: int = 0
    ready: list[float] = []
    behind: list[int] = []


class WorkerFailedError(Exception):
    """A worker ended by itself without finishing; the message is what it said."""


def plan_kills(seed: int, kills: int, files: int) -> list[Kill]:
    """Draw when the lives end; the work is cut at random places."""
    rng = random.Random(seed)
    places = sorted(int(rng.uniform(0, _WORK_SHARE * files)) for _ in range(kills))
    return [
        Kill(None, rng.uniform(0, _START_MAX))
        if rng.random() < _EARLY_SHARE
        else Kill(after, rng.uniform(0, _DELAY_MAX))
        for after in places
    ]


def live(order: Order, kills: list[Kill], clock: Clock, tell: Callable[[Tale], None]) -> Tale:
    """
    Run workers until one finishes.

    Args:
        order: what the workers are to do.
        kills: when to kill them, one life each; the lives after the last are spared.
        clock: for the waits.
        tell: called whenever something was heard.

    Raises:
        WorkerFailedError: a worker ended by itself.
    """
    tale = Tale()
    plan = iter(kills)
    again = 0
    with tempfile.TemporaryFile() as orders, tempfile.TemporaryFile() as complaints:
        orders.write(msgspec.json.encode(order))
        orders.flush()
        while True:
            code = _Life(tale, clock, tell).run(next(plan, None), orders, complaints)
            if code == 0:
                return tale
            if code == TRY_AGAIN and again < STARTS_WITHOUT_KILL_MAX:
                again += 1
            elif code != -signal.SIGKILL:
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip()
                raise WorkerFailedError(said or f"the worker ended with {code}")


class _Life:
    """One worker process."""

    def __init__(self, tale: Tale, clock: Clock, tell: Callable[[Tale], None]) -> None:
        self._tale = tale
        self._clock = clock
        self._tell = tell
        self._words = msgspec.json.Decoder(Word)
        self._torn = b""
        self._started = 0.0

    def run(self, kill: Kill | None, orders: IO[bytes], complaints: IO[bytes]) -> int:
        """Start a worker, listen, kill it when its time has come; return its exit code."""
        ear, mouth = os.pipe()
        self._tale.starts += 1
        self._started = self._clock.monotonic()
        command = [sys.executable, "-m", "holdfast.cli.worker", str(mouth), str(self._tale.starts)]
        with os.fdopen(ear, "rb", buffering=0) as listening:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=orders,
                    stdout=complaints,
                    stderr=complaints,
                    pass_fds=[mouth],
                    start_new_session=True,  # Ctrl-C is for us; we end the worker.
                )
            finally:
                os.close(mouth)
            try:
                self._listen(listening.fileno(), process, kill)
            finally:
                if process.poll() is None:
                    process.kill()
                code = process.wait()
        return code

    def _listen(self, ear: int, process: "subprocess.Popen[bytes]", kill: Kill | None) -> None:
        """Hear everything the worker says until it is gone, by our hand or its own."""
        due = self._due(kill)
        while True:
            now = self._clock.monotonic()
            if due is not None and now >= due:
                due, kill = None, None
                self._kill(process)
            wait = _SILENCE_MAX if due is None else due - now
            if not select.select([ear], [], [], wait)[0]:
                if due is None:
                    raise WorkerFailedError(f"the worker said nothing for {_SILENCE_MAX:g} s")
                continue
            heard = os.read(ear, _CHUNK_BYTES)
            if not heard:
                process.wait()
                return
            self._hear(heard)
            if due is None:
                due = self._due(kill)

    def _due(self, kill: Kill | None) -> float | None:
        """Return when to kill, as soon as that is known."""
        if kill is None:
            return None
        if kill.after is None:
            return self._started + kill.delay
        if len(self._tale.acknowledged) < kill.after:
            return None
        return self._clock.monotonic() + kill.delay

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        # A worker that is just done has ended by itself; that is no kill.
        if process.poll() is None:
            process.kill()
            if process.wait() == -signal.SIGKILL:
                self._tale.kills += 1

    def _hear(self, heard: bytes) -> None:
        *lines, self._torn = (self._torn + heard).split(b"\n")
        for line in lines:
            word: Word = self._words.decode(line)
            match word:
                case Ready() as ready:
                    self._tale.ready.append(self._clock.monotonic() - self._started)
                    self._tale.behind.append(ready.durable - ready.buffered)
                case Tried(path):
                    self._tale.tried.add(path)
                case Acknowledged() as acknowledged:
                    self._tale.acknowledged.append(acknowledged)
        self._tell(self._tale)
