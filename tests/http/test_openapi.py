"""
The OpenAPI document says what the service does: it is valid, complete, and requests made up from
it are answered as it says, with problems from the catalogue.
"""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openapi_spec_validator
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from holdfast.core.catalogue import catalogue
from holdfast.http import Settings, app
from holdfast.http.app import DOCUMENT, OPERATIONS
from holdfast.http.openapi import document
from holdfast.http.operation import Operation

LONG_POLLS = ("feed", "run_events", "pipeline_events")
WAITS = {"wait": ("", "0"), "timeout": ("0", "0")}
TOKEN = "a token for tests"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@schemathesis.serializer("application/x-ndjson")
def as_lines(_: Any, value: Any) -> bytes:
    """Send what was made up for an export as it is."""
    return str(value).encode(errors="replace")


async def echo(run: Any, text: str = "") -> str:
    """Return what it was given."""
    return text


class Served:
    """The service under a port of its own, in a thread."""

    def __init__(self, folder: Path) -> None:
        """Listen, and wait until it is ready."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        made = app(f"sqlite:///{folder}/store.db", Settings(token=TOKEN), functions=[echo])
        self._server = uvicorn.Server(uvicorn.Config(made, log_level="error"))
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listening]}
        )
        self._thread.start()
        while httpx.get(f"{self.url}/readyz").status_code != 200:
            time.sleep(0.01)

    def stop(self) -> None:
        """End, and wait for it."""
        self._server.should_exit = True
        self._thread.join()
        self._listening.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The service, with a few runs."""
    found = Served(tmp_path_factory.mktemp("openapi"))
    with httpx.Client(base_url=found.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        name = f"{echo.__module__}.{echo.__qualname__}"
        for number in range(3):
            body = {"function": name, "args": ["x"], "run_id": f"run-{number}"}
            assert client.post("/v1/runs", json=body).status_code == 201
            assert (
                client.get(f"/v1/runs/run-{number}?wait=terminal").json()["status"] == "succeeded"
            )
    yield found
    found.stop()


@pytest.fixture(scope="module")
def schema(served: Served) -> Any:
    """What schemathesis makes of the document."""
    return schemathesis.openapi.from_url(f"{served.url}/v1/openapi.json")


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda one: one.name)
def test_requests_made_up_from_the_document_are_answered_as_it_says(
    operation: Operation, schema: Any
) -> None:
    """A16: whatever is sent, the answer is one of those documented; refusals are problems."""
    cases = schema[operation.address][operation.method].as_strategy()

    @given(cases)
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    def ask(case: Any) -> None:
        # Nobody waits in a test: a long poll with nothing to tell would take its whole time.
        for name in {"wait", "timeout"} & set(case.query or {}):
            case.query[name] = WAITS[name][operation.name in LONG_POLLS]
        response = case.call(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30)
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400:
            problem = response.json()
            assert problem["code"] in catalogue()
            assert problem["status"] == response.status_code

    ask()


def test_the_document_is_valid() -> None:
    """OpenAPI 3.1, by an independent validator; every operation is in it, under its own name."""
    found = document((*OPERATIONS, DOCUMENT))
    openapi_spec_validator.validate(found)
    named = [one["operationId"] for path in found["paths"].values() for one in path.values()]
    assert sorted(named) == sorted(one.name for one in (*OPERATIONS, DOCUMENT))
    assert len(set(named)) == len(named)


def test_every_error_an_operation_may_meet_is_catalogued() -> None:
    """Errors named in the table are in the catalogue, under their code."""
    for one in OPERATIONS:
        for error in one.errors:
            assert catalogue()[error.code] is error
