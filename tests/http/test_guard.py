"""What is refused before anybody looks at who asks: hosts, origins, forms, sizes; and headers."""

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import holdfast
import holdfast.http
from holdfast.http import Settings
from holdfast.http.app import OPERATIONS
from holdfast.http.guard import HEADERS, HEADERS_MAX, URL_MAX
from tests.http.conftest import TOKEN
from tests.http.serving import Served
from tests.http.test_access import path_of

CANARY = "canary-51d0be"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")
FOREIGN = (
    "evil.example",
    "evil.example:8080",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "",
)


def guarded(
    folder: Path, work: Callable[[httpx.AsyncClient], Awaitable[None]], **more: Any
) -> None:
    """Do something with a service; the client has its token."""

    async def run() -> None:
        async with holdfast.open(f"sqlite:///{folder / 'store.db'}") as rt:
            made = holdfast.http.app(rt, Settings(token=TOKEN, **more))
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(made),
                base_url="http://localhost",
                headers={"Authorization": f"Bearer {TOKEN}"},
            ) as client:
                await work(client)

    asyncio.run(run())


def problem_of(answer: httpx.Response, status: int, code: str) -> Any:
    """Return the problem that was answered."""
    assert answer.status_code == status, (answer.request.url, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["code"] == code
    return found


def test_a_foreign_host_is_refused_everywhere(tmp_path: Path) -> None:
    """Section 7 point 3, section 8 test 9. Every route and method, nothing, dots and escapes."""

    async def work(client: httpx.AsyncClient) -> None:
        paths = {path_of(one) for one in OPERATIONS}
        paths |= {
            "/",
            "/none",
            "/v1/../readyz",
            "/./livez",
            "//livez",
            "/%2e%2e/v1/runs",
            "/v1%2Fruns",
        }
        for path in sorted(paths):
            for method in METHODS:
                for host in FOREIGN[:1] if path not in {"/livez", "/none"} else FOREIGN:
                    answer = await client.request(method, path, headers={"Host": host})
                    assert answer.status_code == 421, (method, path, host, answer.text)
        for host in ("localhost", "localhost:9", "127.0.0.1:9", "[::1]", "[::1]:9", "LOCALHOST"):
            assert (await client.get("/livez", headers={"Host": host})).status_code == 200
        assert (await client.get("/livez", headers={"Host": "ours.example"})).status_code == 200

    guarded(tmp_path, work, hosts=("ours.example",))


@pytest.mark.parametrize(
    "sent",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://other.localhost"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_page_of_another_site_changes_and_reads_nothing(
    tmp_path: Path, sent: dict[str, str]
) -> None:
    """Section 7 point 4. Writes and streams alike, by Fetch-Metadata or by Origin; no CORS."""

    async def work(client: httpx.AsyncClient) -> None:
        for one in OPERATIONS:
            for accept in ("application/json", "text/event-stream"):
                headers = {**sent, "Accept": accept}
                answer = await client.request(one.method, path_of(one), headers=headers)
                problem_of(answer, 403, "cross_site")
                assert not any(name.startswith("access-control") for name in answer.headers)

    guarded(tmp_path, work)


def test_a_page_of_its_own_may(tmp_path: Path) -> None:
    """Section 7 point 4. Same origin, none, or a link that somebody follows."""

    async def work(client: httpx.AsyncClient) -> None:
        for sent in (
            {"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"},
            {"Sec-Fetch-Site": "none"},
            {"Origin": "http://localhost"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
        ):
            assert (await client.get("/v1/runs", headers=sent)).status_code == 200

    guarded(tmp_path, work)


def test_an_origin_that_is_listed_may_ask(tmp_path: Path) -> None:
    """Section 7 point 4. That origin alone, with a preflight, and never with cookies."""
    ours, asks = "https://ours.example", {"Access-Control-Request-Method": "POST"}

    async def work(client: httpx.AsyncClient) -> None:
        answer = await client.options("/v1/runs", headers={"Origin": ours, **asks})
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == ours
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "access-control-allow-credentials" not in answer.headers
        answer = await client.get(
            "/v1/runs", headers={"Origin": ours, "Sec-Fetch-Site": "cross-site"}
        )
        assert answer.status_code == 200 and answer.headers["vary"] == "Origin"
        for origin in ("https://ours.example.evil", "https://OURS.example", "http://ours.example"):
            answer = await client.options("/v1/runs", headers={"Origin": origin, **asks})
            assert answer.status_code in {403, 405}
            assert "access-control-allow-origin" not in answer.headers

    guarded(tmp_path, work, origins=(ours,))


def test_what_a_form_can_send_changes_nothing(tmp_path: Path) -> None:
    """Section 7 point 4. Three media types need no preflight; none of them is taken."""

    async def work(client: httpx.AsyncClient) -> None:
        for one in OPERATIONS:
            if one.method == "GET" or one.raw:
                continue
            for media_type in (
                "text/plain",
                "application/x-www-form-urlencoded",
                "multipart/form-data",
            ):
                answer = await client.request(
                    one.method, path_of(one), content=b"{}", headers={"Content-Type": media_type}
                )
                problem_of(answer, 415, "media_type")

    guarded(tmp_path, work)


def test_every_answer_has_the_headers_that_protect(tmp_path: Path) -> None:
    """Section 7 point 7. Answers, problems, probes, what is not there."""

    async def work(client: httpx.AsyncClient) -> None:
        asked = [(one.method, path_of(one)) for one in OPERATIONS]
        for method, path in [*asked, ("GET", "/none"), ("BREW", "/livez"), ("POST", "/livez")]:
            answer = await client.request(method, path)
            for name, value in HEADERS.items():
                found = answer.headers[name]
                assert found == value or found.startswith("default-src 'none'"), (path, name)
            assert "no-store" in answer.headers["cache-control"], path

    guarded(tmp_path, work)


def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    """Section 7 point 10. Bodies, depth, number of values, address, headers."""

    async def work(client: httpx.AsyncClient) -> None:
        def post(content: bytes) -> Any:
            sent = {"Content-Type": "application/json"}
            return client.post("/v1/runs", content=content, headers=sent)

        problem_of(await post(b'"' + b"x" * 600_000 + b'"'), 413, "limit")
        problem_of(await post(b"[" * 101 + b"]" * 101), 400, "malformed")
        problem_of(await post(b"[" * 100_000), 400, "malformed")
        problem_of(await post(b"[" + b"0," * 200_001 + b"0]"), 413, "limit")
        problem_of(await post(b'{"function": "x",}'), 400, "malformed")
        problem_of(await client.get("/" + "x" * URL_MAX), 414, "url_too_long")
        problem_of(await client.get("/v1/runs?q=" + "x" * URL_MAX), 414, "url_too_long")
        many = {f"X-{number}": "x" for number in range(HEADERS_MAX)}
        problem_of(await client.get("/v1/runs", headers=many), 431, "headers_too_large")

        async def slow() -> Any:
            yield b"{"
            await asyncio.Event().wait()

        sent = {"Content-Type": "application/json"}
        problem_of(await client.post("/v1/runs", content=slow(), headers=sent), 408, "slow_request")

    guarded(tmp_path, work, body_bytes_max=500_000, body_seconds_max=0.05)


def test_what_a_request_says_is_in_no_problem_and_no_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """X12, section 8 test 10. A canary in headers and bodies, through every operation."""
    caplog.set_level(logging.DEBUG, "holdfast")

    async def work(client: httpx.AsyncClient) -> None:
        headers = {
            "X-Secret": CANARY,
            "Content-Type": "application/json",
            "If-Match": f'"{CANARY}"',
        }
        bodies = [
            json.dumps({"function": 1, "args": [CANARY], CANARY: CANARY}).encode(),
            json.dumps({"token": CANARY, "code": CANARY}).encode(),
            f'{{"{CANARY}": {CANARY}'.encode(),
            json.dumps(CANARY).encode(),
        ]
        for one in OPERATIONS:
            for body in bodies:
                answer = await client.request(
                    one.method, path_of(one), content=body, headers=headers
                )
                assert CANARY not in answer.text + str(answer.headers), (one.name, answer.text)
        for path in (f"/{CANARY}", f"/v1/runs/{CANARY}/{CANARY}/x", f"/v1/problems/{CANARY}"):
            answer = await client.get(f"{path}?{CANARY}={CANARY}", headers=headers)
            assert CANARY not in str(problem_of(answer, 404, "route_not_found")), path
        wrong = {"Authorization": f"Bearer hf_{CANARY}_{CANARY}"}
        answer = await client.get("/v1/runs", headers=wrong)
        assert CANARY not in problem_of(answer, 401, "unauthorized")["detail"]

    guarded(tmp_path, work)
    assert CANARY not in caplog.text


def test_what_is_no_http_is_a_problem_too(tmp_path: Path) -> None:
    """Section 2.5, section 7 point 10. Malformed, or with headers that never end."""
    url = f"sqlite:///{tmp_path / 'store.db'}"
    with Served(url, tmp_path) as served:
        served.wait_ready()
        address = ("127.0.0.1", int(served.url.rpartition(":")[2]))
        for sent in (f"{CANARY}\r\n\r\n".encode(), b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000):
            with socket.create_connection(address, timeout=30) as wire:
                wire.sendall(sent)
                answer = b"".join(iter(lambda wire=wire: wire.recv(65_536), b""))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in head
            assert json.loads(body)["code"] == "malformed" and CANARY.encode() not in answer
        assert served.stop() == 0
        assert CANARY not in "".join(served.heard)
