"""The runner of the lab: what it judges, what it says, and that nothing it starts can stop it."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import pytest

from tests.lab.__main__ import layers_of, main
from tests.lab.layers import LAYERS, Hunted, Layer, Outcome, Wish
from tests.lab.mistakes import SEEDS_TO_REACH
from tests.lab.page import page_of
from tests.lab.report import GOALS, LayerRun, Run, contents, text_of, track_record

pytestmark = pytest.mark.lab

KEYS = {"images", "cuts", "calls", "kills", "seeds", "schedules", "damages", "states"}
KEYS |= {"lost", "unnoticed", "planted", "seed", "versions", "layers", "reached", "failures"}
KEYS |= {"wanted", "started", "took"}
EARNED = "no acknowledged write lost"

Ran = Callable[..., tuple[int, dict[str, Any]]]


def proven() -> Run:
    """Return a run of all layers at the full figures in which everything was as promised."""
    run = Run(Wish(seed=7), datetime(2026, 3, 1, tzinfo=UTC), "python -m tests.lab --seed 7")
    run.layers = {name: LayerRun(jobs=2, done=2, cpu_seconds=4.0, seeds=[7]) for name in LAYERS}
    counts = {"power": {"images": 50_000, "cuts": 2_000}, "kills": {"kills": 5_000}}
    counts |= {"simulation": {"seeds": 20_000}, "damages": {"damages": 20_000}}
    counts |= {"engines": {"engines": 1_000}}
    for name, found in counts.items():
        run.layers[name].outcome.counts.update(found)
    run.layers["planted"].outcome.planted["late-sync"] = Hunted("power_loss", found=True)
    run.layers["storms"].outcome.reached["<killed in recovery>"] = 3
    return run


def spoil_layer(name: str, **fields: Any) -> Callable[[Run], None]:
    """Return what makes the outcome of a layer another one."""

    def spoil(run: Run) -> None:
        run.layers[name].outcome = replace(run.layers[name].outcome, **fields)

    return spoil


def break_job(run: Run) -> None:
    """Have a job that did not end as it should."""
    run.layers["storms"].broken = 1


def stop(run: Run) -> None:
    """Have a run that was interrupted."""
    run.ended = "interrupted"


def test_the_report_has_the_promised_keys_and_the_headline_of_a_proven_run() -> None:
    """X9. What `build/lab.json` is read for; the page says the same, in the same words."""
    content = json.loads(json.dumps(contents(proven(), layers_of("kernel"))))
    assert set(content) >= KEYS
    assert content["ok"] and content["planted"] == {"found": 1, "total": 1}
    assert EARNED in content["headline"] and "50,000 images of 2,000" in content["headline"]
    assert "every interleaving of two instances" in content["headline"]
    assert content["layers"]["power"]["rate"] == 12_500.0
    for shown in (page_of(content), text_of(content)):
        assert EARNED in shown and "python -m tests.lab --seed 7" in shown
    page = page_of(content)
    assert "&lt;killed in recovery&gt;" in page and escape(track_record()[0][1]) in page
    assert "http" not in page and "<script" not in page


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_layer("power", lost=1, counts=Counter(images=50_000, cuts=2_000)),
        spoil_layer("calls", unnoticed=1),
        spoil_layer("calls", failures=["it failed"]),
        spoil_layer("planted", planted={"late-sync": Hunted("power_loss", found=False)}),
        spoil_layer("storms", reached=Counter({"killed in recovery": 0})),
        spoil_layer("power", counts=Counter(images=49_999, cuts=2_000)),
        spoil_layer("power", counts=Counter(images=50_000, cuts=1_999)),
        spoil_layer("kills", counts=Counter(kills=4_999)),
        spoil_layer("simulation", counts=Counter(seeds=19_999)),
        spoil_layer("damages", counts=Counter(damages=19_999)),
        break_job,
        stop,
    ],
)
def test_what_was_not_earned_is_not_said(spoil: Callable[[Run], None]) -> None:
    """X9. Tolerance 0: one case, one figure that was missed, and the run has shown nothing."""
    run = proven()
    spoil(run)
    content = contents(run, layers_of("kernel"))
    assert not content["ok"]
    for shown in (page_of(content), text_of(content)):
        assert EARNED not in shown and "Not shown: " in shown


@pytest.mark.parametrize(("seeds", "enough"), [(SEEDS_TO_REACH, True), (SEEDS_TO_REACH - 1, False)])
def test_seeds_that_are_many_enough_have_to_reach_every_rare_state(
    seeds: int, *, enough: bool
) -> None:
    """X9. Also a slice: a simulation in which nobody is ever cancelled tests less than it says."""
    run = proven()
    run.wish = replace(run.wish, simulations=seeds)
    outcome = Outcome(Counter(seeds=seeds), reached=Counter({"renewed": seeds, "cancelled": 0}))
    run.layers = {"simulation": LayerRun(jobs=2, done=2, outcome=outcome)}
    assert contents(run, layers_of("kernel"))["ok"] is not enough


@pytest.mark.parametrize("partly", ["one layer", "small figures"])
def test_a_part_is_judged_by_what_was_asked_for_and_has_no_headline(partly: str) -> None:
    """X9. A slice may be all right, and says that it is a slice."""
    run = proven()
    if partly == "one layer":
        run.layers = {"kills": run.layers["kills"]}
    else:
        run.wish = replace(run.wish, images=500)
        run.layers["power"].outcome = Outcome(Counter(images=500, cuts=20))
    content = contents(run, layers_of("kernel"))
    assert content["ok"] and EARNED not in page_of(content)


def test_the_kernel_alone_earns_its_headline() -> None:
    """X9. It speaks of the store; what stands on it has a run of its own."""
    for part, earned in (("kernel", True), ("nouns", False)):
        run = proven()
        run.layers = {name: run.layers[name] for name in layers_of(part)}
        assert (EARNED in page_of(contents(run, layers_of("kernel")))) is earned


def test_a_night_says_how_much_of_its_goals_was_reached() -> None:
    """X9. A night that is over before its goals are reached is no failure and pretends nothing."""
    run = proven()
    run.wish = replace(run.wish, nightly=True)
    content = contents(run, layers_of("kernel"))
    shares = {goal["what"]: goal["share"] for goal in content["goals"]}
    assert content["ok"] and shares["images"] == 0.05 and len(shares) == len(GOALS)
    assert "goal    5.0% of 1,000,000 images" in text_of(content)


# The jobs of the runs below; worker processes import them from here.


def find(count: int) -> Outcome:
    """Find nothing wrong."""
    return Outcome(Counter(damages=count))


def lose(seed: int) -> Outcome:
    """Find that something was lost."""
    return Outcome(Counter(damages=1), lost=1, failures=[f"seed {seed} is lost"])


def miss() -> Outcome:
    """Find nothing where there is something to be found."""
    return Outcome(planted={"late-sync": Hunted("power_loss", found=False)})


def hang(held: str) -> Outcome:
    """Start a program that keeps a pipe open, and wait for ever."""
    with Path(held).open("wb") as pipe:
        program = "import signal; signal.pause()"
        subprocess.Popen([sys.executable, "-c", program], stdout=pipe)
    return wait_for_ever()


def wait_for_ever() -> Outcome:
    """Never come back."""
    threading.Event().wait()
    return Outcome()


def die() -> Outcome:
    """End the worker itself."""
    os._exit(3)


def fail() -> Outcome:
    """Say something and raise what nobody expects."""
    sys.stderr.write("said by a job")
    raise RuntimeError("nobody expects this")


def interrupt() -> Outcome:
    """End the whole run from outside."""
    os.kill(os.getppid(), signal.SIGTERM)
    return wait_for_ever()


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ran:
    """Return what runs the lab with other jobs of the layer `damages`, for the exit code."""
    monkeypatch.chdir(tmp_path)

    def run(jobs: Callable[[Wish], Iterator[Any]], *words: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setitem(LAYERS, "damages", Layer(jobs, seconds=1.0, share=1))
        monkeypatch.setattr(sys, "argv", ["lab", "--only", "damages", "--workers", "2", *words])
        code = main()
        capsys.readouterr()
        report = Path("build/lab.json")
        assert "<html" in Path("build/lab.html").read_text()
        return code, json.loads(report.read_text())

    return run


@pytest.mark.parametrize(
    ("jobs", "damages", "code"),
    [
        ([partial(find, 2), partial(find, 3)], 5, 0),
        ([partial(find, 4)], 5, 1),
        ([partial(find, 5), miss], 5, 1),
        ([partial(find, 5), partial(lose, 7)], 5, 1),
    ],
    ids=["all right", "a figure missed", "a bug not found", "something lost"],
)
def test_the_exit_code_says_whether_it_was_as_promised(
    ran: Ran, jobs: list[Any], damages: int, code: int
) -> None:
    """X9. Jobs of all workers count together."""
    found = ran(lambda _: iter(jobs), "--damages", str(damages))
    assert (found[0], found[1]["ok"]) == (code, not code)


def test_a_job_that_hangs_dies_or_fails_is_a_failure_and_the_others_go_on(
    ran: Ran, tmp_path: Path
) -> None:
    """X9. What hangs is cut off with all that it started."""
    held = tmp_path / "held"
    os.mkfifo(held)
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    jobs = [partial(hang, str(held)), die, fail, *[partial(find, 1)] * 20]
    code, content = ran(lambda _: iter(jobs), "--damages", "20", "--limit", "2")
    assert (code, content["broken"], content["damages"]) == (1, 3, 20)
    assert os.read(reader, 1) == b"", "what the job had started still holds the pipe"
    os.close(reader)
    reasons = sorted(failure.partition("; replay")[0] for failure in content["failures"])
    expected = ["RuntimeError: nobody expects this", "cut off after ", "its process ended (3)"]
    assert all(map(str.startswith, reasons, expected)), reasons
    assert "said by a job" in Path("build/lab.log").read_text()


def test_a_run_that_is_interrupted_reports_what_it_found_so_far(ran: Ran) -> None:
    """X9. It is not all right: it has not shown what was wanted."""
    jobs = (partial(find, 5), interrupt)
    code, content = ran(lambda _: iter(jobs), "--damages", "5", "--workers", "1")
    assert (code, content["damages"], content["ended"]) == (1, 5, "interrupted")


def test_a_failure_names_a_command_that_repeats_it(
    ran: Ran, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """X9. The runner takes its own words, and finds the same."""
    jobs = (partial(find, 1), partial(lose, 11))
    _, content = ran(lambda _: iter(jobs), "--seed", "11", "--damages", "1")
    [failure] = content["failures"]
    what, _, command = failure.partition("; replay: ")
    python, _, module, *words = shlex.split(command)
    assert (python, module) == ("python", "tests.lab")
    monkeypatch.setattr(sys, "argv", [module, *words])
    assert main() == 1
    assert what == "seed 11 is lost" and what in capsys.readouterr().out


def test_a_night_goes_round_with_other_seeds_until_its_time_is_over(ran: Ran) -> None:
    """X9. What fails in a later round is repeated by that round's seed."""
    words = ("--nightly", "--minutes", "0.03", "--seed", "11", "--damages", "1")
    _, content = ran(lambda wish: iter([partial(lose, wish.seed)]), *words)
    seeds = content["layers"]["damages"]["seeds"]
    assert len(set(seeds)) == len(seeds) > 1
    [failure] = [one for one in content["failures"] if f"seed {seeds[1]} is lost" in one]
    assert f"--seed {seeds[1]} " in failure
