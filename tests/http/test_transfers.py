"""
Runs and sessions over the wire, out of one store and into another (X13): whole or not at all.

What is exported and imported here are real runs of real stores; one test kills the server.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

import holdfast
import holdfast.client
import holdfast.http
from holdfast.core.denial import UnreachableError
from holdfast.core.errors import DamagedFileError
from holdfast.core.refusal import RunExistsError
from tests.cli.exported import FUNCTIONS, PAGES
from tests.cli.invocation import run
from tests.cli.test_transfer_runs import begin, look
from tests.cli.test_transfer_sessions import KEY, Chat, talk
from tests.http.conftest import TOKEN, Served, client_of, served
from tests.http.service import BEARER, Service
from tests.http.test_access import limited
from tests.http.wire import Wire

SENT = {"Content-Type": "application/x-ndjson"}
CHAT = "Chat/user%2F42/a"


@asynccontextmanager
async def asked(site: Served, **more: Any) -> AsyncGenerator[holdfast.client.Service]:
    """Return a client of a service under test."""
    transport = more.pop("transport", None) or site.client._transport  # pyright: ignore[reportPrivateUsage]
    async with holdfast.client.connect(
        "http://localhost", token=TOKEN, transport=transport, **more
    ) as service:
        yield service


def exported(url: str, run_id: str = "report-7") -> bytes:
    """Return a run as a service exports it."""

    async def work(site: Served) -> bytes:
        answer = await site.client.get(f"/v1/runs/{run_id}/export")
        assert answer.status_code == 200, answer.text
        return answer.content

    return bytes(served(url, work))


def imported(url: str, content: bytes) -> Any:
    """Let a service take in an export, and return what it says."""

    async def work(site: Served) -> Any:
        async with asked(site) as service:
            return await service.import_file(BytesIO(content))

    return served(url, work)


@pytest.fixture
def origin(tmp_path: Path) -> str:
    """A store with a run that ended, and one under way."""
    url = f"sqlite:///{tmp_path / 'origin.db'}"
    run(begin(url, answer="yes"))
    run(begin(url, "waits"))
    return url


def test_a_run_goes_over_the_wire_into_a_store_of_either_kind_and_back(
    kept_url: str, origin: str, tmp_path: Path
) -> None:
    """X13: SQLite to PostgreSQL and back, all of it: view, result, question, artifact, child."""
    done = imported(kept_url, exported(origin))
    assert (done["what"], done["id"], done["present"]) == ("run", "report-7", False)
    assert (done["resting"], done["streams"], done["blobs"]) == ([], 2, 2)
    before = run(look(origin))
    assert run(look(kept_url)) == before
    assert before["bytes"] == [PAGES]
    back = f"sqlite:///{tmp_path / 'back.db'}"
    imported(back, exported(kept_url))
    assert run(look(back)) == before


def test_a_run_under_way_arrives_paused_and_goes_on_when_it_is_resumed(
    kept_url: str, origin: str
) -> None:
    """X13, C1: the answer says which run rests; nothing that is recorded is done again."""
    assert imported(kept_url, exported(origin, "waits"))["resting"] == ["waits"]

    async def go_on(site: Served) -> Any:
        assert (await site.get("/v1/runs/waits"))["status"] == "paused"
        await site.post("/v1/questions/waits%3F1/answer", {"value": "no"}, 200)
        await site.post("/v1/runs/waits/resume")
        ended = await site.get("/v1/runs/waits", wait="terminal")
        events = (await site.get("/v1/runs/waits/events", limit=1000))["items"]
        return ended["result"], [one["type"] for one in events].count("step.succeeded")

    assert served(kept_url, go_on, *FUNCTIONS) == (f"LIGHTHOUSES: no, {len(PAGES)}", 1)


def test_a_session_goes_over_the_wire_with_its_history_and_identities(
    kept_url: str, tmp_path: Path
) -> None:
    """X13: found by its identity there, with every stored field; nobody needs its class."""
    origin = f"sqlite:///{tmp_path / 'origin.db'}"
    run(talk(origin))
    parcel = BytesIO()

    async def out(site: Served) -> None:
        async with asked(site) as service:
            await service.sessions.export(CHAT, parcel)

    async def back(site: Served) -> None:
        async with asked(site) as service:
            done = await service.import_file(parcel)
            assert (done["what"], done["id"], done["present"]) == ("session", CHAT, False)
            assert (await service.import_file(parcel))["present"]
            assert (await service.sessions.get(CHAT))["identities"] == ["hdr:1"]
        async with site.rt.session(Chat, KEY) as session:
            assert (session.value.title, session.value.seen) == ("lighthouses", 1)
        assert await site.rt.verify() == []

    served(origin, out)
    served(kept_url, back)


def test_the_answer_says_what_it_is_before_its_first_byte(origin: str) -> None:
    """X13, X12: length, digest, a download that runs nowhere; the last line checks the rest."""

    async def work(site: Served) -> None:
        answer = await site.client.get("/v1/runs/report-7/export")
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert answer.headers["content-length"] == str(len(answer.content))
        assert answer.headers["content-disposition"].endswith("''report-7.ndjson")
        assert answer.headers["x-content-type-options"] == "nosniff"
        *lines, last = answer.content.splitlines(keepends=True)
        assert json.loads(last)["sha256"] == sha256(b"".join(lines)).hexdigest()
        head = await site.client.head("/v1/runs/report-7/export")
        assert (head.content, head.headers["content-digest"]) == (
            b"",
            answer.headers["content-digest"],
        )
        await site.refused("GET", "/v1/runs/nobody/export", 404)
        problem = await site.refused("GET", "/v1/runs/report-7%2F1/export", 422)
        assert "export 'report-7'" in problem["detail"]
        await site.refused("GET", "/v1/sessions/Chat%2Fnobody/export", 404)

    served(origin, work)


def test_of_a_damaged_or_cut_upload_nothing_is_written(kept_url: str, origin: str) -> None:
    """X13, X2: each line damaged, the file cut anywhere: the catalogued problem, and no trace."""
    whole = exported(origin)
    lines = whole.splitlines(keepends=True)
    damaged = [b"", b"\n", b"{}\n", whole + b"\n", whole[:-1]]
    damaged += [b"".join(lines[:number]) for number in range(1, len(lines))]
    damaged += [whole[: len(whole) * part // 7] for part in range(1, 7)]
    for number, line in enumerate(lines):
        for place in (1, len(line) // 2, len(line) - 2):
            bad = line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :]
            damaged.append(b"".join([*lines[:number], bad, *lines[number + 1 :]]))

    async def work(site: Served) -> None:
        before = await site.rt.feed.head()
        for content in damaged:
            answer = await site.client.post("/v1/import", content=content, headers=SENT)
            assert (answer.status_code, answer.json()["code"]) == (422, "damaged_file")
            assert PAGES[:20] not in answer.content
        assert await site.rt.feed.head() == before
        assert await site.rt.runs.list() == []
        with pytest.raises(holdfast.NotFoundError):
            await site.rt.blobs.get(sha256(PAGES).hexdigest())
        async with asked(site) as service:
            with pytest.raises(DamagedFileError, match="line 1: the file was cut"):
                await service.import_file(BytesIO(b"{"))

    served(kept_url, work)


def test_what_is_no_upload_is_refused_before_it_is_read(kept_url: str, origin: str) -> None:
    """X13, X12: form, size, digest, patience and number have limits, each with its problem."""
    whole = exported(origin)

    async def work(client: httpx.AsyncClient) -> None:
        async def post(content: Any, status: int, code: str, **headers: str) -> None:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            answer = await client.post("/v1/import", content=content, headers=SENT | named)
            assert (answer.status_code, answer.json()["code"]) == (status, code)

        async def endless() -> AsyncGenerator[bytes]:
            while True:
                yield b" " * 1000

        async def silent() -> AsyncGenerator[bytes]:
            yield whole[:100]
            await asyncio.Event().wait()

        await post(whole, 415, "media_type", Content_Type="text/plain")
        await post(whole, 415, "media_type", Content_Type="")
        await post(whole, 400, "malformed", Content_Digest="sha-256=:AAAA:")
        await post(whole + b" " * 10_000, 413, "limit")
        await post(endless(), 413, "limit")
        await post(silent(), 408, "slow_request")
        assert (await client.get("/v1/runs")).json()["items"] == []
        answer = await client.post("/v1/import", content=whole, headers=SENT)
        assert answer.status_code == 201

    async def crowded(client: httpx.AsyncClient) -> None:
        for method, path in (("GET", "/v1/runs/report-7/export"), ("POST", "/v1/import")):
            answer = await client.request(method, path, content=b"", headers=SENT)
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many")

    limited(kept_url, work, import_bytes_max=len(whole) + 5_000, body_seconds_max=0.2)
    limited(kept_url, crowded, transfers_max=0)


def test_places_for_transfers_are_given_back(origin: str) -> None:
    """X13: refused, damaged, answered, only looked at: the next one finds its place."""
    whole = exported(origin)

    async def work(client: httpx.AsyncClient) -> None:
        for _ in range(2):
            assert (await client.get("/v1/runs/nobody/export")).status_code == 404
            assert (await client.get("/v1/runs/report-7/export")).content == whole
            assert (await client.head("/v1/runs/report-7/export")).status_code == 200
            for content, status in ((whole, 200), (whole[:50], 422)):
                answer = await client.post("/v1/import", content=content, headers=SENT)
                assert answer.status_code == status, answer.text

    limited(origin, work, transfers_max=1)


class Sleepy(Wire):
    """Takes the head of an answer, and nothing behind it."""

    aborted = False

    @property
    def transport(self) -> "Sleepy":
        """What a server shows of its connection."""
        return self

    def abort(self) -> None:
        """Note that the connection was dropped."""
        self.aborted = True

    async def send(self, message: Any) -> None:
        """Take the head; wait for ever with what follows."""
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()
        await super().send(message)


def test_who_asks_for_an_export_and_takes_nothing_is_cut(origin: str) -> None:
    """X9, 2.10: after the same time as a reader of a stream; its place is free again."""

    async def work() -> None:
        settings = holdfast.http.Settings(token=TOKEN, write_timeout=0.05, transfers_max=1)
        async with holdfast.open(origin) as rt:
            app = holdfast.http.app(rt, settings)
            bearer = {"authorization": f"Bearer {TOKEN}"}
            path = "/v1/runs/report-7/export"
            for _ in range(2):
                sleepy = Sleepy(app, path, **bearer)
                async with sleepy:
                    await sleepy.end()
                assert (sleepy.status, sleepy.aborted, sleepy.text) == (200, True, "")
            async with Wire(app, path, **bearer) as wire:
                await wire.end()
            assert wire.text.encode() == whole

    whole = exported(origin)
    run(work())


def test_an_id_that_is_in_use_is_refused_and_the_same_run_is_there_already(
    kept_url: str, origin: str
) -> None:
    """X13, A16: 409 with the error of the library; 200 and `present` for the very same run."""
    whole = exported(origin)
    run(begin(kept_url))

    async def work(site: Served) -> None:
        before = await site.get("/v1/runs/report-7")
        async with asked(site) as service:
            with pytest.raises(RunExistsError) as caught:
                await service.import_file(BytesIO(whole))
            assert caught.value.run_id == "report-7"
        assert await site.get("/v1/runs/report-7") == before

    async def same(site: Served) -> None:
        before = await site.rt.feed.head()
        answer = await site.client.post("/v1/import", content=whole, headers=SENT)
        assert (answer.status_code, answer.json()["present"]) == (200, True)
        assert answer.headers["location"] == "/v1/runs/report-7"
        assert await site.rt.feed.head() == before

    served(kept_url, work)
    served(origin, same)


def test_with_a_key_it_is_taken_in_once_and_noted_once(kept_url: str, origin: str) -> None:
    """A8, X13: answered again; another file under the key is refused; the audit names it."""
    whole, other = exported(origin), exported(origin, "waits")
    keyed = {**SENT, "Idempotency-Key": "k"}

    async def work(site: Served) -> None:
        first = await site.client.post("/v1/import", content=whole, headers=keyed)
        assert first.status_code == 201
        again = await site.client.post("/v1/import", content=whole, headers=keyed)
        assert (again.status_code, again.json()) == (201, first.json())
        assert again.headers["idempotency-replayed"] == "true"
        reused = await site.client.post("/v1/import", content=other, headers=keyed)
        assert reused.json()["code"] == "idempotency_key_reused"
        (note,) = (await site.get("/v1/audit"))["items"]
        assert (note["actor"], note["action"], note["target"]) == (
            "admin",
            "import",
            "run report-7",
        )
        text, _ = await site.rt.tokens.create("operator")
        async with client_of(site.rt, text) as operator:
            answer = await operator.post("/v1/import", content=other, headers=SENT)
            assert answer.status_code == 403
        text, _ = await site.rt.tokens.create("viewer")
        async with client_of(site.rt, text) as viewer:
            for path in ("/v1/runs/report-7/export", "/v1/sessions/Chat%2Fnobody/export"):
                assert (await viewer.get(path)).status_code == 403, path

    served(kept_url, work)


@pytest.mark.parametrize("point", ["commit.written", "commit.committed"])
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.timeout(120)
def test_a_server_that_is_killed_in_an_import_holds_all_of_it_or_nothing(
    point: str, nth: int, kept_url: str, origin: str, tmp_path: Path
) -> None:
    """X1, X13, A8: at its blobs or at the run; the same request again finishes it, noted once."""
    whole, trigger = exported(origin), tmp_path / "now"
    keyed = {**BEARER, **SENT, "Idempotency-Key": "k"}
    with Service(kept_url, dies=[str(trigger), point, nth]) as service:
        trigger.touch()

        def post() -> httpx.Response:
            return httpx.post(f"{service.base}/v1/import", content=whole, headers=keyed, timeout=60)

        with pytest.raises(httpx.TransportError):
            # Beyond the commits of the import there is one more: the answer is kept.
            post()
            post()
        service.kill()
        trigger.unlink()
        service.start()
        there = [one["id"] for one in service.get("/v1/runs").json()["items"]]
        noted = service.get("/v1/audit").json()["items"]
        whole_run = ["report-7", "report-7/1"]
        assert (there, len(noted)) in (([], 0), (whole_run, 1))
        answer = post()
        assert answer.status_code in (200, 201), answer.text
        assert answer.json()["present"] == bool(there)
        assert [one["target"] for one in service.get("/v1/audit").json()["items"]] == [
            "run report-7"
        ]
    assert run(look(kept_url)) == run(look(origin))


def cut_short(content: bytes) -> bytes:
    """Lose the end."""
    return content[:-9]


def grown(content: bytes) -> bytes:
    """Get more than was sent."""
    return content + b"x"


class Damaging(httpx.ASGITransport):
    """Passes requests on, and changes what comes back so many times."""

    def __init__(self, app: Any, change: Callable[[bytes], bytes], times: int) -> None:
        """Take the application."""
        super().__init__(app)
        self._change = change
        self.times = times

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer, perhaps with other bytes."""
        response = await super().handle_async_request(request)
        if not self.times:
            return response
        self.times -= 1
        content = self._change(await response.aread())
        headers = {"content-digest": response.headers["content-digest"]}
        return httpx.Response(200, headers=headers, content=content)


@pytest.mark.parametrize("change", [cut_short, grown])
def test_an_export_that_was_changed_on_its_way_is_fetched_anew(
    origin: str, change: Callable[[bytes], bytes]
) -> None:
    """X13: what a client leaves in a file is what the service sent, or it raises."""
    whole = exported(origin)

    async def work(site: Served) -> None:
        app = holdfast.http.app(site.rt, holdfast.http.Settings(token=TOKEN))
        file = BytesIO(b"older and longer" * 100_000)
        async with asked(site, transport=Damaging(app, change, 2)) as service:
            await service.runs.export("report-7", file)
        assert file.getvalue() == whole
        hurried = holdfast.client.Options(patience=0.2)
        async with asked(site, transport=Damaging(app, change, 99), options=hurried) as service:
            with pytest.raises(UnreachableError):
                await service.runs.export("report-7", file)

    served(origin, work)
