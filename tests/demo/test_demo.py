"""
The demo: nothing acknowledged is lost under SIGKILL, and a planted bug makes it red.

Each run is the command as a user starts it, in a process of its own, with a real worker that
is really killed. Seeds are fixed; a seed draws the plan of kills, not the machine's speed, so
tests rely on kills happening, never on where they hit.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast.cli.audit import Verdict, audit
from holdfast.cli.ingest import Acknowledged, Order, Totals
from holdfast.cli.lives import Tale, WorkerFailedError, live, plan_kills
from holdfast.cli.sources import FILE_BYTES_MAX, Sources, collect
from holdfast.core.clock import SystemClock

HOLDFAST = [sys.executable, "-m", "holdfast"]
PROMISED = {"acknowledged", "found", "lost", "repeated", "kills", "ready_ms_p50"}
PLANTED = ["--plant", "acknowledge-before-commit"]
SEED = 7


def texts(folder: Path, files: int = 300) -> Path:
    """Return a folder with text files in a few packages."""
    for number in range(files):
        package = folder / f"package{number % 7}"
        package.mkdir(parents=True, exist_ok=True)
        (package / f"text{number:04d}.txt").write_text(f"line {number}\n" * (number % 13))
    return folder


def demo(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end; its temporary files go below `tmp_path`."""
    return subprocess.run(
        [*HOLDFAST, "demo", "--seed", str(SEED), *words],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def report_of(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((tmp_path / "build" / "demo.json").read_text())
    return found


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that survives a kill, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'demo.db'}"
    return str(request.getfixturevalue("postgres_url"))


def test_what_was_acknowledged_is_there_after_every_kill(store: str, tmp_path: Path) -> None:
    """X1, X2, C1: kills in the middle of work lose nothing and repeat nothing."""
    folder = texts(tmp_path / "texts")
    done = demo(tmp_path, str(folder), "--store", store, "--kills", "6")
    assert done.returncode == 0, done.stdout + done.stderr
    report = report_of(tmp_path)
    assert report.keys() >= PROMISED
    assert report["kills"] >= 3
    assert report["acknowledged"] == report["found"] > 0
    assert (report["lost"], report["repeated"], report["broken"]) == (0, 0, [])
    assert report["acknowledged"] + report["unanswered"] == report["files"] == 300
    assert report["ready_ms_p50"] > 0
    assert "Every promise was kept." in done.stdout


def test_a_bug_that_acknowledges_before_the_commit_makes_it_red(store: str, tmp_path: Path) -> None:
    """X2: the demo can fail; it sees answers that were given too early."""
    folder = texts(tmp_path / "texts")
    done = demo(tmp_path, str(folder), "--store", store, "--kills", "6", *PLANTED)
    assert done.returncode == 1, done.stdout + done.stderr
    report = report_of(tmp_path)
    assert report["lost"] > 0
    assert report["found"] == report["acknowledged"] - report["lost"]
    assert "was acknowledged and is lost" in done.stdout


def test_a_temporary_store_is_kept_and_the_printed_words_look_at_it(tmp_path: Path) -> None:
    """The last lines of the demo are words that work as they stand."""
    done = demo(tmp_path, str(texts(tmp_path / "texts", 40)), "--kills", "1")
    assert done.returncode == 0, done.stderr
    lines = [line.strip() for line in done.stdout.splitlines() if line.startswith("  holdfast ")]
    assert [line.split()[1] for line in lines] == ["streams", "events", "verify"]
    for line in lines:
        words = line.split()[1:]
        looked = subprocess.run([*HOLDFAST, *words], capture_output=True, text=True, timeout=60)
        assert looked.returncode == 0, looked.stderr
        assert looked.stdout or words[0] == "verify"


def test_two_runs_on_one_store_keep_apart(tmp_path: Path) -> None:
    """A second run neither continues nor disturbs the first."""
    folder, store = texts(tmp_path / "texts", 40), f"sqlite:///{tmp_path / 'demo.db'}"
    for label in ("package", "package@2"):
        done = demo(tmp_path, str(folder), "--store", store, "--kills", "1")
        assert done.returncode == 0, done.stderr
        assert report_of(tmp_path)["label"] == label


def test_ctrl_c_ends_the_worker_and_removes_the_temporary_store(tmp_path: Path) -> None:
    """Interrupted in the middle, nothing is left: no process, no file."""
    folder = texts(tmp_path / "texts", 2_000)
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        [*HOLDFAST, "demo", str(folder), "--kills", "900", "--seed", str(SEED)],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process, process.stdout, process.stderr as said:
        while not said.readline().startswith("kill -9: "):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said.read()
        assert process.wait(60) == 130
    assert not list((tmp_path / "tmp").iterdir())
    assert not lives_below(tmp_path / "tmp")


def lives_below(folder: Path) -> list[str]:
    """Return processes whose temporary folder is this one."""
    wanted = f"TMPDIR={folder}".encode()
    found: list[str] = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
        except OSError:
            continue
    return found


def test_what_is_no_text_is_left_out_aloud(tmp_path: Path) -> None:
    """Binary, huge and odd files never stop the demo, and are never dropped silently."""
    folder = texts(tmp_path / "texts", 3)
    (folder / "picture").write_bytes(b"\x89PNG\0\0")
    with (folder / "huge.txt").open("wb") as huge:
        huge.truncate(FILE_BYTES_MAX + 1)
    (folder / "link.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text("latin")
    (folder / "\x1b[31mred.txt").write_text("an escape in a name\n")
    (folder / "empty.txt").touch()
    done = demo(tmp_path, str(folder), "--kills", "0")
    assert done.returncode == 0, done.stderr
    for reason in ("not text: picture", "MiB: huge.txt", "not UTF-8", "not a regular file"):
        assert reason in done.stderr
    assert "\x1b[31m" not in done.stderr
    report = report_of(tmp_path)
    assert (report["files"], report["skipped"], report["acknowledged"]) == (5, 5, 5)


def test_a_folder_without_texts_is_a_usage_error(tmp_path: Path) -> None:
    """There is nothing to show, and the message says so."""
    (tmp_path / "empty").mkdir()
    done = demo(tmp_path, str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "no text files in" in done.stderr
    assert not done.stdout


def test_a_store_in_memory_is_refused(tmp_path: Path) -> None:
    """It could not survive, so the demo would prove nothing."""
    done = demo(tmp_path, "--store", "sqlite:///:memory:")
    assert done.returncode == 2
    assert "does not survive" in done.stderr


def test_a_store_that_cannot_be_reached_is_no_broken_promise(tmp_path: Path) -> None:
    """Unavailable (5) and broken (1) are two things."""
    folder = texts(tmp_path / "texts", 3)
    done = demo(tmp_path, str(folder), "--store", f"postgresql:///x?host={tmp_path}")
    assert done.returncode == 5
    assert "cannot be reached" in done.stderr


def test_a_worker_that_dies_by_itself_is_told(tmp_path: Path) -> None:
    """A worker that fails is neither a kill nor a finished run."""
    sources = collect(texts(tmp_path / "texts", 3), 10)
    order = Order(f"sqlite:///{tmp_path / 'no' / 'folder.db'}", sources.root, "p", sources.packages)
    with pytest.raises(WorkerFailedError, match="does not exist"):
        live(order, [], SystemClock(), lambda tale: None)


def test_a_seed_draws_the_same_plan_again() -> None:
    """A run can be repeated as far as it is up to us."""
    assert plan_kills(7, 40, 1_000) == plan_kills(7, 40, 1_000)
    assert plan_kills(7, 40, 1_000) != plan_kills(8, 40, 1_000)
    assert any(kill.after is None for kill in plan_kills(7, 40, 1_000))


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Sources, Tale]:
    """A store into which three files were ingested without a kill, and what was heard."""
    folder = tmp_path_factory.mktemp("ingested")
    sources = collect(texts(folder / "texts", 3), 10)
    store = f"sqlite:///{folder / 'demo.db'}"
    tale = live(
        Order(store, sources.root, "package", sources.packages),
        [],
        SystemClock(),
        lambda tale: None,
    )
    return store, sources, tale


def lose(sources: Sources, tale: Tale) -> None:
    last = tale.acknowledged[-1]
    tale.acknowledged.append(Acknowledged(last.stream, last.sequence + 1, last.fact))


def swap(sources: Sources, tale: Tale) -> None:
    first, *rest = tale.acknowledged
    tale.acknowledged[:] = [Acknowledged(first.stream, first.sequence, rest[0].fact), *rest]


def forget_trying(sources: Sources, tale: Tale) -> None:
    tale.tried.clear()


def be_ahead(sources: Sources, tale: Tale) -> None:
    tale.behind.append(-1)


def expect_more(sources: Sources, tale: Tale) -> None:
    sources.digests["never/there.txt"] = "0" * 64


@pytest.mark.parametrize(
    ("falsify", "told"),
    [
        (lose, "was acknowledged and is lost"),
        (swap, "was acknowledged and is lost"),
        (forget_trying, "nobody tried to record it"),
        (be_ahead, "ahead of the durable ones"),
        (expect_more, "was not recorded"),
    ],
)
def test_the_audit_sees_what_is_wrong(
    ingested: tuple[str, Sources, Tale], falsify: Callable[[Sources, Tale], None], told: str
) -> None:
    """Each comparison of the audit can fail; an untouched tale passes."""
    store, sources, tale = ingested
    assert judged(store, sources, tale).broken == []
    own = Sources(sources.root, dict(sources.digests), sources.packages, {})
    heard = Tale([*tale.acknowledged], {*tale.tried}, 1, 0, [*tale.ready], [*tale.behind])
    falsify(own, heard)
    assert any(told in line for line in judged(store, own, heard).broken)


def judged(store: str, sources: Sources, tale: Tale) -> Verdict:
    return asyncio.run(audit(store, "package", sources, tale))


def test_totals_that_are_not_the_fold_of_the_events_are_seen(tmp_path: Path) -> None:
    """Durable totals are compared with the events, not with themselves."""
    sources = collect(texts(tmp_path / "texts", 3), 10)
    store = f"sqlite:///{tmp_path / 'demo.db'}"
    order = Order(store, sources.root, "package", sources.packages)
    tale = live(order, [], SystemClock(), lambda tale: None)

    async def falsify() -> None:
        async with holdfast.open(store) as rt:
            key = ("package", sources.packages[0].name)
            async with rt.session(Totals, key) as session, session.edit() as totals:
                totals.lines += 1

    asyncio.run(falsify())
    assert any("not the fold" in line for line in judged(store, sources, tale).broken)


def test_a_file_that_changes_meanwhile_is_not_blamed_on_the_store(tmp_path: Path) -> None:
    """Somebody may edit the files; that is told apart from a wrong record."""
    sources = collect(texts(tmp_path / "texts", 3), 10)
    path = next(iter(sources.digests))
    Path(sources.root, path).write_text("edited\n")
    store = f"sqlite:///{tmp_path / 'demo.db'}"
    order = Order(store, sources.root, "package", sources.packages)
    verdict = judged(store, sources, live(order, [], SystemClock(), lambda tale: None))
    assert (verdict.changed, verdict.broken, verdict.whole) == (1, [], False)
    Path(sources.root, path).write_text("")  # As it was at first.
    assert any("another content" in line for line in judged_again(store, sources).broken)


def judged_again(store: str, sources: Sources) -> Verdict:
    return judged(store, sources, Tale(tried=set(sources.digests), behind=[0]))
