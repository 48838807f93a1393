"""Fixtures of the command line's tests: stores that outlive the process that filled them."""

from pathlib import Path

import pytest

from tests.cli.invocation import fill, run


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of a store that does not exist yet, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store.db'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def store(empty: str) -> str:
    """Address of a store with a few events."""
    run(fill(empty))
    return empty
