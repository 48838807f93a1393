"""Readers of streams while the service is killed: each sees every event once, in order."""

import random
import secrets
import sys
import time

import pytest

from tests.http.reader import READS, Reader
from tests.http.service import Service

MANY = 100_000
PAUSE = 0.03
KILLS = 4


def ids(count: int) -> list[str]:
    """Return the ids of so many events of a first life of a store."""
    return [f"1.{number}" for number in range(1, count + 1)]


@pytest.mark.timeout(180)
def test_readers_see_every_event_once_while_the_service_is_killed(kept_url: str) -> None:
    """A4, A5, X1; section 8, test 1: exact sequences through three reconnects and more."""
    seed = secrets.randbelow(2**32)
    sys.stdout.write(f"seed {seed}\n")
    chance = random.Random(seed)
    with Service(kept_url) as service:
        run_id = service.begin("count", MANY, PAUSE, run_id="counted")
        path = f"/v1/runs/{run_id}/events"
        readers = [Reader(service.base, path, READS[name]) for name in READS for _ in range(2)]
        for _ in range(KILLS):
            _wait_for_more(readers, chance.randint(1, 15))
            service.kill()
            service.start()
        _wait_for_more(readers, 1)
        assert service.post(f"/v1/runs/{run_id}/cancel", {}).status_code in (200, 202)
        assert service.ended(run_id)["status"] == "cancelled"
        # Who comes when all is over sees the same.
        late = [Reader(service.base, path, read) for read in READS.values()]
        expected = ids(len(service.journal(run_id)))
        assert [reader.join() for reader in readers] == [expected] * len(readers)
        assert [reader.join() for reader in late] == [expected] * len(late)
        assert min(reader.connections for reader in readers) > KILLS


def _wait_for_more(readers: list[Reader], events: int) -> None:
    """Wait until each reader has seen so many more events, or all of them."""
    wanted = [len(reader.ids) + events for reader in readers]
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if all(
            len(reader.ids) >= want or not reader.alive
            for reader, want in zip(readers, wanted, strict=True)
        ):
            return
        time.sleep(0.005)
    raise AssertionError([len(reader.ids) for reader in readers])
