"""Bytes go with the last one who names them, in the same unit, and never before."""

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import Coroutine
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import Machine, PutBlob, Run, Runtime, Unit, state
from holdfast.core.errors import BlobNotFoundError
from holdfast.core.failpoint import Failpoints
from holdfast.core.ledger import Terms
from holdfast.core.refusal import ArtifactNotFoundError, RunNotFoundError
from holdfast.core.unit import PatchRecord
from holdfast.core.world import World
from holdfast.runtime import listing, names
from holdfast.runtime.blob import Blobs
from tests.store.fixtures import generate

BYTES = b"the same note"
LARGE = 100_000
OLD_BYTES = b"a small blob"
"""What a program put into the store that an older Holdfast made."""


def name_of(data: bytes) -> str:
    """Return the digest of bytes."""
    return sha256(data).hexdigest()


async def note(run: Run, data: bytes, times: int = 1) -> None:
    """Leave an artifact behind, perhaps several of the same bytes."""
    for n in range(times):
        await run.attach(f"note {n}", data)


async def grow(run: Run, letter: str) -> str:
    """Return something that is too large for an event."""
    return letter * LARGE


async def weigh(run: Run) -> int:
    """Do a step whose result is too large for an event."""
    return len(await run.step("grow", lambda: "w" * LARGE))


async def parent(run: Run) -> str:
    """Have a child make it, and wait before it is looked at."""
    made: str = await run.child(grow, "c")
    await run.signal("go")
    return made


async def carry(run: Run, text: str) -> int:
    """Take something large."""
    return len(text)


@state(version=1)
class Count:
    """State of a session."""

    value: int = 0


FUNCTIONS = [note, grow, weigh, parent, carry]


def opened(url: str, failpoints: Failpoints | None = None) -> Any:
    """Return the opening of a store that knows the functions."""
    world = World(failpoints=failpoints) if failpoints else World()
    return holdfast.open(url, functions=FUNCTIONS, world=world)


async def ended(rt: Runtime, run_id: str, fn: Any, *args: Any) -> None:
    """Let a run come to its end."""
    await (await rt.runs.start(fn, *args, run_id=run_id)).result()


async def is_there(rt: Runtime, data: bytes) -> bool:
    """Say whether bytes are there; if they are, they are whole."""
    try:
        assert await rt.blobs.get(name_of(data)) == data
    except BlobNotFoundError:
        return False
    return True


async def blobs_of(rt: Any) -> int:
    """Return how many blobs the store has."""
    rows = await rt._store.read(lambda reader: list(reader.pages("scan_blobs", after_content)))
    return len(rows)


def after_content(row: Any) -> dict[str, bytes]:
    """Return where a page of blobs begins."""
    return {"after": b"" if row is None else row[0]}


def test_bytes_go_with_the_last_run_that_names_them(store_url: str) -> None:
    """X9. Two runs, one of them twice, and a fork name equal bytes; they are read to the last."""

    async def whole() -> None:
        async with opened(store_url) as rt:
            await ended(rt, "a", note, BYTES, 2)
            await ended(rt, "b", note, BYTES)
            await (await rt.runs.fork("b", new_id="c")).result()
            await ended(rt, "d", note, b"other")
            for left in ("b!1", "c!1", "d!1"):
                assert await rt.runs.retain(newest=0, limit=1) == 1
                assert await rt.verify() == []
                assert await rt.runs.artifacts.read(left) in (BYTES, b"other")
                assert await is_there(rt, BYTES) is (left != "d!1")
            with pytest.raises(ArtifactNotFoundError):
                await rt.runs.artifacts.read("a!1")
            await ended(rt, "e", note, BYTES)
            assert await rt.runs.artifacts.read("e!1") == BYTES
            assert await rt.runs.retain(newest=0) == 2
            assert await blobs_of(rt) == 0
            assert await rt.verify() == []

    asyncio.run(whole())


def test_large_inputs_and_results_go_with_their_runs_and_stay_with_a_parent(
    kept_url: str,
) -> None:
    """X9. What a child returned is its parent's too, who reads it back after the child went."""

    async def whole() -> None:
        async with opened(kept_url) as rt:
            for fn, args in ((carry, ("x" * LARGE,)), (grow, ("g",)), (weigh, ())):
                await ended(rt, f"one {fn.__name__}", fn, *args)
                assert await blobs_of(rt) == 1
                assert await rt.runs.retain(newest=0) == 1
                assert await blobs_of(rt) == 0
            await ended(rt, "carry", carry, "x" * LARGE)
            await ended(rt, "weigh", weigh)
            await (await rt.runs.fork("carry", new_id="carry fork")).result()
            await (await rt.runs.fork("weigh", new_id="weigh fork")).result()
            assert await rt.runs.retain(newest=2) == 2
            assert await blobs_of(rt) == 2
            assert await rt.runs.retain(newest=0) == 2
            assert await blobs_of(rt) == 0
            run = await rt.runs.start(parent, run_id="parent")
            async for event in run.follow():
                if event.type == "child.ended":
                    break
            assert await rt.runs.retain(newest=0) == 1
            assert await rt.verify() == []
            assert await blobs_of(rt) == 1
        async with opened(kept_url) as rt:
            await rt.runs.signal("parent", "go")
            assert await rt.runs.result("parent") == "c" * LARGE
            assert await rt.runs.retain(newest=0) == 1
            assert await rt.verify() == []
            assert await blobs_of(rt) == 0
            with pytest.raises(RunNotFoundError):
                await rt.runs.result("parent")

    asyncio.run(whole())


@pytest.mark.parametrize("first", ["program", "run"])
@pytest.mark.parametrize("way", ["blobs", "unit", "session", "ledger"])
def test_what_a_program_put_stays_until_it_is_deleted_and_no_run_names_it(
    store_url: str, first: str, way: str
) -> None:
    """X9. By `blobs.put` or in a unit, wherever one is taken; before the run or after it."""
    write = PutBlob.of(BYTES)

    async def put(rt: Runtime) -> None:
        match way:
            case "blobs":
                await rt.blobs.put(BYTES)
            case "unit":
                assert (await rt.commit(Unit((write,)))).records == ()
            case "session":
                async with rt.session(Count, "one") as session, session.edit(write) as count:
                    count.value += 1
            case _:
                async with await rt.ledger.start(("put",), Terms(), also=Unit((write,))):
                    pass

    async def whole() -> None:
        async with opened(store_url) as rt:
            if first == "program":
                await put(rt)
            await ended(rt, "a", note, BYTES)
            if first == "run":
                await put(rt)
            assert await rt.runs.retain(newest=0) == 1
            assert await is_there(rt, BYTES)
            await ended(rt, "b", note, BYTES)
            await rt.blobs.delete(name_of(BYTES))
            assert await rt.runs.artifacts.read("b!1") == BYTES
            assert await rt.runs.retain(newest=0) == 1
            assert not await is_there(rt, BYTES)
            await put(rt)
            await rt.blobs.delete(name_of(BYTES))
            assert not await is_there(rt, BYTES)
            assert await rt.verify() == []

    asyncio.run(whole())


def test_contents_of_a_pipeline_go_with_their_versions(store_url: str) -> None:
    """R9. Two keys work on equal content; that of a version that stays is there."""
    machine = Machine("count", initial="read", final={"done"})

    @machine.on("read", to="done")
    def read(step: Any, ctx: Any) -> None:
        assert ctx.input in ("one", "two")

    async def whole() -> None:
        async with opened(store_url) as rt:
            for key in ("a", "b"):
                for content in ("one", "two"):
                    await rt.pipeline(machine, key).run(content)
            assert await rt.runs.retain(newest=0, limit=1) == 1
            assert await blobs_of(rt) == 2
            assert await rt.runs.retain(newest=0) == 1
            assert await blobs_of(rt) == 1
            assert await rt.verify() == []

    asyncio.run(whole())


def test_a_run_is_removed_with_all_it_names_however_many_that_are(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X9. More than are read at once."""
    monkeypatch.setattr(names, "PAGE", 2)
    monkeypatch.setattr(listing, "PAGE", 2)

    async def several(run: Run) -> None:
        for n in range(5):
            await run.attach("part", bytes([n]))

    async def whole() -> None:
        async with opened(store_url) as rt:
            await ended(rt, "a", several)
            await ended(rt, "b", several)
            assert await rt.verify() == []
            assert await rt.runs.retain(newest=0) == 2
            assert await rt.runs.artifacts.list("a") == []
            assert await blobs_of(rt) == 0
            assert await rt.verify() == []

    asyncio.run(whole())


def test_what_a_schedule_starts_its_runs_with_stays(store_url: str) -> None:
    """R8. A run of the same input is removed; the schedule still has it."""

    async def whole() -> None:
        async with opened(store_url) as rt:
            await rt.runs.schedules.put("yearly", "0 0 1 1 *", carry, "x" * LARGE)
            await ended(rt, "carry", carry, "x" * LARGE)
            assert await rt.runs.retain(newest=0) == 1
            assert await blobs_of(rt) == 1

    asyncio.run(whole())


def test_bytes_that_were_there_before_names_were_counted_stay(tmp_path: Path) -> None:
    """X11. Nobody knows who names what an older Holdfast put; a run that names it too may go."""
    [fixture] = Path(generate.__file__).parent.glob("sqlite-0001.db")
    path = tmp_path / "old.db"
    path.write_bytes(fixture.read_bytes())

    async def whole() -> None:
        async with opened(f"sqlite:///{path}") as rt:
            await ended(rt, "a", note, OLD_BYTES)
            await ended(rt, "b", note, BYTES)
            assert await rt.runs.retain(newest=0) == 2
            assert await is_there(rt, OLD_BYTES)
            assert not await is_there(rt, BYTES)
            await rt.blobs.delete(name_of(OLD_BYTES))
            assert not await is_there(rt, OLD_BYTES)

    asyncio.run(whole())


@pytest.mark.parametrize("point", ["commit.written", "commit.committed"])
def test_a_removal_that_is_killed_leaves_run_and_bytes_or_neither(
    kept_url: str, point: str
) -> None:
    """X1, X9. Killed before its commit and behind it; the next removal ends what was begun."""

    async def prepare() -> None:
        async with opened(kept_url) as rt:
            await ended(rt, "a", note, BYTES)

    async def look() -> None:
        was_there = point == "commit.written"
        async with opened(kept_url) as rt:
            assert [info.id for info in await rt.runs.list()] == (["a"] if was_there else [])
            assert await is_there(rt, BYTES) is was_there
            assert await rt.verify() == []
            assert await rt.runs.retain(newest=0) == int(was_there)
            assert not await is_there(rt, BYTES)

    asyncio.run(prepare())
    program = [sys.executable, "-m", "tests.runtime.remover", kept_url, point]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    asyncio.run(look())


class Held:
    """A runtime's writer, stopped before one of its commits until somebody else committed."""

    def __init__(self) -> None:
        """Stop nothing yet."""
        self.failpoints = Failpoints()
        self._taken = threading.Event()
        self._go = threading.Event()
        self._left = 0

    def _reached(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._taken.set()
            assert self._go.wait(30)

    async def during(self, doing: Coroutine[Any, Any, Any], nth: int, other: Any) -> Any:
        """Do something; at its n-th commit, do something else first."""
        self._left = nth
        self.failpoints.arm("commit.taken", self._reached)
        task = asyncio.ensure_future(doing)
        try:
            assert await asyncio.to_thread(self._taken.wait, 30)
            await other
        finally:
            self._go.set()
        return await task


def test_bytes_that_are_named_while_they_are_removed_stay(kept_url: str) -> None:
    """X9. The removal was decided, then another run attached equal bytes: it decides anew."""

    async def whole() -> None:
        held = Held()
        async with opened(kept_url, held.failpoints) as rt, opened(kept_url) as other:
            await ended(other, "a", note, BYTES)
            removal = rt.runs.retain(newest=0, limit=1)
            assert await held.during(removal, 1, ended(other, "b", note, BYTES)) == 1
            assert [info.id for info in await rt.runs.list()] == ["b"]
            assert await rt.runs.artifacts.read("b!1") == BYTES
            assert await rt.verify() == []

    asyncio.run(whole())


def test_two_runtimes_that_remove_the_last_two_who_name_bytes_remove_these(
    kept_url: str,
) -> None:
    """X9. Each decided that the other one's run still names them; one decides anew."""

    async def whole() -> None:
        held = Held()
        async with opened(kept_url, held.failpoints) as rt, opened(kept_url) as other:
            await ended(other, "a", note, BYTES)
            await ended(other, "b", note, BYTES)
            removal = rt.runs.retain(newest=1)
            assert await held.during(removal, 1, other.runs.retention._removed("b")) == 1
            assert await rt.runs.list() == []
            assert await blobs_of(rt) == 0
            assert await rt.verify() == []

    asyncio.run(whole())


def test_a_fork_of_a_run_that_is_removed_meanwhile_is_refused(kept_url: str) -> None:
    """R7, X9. It would name bytes that are gone."""

    async def whole() -> None:
        held = Held()
        async with opened(kept_url, held.failpoints) as rt, opened(kept_url) as other:
            await ended(other, "a", note, BYTES)
            with pytest.raises(RunNotFoundError):
                await held.during(rt.runs.fork("a"), 1, other.runs.retain(newest=0))
            assert await rt.runs.list() == []
            assert await rt.verify() == []

    asyncio.run(whole())


def test_an_import_whose_bytes_are_removed_meanwhile_brings_them_again(
    kept_url: str, tmp_path: Path
) -> None:
    """X9, X13. The blobs were there, then the last run that named them went."""
    file = tmp_path / "a.ndjson"

    async def whole() -> None:
        held = Held()
        async with opened(f"sqlite:///{tmp_path / 'origin.db'}") as origin:
            await ended(origin, "a", note, BYTES)
            await origin.transfers.export_run("a", file)
        async with opened(kept_url, held.failpoints) as rt, opened(kept_url) as other:
            await ended(other, "b", note, BYTES)
            # First the check of what is refused, then the blobs, then the run.
            await held.during(rt.transfers.import_file(file), 3, other.runs.retain(newest=0))
            assert await rt.runs.artifacts.read("a!1") == BYTES
            assert await rt.verify() == []
            assert await rt.runs.retain(newest=0) == 1
            assert await blobs_of(rt) == 0

    asyncio.run(whole())


def test_who_reads_what_is_removed_just_then_learns_that_it_is_not_there(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X9. An artifact or a result, removed between the record and the bytes."""

    async def whole() -> None:
        async with opened(store_url) as rt:
            await ended(rt, "a", note, BYTES)
            await ended(rt, "b", grow, "b")
            get = Blobs.get

            async def late(self: Blobs, digest: str) -> bytes:
                await rt.runs.retain(newest=0, limit=1)
                return await get(self, digest)

            monkeypatch.setattr(Blobs, "get", late)
            with pytest.raises(ArtifactNotFoundError):
                await rt.runs.artifacts.read("a!1")
            with pytest.raises(RunNotFoundError):
                await rt.runs.result("b")

    asyncio.run(whole())


@pytest.mark.parametrize("wrong", [-1, 1])
def test_bytes_that_are_counted_wrongly_are_found(store_url: str, wrong: int) -> None:
    """X11. Too low, they would go too early; too high, never."""

    async def whole() -> None:
        async with opened(store_url) as rt:
            await ended(rt, "a", note, BYTES)
            patch = PatchRecord(names.TOTAL_KIND, (name_of(BYTES),), add={"names": wrong})
            await rt._store.commit(Unit((patch,)))
            [finding] = await rt.verify()
            assert finding.name == name_of(BYTES)
            assert finding.reason == f"is named 1 times, counted are {1 + wrong}"

    asyncio.run(whole())
