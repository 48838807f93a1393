"""The boot: killed, failing, out of time, on a copy; and what it says of itself."""

import asyncio
import random
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import BUFFERED, field, state
from holdfast.core import codec
from holdfast.core.errors import StoreFullError
from holdfast.core.key import Key
from holdfast.core.recovery import Phase
from holdfast.core.refusal import BootBudgetError, NotReadyError
from holdfast.core.unit import RecordRow
from holdfast.runtime import boot
from holdfast.runtime.sessions.identity import Identities
from holdfast.store.reader import Reader
from tests.runtime.process import Process
from tests.runtime.slow import STEPS, slowed

REPORTS = boot.REPORTS
KILLS = [
    ("boot.entered", 1),
    ("presence.entered", 1),
    ("commit.taken", 2),
    ("commit.written", 2),
    ("rescue.taken", 1),
    ("commit.committed", 3),
    ("rescue.entry", 1),
    ("commit.written", 3),
    ("commit.written", 4),
    ("commit.written", 5),
    ("rescue.ended", 1),
]


def url_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'store.db'}"


def crash(url: str) -> None:
    """Leave a store behind whose runtime died with three pieces of work in flight."""
    with Process(url, flush_interval=7.0) as process:
        process.call("begin_all", keys=["a", "b"], policy="resume")
        process.call("begin", key="c", policy="suspend")
        process.call("put", value=[1, 2])
        process.kill()


async def opened(url: str) -> tuple[list[Any], list[Any]]:
    """Open a store; return all reports, and what else there is but clocks and incarnations."""
    async with holdfast.open(url) as rt:
        reports = [event.data for event in await rt.history(REPORTS).read()]
        entries = [(one.key, one.state, one.generation) for one in await rt.ledger.list()]
        return reports, [entries, await rt.records.list("k"), await rt.feed.read()]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a crash left it; copied before use."""
    folder = tmp_path_factory.mktemp("image")
    crash(url_of(folder))
    return folder


def copied(image: Path, target: Path) -> str:
    shutil.copytree(image, target)
    return url_of(target)


@pytest.mark.parametrize(("point", "nth"), KILLS)
def test_a_boot_that_is_killed_is_begun_again_and_comes_to_the_same_end(
    image: Path, tmp_path: Path, point: str, nth: int
) -> None:
    """F2, X9. Killed twice at the same step; progress is kept, the end is that of no kill."""
    expected = asyncio.run(opened(copied(image, tmp_path / "whole")))[1]
    url = copied(image, tmp_path / "killed")
    with Process(url, point=point, nth=nth) as process:
        assert not process.is_ready and process.child.wait() == -9
    with Process(url, point=point, nth=nth) as process:
        process.kill()
    reports, found = asyncio.run(opened(url))
    assert found == expected
    assert reports[-1]["parts"]["ledger"]["damaged"] == []


def test_one_crash_gives_one_report_and_one_state_on_the_image_and_on_a_copy(
    image: Path, tmp_path: Path
) -> None:
    """C6, X8. Compared as data: whatever differs from start to start stays out of it."""
    first = asyncio.run(opened(copied(image, tmp_path / "one")))
    assert asyncio.run(opened(copied(image, tmp_path / "two"))) == first
    report = first[0][-1]
    assert report["clean"] is False
    assert [step["part"] for step in report["steps"]] == ["ledger"]
    assert report["steps"][0]["count"] == 3
    assert report["parts"]["ledger"]["rescued"] == {"resumable": 2, "suspended": 1}
    assert report["parts"]["ledger"]["losses"] == [
        {
            "epoch": 1,
            "lost_seconds_max": {"durable": 0.0, "buffered": 7.0, "ephemeral": None},
        }
    ]


def test_a_start_after_a_goodbye_reports_that_there_was_nothing_to_do(store_url: str) -> None:
    """X8. Clean, and it is said so; the streams of users are listed without the report."""

    async def run() -> None:
        async with holdfast.open(store_url) as rt:
            await rt.history("s").append("t")
            report = rt.health().report
            assert report is not None and report.clean and report.plan.count == 0
            assert [info.name for info in await rt.streams()] == ["s"]
            assert REPORTS in [info.name for info in await rt.streams(reserved=True)]
            assert [event.stream for event in await rt.feed.read()] == ["s"]
            event = (await rt.feed.read(reserved=True))[0]
            assert (event.stream, event.type) == (REPORTS, "recovery.finished")
            meta = codec.decode(event.meta or b"")
            assert event.data["clean"] and meta["seconds"] >= 0
            assert meta["epoch"] == rt.opened.epoch

    asyncio.run(run())


def test_a_part_that_fails_keeps_the_runtime_from_starting_and_releases_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X7, L3. The error of the part comes out of `async with`; the reason is kept; then anew."""
    url = url_of(tmp_path)

    async def fail(*_: object) -> dict[str, Any]:
        raise StoreFullError(reason="index")

    async def run() -> None:
        with monkeypatch.context() as context:
            context.setattr(Identities, "execute", fail)
            with pytest.raises(StoreFullError):
                async with holdfast.open(url):
                    pytest.fail("it was entered")
        async with holdfast.open(url) as rt:
            assert rt.opened.alone
            events = await rt.history(REPORTS).read()
            assert [event.type for event in events] == ["recovery.failed", "recovery.finished"]
            assert events[0].data["phase"] == "restoring"
            assert "StoreFullError" in events[0].data["reason"]
            assert events[1].data["clean"]
            assert len(await rt.records.list("holdfast.runtime")) == 1

    asyncio.run(run())


def test_a_failed_boot_can_be_looked_at_and_changes_nothing(tmp_path: Path) -> None:
    """X7. Entered at once: phase `failed` with the reason, reads go on, every change refused."""
    failure = StoreFullError(reason="index")

    async def run() -> None:
        async with holdfast.open(url_of(tmp_path), wait_ready=False) as rt:
            slowed(rt, failure).go_on.set()
            with pytest.raises(NotReadyError) as refused:
                await rt.ready()
            assert refused.value.__cause__ is failure
            health = rt.health()
            assert health.phase is Phase.FAILED and not health.ready
            assert "index" in health.reason and "StoreFullError" in health.reason
            with pytest.raises(NotReadyError, match="failed"):
                await rt.records.put("k", "a", 1)
            assert len(await rt.records.list("slow")) == STEPS // 2
        assert rt.health().phase is Phase.CLOSED

    asyncio.run(run())


def test_a_boot_out_of_time_fails_and_the_next_one_goes_on(tmp_path: Path) -> None:
    """X9. It says where it was; what it did is there."""

    async def run() -> None:
        opening = holdfast.open(url_of(tmp_path), wait_ready=False, boot_budget=0.5)
        async with opening as rt:
            slowed(rt)
            with pytest.raises(NotReadyError) as refused:
                await rt.ready()
            cause = refused.value.__cause__
            assert isinstance(cause, BootBudgetError)
            assert (cause.phase, cause.done, cause.total) == ("restoring", STEPS // 2, STEPS)
        async with holdfast.open(url_of(tmp_path), wait_ready=False) as rt:
            slowed(rt).go_on.set()
            await rt.ready()
            assert len(await rt.records.list("slow")) == STEPS

    asyncio.run(run())


def test_the_last_reports_are_kept_and_no_more(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """X8, X9. The stream does not grow with every start for ever."""
    if ":memory:" in store_url:
        store_url = url_of(tmp_path)
    monkeypatch.setattr(boot, "REPORTS_KEPT", 3)

    async def run() -> None:
        for number in range(1, 6):
            async with holdfast.open(store_url) as rt:
                info = await rt.history(REPORTS).info()
                first = max(1, number - 2)
                assert (info.first_sequence, info.last_sequence) == (first, number)
        async with holdfast.open(store_url, read_only=True) as rt:
            assert (await rt.history(REPORTS).info()).last_sequence == 5
            assert rt.health().ready and await rt.verify() == []

    asyncio.run(run())


SESSIONS = 500
NOTES_BYTES = 40_000


@state(version=1)
class Diary:
    name: str = ""
    notes: bytes = field(default=b"", tier=BUFFERED)


async def write_diary(rt: holdfast.Runtime, number: int) -> None:
    identities = [f"hdr:{number}"]
    async with (
        rt.session(Diary, str(number), identities=identities) as diary,
        diary.edit() as draft,
    ):
        draft.name, draft.notes = f"n{number}", random.Random(number).randbytes(NOTES_BYTES)


def test_a_boot_loads_nothing_that_nobody_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L3, X9. The index is looked at in pages; no session is read until somebody enters it."""
    url, kinds = url_of(tmp_path), set[str]()
    single, several = Reader.record, Reader.records

    def record(self: Reader, kind: str, key: Key) -> RecordRow | None:
        kinds.add(kind)
        return single(self, kind, key)

    def records(self: Reader, kind: str, *bounds: Any) -> list[RecordRow]:
        kinds.add(kind)
        return several(self, kind, *bounds)

    async def run() -> None:
        async with holdfast.open(url) as rt:
            for start in range(0, SESSIONS, 50):
                await asyncio.gather(*(write_diary(rt, n) for n in range(start, start + 50)))
        monkeypatch.setattr(Reader, "record", record)
        monkeypatch.setattr(Reader, "records", records)
        tracemalloc.start()
        try:
            async with holdfast.open(url) as rt:
                peak = tracemalloc.get_traced_memory()[1]
                assert not {kind for kind in kinds if kind.startswith("session.Diary.")}, kinds
                assert rt.health().progress["identities"] == (SESSIONS, SESSIONS)
                found = await rt.sessions.find(Diary, ["hdr:77"])
                assert found.key == ("77",)
                async with rt.session(Diary, "77") as diary:
                    assert len(diary.value.notes) == NOTES_BYTES
                assert {kind for kind in kinds if kind.startswith("session.Diary.")}
        finally:
            tracemalloc.stop()
        assert peak < SESSIONS * NOTES_BYTES / 4, peak

    asyncio.run(run())
