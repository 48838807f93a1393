"""One store, opened twice in a process and by several processes at once (X5, F14)."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import holdfast
from holdfast.core.event import Event
from holdfast.core.unit import Append, Unit
from holdfast.core.world import World
from holdfast.store.options import Options
from holdfast.store.sqlite.driver import SqliteDriver
from holdfast.testing.disk.images import Scratch
from tests.store.sample import fill, opened, refusal, run, url_of

ROUNDS = 5
STARTERS = 4
OPENINGS = 100


@contextmanager
def partner(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run another process; it has to end by itself."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.store.partner", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent.parent.parent,
    )
    with child:
        yield child
    assert child.returncode == 0


def hear(child: "subprocess.Popen[str]") -> str:
    """Return the next thing a process says."""
    assert child.stdout is not None
    return child.stdout.readline().strip()


def tell(child: "subprocess.Popen[str]") -> None:
    """Let a process go on."""
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def attempt(what: str, path: Path) -> str:
    """Let another process try for a lock of the file; return what it was told."""
    with partner(what, str(path)) as child:
        return hear(child)


def test_a_store_opened_twice_in_one_process_is_one_store(tmp_path: Path) -> None:
    """X5. Both write, both see it, and neither closes the other's doors."""
    url = url_of(tmp_path / "store.db")

    async def work(one: holdfast.Runtime) -> None:
        async with holdfast.open(url) as two:
            assert (one.opened.alone, two.opened.alone) == (True, False)
            assert one.opened.epoch + 1 == two.opened.epoch
            for number in range(20):
                writer = (one, two)[number % 2]
                event = await writer.history("both").append("n", number, expected=number)
                assert event.sequence == number + 1
            assert len(await one.history("both").read()) == 20
        await one.history("both").append("n", 20)
        assert await one.verify() == []

    run(url, work)


@pytest.mark.parametrize("other", ["read", "refused"])
def test_opening_and_closing_it_again_drops_no_lock_of_the_first(
    other: str, tmp_path: Path
) -> None:
    """X5. In the middle of a write transaction the same process opens the store once more,
    closes it, and another process still can neither write nor take the file for itself."""
    path = tmp_path / "store.db"
    inside, go_on = threading.Event(), threading.Event()
    world = World()

    def pause() -> None:
        inside.set()
        go_on.wait(30)

    async def work(rt: holdfast.Runtime) -> None:
        await fill(rt)
        world.failpoints.arm("commit.written", pause)
        writing = asyncio.ensure_future(rt.history("mine").append("said", 1))
        await asyncio.to_thread(inside.wait, 30)
        if other == "read":
            with opened(url_of(path), read_only=True):
                pass
        else:
            (tmp_path / "other").mkdir()
            mark = tmp_path / "store.db-holdfast" / "mark"
            kept = mark.read_bytes()
            mark.write_bytes(b"of another store")
            assert refusal(url_of(path), read_only=True) is not None
            mark.write_bytes(kept)
        said = [attempt("lock", path), attempt("take", path)]
        go_on.set()
        await writing
        assert said == ["busy", "busy"]

    run(url_of(path), work, world=world)
    assert run(url_of(path), lambda rt: rt.verify()) == []


def test_a_store_that_another_process_writes_to_is_never_taken_for_an_older_copy() -> None:
    """X5, F14. Opened again and again while its last transaction moves."""
    with Scratch() as scratch:
        url = url_of(scratch.lay({}) / "store.db")
        with partner("write", url) as child:
            assert hear(child) == "ready"
            for number in range(OPENINGS):
                assert refusal(url, read_only=number % 4 != 0) is None
            tell(child)


def test_of_processes_that_start_together_one_owns_each_generation(kept_url: str) -> None:
    """F14. They race to make the store, then for its leases; all name the same owner."""
    epochs: list[int] = []
    for number in range(ROUNDS):
        with ExitStack() as stack:
            arguments = ("start", kept_url, f"key {number}")
            children = [stack.enter_context(partner(*arguments)) for _ in range(STARTERS)]
            assert [hear(child) for child in children] == ["here"] * STARTERS
            for child in children:
                tell(child)
            answers = [hear(child).split() for child in children]
            epochs += [int(hear(child).split()[1]) for child in children]
            for child in children:
                tell(child)
        words = sorted(word for word, _, _ in answers)
        assert words == ["held"] * (STARTERS - 1) + ["won"]
        assert {generation for _, generation, _ in answers} == {"1"}
        assert len({incarnation for _, _, incarnation in answers}) == 1
    assert len(set(epochs)) == ROUNDS * STARTERS
    assert run(kept_url, lambda rt: rt.verify()) == []


@pytest.mark.timeout(30)
def test_who_watches_for_others_does_not_wait_for_readers(tmp_path: Path) -> None:
    """C1. All readers are lent for long, and a foreign commit is noticed all the same."""
    world = World()
    watching, other = (SqliteDriver(tmp_path / "a.db", Options(readers=1), world) for _ in range(2))
    watching.open()
    other.open()
    unit = Unit((Append("notes", (Event.of("note", 1),)),), (), world.ids.unit(0))
    with watching.reading():
        other.commit([unit])
        changes = watching.wait_foreign(10.0)
    other.close()
    watching.close()
    assert changes.streams == ("notes",)
