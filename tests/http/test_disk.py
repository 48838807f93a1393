"""
A disk that is full, nearly full, or broken, as a client of the service sees it.

The full disk is a small tmpfs, a real one; the broken one fails every sync from a moment on.
"""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.reader import Reader, with_httpx_sse
from tests.http.service import Service, until

MB = 1024 * 1024
REFUSALS = {(507, "store_full"), (503, "outcome_unknown"), (503, "not_ready")}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB; who may not mount one hears so."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "holdfast-http", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill_up(filler: Path, leave: int = 0) -> None:
    """Take what is free on a disk, but for so many bytes."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - leave))


def served(folder: Path, floor: int, ttl: float = 2.0, **more: Any) -> Service:
    """Return a service whose store is in a folder."""
    options = {"free_bytes_min": floor, "lease_ttl": ttl}
    return Service(f"sqlite:///{folder / 'store.db'}", options=options, **more)


def start(service: Service, run_id: str, key: str = "") -> Any:
    """Ask for a run to be started."""
    name = "tests.http.functions.open_ended"
    body = {"function": name, "run_id": run_id, "labels": {"text": "x" * 200}}
    return service.post("/v1/runs", body, **({"Idempotency-Key": key} if key else {}))


def ready(service: Service) -> tuple[int, Any]:
    """Return what the probe says."""
    answer = service.get("/readyz")
    return answer.status_code, answer.json()


def test_a_full_disk_loses_nothing_and_what_is_there_is_shown_also_after_a_start(
    small_disk: Path,
) -> None:
    """F7, X2, X7. Nothing more is acknowledged; not ready; reads go on; with room all is done."""
    with served(small_disk, 0) as service:
        kept = [f"run-{number}" for number in range(20)]
        assert {start(service, one, key=one).status_code for one in kept} == {201}
        follower = Reader(service.base, "/v1/runs/run-0/events", with_httpx_sse)
        until(lambda: len(follower.ids) >= 2, "nothing came")
        filler = small_disk / "filler"
        fill_up(filler)
        late = [f"late-{number}" for number in range(30)]
        answers = {one: start(service, one, key=one) for one in late}
        kept += [one for one, answer in answers.items() if answer.status_code == 201]
        refused = [answer.json() for answer in answers.values() if answer.status_code != 201]
        # Full before a commit, or in the middle of one: then the store stops, and says so.
        codes = {(one["status"], one["code"]) for one in refused}
        assert codes and codes <= REFUSALS, codes
        assert answers[late[-1]].status_code != 201
        until(lambda: ready(service)[0] == 503, "the probe stays green on a full disk")
        assert ready(service)[1]["reason"]
        assert service.get("/livez").status_code == 200
        check_kept(service, kept)
        service.kill()
        service.start(wait=False)
        until(lambda: settled(service), "it comes neither up nor to an end")
        check_kept(service, kept)
        service.kill()
        filler.unlink()
        service.start()
        assert {start(service, one, key=one).status_code for one in late} <= {200, 201}
        check_kept(service, sorted({*kept, *late}))
        assert service.post("/v1/runs/run-0/signals/word", {"value": "on"}).status_code == 202
        assert service.ended("run-0")["result"] == "on"
        assert follower.join() == [one["id"] for one in service.journal("run-0")]


def settled(service: Service) -> bool:
    """Return whether a service came up, or said that it will not."""
    try:
        return ready(service)[1]["status"] in ("ready", "failed")
    except httpx.TransportError:
        return False


def check_kept(service: Service, kept: list[str]) -> None:
    """Read what was acknowledged; what was refused is not there, not even in part."""
    assert service.get("/readyz?gate=read").status_code == 200
    items: list[Any] = service.get("/v1/runs?limit=500").json()["items"]
    assert sorted(one["id"] for one in items) == sorted(kept)
    assert {len(service.journal(one)) >= 1 for one in kept} == {True}


def test_below_the_floor_nothing_begins_and_everything_else_goes_on(small_disk: Path) -> None:
    """X7, section 3, 2.4: 503 `disk_low`; a gate that says why; ends, answers, removals go on."""
    with served(small_disk, 4 * MB) as service:
        for run_id in ("one", "two"):
            assert start(service, run_id).status_code == 201
        assert ready(service)[0] == 200
        filler = small_disk / "filler"
        fill_up(filler, leave=2 * MB)
        status, said = ready(service)
        assert (status, said["ready"]) == (503, False)
        assert said["reason"] == (
            f"too little room is left on the disk: {4 * MB} bytes have to be free"
        )
        assert service.get("/readyz?gate=disk").status_code == 503
        assert service.get("/readyz?gate=read").status_code == 200
        refused = start(service, "three")
        assert (refused.status_code, refused.json()["code"]) == (503, "disk_low")
        assert refused.headers["retry-after"] == "1" and refused.json()["retryable"]
        put = service.put("/v1/runs/one/artifacts/file", b"bytes")
        assert put.json()["code"] == "disk_low"
        # What ends or removes something makes room, or none that anybody will miss.
        assert service.post("/v1/runs/one/signals/word", {"value": "on"}).status_code == 202
        assert service.ended("one")["result"] == "on"
        assert service.post("/v1/runs/two/cancel", {}).status_code == 202
        assert service.ended("two")["status"] == "cancelled"
        filler.unlink()
        assert ready(service)[0] == 200
        assert start(service, "three").status_code == 201


def test_a_disk_that_fails_stops_the_store_and_what_is_durable_is_shown(tmp_path: Path) -> None:
    """F8, X2, X7. Unknown for one, stopped for all behind; asked again after a start, done once."""
    with served(tmp_path, 0, 600.0, breakable=True) as service:
        acknowledged = [f"run-{number}" for number in range(5)]
        for run_id in acknowledged:
            assert start(service, run_id, key=run_id).status_code == 201
        assert service.child is not None
        follower = Reader(service.base, "/v1/runs/run-0/events", with_httpx_sse)
        until(lambda: len(follower.ids) >= 2, "nothing came")
        service.child.send_signal(signal.SIGUSR1)
        broken = start(service, "unknown", key="unknown")
        assert (broken.status_code, broken.json()["code"]) == (503, "outcome_unknown")
        assert str(tmp_path) not in broken.text
        behind = start(service, "behind", key="behind")
        assert (behind.status_code, behind.json()["code"]) == (503, "not_ready"), behind.text
        assert behind.json()["context"]["phase"] == "failed"
        status, said = ready(service)
        assert (status, said["status"]) == (503, "failed") and "PoisonedError" in said["reason"]
        assert service.get("/livez").status_code == 200
        assert service.get("/readyz?gate=read").status_code == 200
        items: list[Any] = service.get("/v1/runs").json()["items"]
        assert sorted(one["id"] for one in items) == acknowledged
        assert service.get("/v1/runs/run-1").headers["holdfast-phase"] == "failed"
        assert len(service.journal("run-1")) >= 2
        service.kill()
        service.start()
        for run_id in [*acknowledged, "unknown", "behind"]:
            # Whoever heard no answer, and whose run is there all the same, gets it as it is.
            assert start(service, run_id, key=run_id).status_code in (200, 201)
        items = service.get("/v1/runs").json()["items"]
        assert sorted(one["id"] for one in items) == sorted([*acknowledged, "unknown", "behind"])
        assert service.post("/v1/runs/run-0/signals/word", {"value": "on"}).status_code == 202
        assert service.ended("run-0")["result"] == "on"
        assert follower.join() == [one["id"] for one in service.journal("run-0")]
