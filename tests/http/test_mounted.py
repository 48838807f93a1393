"""The service inside somebody else's application: paths, and the way out with open streams."""

import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.http.hosts import TOKEN, UNDER
from tests.http.service import free_port
from tests.http.serving import PATIENCE, ROOT


@pytest.mark.parametrize("kind", ["fastapi", "litestar"])
def test_a_mounted_service_knows_where_it_is_and_lets_its_host_end(
    tmp_path: Path, kind: str
) -> None:
    """Section 8 tests 8 and 13. Locations and types under the path; streams end on SIGTERM."""
    pytest.importorskip(kind)
    url, port = f"sqlite:///{tmp_path / 'store.db'}", free_port()
    program = [sys.executable, "-m", "tests.http.hosts", kind, url, str(port)]
    headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
    transport = httpx.HTTPTransport(retries=20)
    base = f"http://127.0.0.1:{port}{UNDER}"
    child = subprocess.Popen(program, cwd=ROOT)
    try:
        with httpx.Client(
            base_url=base, headers=headers, timeout=PATIENCE, transport=transport
        ) as client:
            while client.get("/readyz").status_code != 200:
                assert child.poll() is None
            body = {"function": "tests.http.jobs.echo", "args": ["x"]}
            made = client.post("/v1/runs", json=body)
            assert made.status_code == 201, made.text
            assert made.headers["location"] == f"{UNDER}/v1/runs/{made.json()['id']}"
            assert client.get(f"http://127.0.0.1:{port}{made.headers['location']}").is_success
            assert client.get("/v1/none").json()["type"] == f"{UNDER}/v1/problems/route_not_found"
            with client.stream("GET", "/v1/events") as feed:
                lines = feed.iter_lines()
                while "stream.caught_up" not in next(lines):
                    pass
                child.send_signal(signal.SIGTERM)
                assert "event: stream.closing" in list(lines)
        assert child.wait(PATIENCE) in {0, -signal.SIGTERM}
    finally:
        child.kill()
        child.wait()
