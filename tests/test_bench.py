"""
The bench still runs: every row, very shortly, on both stores, and what it says has its shape.

Nothing here is about speed: a machine under load is slow, and no test may fail for that.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bench.__main__ import ROWS, main, measure
from bench.append import data_of
from bench.engines import BARS as ENGINE_BARS
from bench.engines import verdicts
from bench.measure import Result
from bench.pair import OURS, Side, home
from bench.peer import REQUIREMENT, PeerMissingError, python_of_peer
from bench.place import STORES, Place, Plan, place
from bench.report import BARS, gains, judge
from bench.runs import LOADS as RUN_LOADS

from holdfast import Event

SHORT = Plan(
    seconds=0.02,
    rounds=1,
    events=2_000,
    sessions=50,
    kept=60,
    entries=7,
    runs=3,
    steps=2,
    replayed=7,
    inflight=7,
    subscribers=20,
    streamed=1_000,
    streamed_alone=5,
    listed=700,
)
MANY = {"append_10000", "append_10k_1000", "steps_100", "runs_100"}
BESIDE_PEER = {*(load.name for load in RUN_LOADS), "replay", "recovery"}


def need_peer() -> None:
    """Install the peer, once; without a registry skip aloud at home and fail in CI."""
    try:
        python_of_peer()
    except PeerMissingError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.mark.parametrize("row", [row for row in ROWS if row not in MANY])
def test_a_row_reports_ours_beside_the_bare_driver(row: str, postgres_folder: Path) -> None:
    stores = ("-",) if row == "import" else STORES
    if row in BESIDE_PEER:
        need_peer()
    postgres_folder.chmod(0o755)  # The server's account has to pass through.
    results = measure(postgres_folder, [row], STORES, SHORT)
    assert {result.store for result in results} == set(stores)
    for result in results:
        assert result.name.startswith(row)
        assert result.against and result.unit
        assert result.value > 0 and result.against_value > 0 and result.fsync_per_s > 0
        assert result.ratio == pytest.approx(result.value / result.against_value)
    assert list(postgres_folder.iterdir()) == []


def test_rows_of_an_append_name_their_callers_sizes_and_batches(tmp_path: Path) -> None:
    results = measure(tmp_path, ["append_1", "append_1000"], ("sqlite",), SHORT)
    shown = {(one.name, one.against): one for one in results}
    assert shown["append_1", "bare"].batch == pytest.approx(1)
    assert {against for name, against in shown if name == "append_1000"} == {
        "bare",
        "bare_indexed",
        "bare_1000",
    }
    many = shown["append_1000", "bare_1000"]
    assert (many.callers, many.bytes, many.batch) == (1_000, 200, 1_000)
    gain = shown["gain_1000", "append_1"]
    assert gain.ratio == pytest.approx(many.value / shown["append_1", "bare"].value)


@pytest.mark.parametrize("size", [200, 10_000])
def test_a_payload_has_the_size_that_its_row_names(size: int) -> None:
    assert len(Event.of("appended", data_of(size)).payload) == size


def test_a_bar_is_judged_by_the_line_it_names() -> None:
    line = Result(
        name="append_1",
        store="sqlite",
        value=70,
        unit="events/s",
        against="bare",
        against_value=100,
        ratio=0.7,
        fsync_per_s=1,
    )
    worse = Result(**_fields(line) | {"ratio": 0.69})
    assert [met for *_, met in judge([line])] == [True]
    assert [met for *_, met in judge([worse])] == [False]
    assert judge([Result(**_fields(line) | {"against": "bare_indexed"})]) == []
    assert gains([line]) == []
    assert {bar.name for bar in BARS if not bar.name.startswith(tuple(ROWS))} == {"gain_1000"}


def test_the_command_writes_a_report_for_programs(tmp_path: Path) -> None:
    report = tmp_path / "bench.json"
    arguments = ["--only", "append_1", "--store", "sqlite", "--seconds", "0.02", "--rounds", "1"]
    command = [sys.executable, "-m", "bench", *arguments]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--report", str(report)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert "one caller" in done.stdout
    needed = {"name", "store", "value", "unit", "against", "against_value", "ratio", "fsync_per_s"}
    assert all(needed <= set(line) for line in json.loads(report.read_text()))


def test_rows_of_runs_name_each_form_of_the_peer_and_the_cpu_of_both(tmp_path: Path) -> None:
    need_peer()
    shown = {one.against: one for one in measure(tmp_path, ["steps_1"], ("sqlite",), SHORT)}
    assert set(shown) == {"dbos", "dbos_async", "dbos_wal"}
    assert all(one.cpu_us and one.against_cpu_us for one in shown.values())
    assert str(shown["dbos"].note).endswith("theirs with journal_mode=delete synchronous=2")
    assert str(shown["dbos_wal"].note).endswith("theirs with journal_mode=wal synchronous=2")


def test_rows_of_engines_name_both_ways_without_a_journal_and_the_cpu_of_each(
    tmp_path: Path,
) -> None:
    lines = measure(tmp_path, ["engine", "engine_replay"], ("sqlite",), SHORT)
    shown = {(one.name, one.against): one for one in lines}
    assert set(shown) == {
        ("engine", "plain"),
        ("engine", "reassert"),
        ("engine_replay", "plain"),
        ("engine_replay_operations", "plain"),
    }
    assert all(one.cpu_us and one.against_cpu_us for one in lines)
    assert [line.split()[-1] for line in verdicts(lines)] == [
        f"{shown['engine', 'plain'].ratio:.2f}"
    ]
    assert all(bar.name.startswith(tuple(ROWS)) for bar in ENGINE_BARS)


def test_snapshots_are_measured_up_to_the_size_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_FACTS", "1000")
    lines = measure(tmp_path, ["engine_snapshot"], ("sqlite",), SHORT)
    assert [one.name for one in lines] == [
        "engine_snapshot_1000",
        "engine_snapshot_bytes_1000",
        "engine_snapshot_held_1000",
        "engine_snapshot_restore_1000",
    ]


def test_a_side_that_ends_says_why(tmp_path: Path) -> None:
    with (
        place(tmp_path, ("sqlite",), SHORT) as here,
        Side(home(here, "sqlite", OURS), tmp_path / "log") as side,
    ):
        assert side.rate(runs=2, steps=3).count == 6
        with pytest.raises(RuntimeError, match="KeyError: 'no such job'"):
            side.ask("no such job")
    (tmp_path / "log").unlink()


def test_a_peer_that_cannot_be_installed_is_named_with_the_line_that_does_it(
    tmp_path: Path,
) -> None:
    def offline(python: Path) -> None:
        assert python.exists()
        raise subprocess.CalledProcessError(1, "pip")

    for _ in range(2):  # The second time it is not taken for installed.
        with pytest.raises(PeerMissingError, match=f"bin/python -m pip install {REQUIREMENT}"):
            python_of_peer(tmp_path, offline)
    home_of_peer = next(tmp_path.glob("dbos-*"))
    assert python_of_peer(tmp_path, lambda _: None) == home_of_peer / "bin" / "python"
    assert python_of_peer(tmp_path, offline) == home_of_peer / "bin" / "python"


def test_rows_without_their_peer_are_said_aloud_and_the_others_are_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Path:
        raise PeerMissingError("dbos is not installed")

    monkeypatch.setattr("bench.pair.python_of_peer", missing)
    arguments = ["--only", "steps_1,import", "--store", "sqlite", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench", *arguments, "--report", str(tmp_path / "report")])
    with pytest.raises(SystemExit, match="NOT MEASURED  steps_1 sqlite: dbos is not installed"):
        main()
    assert "python -c pass" in capsys.readouterr().out
    assert {line["name"] for line in json.loads((tmp_path / "report").read_text())} == {"import"}


def test_a_row_that_is_not_there_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "append_2"])
    with pytest.raises(SystemExit):
        main()
    assert "append_2" in capsys.readouterr().err


def test_the_folder_is_removed_also_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), place(tmp_path, ("sqlite",), SHORT) as here:
        assert isinstance(here, Place) and here.folder.is_dir()
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def _fields(result: Result) -> dict[str, object]:
    return {name: getattr(result, name) for name in result.__struct_fields__}
