"""
The crash lab for applications, on small ones: a right one, and one for each kind of bug.

The applications are the functions below, so this file is also what the lab has to import in its
children. A planted bug has to be found by the layer that is there for it, and the line printed
with the failure has to lead back to it.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from examples.orders import hasty
from examples.orders import lab as orders

from holdfast import Runtime
from holdfast.core.errors import InvalidValueError, OutcomeUnknownError
from holdfast.testing.crashlab import Lab, Report, crashlab
from holdfast.testing.trials.reference import NotImportableError

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parent.parent.parent
SEED = 20_263
COUNT = 6
PIPE = "CRASHLAB_PIPE"


async def taken(rt: Runtime) -> list[int]:
    """Return the numbers that are in the store."""
    return [event.data for event in await rt.history("numbers").read()]


async def keeps_all(rt: Runtime, acknowledged: list[int]) -> None:
    """Hold if everything acknowledged is there, and nothing twice."""
    found = await taken(rt)
    assert set(acknowledged) <= set(found), f"{acknowledged} acknowledged, {found} found"
    assert found == list(range(len(found)))


async def right(lab: Lab) -> None:
    """Commit, then acknowledge; go on behind what is there."""
    print("working")  # What an application prints must not disturb the lab.
    async with lab.open() as rt:
        for number in range(len(await taken(rt)), COUNT):
            await rt.history("numbers").append("taken", number)
            lab.acknowledged(number)


async def too_early(lab: Lab) -> None:
    """Acknowledge, then commit."""
    async with lab.open() as rt:
        for number in range(len(await taken(rt)), COUNT):
            lab.acknowledged(number)
            await rt.history("numbers").append("taken", number)


async def not_again(lab: Lab) -> None:
    """Begin at the beginning, whatever is there."""
    async with lab.open() as rt:
        for number in range(COUNT):
            await rt.history("numbers").append("taken", number, expected=number)
            lab.acknowledged(number)


async def never_again(lab: Lab) -> None:
    """Wait for ever when something is there already."""
    async with lab.open() as rt:
        if await taken(rt):
            signal.pause()
        await rt.history("numbers").append("taken", 0)
        lab.acknowledged(0)


async def deaf(lab: Lab) -> None:
    """Take an unknown outcome for a good one."""
    async with lab.open() as rt:
        for number in range(len(await taken(rt)), COUNT):
            with suppress(OutcomeUnknownError):
                await rt.history("numbers").append("taken", number)
            lab.acknowledged(number)


def counts_unsynced(lab: Lab) -> None:
    """Count in a file that a power cut may take back; a plain function without a runtime."""
    for number in range(count_of(lab) + 1, COUNT + 1):
        lab.files.write_at(lab.folder / "counter", 0, b"%d" % number, sync=False)
        lab.acknowledged(number)


def counts_synced(lab: Lab) -> None:
    """Count in a file that is replaced as a whole, and certain before anybody is told."""
    for number in range(count_of(lab) + 1, COUNT + 1):
        lab.files.replace(lab.folder / "counter", b"%d" % number)
        lab.acknowledged(number)


def count_of(lab: Lab) -> int:
    """Return the count that can be read."""
    content = lab.files.read(lab.folder / "counter") or b""
    return int(content) if content.isdigit() else 0


def counter_holds(rt: Runtime, acknowledged: list[int], lab: Lab) -> bool:
    """Return whether the counter is where it was said to be, or further."""
    return rt.poisoned is None and count_of(lab) >= max(acknowledged, default=0)


async def never_right(_rt: Runtime, _acknowledged: list[int]) -> None:
    """Hold never."""
    raise LookupError("nothing is ever right")


def holds_but_once(_rt: Runtime, acknowledged: list[int]) -> bool:
    """Hold, except for the first time that something is missing."""
    seen = Path(os.environ[PIPE])
    if len(acknowledged) < COUNT and not seen.exists():
        seen.touch()
        return False
    return True


def leaves_a_process(lab: Lab) -> None:
    """Start another process and say where we are; it keeps the pipe open."""
    pipe = os.open(os.environ[PIPE], os.O_WRONLY)
    os.set_inheritable(pipe, True)
    subprocess.Popen(["sleep", "3600"], close_fds=False)
    os.write(pipe, f"{lab.folder}\n".encode())


def leaves_much_behind(lab: Lab) -> None:
    """Do that, and hang."""
    leaves_a_process(lab)
    signal.pause()


def only(layer: str, work: Callable[[Lab], object], most: int, **more: object) -> Report:
    """Run one layer alone."""
    wish = {"kills": 0, "images": 0, "errors": 0} | {layer: most}
    invariant = counter_holds if "counts" in work.__name__ else keeps_all
    return crashlab(work, invariant, seed=SEED, seconds=100, **wish, **more)  # type: ignore[arg-type]


def repeat(command: str) -> subprocess.CompletedProcess[str]:
    """Run the line that a failure printed."""
    python, *words = shlex.split(command)
    assert python == "python"
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(("work", "kills"), [(right, 45), (counts_synced, 15)])
def test_a_right_application_passes_every_layer(work: Callable[[Lab], object], kills: int) -> None:
    """F1-F5, F7, F8, for applications: every layer strikes, at many places, and finds nothing."""
    invariant = counter_holds if work is counts_synced else keeps_all
    report = crashlab(work, invariant, seed=SEED, seconds=100, kills=45, images=80, errors=45)
    report.check()
    reached = report.reached
    assert report.kills >= kills and report.kills_again >= 3
    assert report.images == 80 and report.cuts >= 10 and report.continued >= 5
    assert report.errors == 45 and report.raised >= 20
    moments = {f"a call to the disk, {when}" for when in ("before", "half", "after")}
    assert moments | {"a random instant", "file.renamed"} <= set(reached["kills"])
    assert work is counts_synced or {"boot.guarded", "commit.marked"} <= set(reached["kills"])
    assert {"nothing", "prefix", "garbage, everything else"} <= set(reached["power"])
    assert work is counts_synced or {"mixture", "one sector only"} <= set(reached["power"])
    assert len(reached["errors"]) >= 6
    said = msgspec.json.decode(report.json())
    assert said["ok"] and said["seed"] == SEED and said["versions"]["Holdfast"]


PLANTED = [
    ("kills", too_early, 30, "the invariant does not hold on what was left"),
    ("images", too_early, 200, "the invariant does not hold on what was left"),
    ("images", counts_unsynced, 60, "the invariant returned False"),
    ("errors", deaf, 120, "the invariant does not hold on what was left"),
    ("kills", not_again, 30, "work cannot go on from what was left: SequenceConflictError"),
]


@pytest.mark.parametrize(
    ("layer", "work", "most", "said"), PLANTED, ids=[f"{it[1].__name__}-{it[0]}" for it in PLANTED]
)
def test_a_bug_is_found_by_its_layer_and_its_line_leads_back_to_it(
    layer: str, work: Callable[[Lab], object], most: int, said: str
) -> None:
    """X14, for applications: a planted bug is found, and one line repeats it."""
    report = only(layer, work, most)
    assert not report.ok
    assert all(said in failure.what for failure in report.failures)
    with pytest.raises(AssertionError, match="replay: python -m "):
        report.check()
    again = repeat(report.failures[0].replay)
    assert again.returncode == 1, again.stdout + again.stderr
    assert said in again.stdout
    assert "Traceback" in again.stdout and "acknowledged: [" in again.stdout


def test_a_failure_that_does_not_come_again_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that may repeat nothing is told as what it is, and behind those that do."""
    monkeypatch.setenv(PIPE, str(tmp_path / "seen"))
    report = crashlab(right, holds_but_once, seed=SEED, kills=6, images=0, errors=0)
    assert [failure.again for failure in report.failures] == [False]
    assert "rare: it did not come again" in report.text()


def test_an_unsynced_file_is_safe_from_kills_so_only_the_power_cut_finds_it() -> None:
    """F3: what a process wrote survives its death; the layers do not stand in for each other."""
    only("kills", counts_unsynced, 20).check()


def test_the_planted_example_is_found_and_the_right_one_repeats_clean() -> None:
    """The bug of the guide: found, repeated by its line, gone in the right shop."""
    report = crashlab(
        hasty.work, hasty.invariant, seed=1, seconds=100, kills=15, images=0, errors=0
    )
    assert "sold and" in report.failures[0].what
    line = report.failures[0].replay
    assert "sold and" in repeat(line).stdout
    fixed = repeat(line.replace("orders.hasty", "orders.lab"))
    assert (fixed.returncode, fixed.stdout) == (0, "as promised\n")
    crashlab(orders.work, orders.invariant, seed=1, kills=15, images=15, errors=5).check()


def test_work_that_hangs_is_reported_as_hanging() -> None:
    """C6, for applications: no case takes longer than its limit."""
    report = crashlab(never_again, keeps_all, seed=SEED, seconds=16, kills=20, images=0, errors=0)
    assert report.failures
    assert all("cannot go on" in it.what and "it hangs" in it.what for it in report.failures)


def test_what_is_wrong_without_any_accident_is_told_first() -> None:
    """A broken invariant is not blamed on a crash."""
    report = crashlab(right, never_right, seed=SEED)
    assert [failure.layer for failure in report.failures] == ["rehearsal"]
    assert "LookupError: nothing is ever right" in report.failures[0].what
    assert not report.kills and not report.images and not report.errors


def test_a_function_no_child_can_import_is_refused_with_the_reason(tmp_path: Path) -> None:
    """A lambda, a function in a function, one given with -c, one that is not there."""

    def inner(_lab: Lab) -> None: ...

    for function in (inner, lambda _lab: None, print.__call__):
        with pytest.raises(NotImportableError, match="top level of a module or script"):
            crashlab(function, keeps_all)
    program = (
        "from holdfast.testing.crashlab import crashlab\ndef work(lab): ...\ncrashlab(work, work)\n"
    )
    typed = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert "NotImportableError: 'work' was typed at a prompt or given with -c" in typed.stderr
    gone = repeat("python -m holdfast.testing.crashlab tests.gone:work tests.gone:holds --kills 1")
    assert "NotImportableError: another process cannot import tests.gone:work" in gone.stderr


def test_a_script_tests_itself(tmp_path: Path) -> None:
    """Functions of `__main__` are found by the path of the script, in the lab and in replays."""
    script = tmp_path / "shop.py"
    script.write_text(
        "from holdfast.testing.crashlab import crashlab\n"
        "from tests.lab.test_crashlab import keeps_all, too_early\n"
        "async def work(lab):\n"
        "    await too_early(lab)\n"
        "if __name__ == '__main__':\n"
        "    report = crashlab(work, keeps_all, seed=1, kills=20, images=0, errors=0)\n"
        "    print(report.failures[0].replay)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert "crash lab of shop.py:work" in done.stdout, done.stderr
    line = done.stdout.splitlines()[-1]
    again = subprocess.run(
        [sys.executable, *shlex.split(line)[1:]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert again.returncode == 1 and "acknowledged, " in again.stdout, again.stderr


def test_the_examples_are_run_and_reported(tmp_path: Path) -> None:
    """`make examples`: each one in the lab, with a report for programs."""
    done = subprocess.run(
        [sys.executable, "-m", "examples", "orders", "--seconds", "6", "--seed", str(SEED)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = msgspec.json.decode((tmp_path / "build" / "examples.json").read_bytes())["orders"]
    assert found["ok"] and found["kills"] > 0 and f"seed {SEED}" in found["detail"]


@pytest.mark.timeout(25)
def test_what_an_application_started_ends_with_the_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that a child left behind is gone when the lab has come to its end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setenv(PIPE, str(pipe))
    heard = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    crashlab(leaves_a_process, keeps_all, kills=0, images=0, errors=0)
    os.set_blocking(heard, True)
    while os.read(heard, 1 << 16):
        pass
    os.close(heard)


@pytest.mark.timeout(25)  # Less than the 30 s after which the lab itself ends what hangs.
def test_interrupting_the_lab_leaves_nothing_behind(tmp_path: Path) -> None:
    """Ctrl-C ends the children, what they started, and removes the stores."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = (
        "import tests.lab.test_crashlab as t\n"
        "t.crashlab(t.leaves_much_behind, t.keeps_all, seconds=120)"
    )
    lab = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, PIPE: str(pipe)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with pipe.open() as heard:
        folder = Path(heard.readline().strip())
        assert folder.is_dir()
        lab.send_signal(signal.SIGINT)
        # The end of the pipe comes when nobody holds it any more, neither child nor grandchild.
        assert heard.read() == ""
    assert lab.wait() != 0
    assert not folder.exists()


def test_on_postgresql_processes_are_killed_and_the_other_layers_say_they_are_not_done(
    postgres_url: str,
) -> None:
    """F1 on PostgreSQL: a schema per case, none left; a bug is found there too."""
    report = crashlab(right, keeps_all, seed=SEED, store=postgres_url, kills=12)
    report.check()
    assert report.kills >= 10 and report.store == "postgresql"
    assert "power and errors: not done" in report.text()
    assert not report.images and not report.errors
    assert not only("kills", too_early, 12, store=postgres_url).ok
    import psycopg

    with psycopg.connect(postgres_url) as connection:
        left = connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'crashlab%'"
        ).fetchall()
    assert left == []
    with pytest.raises(InvalidValueError, match="names a schema"):
        crashlab(right, keeps_all, store=f"{postgres_url}&schema=mine")
