"""`holdfast serve` as a process: from the first connection to the last goodbye."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

import holdfast
from holdfast.core.exits import Exit
from holdfast.http.app import OPERATIONS
from holdfast.http.operation import Operation
from tests.http.jobs import HELD_BY
from tests.http.serving import PATIENCE, ROOT, Served, started
from tests.runtime.tally import Tally, TallyEngine

FUNCTIONS = ("--app", "tests.http.jobs:functions")
SLOW = ("--app", "tests.http.jobs:slow")
PHASES = ["unready", "refusing", "waiting", "streams", "flushing", "leaving", "done"]


def fifo_in(folder: Path) -> Path:
    """Make what a held program waits for."""
    path = folder / "fifo"
    if not path.exists():
        os.mkfifo(path)
    return path


def let_go(path: Path) -> None:
    """Let what is held go on; waits until it is held."""
    path.write_text("go on")


def asked(client: httpx.Client, one: Operation) -> httpx.Response:
    """Ask for an operation as a client does that knows only the table."""
    path = one.address.format(**{name: "1" if kind else "x" for name, kind in one.parameters})
    body = b"{}" if one.changes and not one.raw else None
    sent = {} if body is None else {"Content-Type": one.takes[-1]}
    return client.request(one.method, path, content=body, headers=sent)


def phases(served: Served) -> list[str]:
    """Return the phases of the drain that it logged, in their order."""
    words = [word for line in served.heard for word in line.split() if "event=drain" in line]
    return [word.removeprefix("phase=") for word in words if word.startswith("phase=")]


def check_restoring(served: Served) -> None:
    """While it restores, probes and reads of durable state are answered, the rest is refused."""
    with served.client() as client:
        assert client.get("/livez").status_code == 200
        health = client.get("/healthz")
        assert health.status_code == 200 and health.json()["status"] == "fail"
        ready = client.get("/readyz")
        assert ready.status_code == 503 and ready.headers["retry-after"] == "1"
        assert client.get("/startupz").status_code == 503
        assert client.get("/readyz?gate=read").status_code == 200
        for one in OPERATIONS:
            answer = asked(client, one)
            if one.stored:
                assert answer.status_code != 503, (one.name, answer.text)
                assert answer.headers["holdfast-phase"] == "restoring", one.name
            elif not one.early:
                assert (answer.status_code, answer.json()["code"]) == (503, "not_ready"), one.name
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.headers["retry-after"] == "1"


def fill(url: str) -> None:
    """Leave a store with an engine that has something to bring back."""

    async def run() -> None:
        async with holdfast.open(url, engines={"counters": TallyEngine()}) as rt:
            counters = rt.engines["counters"]
            for _ in range(5):
                await counters.request(Tally.add, "a")

    asyncio.run(run())


def wait_restoring(served: Served) -> None:
    """Wait until it is in the middle of restoring."""
    with httpx.Client(base_url=served.url, timeout=PATIENCE) as client:
        while True:
            found = client.get("/readyz").json()
            if found["status"] == "restoring" and found["progress"]:
                assert found["progress"]["engines"] and found["reason"]
                return
            assert found["status"] not in {"ready", "failed"}, found


def test_a_slow_restore_lets_everybody_in_and_says_so(kept_url: str, tmp_path: Path) -> None:
    """
    N6, section 8. Forced slow: healthz 200, readyz 503 with reason and progress; every operation
    that changes state, or looks at what is brought back, 503 with Retry-After; killed in the
    middle, again; afterwards 200.
    """
    fill(kept_url)
    fifo = fifo_in(tmp_path)
    with Served(kept_url, tmp_path, *SLOW, **{HELD_BY: str(fifo)}) as served:
        wait_restoring(served)
        check_restoring(served)
        served.kill()
    with Served(kept_url, tmp_path, *SLOW, **{HELD_BY: str(fifo)}) as served:
        wait_restoring(served)
        check_restoring(served)
        let_go(fifo)
        served.wait_ready()
        with served.client() as client:
            assert client.get("/readyz").status_code == 200
            assert client.get("/startupz").status_code == 200
            assert client.get("/v1/runs").status_code == 200
            assert client.get("/healthz").json()["status"] == "pass"
        assert served.stop() == Exit.DONE


def test_a_drain_ends_streams_and_lets_steps_end(kept_url: str, tmp_path: Path) -> None:
    """Section 8 test 13, H6. Streams are told to come again, the step ends, nothing is lost."""
    fifo = fifo_in(tmp_path)
    with Served(kept_url, tmp_path, *FUNCTIONS, **{HELD_BY: str(fifo)}) as served:
        served.wait_ready()
        with served.client(Accept="text/event-stream") as client:
            run_id = started(client, "waiting")
            with client.stream("GET", "/v1/events") as feed:
                lines = feed.iter_lines()
                while "stream.caught_up" not in next(lines):
                    pass
                served.tell()
                served.line_with("phase=streams remaining=1")
                assert "event: stream.closing" in list(lines)
                let_go(fifo)
        assert served.end() == Exit.DONE
        assert [one for one in phases(served) if one in PHASES] == PHASES
    with Served(kept_url, tmp_path, *FUNCTIONS) as served, served.client() as client:
        served.wait_ready()
        run = client.get(f"/v1/runs/{run_id}?wait=terminal&timeout=60").json()
        assert run["status"] == "succeeded" and run["result"] == "done"
        events = client.get(f"/v1/runs/{run_id}/events").json()["items"]
        assert [one["type"] for one in events].count("step.succeeded") == 2


@pytest.mark.parametrize("how", ["deadline", "second signal"])
def test_work_that_does_not_end_is_handed_over(kept_url: str, tmp_path: Path, how: str) -> None:
    """Section 8 test 13. Past the deadline, or at a second signal, it leaves and says so."""
    seconds = "0.2" if how == "deadline" else "3600"
    words = (*FUNCTIONS, "--drain-deadline", seconds)
    with Served(kept_url, tmp_path, *words) as served:
        served.wait_ready()
        with served.client() as client:
            run_id = started(client, "hanging")
            while not [
                one
                for one in client.get(f"/v1/runs/{run_id}/events?wait=10").json()["items"]
                if one["type"] == "step.started"
            ]:
                pass
        served.tell()
        if how == "second signal":
            served.line_with("phase=waiting remaining=1")
            served.tell(signal.SIGINT)
        assert served.end() == Exit.HANDED_OVER
        assert any("phase=done unfinished=1" in line for line in served.heard)
    with Served(kept_url, tmp_path, *words) as served, served.client() as client:
        served.wait_ready()
        assert client.get(f"/v1/runs/{run_id}").json()["status"] in {"queued", "running"}


def test_it_serves_on_while_it_says_that_it_leaves(tmp_path: Path) -> None:
    """Section 3. Readiness goes off first; requests that are on their way are still answered."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with Served(url, tmp_path, *FUNCTIONS, "--drain-delay", "3600") as served:
        served.wait_ready()
        with served.client() as client:
            served.tell()
            served.line_with("phase=unready")
            found = client.get("/readyz")
            assert found.status_code == 503 and "leave" in found.json()["reason"]
            assert client.get("/readyz?gate=read").status_code == 200
            assert client.get("/livez").status_code == 200
            run_id = started(client, "echo", args=["x"])
            assert client.get(f"/v1/runs/{run_id}").status_code == 200
        served.tell()
        assert served.end() == Exit.DONE


def test_streams_go_on_until_it_drains(tmp_path: Path) -> None:
    """Section 3, section 8 test 13. What comes after the signal is sent; the drain ends it."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with Served(url, tmp_path, *FUNCTIONS, "--drain-delay", "3600") as served:
        served.wait_ready()
        with served.client(Accept="text/event-stream") as client:
            for late in (False, True):
                with client.stream("GET", "/v1/events") as feed:
                    lines = feed.iter_lines()
                    while "stream.caught_up" not in next(lines):
                        pass
                    if not late:
                        served.tell()
                        served.line_with("phase=unready streams=1")
                    started(client, "echo", args=["x"])
                    while "event: run.succeeded" not in next(lines):
                        pass
                    if late:
                        served.tell()
                        served.line_with("phase=streams remaining=")
                        assert "event: stream.closing" in list(lines)
        # The second signal waits for nothing, not even for a task behind the last event of its run.
        assert served.end() in {Exit.DONE, Exit.HANDED_OVER}


def refused(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a server that does not serve."""
    program = [sys.executable, "-m", "holdfast", "serve", *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return subprocess.run(
        program, capture_output=True, text=True, timeout=PATIENCE, cwd=folder, env=environment
    )


def test_the_floor_of_free_room_is_that_of_the_command_line(tmp_path: Path) -> None:
    """F7, X7: below it a probe says why, what begins is refused, what is there is told."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    with Served(url, tmp_path, "--free-bytes-min", str(1 << 60)) as served:
        served.wait_ready()
        with served.client() as client:
            refused = client.get("/readyz?gate=disk")
            assert refused.status_code == 503
            assert str(1 << 60) in refused.text
            assert client.get("/v1/runs").status_code == 200


def test_without_a_token_nobody_listens(tmp_path: Path) -> None:
    """Section 7 points 1 and 2. Refused with the exact fix, on loopback too."""
    store = ("--store", f"sqlite:///{tmp_path / 'store.db'}")
    for host in ("0.0.0.0", "127.0.0.1", "::1"):
        found = refused(*store, "--host", host, folder=tmp_path)
        assert found.returncode == Exit.USAGE
        assert "--token-file holdfast.token" in found.stderr
    (tmp_path / "short").write_text("x")
    found = refused(*store, "--port", "0", "--token-file", "short", folder=tmp_path)
    assert found.returncode == Exit.USAGE and "remove it, and one is made" in found.stderr
    assert not (tmp_path / "store.db").exists()


def test_a_token_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """Section 7 points 2 and 17. Mode 0600, random, kept over restarts."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    tokens: list[str] = []
    for _ in range(2):
        with Served(url, tmp_path, *FUNCTIONS) as served:
            served.wait_ready()
            tokens.append(served.token)
            assert stat.S_IMODE(served.token_file.stat().st_mode) == 0o600
            with served.client() as client:
                assert client.get("/v1/runs").status_code == 200
                assert httpx.get(f"{served.url}/v1/runs").status_code == 401
            assert served.stop() == Exit.DONE
    assert tokens[0] == tokens[1] and len(tokens[0]) > 40


def test_a_socket_in_a_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Section 7 point 1. Mode 0600; one that a dead process left is taken away, no other file."""
    url, path = f"sqlite:///{tmp_path / 'store.db'}", tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Served(url, tmp_path, "--uds", str(path)) as served:
        served.wait_ready()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.get("http://localhost/readyz").status_code == 200
        words = ("--store", url, "--token-file", "token", "--uds")
        assert "somebody listens" in refused(*words, str(path), folder=tmp_path).stderr
        assert served.stop() == Exit.DONE
    precious = tmp_path / "precious"
    precious.write_text("x")
    assert "no socket" in refused(*words, str(precious), folder=tmp_path).stderr
    assert precious.read_text() == "x"


def test_a_store_that_does_not_open_ends_it(tmp_path: Path) -> None:
    """X7. Whoever supervises it sees why, by its exit code."""
    (tmp_path / "store.db").write_bytes(b"this is no store" * 512)
    words = ("--store", f"sqlite:///{tmp_path / 'store.db'}", "--token-file", "token")
    found = refused(*words, "--port", "0", folder=tmp_path)
    assert found.returncode in (Exit.DAMAGED, Exit.UNAVAILABLE), found.stderr
    assert "listening on" in found.stderr


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    """Section 5. The message says which word is wrong."""
    words = ("--store", f"sqlite:///{tmp_path / 'store.db'}", "--token-file", "token", "--app")
    (tmp_path / "mine.py").write_text("number = 1\n")
    for program, reason in (
        ("nowhere:functions", "there is no module 'nowhere'"),
        ("mine:nothing", "'mine' has no 'nothing'"),
        ("mine:number", "names a int"),
        ("mine", "is MODULE:NAME"),
    ):
        found = refused(*words, program, folder=tmp_path)
        assert found.returncode == Exit.USAGE and reason in found.stderr
