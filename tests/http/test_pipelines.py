"""The paths of the Attractor HTTP mode, over real processes that are killed."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import Any

import httpx
import pytest
from examples.graph.lab import ROOT, tidied
from examples.graph.process import ANSWERS, GRAPH
from examples.graph.stages import stage

from tests.http.conftest import TOKEN, serving

DOT = {"Content-Type": "text/vnd.graphviz"}
TEXT = GRAPH.read_text(encoding="utf-8")


def awaited(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in a loop of its own."""

    @wraps(test)
    def run(*args: Any, **named: Any) -> None:
        asyncio.run(test(*args, **named))

    return run


class Program:
    """A server in a process of its own, always under the same port."""

    def __init__(self, url: str) -> None:
        """Take the store; nothing runs yet."""
        self._url = url
        with socket.create_server(("127.0.0.1", 0)) as found:
            self._port = found.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self._port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
        )

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        self._launch()
        while not await self._is_ready():
            pass

    def _launch(self) -> None:
        command = [sys.executable, "-m", "tests.http.graph_server", self._url, str(self._port)]
        self._process = subprocess.Popen(command, cwd=ROOT)

    async def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "the server ended"
        try:
            return (await self.client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """Kill it as a power failure would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


@asynccontextmanager
async def program(url: str) -> AsyncGenerator[Program]:
    """Return a server that is started, and killed at the end."""
    made = Program(url)
    await made.start()
    try:
        yield made
    finally:
        made.kill()
        await made.client.aclose()


async def next_question(client: httpx.AsyncClient, run_id: str, asked: int) -> Any:
    """Wait until so many questions were asked; return the open one, or None if it ended."""
    while True:
        found = (await client.get(f"/pipelines/{run_id}/questions")).json()["questions"]
        number = f"?{asked + 1}"
        if found and found[-1]["id"].endswith(number):
            return found[-1]
        info = (await client.get(f"/v1/runs/{run_id}?wait=change&timeout=5")).json()
        if info["status"] in ("succeeded", "failed", "cancelled"):
            return None


async def reviewed(made: Program, run_id: str, *, killed: bool) -> dict[str, Any]:
    """Answer every question as the script says; return checkpoint and context at the end."""
    posted = await made.client.post(
        "/pipelines", json={"dot_source": TEXT, "id": run_id}, headers={"Idempotency-Key": "post"}
    )
    assert posted.status_code == 201, posted.text
    for asked, told in enumerate(ANSWERS):
        question = await next_question(made.client, run_id, asked)
        if question is None:
            break
        if killed:
            made.kill()
            await made.start()
        path = f"/pipelines/{run_id}/questions/{question['id'].replace('?', '%3F')}/answer"
        given = await made.client.post(path, json={"value": told})
        assert given.status_code == 200, given.text
        if killed:
            made.kill()
            await made.start()
    await made.client.get(f"/v1/runs/{run_id}?wait=terminal&timeout=60")
    return dict((await made.client.get(f"/pipelines/{run_id}/checkpoint")).json())


@awaited
async def test_a_graph_that_is_killed_at_every_question_ends_as_one_that_is_not(
    kept_url: str, tmp_path: Path
) -> None:
    """
    A1, A10, A12: the same nodes, the same context, each question asked once, and going on with
    the graph that was posted, although nothing else is left of it.
    """
    async with program(f"sqlite:///{tmp_path}/undisturbed.db") as made:
        expected = await reviewed(made, "release", killed=False)
    async with program(kept_url) as made:
        found = await reviewed(made, "release", killed=True)
        result = (await made.client.get("/v1/runs/release")).json()["result"]
        events = (await made.client.get("/pipelines/release/events?limit=1000")).json()["items"]
    assert expected["status"] == found["status"] == "succeeded"
    assert found["context"] == expected["context"] == result
    assert tidied(found["completed_nodes"]) == tidied(expected["completed_nodes"])
    asked = [one["data"]["id"] for one in events if one["type"] == "question.asked"]
    assert len(asked) == len(set(asked))


@awaited
async def test_a_graph_is_posted_as_a_file_and_shown_with_where_it_is() -> None:
    """The file as it is is a body; the graph is shown with the state of every node."""
    async with serving("sqlite:///:memory:") as served:
        served.rt.graphs.handle(stage)
        posted = await served.client.post("/pipelines", content=TEXT, headers=DOT)
        assert posted.status_code == 201, posted.text
        run_id = posted.json()["id"]
        assert posted.headers["location"] == f"/pipelines/{run_id}"
        question = await next_question(served.client, run_id, 0)
        assert [one["label"] for one in question["options"]] == ["Approve", "Fix it"]
        shown = await served.get(f"/pipelines/{run_id}/graph")
        states = {one["id"]: one["state"] for one in shown["nodes"]}
        assert "next" in states.values()
        assert states["start"] == "done"
        as_file = await served.client.get(
            f"/pipelines/{run_id}/graph", headers={"Accept": "text/vnd.graphviz"}
        )
        assert as_file.text == TEXT
        ended = await served.post(f"/pipelines/{run_id}/cancel", {"reason": "not now"})
        assert ended["status"] in ("cancelling", "cancelled")


@awaited
async def test_an_answer_may_be_the_letter_of_its_option() -> None:
    """An option has an accelerator key; the answer that counts is the option."""
    async with serving("sqlite:///:memory:") as served:
        served.rt.graphs.handle(stage)
        run_id = (await served.post("/pipelines", {"dot_source": TEXT}, 201))["id"]
        question = await next_question(served.client, run_id, 0)
        keys = {one["label"]: one["key"] for one in question["options"]}
        path = f"/pipelines/{run_id}/questions/{question['id'].replace('?', '%3F')}/answer"
        told = await served.post(path, {"value": keys["Fix it"]}, 200)
        assert told["answer"] == "Fix it"
        again = await served.refused("POST", path, 409, json={"value": "Approve"})
        assert again["context"]["winner"] == "admin"


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("not a graph", 422, "decode"),
        ("digraph G { a -> b }", 422, "invalid_machine"),
        ("", 422, "invalid_request"),
    ],
)
@awaited
async def test_a_graph_that_cannot_be_run_is_refused_before_anything_is_stored(
    text: str, status: int, code: str
) -> None:
    """A16: every fault is named, and no run is there."""
    async with serving("sqlite:///:memory:") as served:
        served.rt.graphs.handle(stage)
        problem = await served.refused("POST", "/pipelines", status, content=text, headers=DOT)
        assert problem["code"] == code
        assert (await served.get("/v1/runs"))["items"] == []


@awaited
async def test_graphs_are_refused_where_nobody_handles_stages() -> None:
    """A16: what is missing is named."""
    async with serving("sqlite:///:memory:") as served:
        problem = await served.refused("POST", "/pipelines", 422, json={"dot_source": TEXT})
        assert problem["code"] == "function_not_found"


@awaited
async def test_the_same_key_starts_one_pipeline() -> None:
    """A8: with one key the same graph is one run; another graph under that key is refused."""
    async with serving("sqlite:///:memory:") as served:
        served.rt.graphs.handle(stage)
        key = {"Idempotency-Key": "k"}
        first = await served.client.post("/pipelines", json={"dot_source": TEXT}, headers=key)
        second = await served.client.post("/pipelines", json={"dot_source": TEXT}, headers=key)
        assert first.json()["id"] == second.json()["id"]
        other = await served.client.post("/pipelines", json={"dot_source": TEXT + " "}, headers=key)
        assert other.json()["code"] == "idempotency_key_reused"
