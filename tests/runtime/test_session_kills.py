"""
Sessions and SIGKILL: real processes, killed under load, judged by what they were told.

A child edits four sessions side by side and reaches for new ones; it says what it tries and
what was acknowledged. It is killed at a random moment or at a failpoint of a commit. The parent
opens the store and judges, and the next child goes on with the same store, so that what one
life leaves is what the next one has to live with.
"""

import asyncio
import json
import os
import random
import secrets
import signal
import subprocess
import sys
from typing import Any

import pytest

import holdfast
from holdfast.runtime.sessions.state import shape_of
from tests.runtime.editor import KEYS, Kept, KeptTwice

POINTS = (
    "commit.taken",
    "commit.begun",
    "commit.loaded",
    "commit.decided",
    "commit.written",
    "commit.committed",
    "commit.answered",
)
# A flush of few sessions is one commit: the second one is never reached.
FLUSHES = (("commit.begun", 1), ("commit.written", 1), ("commit.begun", 2), ("commit.written", 2))
RANDOM_LIVES = 5


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """Address of an empty store that several processes can open."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("postgres_url"))


def child(*arguments: str) -> "subprocess.Popen[str]":
    """Start the editor."""
    program = [sys.executable, "-m", "tests.runtime.editor", *arguments]
    return subprocess.Popen(program, stdout=subprocess.PIPE, text=True)


def say(line: str) -> None:
    """Say what is done, to be shown with a failure; a seed given here replays a run."""
    sys.stdout.write(line + "\n")


class Ledger:
    """What the parent was told over all lives, and what it makes of the store."""

    def __init__(self) -> None:
        """Know nothing."""
        self.acked: dict[str, int] = dict.fromkeys(KEYS, 0)
        self.tried: dict[str, int] = dict.fromkeys(KEYS, 0)
        self.flushed: dict[str, int] = dict.fromkeys(KEYS, 0)
        self.turns_start: dict[str, int] = dict.fromkeys(KEYS, 0)
        self.number_start: dict[str, int] = dict.fromkeys(KEYS, 0)
        self.identities: dict[str, list[str]] = {}
        self.trying: list[list[str]] = []

    def hear(self, line: dict[str, Any]) -> None:
        """Take one thing down."""
        match line.pop("what"):
            case "found":
                self.number_start[line["key"]] = line["number"]
                self.turns_start[line["key"]] = line["turns"]
            case "try":
                self.tried[line["key"]] = line["number"]
            case "ack":
                self.acked[line["key"]] = line["number"]
            case "flushed":
                self.flushed.update(line["numbers"])
            case "trying":
                self.trying.append(line["identities"])
            case _:
                self.trying.remove(line["identities"])
                self.identities.update(dict.fromkeys(line["identities"], line["key"]))

    async def judge(self, rt: holdfast.Runtime) -> None:
        """Compare with what is stored."""
        for key in KEYS:
            async with rt.session(Kept, key) as session:
                self._judge(key, session.value)
        before = len(await rt.sessions.list(Kept, limit=10_000))
        for identity, session_key in self.identities.items():
            found = await rt.sessions.find(Kept, [identity])
            assert found.key == tuple(session_key), f"L2: {identity} is lost"
            reached = await rt.sessions.reach(Kept, [identity])
            assert reached.key == tuple(session_key)
        for hdr, fp in self.trying:
            one, two = await rt.sessions.find(Kept, [hdr]), await rt.sessions.find(Kept, [fp])
            assert one.key == two.key, "L6: half of a session's identities"
        assert len(await rt.sessions.list(Kept, limit=10_000)) == before
        assert before <= len(KEYS) + len(self.identities) // 2 + len(self.trying)
        assert await rt.verify() == []

    def _judge(self, key: str, value: Kept) -> None:
        acked, tried = self.acked[key], self.tried[key]
        assert acked <= value.number <= tried, f"L1: {key}: {acked} {value.number} {tried}"
        assert value.first == value.number, "L6: half of an edit"
        assert value.plain == value.left == value.right, "L6: half of a flush"
        assert self.flushed[key] <= value.left <= tried, "L1: behind the barrier, or ahead"
        # A life counts one turn per edit, from where it began.
        first, number = self.turns_start[key], self.number_start[key]
        assert first <= value.turns <= first + tried - number, "L7: lost or counted twice"
        if value.left > number:
            assert value.turns == first + value.left - number, "L7: not what was flushed with it"
        self.acked[key] = self.tried[key] = value.number
        self.flushed[key] = value.left
        self.turns_start[key], self.number_start[key] = value.turns, value.number


def live(url: str, ledger: Ledger, seed: int, point: str = "", nth: int = 0) -> None:
    """Let one child live and die."""
    rng = random.Random(seed)
    left = len(KEYS) + rng.randint(0, 150)
    follow(url, ledger, child("live", url, str(seed), point, str(nth)), 0 if point else left)


def follow(url: str, ledger: Ledger, process: "subprocess.Popen[str]", left: int = 0) -> None:
    """Listen to a child, kill it behind so many lines, and judge what it leaves."""
    assert process.stdout is not None
    with process.stdout as told:
        for line in told:
            ledger.hear(json.loads(line))
            left -= 1
            if not left:
                process.kill()
    assert process.wait() == -signal.SIGKILL

    async def judge() -> None:
        async with holdfast.open(url) as rt:
            await ledger.judge(rt)

    asyncio.run(judge())


def test_what_was_acknowledged_survives_kills(url: str) -> None:
    """L1, L2, L6, L7, F1. At random moments and at every failpoint of a commit."""
    seed = int(os.environ.get("HOLDFAST_SEED", "0")) or secrets.randbits(32)
    say(f"seed {seed}")
    rng, ledger = random.Random(seed), Ledger()
    for life in range(RANDOM_LIVES):
        say(f"life {life}")
        live(url, ledger, rng.getrandbits(32))
    for point in POINTS:
        nth = rng.randint(1, 12)
        say(f"{point} {nth}")
        live(url, ledger, rng.getrandbits(32), point, nth)
    for point, nth in FLUSHES:
        say(f"flush {point} {nth}")
        follow(url, ledger, child("flush", url, point, str(nth)))
    assert ledger.identities and min(ledger.acked.values()) > 0


def test_an_upcast_that_is_killed_is_done_or_not_begun(url: str) -> None:
    """L12, L6, X11. All records of a session are of one version, whatever statement it was."""

    async def prepare() -> None:
        async with holdfast.open(url) as rt:
            for key in KEYS:
                session = rt.session(Kept, key)
                async with session.edit() as draft:
                    draft.number = draft.first = draft.turns = draft.left = draft.right = 3

    async def judge() -> int:
        versions: list[int] = []
        async with holdfast.open(url) as rt:
            for key in KEYS:
                kinds = [slot.kind for shape in (Kept, KeptTwice) for slot in shape_of(shape).slots]
                records = [await rt.records.find(kind, key) for kind in dict.fromkeys(kinds)]
                told = {record.value["@version"] for record in records if record is not None}
                assert len(told) == 1, f"{key} is of versions {told}"
                versions += told
                async with rt.session(KeptTwice, key) as session:
                    value = session.value
                    assert (value.first, value.turns) == (3, 30)
                    assert value.number >= 3 and value.right >= 3
            assert await rt.verify() == []
        return versions.count(2)

    asyncio.run(prepare())
    done = [0]
    for nth in (1, 2, 3):
        for point in POINTS:
            process = child("upcast", url, point, str(nth))
            assert process.stdout is not None
            process.stdout.close()
            assert process.wait() == -signal.SIGKILL
            done.append(asyncio.run(judge()))
            if done[-1] == len(KEYS):
                break
    assert done == sorted(done) and done[-1] > 0, "a newer session became an older one"
