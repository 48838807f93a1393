"""Artifacts over the wire: listed whole, read by id, put once, served as downloads."""

import base64
import hashlib
from urllib.parse import quote

import pytest

from holdfast import Run
from tests.http.conftest import Served, served

DATA = b"<script>alert(1)</script>"
SHA = hashlib.sha256(DATA)
DIGEST = f"sha-256=:{base64.b64encode(SHA.digest()).decode()}:"


async def writes(run: Run) -> str:
    await run.attach("page.html", DATA, media_type="text/html")
    went = str(await run.signal("go"))
    await run.attach("last.txt", b"last")
    return went


async def started(site: Served) -> str:
    await site.rt.runs.start(writes, run_id="one")
    await site.until("one", "waiting")
    return "/v1/artifacts/" + quote("one!1", safe="")


def test_an_artifact_is_listed_with_size_and_digest_and_read_by_its_id(store_url: str) -> None:
    """A14: every file listed has size and content hash, and is readable by id."""

    async def work(site: Served) -> None:
        path = await started(site)
        (item,) = (await site.get("/v1/runs/one/artifacts"))["items"]
        assert (item["id"], item["size"], item["digest"]) == ("one!1", len(DATA), SHA.hexdigest())
        whole = await site.client.get(path)
        assert (whole.status_code, whole.content) == (200, DATA)
        assert whole.headers["content-digest"] == DIGEST
        assert whole.headers["etag"] == f'"{SHA.hexdigest()}"'
        assert whole.headers["content-disposition"] == "attachment; filename*=UTF-8''page.html"
        assert whole.headers["content-security-policy"].startswith("sandbox")
        assert whole.headers["x-content-type-options"] == "nosniff"
        head = await site.client.head(path)
        assert (head.content, head.headers["content-length"]) == (b"", str(len(DATA)))
        same = await site.client.get("/v1/runs/one/artifacts/page.html")
        assert same.content == DATA
        await site.refused("GET", "/v1/runs/one/artifacts/other", 404)

    served(store_url, work, writes)


def test_parts_are_sent_and_what_is_known_is_not(store_url: str) -> None:
    """Section 2.2: Range 206 and 416, ETag 304."""

    async def work(site: Served) -> None:
        path = await started(site)
        for asked, part in (("0-3", DATA[:4]), ("5-", DATA[5:]), ("-4", DATA[-4:])):
            got = await site.client.get(path, headers={"Range": f"bytes={asked}"})
            assert (got.status_code, got.content) == (206, part)
            assert got.headers["content-range"].endswith(f"/{len(DATA)}")
        behind = await site.client.get(path, headers={"Range": "bytes=999-"})
        assert behind.status_code == 416
        assert behind.headers["content-range"] == f"bytes */{len(DATA)}"
        assert behind.json()["code"] == "range"
        old = {"Range": "bytes=0-3", "If-Range": '"old"'}
        assert (await site.client.get(path, headers=old)).status_code == 200
        tag = {"If-None-Match": f'"{SHA.hexdigest()}"'}
        assert (await site.client.get(path, headers=tag)).status_code == 304

    served(store_url, work, writes)


def test_bytes_are_put_once_and_the_run_goes_on_undisturbed(store_url: str) -> None:
    """Section 2.2: 201, then 200 for the same bytes, 409 for others; no divergence."""

    async def work(site: Served) -> None:
        await started(site)
        path = "/v1/runs/one/artifacts/notes.txt"
        put = site.client.put
        digest = {"Content-Digest": DIGEST, "Content-Type": "text/plain"}
        wrong = await put(path, content=b"changed on the way", headers=digest)
        assert (wrong.status_code, wrong.json()["code"]) == (400, "malformed")
        made = await put(path, content=DATA, headers=digest)
        assert (made.status_code, made.json()["media_type"]) == (201, "text/plain")
        assert (await site.client.get(made.headers["location"])).content == DATA
        again = await put(path, content=DATA)
        assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
        other = await put(path, content=b"other")
        assert (other.status_code, other.json()["code"]) == (409, "artifact_exists")
        new = {"If-None-Match": "*"}
        assert (await put(path, content=DATA, headers=new)).status_code == 412
        odd = {"Content-Type": 'text/html; x="<b>"'}
        plain = await put("/v1/runs/one/artifacts/odd", content=DATA, headers=odd)
        assert plain.json()["media_type"] == "application/octet-stream", "no type that is none"
        key = {"Idempotency-Key": "k"}
        first = await put("/v1/runs/one/artifacts/b", content=b"1", headers=key)
        assert first.status_code == 201
        reused = await put("/v1/runs/one/artifacts/b", content=b"2", headers=key)
        assert reused.json()["code"] == "idempotency_key_reused"
        assert len((await site.get("/v1/runs/one/artifacts"))["items"]) == 4
        await site.rt.runs.signal("one", "go", "went")
        done = await site.get("/v1/runs/one", wait="terminal")
        assert (done["status"], done["result"]) == ("succeeded", "went")
        names = [one["name"] for one in (await site.get("/v1/runs/one/artifacts"))["items"]]
        assert sorted(names) == ["b", "last.txt", "notes.txt", "odd", "page.html"]
        late = await put("/v1/runs/one/artifacts/late", content=b"1")
        assert (late.status_code, late.json()["code"]) == (409, "run_state")
        assert await site.rt.verify() == []

    served(store_url, work, writes)


@pytest.mark.parametrize(
    "name", ["..", "a/b", "a\\b", "a\0b", "NUL", "con.txt", "e\u0301", "x" * 256, " a", "a\u202eb"]
)
def test_a_name_that_could_be_a_path_is_refused(name: str, tmp_path: object) -> None:
    """A8, section 2.2: names are values: NFC, no separators, no `..`, no NUL, no devices."""

    async def work(site: Served) -> None:
        await started(site)
        path = "/v1/runs/one/artifacts/" + quote(name, safe="").replace(".", "%2E")
        problem = await site.refused("PUT", path, 422, content=b"1")
        assert problem["context"]["what"] == "artifact name"

    served("sqlite:///:memory:", work, writes)
