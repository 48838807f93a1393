"""Who may do what: tokens, roles, cookies, and what becomes of those who guess."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import holdfast
import holdfast.http
from holdfast.core.access import ROLES, Right
from holdfast.core.denial import UnauthorizedError
from holdfast.core.world import World
from holdfast.http import Settings
from holdfast.http.access import Principal, admitted
from holdfast.http.app import OPERATIONS
from holdfast.http.operation import Operation
from holdfast.http.rates import Buckets
from holdfast.runtime.tokens import SEEN_AFTER
from holdfast.testing.clock import ManualClock
from tests.http.conftest import TOKEN, Served, client_of, served

CANARY = "canary-7f3a9c"
DAY = 86_400.0


async def talk(run: Any, text: str) -> str:
    """Leave content everywhere that content can be."""
    await run.step("say", said, text)
    await run.emit("told", {"text": text})
    await run.attach("note.txt", text.encode(), media_type="text/plain")
    return str(await run.ask(f"is it {text}?", choices=[text, "no"]))


async def said(text: str) -> str:
    """Return what it was given."""
    return text


def path_of(one: Operation, **values: str) -> str:
    """Return a path of an operation; what is not named is made up."""
    return one.address.format(**{name: values.get(name, "1") for name, _ in one.parameters})


async def ask(client: httpx.AsyncClient, one: Operation, **values: str) -> httpx.Response:
    """Ask for an operation, with an empty body where it changes something."""
    body: dict[str, Any] = {"json": {}} if one.method != "GET" and not one.raw else {}
    if one.upload:
        body = {"content": b"", "headers": {"Content-Type": one.upload[0]}}
    return await client.request(one.method, path_of(one, **values), **body)


@pytest.mark.parametrize("role", sorted(ROLES))
def test_each_operation_needs_its_right(kept_url: str, role: str) -> None:
    """Section 7 point 6. Over the table: refused without the right, let through with it."""

    async def work(site: Served) -> None:
        text, token = await site.rt.tokens.create(role)
        async with client_of(site.rt, text) as client:
            for one in OPERATIONS:
                answer = await ask(client, one)
                if one.right is not None and one.right not in token.rights:
                    assert answer.status_code == 403, (one.name, answer.text)
                    assert answer.json()["code"] == "forbidden"
                else:
                    assert answer.status_code != 403, (one.name, answer.text)
        async with client_of(site.rt, None) as client:
            for one in OPERATIONS:
                if one.right is not None:
                    assert (await ask(client, one)).status_code == 401, one.name

    served(kept_url, work)


def test_roles_are_what_they_say() -> None:
    """Section 7 point 6. Only an admin manages; an answerer answers and nothing more."""
    admin = {one.name for one in OPERATIONS if one.right is Right.ADMIN}
    assert {"token_create", "token_list", "token_revoke"} <= admin
    for role in ("viewer", "answerer", "operator"):
        assert Right.ADMIN not in ROLES[role]
    changes = [one for one in OPERATIONS if one.changes and one.right in ROLES["answerer"]]
    assert all("answer" in one.name or "claim" in one.name for one in changes), changes
    assert not any(one.changes and one.right in ROLES["viewer"] for one in OPERATIONS)


def test_a_viewer_sees_no_content_anywhere(kept_url: str) -> None:
    """Section 7 points 6 and 16. A canary is in every kind of content, and in no answer."""

    async def work(site: Served) -> None:
        run = await site.rt.runs.start(talk, CANARY, run_id="r")
        await site.until("r", "waiting")
        text, _ = await site.rt.tokens.create("viewer")
        seen = 0
        async with client_of(site.rt, text) as client:
            for one in OPERATIONS:
                if one.method != "GET" or one.name in {"metrics"}:
                    continue
                for values in ({"run_id": "r", "name": "note.txt", "seq": "3"}, {"run_id": run.id}):
                    async with client.stream("GET", path_of(one, **values)) as answer:
                        body = (await answer.aread()).decode(errors="replace")
                    assert CANARY not in body + str(answer.headers), one.name
                    seen += answer.status_code == 200
        assert seen > 5
        events = await site.get("/v1/runs/r/events?limit=100")
        assert CANARY in str(events), "the canary is there for those who may see it"

    served(kept_url, work, talk)


def test_the_text_of_a_token_is_not_in_the_store(tmp_path: Path) -> None:
    """Section 7 point 6. Only a hash; what is listed does not help anybody in."""

    async def work(site: Served) -> str:
        made = await site.post("/v1/tokens", {"role": "operator", "label": "ci"}, 201)
        listed = (await site.get("/v1/tokens"))["items"]
        assert [one["label"] for one in listed] == ["ci"] and "hash" not in str(listed)
        assert made["text"].startswith("hf_")
        return str(made["text"])

    text = served(f"sqlite:///{tmp_path / 'store.db'}", work)
    secret = text.split("_", 2)[2]
    for file in tmp_path.iterdir():
        if file.is_file():
            assert secret.encode() not in file.read_bytes(), file.name
    assert sqlite3.connect(tmp_path / "store.db").execute("SELECT 1").fetchone() == (1,)


def test_a_token_expires_and_is_revoked(kept_url: str) -> None:
    """Section 7 point 6. Over at its time; revoked here at once, elsewhere within seconds."""

    async def run() -> None:
        clock = ManualClock()
        async with (
            holdfast.open(kept_url, world=World(clock=clock)) as here,
            holdfast.open(kept_url, world=World(clock=clock)) as there,
        ):
            short, _ = await here.tokens.create("viewer", expires_in=60.0)
            long, kept = await here.tokens.create("viewer", label="long", expires_in=DAY)
            for rt in (here, there):
                assert (await rt.tokens.check(short)).role == "viewer"
                assert (await rt.tokens.check(long)).label == "long"
            clock.advance(61.0)
            for rt in (here, there):
                with pytest.raises(UnauthorizedError):
                    await rt.tokens.check(short)
            assert (await there.tokens.list())[-1].used_at is not None
            await there.tokens.check(long)
            await here.tokens.revoke(kept.id)
            with pytest.raises(UnauthorizedError):
                await here.tokens.check(long)
            clock.advance(SEEN_AFTER)
            with pytest.raises(UnauthorizedError):
                await there.tokens.check(long)
            for wrong in ("", "hf", "hf__", f"hf_{kept.id}_", f"hf_{kept.id}_x", long + "x"):
                with pytest.raises(UnauthorizedError):
                    await here.tokens.check(wrong)

    asyncio.run(run())


def test_who_guesses_is_slowed_down_and_nobody_else(kept_url: str) -> None:
    """Section 7 point 11. 429 with a time to wait; a valid token from there still counts."""

    async def work(site: Served) -> None:
        async with client_of(site.rt, "hf_guess_guess") as client:
            found = [await client.get("/v1/runs") for _ in range(30)]
        codes = [one.status_code for one in found]
        assert codes[0] == 401 and codes[-1] == 429
        assert int(found[-1].headers["retry-after"]) >= 1

    served(kept_url, work)


def limited(url: str, work: Callable[[httpx.AsyncClient], Awaitable[None]], **more: Any) -> None:
    """Do something with a service that has other settings."""

    async def run() -> None:
        async with holdfast.open(url) as rt:
            made = holdfast.http.app(rt, Settings(token=TOKEN, **more))
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(made),
                base_url="http://localhost",
                headers={"Authorization": f"Bearer {TOKEN}"},
            ) as client:
                await work(client)

    asyncio.run(run())


def test_one_caller_has_a_rate_and_so_many_requests_at_once(tmp_path: Path) -> None:
    """Section 7 point 11. Beyond either it is 429, which passes."""
    url = f"sqlite:///{tmp_path / 'store.db'}"

    def site_of(client: httpx.AsyncClient) -> Any:
        transport = client._transport  # pyright: ignore[reportPrivateUsage]
        assert isinstance(transport, httpx.ASGITransport)
        return transport.app.state.site  # type: ignore[attr-defined]

    async def rated(client: httpx.AsyncClient) -> None:
        clock, site = ManualClock(), site_of(client)
        assert site.rates is not None
        site.rates = Buckets(clock, 3.0, 3.0)
        codes = [(await client.get("/v1/runs")).status_code for _ in range(8)]
        assert codes == [200] * 3 + [429] * 5
        clock.advance(1.0)
        assert (await client.get("/v1/runs")).status_code == 200

    async def crowded(client: httpx.AsyncClient) -> None:
        site = site_of(client)
        with admitted(site, Principal("admin", ROLES["admin"])):
            answer = await client.get("/v1/runs")
            assert (answer.status_code, answer.json()["code"]) == (429, "too_many")
        assert (await client.get("/v1/runs")).status_code == 200

    limited(url, rated, rate=3.0)
    limited(url, crowded, requests_each=1)


def test_a_browser_gets_a_cookie_for_a_code(kept_url: str) -> None:
    """Section 7 points 2 and 5. Once, HttpOnly, SameSite=Strict, for a time; ended by a logout."""

    async def work(site: Served) -> None:
        code = (await site.post("/v1/codes", status=200))["code"]
        async with client_of(site.rt, None) as browser:
            answer = await browser.post("/v1/login", json={"code": code})
            assert answer.status_code == 200 and answer.json()["rights"]
            cookie = answer.headers["set-cookie"].lower()
            assert "httponly" in cookie and "samesite=strict" in cookie and "max-age=" in cookie
            assert (await browser.get("/v1/runs")).status_code == 200
            assert (await browser.post("/v1/login", json={"code": code})).status_code == 401
            stream = await browser.get(
                "/v1/runs/none/events", headers={"Accept": "text/event-stream"}
            )
            assert stream.status_code == 404, "let in, and there is no such run"
            wrong = await browser.get("/v1/runs", headers={"Authorization": "Bearer wrong"})
            assert wrong.status_code == 401, "the header counts before the cookie"
            kept = dict(browser.cookies)
            assert (await browser.post("/v1/logout", json={})).status_code == 204
            browser.cookies.update(kept)
            assert (await browser.get("/v1/runs")).status_code == 401
            assert (await browser.get(f"/v1/runs?token={TOKEN}")).status_code in {401, 422}

    served(kept_url, work)


def test_what_was_made_from_a_token_ends_with_it(kept_url: str) -> None:
    """Section 7 point 6. A cookie of a revoked token allows nothing."""

    async def work(site: Served) -> None:
        text, token = await site.rt.tokens.create("operator", label="ann")
        async with client_of(site.rt, None) as browser:
            answer = await browser.post("/v1/login", json={"token": text})
            assert answer.json()["name"] == "ann"
            assert (await browser.get("/v1/runs")).status_code == 200
            assert (await browser.get("/v1/tokens")).status_code == 403
            await site.post(f"/v1/tokens/{token.id}/revoke", status=200)
            assert (await browser.get("/v1/runs")).status_code == 401

    served(kept_url, work)


def test_every_change_is_noted_and_a_changed_note_is_found(tmp_path: Path) -> None:
    """Section 7 point 15. Actor, address, action, target; tampering is found by verify."""
    url = f"sqlite:///{tmp_path / 'store.db'}"

    async def work(site: Served) -> None:
        made = await site.post("/v1/tokens", {"role": "viewer", "label": "ann"}, 201)
        await site.post(f"/v1/tokens/{made['token']['id']}/revoke", status=200)
        notes = [one.data for one in await site.rt.requests.audit.read(after=0)]
        assert [one["action"] for one in notes] == ["token_create", "token_revoke"]
        assert {one["actor"] for one in notes} == {"admin"}
        assert notes[1]["target"] == made["token"]["id"]
        assert notes[1]["address"] == "127.0.0.1"
        assert made["text"] not in str(notes)

    async def verified() -> list[Any]:
        async with holdfast.open(url, read_only=True) as rt:
            return await rt.verify()

    served(url, work)
    assert asyncio.run(verified()) == []
    with sqlite3.connect(tmp_path / "store.db") as connection:
        # The database refuses to change history, so who tampers takes its triggers away first.
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        ).fetchall():
            connection.execute(f'DROP TRIGGER "{name}"')
        changed = connection.execute(
            "UPDATE event SET payload = CAST(replace(payload, 'admin', 'nobod') AS BLOB) "
            "WHERE type = 'token_revoke'"
        )
        assert changed.rowcount == 1
    connection.close()
    assert [one for one in asyncio.run(verified()) if "holdfast/requests" in str(one)]
