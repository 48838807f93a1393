"""The workers of the lab: where they run, and that a job which wants all cores gets them."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.lab.crew import Task, every_core, work_off
from tests.lab.layers import Outcome

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds processes to cores"),
]


def where_am_i(shift: int) -> Outcome:
    """Note the cores that this process, and all that it starts, may use."""
    return Outcome(notes=[f"{shift}: {sorted(os.sched_getaffinity(0))}"])


def test_a_worker_keeps_to_one_core_but_for_jobs_that_are_about_many_at_once(
    tmp_path: Path,
) -> None:
    """So a spread job behind one that was bound gets every core, and the next only its own."""
    spread = (False, True, False)
    tasks = iter(
        [Task("crew", partial(where_am_i, n), "", spread=is_) for n, is_ in enumerate(spread)]
    )
    done = work_off(lambda: next(tasks, None), workers=1, limit=60.0, log=tmp_path / "log")
    notes = [note for one in done if one for note in one.outcome.notes]
    first, every = [min(every_core())], sorted(every_core())
    assert notes == [f"0: {first}", f"1: {every}", f"2: {first}"]
