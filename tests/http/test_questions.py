"""Questions over the wire: found, claimed, answered by one."""

import asyncio
from typing import Any
from urllib.parse import quote

from holdfast import Run
from holdfast.testing.clock import ManualClock
from tests.http.conftest import Served, served
from tests.http.worlds import world_at

PROMPT = "Publish the secret report?"


async def asks(run: Run, timeout: float | None = None) -> Any:
    return await run.ask(PROMPT, choices=["yes", "no"], timeout=timeout, default="no")


def path(question_id: str, rest: str = "") -> str:
    return f"/v1/questions/{quote(question_id, safe='')}{rest}"


async def asked(site: Served, run_id: str, timeout: float | None = None) -> str:
    await site.rt.runs.start(asks, timeout, run_id=run_id)
    await site.until(run_id, "waiting")
    return f"{run_id}?1"


def test_of_many_who_answer_at_once_one_wins_and_the_others_learn_who_and_when(
    store_url: str,
) -> None:
    """A10, section 8 test 6: one 2xx, the others 409 naming the winner, who and when."""

    async def work(site: Served) -> None:
        id = await asked(site, "one")
        answers = await asyncio.gather(
            *[
                site.client.post(path(id, "/answer"), json={"value": value, "comment": "mine"})
                for value in ("yes", "no") * 4
            ]
        )
        won = [one for one in answers if one.status_code == 200]
        assert len(won) == 1
        winner = won[0].json()
        event = await site.get(f"/v1/runs/one/events/{winner['seq']}")
        assert event["type"] == "question.answered"
        assert event["data"]["comment"] == "mine"
        for one in answers:
            if one is not won[0]:
                assert one.status_code == 409
                said = one.json()["context"]
                assert (said["winner"], said["answer"]) == ("admin", winner["answer"])
                assert said["answered_at"] == winner["answered_at"]
        done = await site.get("/v1/runs/one", wait="terminal")
        assert done["result"] == winner["answer"]
        types = [event.type for event in await site.rt.runs.history("one").read()]
        assert types.count("question.answered") == types.count("run.succeeded") == 1

    served(store_url, work, asks)


def test_the_same_answer_with_the_same_key_is_accepted_again(store_url: str) -> None:
    """A10: repeating the same answer with the same key is accepted."""

    async def work(site: Served) -> None:
        id = await asked(site, "one")
        first = await site.post(path(id, "/answer"), {"value": "yes"}, 200, idempotency_key="k")
        again = await site.client.post(
            path(id, "/answer"), json={"value": "yes"}, headers={"Idempotency-Key": "k"}
        )
        assert (again.status_code, again.json()) == (200, first)
        assert again.headers["idempotency-replayed"] == "true"
        await site.refused("POST", path(id, "/answer"), 409, json={"value": "yes"})

    served(store_url, work, asks)


def test_an_answer_is_one_of_the_choices_and_given_to_what_was_seen(store_url: str) -> None:
    """Sections 2.2 and 2.4: 422 for no choice, 412 for another version."""

    async def work(site: Served) -> None:
        id = await asked(site, "one")
        problem = await site.refused("POST", path(id, "/answer"), 422, json={"value": "maybe"})
        assert problem["code"] == "invalid_value"
        problem = await site.refused("POST", path(id, "/answer"), 422, json={})
        assert problem["errors"][0]["message"] == "Object missing required field `value`"
        old = {"If-Match": '"99"'}
        body = {"value": "yes"}
        await site.refused("POST", path(id, "/answer"), 412, json=body, headers=old)
        seen = {"If-Match": (await site.client.get(path(id))).headers["etag"]}
        taken = await site.client.post(path(id, "/answer"), json=body, headers=seen)
        assert (taken.status_code, taken.json()["state"]) == (200, "answered")
        assert taken.headers["etag"] == (await site.client.get(path(id))).headers["etag"]
        await site.refused("GET", path("one?9"), 404)

    served(store_url, work, asks)


def test_a_claim_keeps_others_from_claiming_for_a_while_and_nobody_from_answering(
    store_url: str,
) -> None:
    """Section 2.2: a soft claim with expiry, so that two people do not type at once."""
    clock = ManualClock()

    async def work(site: Served) -> None:
        id = await asked(site, "one")
        questions = site.rt.runs.questions
        await questions.claim(id, by="bob", seconds=60)
        problem = await site.refused("POST", path(id, "/claim"), 409, json={})
        assert problem["code"] == "question_claimed"
        assert (problem["context"]["by"], problem["context"]["remaining"]) == ("bob", 60)
        listed = (await site.get("/v1/questions"))["items"][0]
        assert (listed["claimed_by"], listed["claimed_for"]) == ("bob", 60)
        clock.advance(61)
        mine = await site.post(path(id, "/claim"), {"seconds": 30}, 200)
        assert (mine["claimed_by"], mine["claimed_for"]) == ("admin", 30)
        free = await site.post(path(id, "/claim"), {"seconds": 0}, 200)
        assert "claimed_by" not in free
        await questions.claim(id, by="bob", seconds=60)
        await site.post(path(id, "/answer"), {"value": "yes"}, 200)
        problem = await site.refused("POST", path(id, "/claim"), 409, json={})
        assert problem["code"] == "answer_conflict"

    served(store_url, work, asks, world=world_at(clock))


def test_questions_stand_by_when_their_time_is_over(store_url: str) -> None:
    """Section 2.2: oldest deadline first; those that have all the time at the end."""

    async def work(site: Served) -> None:
        for run_id, timeout in (("a", None), ("b", 300.0), ("c", 100.0), ("d", 200.0)):
            await asked(site, run_id, timeout)
        seen: list[str] = []
        cursor: dict[str, str] = {}
        while True:
            page = await site.get("/v1/questions", order="deadline", limit=2, **cursor)
            seen += [one["run_id"] for one in page["items"]]
            if page["next_cursor"] is None:
                break
            cursor = {"cursor": page["next_cursor"]}
        assert seen == ["c", "d", "b", "a"]
        by_id = await site.get("/v1/questions")
        assert [one["run_id"] for one in by_id["items"]] == ["a", "b", "c", "d"]
        of_run = await site.get("/v1/runs/c/questions")
        assert [one["id"] for one in of_run["items"]] == ["c?1"]
        await site.post(path("c?1", "/answer"), {"value": "no"}, 200)
        answered = await site.get("/v1/questions", state="answered")
        assert [(one["id"], one["by"]) for one in answered["items"]] == [("c?1", "admin")]

    served(store_url, work, asks)
