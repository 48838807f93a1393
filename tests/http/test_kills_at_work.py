"""What is asked for over the wire while the service is killed: done once, whole, or not at all."""

import base64
import hashlib
import random
import secrets
import socket
import sys
import threading
import time
from functools import partial
from typing import Any

import httpx
import pytest

from tests.http.server import TOKEN
from tests.http.service import PATIENCE, Service, until

KILLS = 3
SIZE = 700_000


def persist(service: Service, path: str, body: Any, key: str) -> Any:
    """Ask under a key, again and again until somebody answers; return what was answered."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            answer = service.post(path, body, **{"Idempotency-Key": key})
        except httpx.TransportError:
            continue
        if answer.status_code == 503:
            continue
        assert answer.status_code in (200, 202), answer.text
        return answer.json()
    raise AssertionError("nobody answered")


def counted(service: Service, run_id: str) -> dict[str, int]:
    """Return how many events of each type a run has."""
    types = [event["type"] for event in service.journal(run_id)]
    return {type: types.count(type) for type in types}


def asked(service: Service, run_id: str, timeout: float | None = None) -> str:
    """Start a run that asks, and return the path of its question."""
    service.begin("asks", timeout, run_id=run_id)
    path = f"/v1/questions/{run_id}%3F1"
    until(lambda: service.get(path).status_code == 200, "nothing was asked")
    return path


@pytest.mark.timeout(180)
@pytest.mark.parametrize("moment", ["before", "during", "after"])
def test_a_run_that_was_cancelled_around_a_kill_ends_cancelled(kept_url: str, moment: str) -> None:
    """A11, X1. Its question is closed; it says who and why, and not that its time was over."""
    chance = random.Random(seed := secrets.randbelow(2**32))
    sys.stdout.write(f"seed {seed}\n")
    with Service(kept_url) as service:
        for number in range(KILLS if moment == "during" else 1):
            run_id = f"{moment}-{number}"
            question = asked(service, run_id, 600.0)
            path, said = f"/v1/runs/{run_id}/cancel", {"reason": "not needed any more"}
            if moment == "before":
                persist(service, path, said, run_id)
            client = threading.Thread(target=persist, args=(service, path, said, run_id))
            if moment == "during":
                client.start()
                time.sleep(chance.uniform(0, 0.05))
            service.kill()
            service.start()
            if moment == "after":
                persist(service, path, said, run_id)
            if moment == "during":
                client.join(PATIENCE)
            ended = service.ended(run_id)
            assert (ended["status"], ended["why"], ended["by"]) == (
                "cancelled",
                "not needed any more",
                "admin",
            )
            assert service.get(question).json()["state"] == "closed"
            late = service.post(f"{question}/answer", {"value": "late"})
            assert late.status_code == 409, late.text
            found = counted(service, run_id)
            assert found["run.cancelled"] == found["question.asked"] == 1
            assert not found.keys() & {"question.expired", "question.answered", "run.failed"}


@pytest.mark.timeout(180)
def test_an_answer_given_while_the_service_is_away_is_used_and_nothing_asked_again(
    kept_url: str,
) -> None:
    """A10, X10. Whoever asks again under its key is heard in the boot window; time went on."""
    with Service(kept_url) as service:
        question = asked(service, "one", 600.0)
        seen = service.get(question).json()
        service.kill()
        answers: list[Any] = []
        path, body = f"{question}/answer", {"value": "this one"}
        client = threading.Thread(
            target=lambda: answers.append(persist(service, path, body, "mine"))
        )
        client.start()
        service.start()
        client.join(PATIENCE)
        assert service.ended("one")["result"] == "this one"
        again = service.post(path, body, **{"Idempotency-Key": "mine"})
        assert (again.status_code, again.json()) == (200, answers[0])
        found = counted(service, "one")
        assert found["question.asked"] == found["question.answered"] == 1
        assert (answers[0]["id"], answers[0]["state"]) == (seen["id"], "answered")
        later = asked(service, "two", 600.0)
        before = service.get(later).json()["remaining"]
        service.kill()
        service.start()
        after = service.get(later).json()
        assert before - PATIENCE < after["remaining"] < before
        assert counted(service, "two")["question.asked"] == 1


@pytest.mark.timeout(180)
def test_an_artifact_is_whole_or_not_there_however_the_service_was_killed(kept_url: str) -> None:
    """A14, X1, X2. What was answered is there; what is listed has its size, digest and bytes."""
    chance = random.Random(seed := secrets.randbelow(2**32))
    sys.stdout.write(f"seed {seed}\n")
    sent: dict[str, bytes] = {}
    answered: set[str] = set()
    with Service(kept_url) as service:
        service.begin("open_ended", run_id="one")
        for kill in range(KILLS):
            put = threading.Thread(target=put_many, args=(service, kill, sent, answered))
            put.start()
            half = half_sent(service, f"half-{kill}")
            known = len(answered)
            until(partial(_grew, answered, known), "nothing was taken")
            time.sleep(chance.uniform(0, 0.1))
            service.kill()
            put.join(PATIENCE)
            half.close()
            service.start()
            check_artifacts(service, sent, answered)
        # Who heard no answer sends the same again, and it is there once.
        for name, data in sent.items():
            assert put_one(service, name, data).status_code in (200, 201)
        assert check_artifacts(service, sent, set(sent)) == len(sent)


def _grew(answered: set[str], beyond: int) -> bool:
    return len(answered) > beyond


def put_many(service: Service, kill: int, sent: dict[str, bytes], answered: set[str]) -> None:
    """Put one artifact after the other until nobody answers."""
    number = 0
    while True:
        name = f"file-{kill}-{number}"
        number += 1
        sent[name] = secrets.token_bytes(SIZE)
        try:
            answer = put_one(service, name, sent[name])
        except httpx.TransportError:
            return
        assert answer.status_code == 201, answer.text
        answered.add(name)


def put_one(service: Service, name: str, data: bytes) -> httpx.Response:
    """Put an artifact, with its digest."""
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
    path = f"/v1/runs/one/artifacts/{name}"
    return service.put(path, data, **{"Content-Digest": f"sha-256=:{digest}:"})


def half_sent(service: Service, name: str) -> socket.socket:
    """Begin to put an artifact, and stop in the middle of its bytes."""
    wire = socket.create_connection(("127.0.0.1", service.port))
    head = (
        f"PUT /v1/runs/one/artifacts/{name} HTTP/1.1\r\nHost: localhost\r\n"
        f"Authorization: Bearer {TOKEN}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {SIZE}\r\n\r\n"
    )
    wire.sendall(head.encode() + bytes(SIZE // 2))
    return wire


def check_artifacts(service: Service, sent: dict[str, bytes], answered: set[str]) -> int:
    """Read all that is listed; return how many that is."""
    page = service.get("/v1/runs/one/artifacts?limit=500").json()
    assert page["next_cursor"] is None
    listed = {one["name"]: one for one in page["items"]}
    assert len(listed) == len(page["items"]), "something is listed twice"
    assert answered <= listed.keys() <= sent.keys()
    for name, one in listed.items():
        digest = hashlib.sha256(sent[name]).hexdigest()
        assert (one["size"], one["digest"]) == (SIZE, digest)
        got = service.get("/v1/artifacts/" + one["id"].replace("!", "%21"))
        assert got.status_code == 200 and got.content == sent[name]
    return len(listed)
