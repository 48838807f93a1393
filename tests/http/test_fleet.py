"""Two services on one store: whoever is asked, one wins; who follows one sees what all do."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from tests.http.racing import raced
from tests.http.reader import READS, Reader
from tests.http.service import Service, until

ROUNDS = 2
RACERS = 8


@pytest.fixture
def both(kept_url: str) -> Iterator[tuple[Service, Service]]:
    """Two services on one store."""
    with ExitStack() as ended:
        one, two = (ended.enter_context(Service(kept_url)) for _ in range(2))
        yield one, two


def waiting(service: Service, run_id: str, status: str = "waiting") -> None:
    """Wait until a run is somewhere."""
    until(lambda: service.get(f"/v1/runs/{run_id}").json()["status"] == status, run_id)


def types_of(service: Service, run_id: str) -> list[str]:
    """Return the types of all events of a run."""
    return [event["type"] for event in service.journal(run_id)]


@pytest.mark.timeout(180)
def test_of_answers_at_both_servers_one_wins_and_the_run_goes_on_once(
    both: tuple[Service, Service],
) -> None:
    """A10, C5; section 8, test 6: one 200, the others 409 naming the winner, at either server."""
    bases = [service.base for service in both]
    for number in range(ROUNDS):
        asked = both[number % 2]
        run_id = asked.begin("asks", run_id=f"asks-{number}")
        waiting(asked, run_id)
        path = f"/v1/questions/{run_id}%3F1/answer"

        def answer(client: httpx.Client, racer: int, path: str = path) -> httpx.Response:
            return client.post(path, json={"value": racer})

        answers = raced(bases, RACERS, answer)
        won = [one.json() for one in answers if one.status_code == 200]
        assert len(won) == 1, [one.text for one in answers]
        lost = [one.json() for one in answers if one.status_code == 409]
        assert len(lost) == RACERS - 1
        for problem in lost:
            said = problem["context"]
            assert (said["answer"], said["winner"]) == (won[0]["answer"], "admin")
        ended = [service.ended(run_id) for service in both]
        assert [one["result"] for one in ended] == [won[0]["answer"]] * 2
        types = types_of(asked, run_id)
        assert types.count("question.asked") == types.count("question.answered") == 1
        assert types.count("run.succeeded") == 1


@pytest.mark.timeout(180)
def test_of_those_who_resume_a_run_at_both_servers_one_does(both: tuple[Service, Service]) -> None:
    """A10, C5, A16: one 202, the others are told that it does not rest any more."""
    bases = [service.base for service in both]
    for number in range(ROUNDS):
        at = both[number % 2]
        run_id = at.begin("open_ended", run_id=f"rests-{number}")
        waiting(at, run_id)
        assert at.post(f"/v1/runs/{run_id}/pause", {}).status_code == 202
        waiting(at, run_id, "paused")
        path = f"/v1/runs/{run_id}/resume"

        def resume(client: httpx.Client, _: int, path: str = path) -> httpx.Response:
            return client.post(path, json={})

        answers = raced(bases, RACERS, resume)
        assert sorted(one.status_code for one in answers) == [202] + [409] * (RACERS - 1)
        refused = [one.json() for one in answers if one.status_code == 409]
        assert {one["code"] for one in refused} == {"run_state"}, refused
        assert both[1].post(f"/v1/runs/{run_id}/signals/word", {"value": "on"}).status_code == 202
        assert at.ended(run_id)["result"] == "on"
        assert types_of(at, run_id).count("run.resumed") == 1


@pytest.mark.timeout(180)
def test_who_follows_one_server_misses_nothing_when_the_other_is_killed_at_work(
    both: tuple[Service, Service],
) -> None:
    """A4, A5, A9, X1. Runs execute on one and go on at the other, seen there from first to last."""
    works, shows = both
    names = [works.begin("count", 80, 0.02, run_id=f"run-{number}") for number in range(3)]
    while works.pid not in owners(works):
        # Whoever sees it first takes it: until the one to be killed has something to lose.
        names.append(works.begin("count", 80, 0.02, run_id=f"run-{len(names)}"))
    paths = [f"/v1/runs/{name}/events" for name in names]
    readers = [Reader(shows.base, path, READS[name]) for path in paths for name in READS]
    until(lambda: min(len(reader.ids) for reader in readers) > 20, "readers are too slow")
    lost = owners(works).count(works.pid)
    assert lost, "all it had to do was done before it could be killed"
    works.kill()
    ended = [shows.ended(name) for name in names]
    assert [one["status"] for one in ended] == ["succeeded"] * len(names)
    # What the dead one had was taken once more, by the one who lives; nothing else was.
    attempts = sorted(one["attempt"] for one in ended)
    assert attempts == [1] * (len(names) - lost) + [2] * lost
    expected = {path: [one["id"] for one in shows.journal(path.split("/")[3])] for path in paths}
    for reader in readers:
        assert reader.join() == expected[reader.path]
        # A browser comes once more to be told that there is no more.
        assert reader.connections <= 2, "a reader of the server that lives was disturbed"
    for name in names:
        assert types_of(shows, name).count("user.counted") == 80, name


def owners(service: Service) -> list[int]:
    """Return the process of each piece of work in flight."""
    items: list[dict[str, Any]] = service.get("/v1/inflight?state=running").json()["items"]
    return [int(str(one["owner"]).split()[1]) for one in items]
