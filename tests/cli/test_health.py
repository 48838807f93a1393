"""`holdfast health`: a script learns whether a service takes work, a person also why not."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cli.invocation import HOLDFAST, documents, invoke
from tests.http.jobs import HELD_BY
from tests.http.service import free_port
from tests.http.serving import Served
from tests.http.test_serve import SLOW, fifo_in, fill, let_go, wait_restoring


@pytest.mark.timeout(120)
def test_a_service_that_comes_back_is_waited_for_and_its_progress_told(tmp_path: Path) -> None:
    """Section 3: 5 at once, 124 after a wait in vain, 0 once it is ready; gates and progress."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    fill(url)
    fifo = fifo_in(tmp_path)
    with Served(url, tmp_path, *SLOW, **{HELD_BY: str(fifo)}) as served:
        wait_restoring(served)
        now = invoke("health", served.url)
        assert now.returncode == 5
        assert "restoring: engines" in now.stdout
        late = invoke("health", served.url, "--wait", "0.2", "--json")
        assert late.returncode == 124
        (found,) = documents(late)
        assert (found["status"], found["ready"]) == ("restoring", False)
        waiting = subprocess.Popen(
            [*HOLDFAST, "health", served.url, "--wait", "60"],
            env=os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert "restoring: engines" in waiting.stderr.readline()
        let_go(fifo)
        said, _ = waiting.communicate(timeout=60)
        assert waiting.returncode == 0
        assert said.splitlines()[1].split() == ["service", "ready"]
        assert ["gate", "heartbeat", "open"] in [line.split() for line in said.splitlines()]
        (ready,) = documents(invoke("health", served.url, "--json"))
        assert ready["ready"] and all(gate["ok"] for gate in ready["gates"])


def test_nobody_and_somebody_else_are_told_apart() -> None:
    """A16: 5 with the reason; an address that is none is a usage error."""
    nobody = invoke("health", f"http://127.0.0.1:{free_port()}")
    assert nobody.returncode == 5
    assert "nobody answers (ConnectError)" in nobody.stdout
    for wrong in ("127.0.0.1:8080", "http://127.0.0.1:port"):
        refused = invoke("health", wrong)
        assert (refused.returncode, "is not http" in refused.stderr) == (2, True)
    assert invoke("health", "http://127.0.0.1", "--wait", "-1").returncode == 2
