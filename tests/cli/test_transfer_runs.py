"""
Runs out of one store and into another (X13): as a whole or not at all, and never executed twice.

Every run here is a real one of a real store; exports and imports go through the command line.
"""

import asyncio
import json
from base64 import b64encode
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

import holdfast
from holdfast.core.errors import BlobNotFoundError, DamagedFileError
from holdfast.core.run import Status
from holdfast.core.world import World
from holdfast.runtime.runs.handle import RunInfo
from holdfast.runtime.transfer_file import read_parts
from holdfast.runtime.transfer_run import CANCELLED_BECAUSE, read_run
from holdfast.testing.clock import ManualClock
from tests.cli.exported import (
    CANCELLING,
    DYING,
    FUNCTIONS,
    HOLDS,
    IMPORT,
    MACHINE,
    PAGES,
    QUESTION,
    keeper,
    post,
    reach,
    read_meddled,
    report,
    shout,
    sleeper,
    word,
)
from tests.cli.invocation import invoke, run
from tests.cli.test_transfer import killed


async def begin(url: str, run_id: str = "report-7", *, answer: str = "") -> None:
    """Start a report and leave it when it waits, or at its end if there is an answer."""
    async with holdfast.open(url, functions=FUNCTIONS) as rt:
        handle = await rt.runs.start(report, "lighthouses", run_id=run_id, key=f"k-{run_id}")
        await reach(rt, run_id, "question.asked")
        if answer:
            await rt.runs.answer(f"{run_id}?1", answer, by="ann")
            await handle.result()


def seen(info: RunInfo) -> RunInfo:
    """Return a run without how often this store wrote it."""
    return msgspec.structs.replace(info, revision=0)


async def look(url: str, run_id: str = "report-7") -> dict[str, Any]:
    """Return all that one sees of a run."""
    async with holdfast.open(url, read_only=True) as rt:
        assert await rt.verify() == []
        info = await rt.runs.get(run_id)
        artifacts = await rt.runs.artifacts.list(run_id)
        questions = await rt.runs.questions.list(run_id=run_id, state=None)
        return {
            "info": seen(info),
            "questions": [
                msgspec.structs.replace(one, remaining=None, revision=0) for one in questions
            ],
            "artifacts": artifacts,
            "bytes": [await rt.runs.artifacts.read(one.id) for one in artifacts],
            "child": seen(await rt.runs.get(f"{run_id}/1")),
            "result": await rt.runs.result(run_id) if info.is_terminal else None,
        }


def export(store: str, target: Path, run_id: str = "report-7") -> None:
    done = invoke("export", "--run", run_id, "--output", target, store=store)
    assert done.returncode == 0, done.stderr


def test_a_run_that_ended_comes_back_with_all_that_is_found_by_its_id(
    empty: str, tmp_path: Path
) -> None:
    """X13: view, result, question, artifact, child and key are those of the origin."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(begin(origin, answer="yes"))
    export(origin, target)
    done = invoke("import", target, store=empty)
    assert done.returncode == 0, done.stderr
    before = run(look(origin))
    assert run(look(empty)) == before
    back = f"sqlite:///{tmp_path / 'back.db'}"
    export(empty, target)
    assert invoke("import", target, store=back).returncode == 0
    assert run(look(back)) == before
    assert before["result"] == f"LIGHTHOUSES: yes, {len(PAGES)}"
    assert before["bytes"] == [PAGES]

    async def start_again() -> str:
        async with holdfast.open(empty, functions=FUNCTIONS) as rt:
            return (await rt.runs.start(report, "other", key="k-report-7")).id

    assert run(start_again()) == "report-7"


def test_a_run_under_way_arrives_paused_and_goes_on_when_it_is_resumed(
    empty: str, tmp_path: Path
) -> None:
    """X13, C1: nobody executes it before it is taken up; then nothing is done twice."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(begin(origin))
    export(origin, target)
    done = invoke("import", target, store=empty)
    assert done.returncode == 0, done.stderr
    assert "run report-7 was under way and is paused here" in done.stderr
    found = run(look(empty))
    assert found["info"].status is Status.PAUSED
    assert found["questions"] == run(look(origin))["questions"]

    async def go_on() -> tuple[str, str, list[str]]:
        async with holdfast.open(empty, functions=FUNCTIONS) as rt:
            await rt.runs.answer(QUESTION, "no", by="bob")
            rests = (await rt.runs.get("report-7")).status.value
            await rt.runs.resume("report-7")
            result = await rt.runs.result("report-7")
            events = await rt.runs.history("report-7").read(limit=1_000)
            return rests, result, [one.type for one in events]

    rests, result, types = run(go_on())
    assert (rests, result) == ("paused", f"LIGHTHOUSES: no, {len(PAGES)}")
    assert types.count("step.succeeded") == types.count("child.started") == 1
    assert run(look(origin))["info"].status is Status.WAITING


def test_a_sleep_goes_on_where_it_was(empty: str, tmp_path: Path) -> None:
    """X13, X10: the time in the file counts, the sleep does not begin anew."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"

    async def fall_asleep() -> None:
        async with holdfast.open(
            origin, world=World(clock=ManualClock()), functions=[sleeper]
        ) as rt:
            await rt.runs.start(sleeper, run_id="sleeper")
            await reach(rt, "sleeper", "run.waiting")
            await rt.transfers.export_run("sleeper", target)

    async def wake_up() -> str:
        later = ManualClock(1_800.0)
        later.domain = "boot:another"
        async with holdfast.open(empty, world=World(clock=later), functions=[sleeper]) as rt:
            await rt.transfers.import_file(target)
            handle = await rt.runs.retry("sleeper")
            await reach(rt, "sleeper", "run.waiting", 2)
            later.advance(1_801.0)
            async with asyncio.timeout(20):
                while not (await rt.runs.get("sleeper")).is_terminal:
                    rt.runs.look()
                    await rt.flush()
            return str(await handle.result())

    run(fall_asleep())
    assert run(wake_up()) == "awake"


def test_a_run_that_died_in_an_uncertain_step_stays_uncertain(empty: str, tmp_path: Path) -> None:
    """X13, C2: what may have happened in one store is not repeated silently in another."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    killed(DYING, origin)
    export(origin, target, "post")
    assert invoke("import", target, store=empty).returncode == 0

    async def go_on() -> tuple[list[str], str]:
        async with holdfast.open(empty) as rt:
            rt.runs.register(post)
            await rt.runs.resume("post")
            await reach(rt, "post", "run.waiting")
            waits = (await rt.runs.get("post")).waits
            await rt.runs.resolve("post", "send#1", holdfast.Verdict("done", "sent before"))
            return waits, await rt.runs.result("post")

    assert run(go_on()) == (["uncertain_effect:send#1"], "sent before")


def test_a_run_that_was_being_cancelled_arrives_cancelled(empty: str, tmp_path: Path) -> None:
    """X13, C1: nobody is there who was to end it, so it ends; its parent learns of it."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    killed(CANCELLING, origin)
    export(origin, target, "parent")
    done = invoke("import", target, store=empty)
    assert (done.returncode, done.stderr.count("is paused here")) == (0, 1), done.stderr

    async def look_at_both() -> tuple[Status, str, list[str], Status]:
        async with holdfast.open(empty) as rt:
            assert await rt.verify() == []
            child = await rt.runs.get("parent/1")
            events = await rt.runs.history("parent").read(limit=100)
            said = [one.type for one in events[-3:]]
            return child.status, child.why, said, (await rt.runs.get("parent")).status

    status, why, said, parent = run(look_at_both())
    assert (status, why) == (Status.CANCELLED, CANCELLED_BECAUSE)
    assert (said, parent) == (["child.ended", "run.queued", "run.paused"], Status.PAUSED)


def test_an_id_that_is_in_use_is_refused(empty: str, tmp_path: Path) -> None:
    """X13: another run of that id is not touched; the very same one is there already."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(begin(origin, answer="yes"))
    export(origin, target)
    run(begin(empty))
    before = run(look(empty))
    done = invoke("import", target, store=empty)
    assert (done.returncode, run(look(empty))) == (4, before)
    assert "there is a run 'report-7' already" in done.stderr
    again = invoke("import", target, store=origin)
    assert again.returncode == 0
    assert "run report-7 was there already; nothing was imported" in again.stderr


def test_an_id_that_was_used_is_refused(empty: str, tmp_path: Path) -> None:
    """X13: ids are never used twice, also not by an import of what retention removed."""
    run(begin(empty, answer="yes"))
    export(empty, tmp_path / "export")

    async def remove() -> int:
        async with holdfast.open(empty) as rt:
            return await rt.runs.retain(0.0)

    assert run(remove()) == 2
    done = invoke("import", tmp_path / "export", store=empty)
    assert (done.returncode, "there is a run 'report-7' already" in done.stderr) == (4, True)


def test_a_key_of_another_run_is_refused(empty: str, tmp_path: Path) -> None:
    """X13: a key leads to one run; the refusal says which key, and no blob is left behind."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(begin(origin, answer="yes"))
    export(origin, target)

    async def take_key() -> None:
        async with holdfast.open(empty, functions=FUNCTIONS) as rt:
            await (await rt.runs.start(word, "x", run_id="other", key="k-report-7")).result()

    run(take_key())
    done = invoke("import", target, store=empty)
    assert done.returncode == 4
    assert "holdfast.run.key k-report-7 belongs to another run here" in done.stderr

    async def is_there() -> list[str]:
        async with holdfast.open(empty, read_only=True) as rt:
            with pytest.raises(BlobNotFoundError):
                await rt.blobs.get(sha256(PAGES).hexdigest())
            return [info.id for info in await rt.runs.list()]

    assert run(is_there()) == ["other"]


def test_any_flipped_bit_and_any_cut_of_a_run_is_noticed(tmp_path: Path) -> None:
    """X3, X13: a run is whole, or it is refused with the line that is wrong."""
    store, target = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "export"

    async def prepare() -> None:
        async with holdfast.open(store, functions=[keeper]) as rt:
            await rt.runs.start(keeper, run_id="keeper")
            await reach(rt, "keeper", "question.asked")

    run(prepare())
    export(store, target, "keeper")
    whole = target.read_bytes()
    parts = read_parts(BytesIO(whole), target)
    assert (len(parts.streams), len(parts.records), len(parts.blobs)) == (1, 1, 1)
    damaged = [whole[:size] for size in range(len(whole))]
    damaged += [
        whole[:at] + bytes([whole[at] ^ 1 << (at + turn) % 8]) + whole[at + 1 :]
        for at in range(len(whole))
        for turn in (0, 3)
    ]
    damaged += [whole + b"\n", whole + whole]
    for content in damaged:
        with pytest.raises(DamagedFileError):
            read_parts(BytesIO(content), target)


def test_of_a_damaged_run_nothing_is_imported(empty: str, tmp_path: Path) -> None:
    """X13: the last blob is not what it is named by, and not even a store was made."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(begin(origin))
    export(origin, target)
    *lines, _ = target.read_bytes().splitlines(keepends=True)
    blob = json.loads(lines[-1])
    digest = b64encode(sha256(b"else").digest()).decode()
    lines[-1] = json.dumps({**blob, "digest": digest}).encode() + b"\n"
    whole = sha256(b"".join(lines)).hexdigest()
    target.write_bytes(b"".join(lines) + json.dumps({"sha256": whole}).encode() + b"\n")
    done = invoke("import", target, store=empty)
    assert done.returncode == 9
    assert f"line {len(lines)}: content and digest differ" in done.stderr
    assert invoke("verify", empty).returncode == 10


@pytest.mark.parametrize("point", ["commit.written", "commit.committed"])
@pytest.mark.parametrize("nth", [2, 3])
def test_a_killed_import_of_a_run_is_finished_by_running_it_again(
    point: str, nth: int, empty: str, tmp_path: Path
) -> None:
    """X1, X13: killed at its blobs or at the run itself, no part of a run is ever there."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(begin(origin, answer="yes"))
    export(origin, target)
    killed(IMPORT, empty, target, point, str(nth))
    was_last = (point, nth) == ("commit.committed", 3)

    async def listed() -> list[str]:
        async with holdfast.open(empty, read_only=True) as rt:
            assert await rt.verify() == []
            return [info.id for info in await rt.runs.list()]

    assert run(listed()) == (["report-7", "report-7/1"] if was_last else [])
    done = invoke("import", target, store=empty)
    assert done.returncode == 0, done.stderr
    assert ("was there already" in done.stderr) is was_last
    assert run(look(empty)) == run(look(origin))


def test_a_run_that_changes_while_it_is_read_is_read_again(empty: str) -> None:
    """X13: an answer that comes between journal and questions is in both or in none."""
    run(begin(empty))

    async def answer() -> None:
        async with holdfast.open(empty) as rt:
            await rt.runs.answer(QUESTION, "yes")

    parts = read_meddled(empty, "records", answer(), lambda reader: read_run(reader, "report-7"))
    assert "question.answered" in [line.type for line in parts.streams[0].lines]
    assert [one.tag for one in parts.records if one.kind == "holdfast.question"] == ["answered"]


def test_a_run_that_is_larger_than_one_unit_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    """X13: it is never brought in by halves; the refusal says how large it may be."""
    store, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"

    async def prepare() -> None:
        async with holdfast.open(store, functions=[shout]) as rt:
            await (await rt.runs.start(shout, run_id="shout")).result()

    run(prepare())
    export(store, target, "shout")
    copy = f"sqlite:///{tmp_path / 'copy.db'}"
    done = invoke("import", target, store=copy)
    assert done.returncode == 2
    assert "the limit is 67108864" in done.stderr

    async def has_note() -> None:
        async with holdfast.open(copy, read_only=True) as rt:
            with pytest.raises(BlobNotFoundError):
                await rt.blobs.get(sha256(b"note").hexdigest())

    run(has_note())


def test_a_child_is_exported_with_its_parent_only(store: str, tmp_path: Path) -> None:
    """X13: what a child ends with belongs to its parent; the refusal names that one."""
    run(begin(store, answer="yes"))
    done = invoke("export", "--run", "report-7/1", "--output", tmp_path / "x", store=store)
    assert done.returncode == 2
    assert "export 'report-7', which takes its children along" in done.stderr
    absent = invoke("export", "--run", "nobody", "--output", tmp_path / "x", store=store)
    assert (absent.returncode, (tmp_path / "x").exists()) == (3, False)


def test_a_journal_alone_is_refused_with_the_next_step(empty: str, tmp_path: Path) -> None:
    """X13: a stream of a run is not a run; without its view nobody would ever find it."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"
    run(begin(origin))
    stream = invoke("export", "run/report-7", "--output", target, store=origin)
    assert stream.returncode == 0
    done = invoke("import", target, store=empty)
    assert done.returncode == 2
    assert "`holdfast export --run 'report-7'` takes the run along" in done.stderr
    assert invoke("streams", store=empty).stdout.count("report-7") == 0


def test_the_newest_content_of_a_pipeline_is_taken_along(empty: str, tmp_path: Path) -> None:
    """X13, R5: a pipeline whose run was imported is under way there, and done once."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"

    async def work(url: str) -> tuple[int, Any]:
        async with holdfast.open(url) as rt:
            pipeline = rt.pipeline(MACHINE, ("bank", "a"))
            return (await pipeline.newest()).version, await pipeline.run("some text")

    async def begin_it() -> str:
        HOLDS.append(True)
        async with holdfast.open(origin) as rt:
            run_id = (await rt.pipeline(MACHINE, ("bank", "a")).start("some text")).run_id
            await reach(rt, run_id, "run.dispatched")
        HOLDS.clear()
        return run_id

    run_id = run(begin_it())
    export(origin, target, run_id)
    assert invoke("import", target, store=empty).returncode == 0
    assert run(work(empty)) == run(work(origin)) == (1, {"words": 2})
    assert invoke("import", target, store=empty).returncode == 0


def test_a_fork_comes_along_without_its_origin(empty: str, tmp_path: Path) -> None:
    """X13, C3: it holds all that it took over, and its origin finds it if that comes too."""
    origin, target = f"sqlite:///{tmp_path / 'origin.db'}", tmp_path / "export"

    async def fork() -> None:
        async with holdfast.open(origin, functions=FUNCTIONS) as rt:
            await (await rt.runs.fork("report-7", new_id="fork-7")).result()

    run(begin(origin, answer="yes"))
    run(fork())
    export(origin, target, "fork-7")
    assert invoke("import", target, store=empty).returncode == 0

    async def see() -> list[Any]:
        async with holdfast.open(empty, read_only=True) as rt:
            assert await rt.verify() == []
            info = await rt.runs.get("fork-7")
            forks = await rt.runs.handle("report-7").forks()
            (artifact,) = await rt.runs.artifacts.list("fork-7")
            return [info.status, info.origin, forks, await rt.runs.artifacts.read(artifact.id)]

    assert run(see()) == [Status.SUCCEEDED, "report-7", ["fork-7"], PAGES]


@pytest.mark.parametrize("name", ["stream-1", "run-1", "session-1"])
def test_a_file_of_an_earlier_holdfast_is_imported(name: str, empty: str) -> None:
    """X13: what was exported once is read for ever; these files are never written anew."""
    file = Path(__file__).parent / "fixtures" / f"{name}.ndjson"
    assert invoke("import", file, store=empty).returncode == 0
    assert invoke("verify", store=empty).returncode == 0


def test_an_option_too_many_or_too_few_is_a_usage_error(store: str, tmp_path: Path) -> None:
    """X13: one thing is exported at a time."""
    words = ["export", "--output", tmp_path / "x", "--store", store]
    for more in ([], ["chat/zoe", "--run", "x"], ["--run", "x", "--session", "Chat/x"]):
        assert invoke(*words, *more).returncode == 2
    assert invoke(*words, "--session", "Chat").returncode == 2
